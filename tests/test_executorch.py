"""ExecuTorch files answer as the network does; without the package there is one line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from edgelab import executorch
from edgelab.errors import EdgelabError

needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason="executorch is an extra")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(900, 10))


@needs_executorch
def test_the_program_answers_as_the_network(tmp_path: Path) -> None:
    from executorch.runtime import Runtime

    model = small()
    path = executorch.to_pte(model, tmp_path / "m.pte")
    image = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    got = Runtime.get().load_program(str(path)).load_method("forward").execute((image,))[0]
    torch.testing.assert_close(got, model(image).detach(), atol=1e-4, rtol=1e-4)


@needs_executorch
@pytest.mark.parametrize("how", ["otherwise", "not at all"])
def test_a_program_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    model: nn.Module = small() if how == "otherwise" else nn.Linear(7, 7)
    monkeypatch.setattr(executorch, "_answers", lambda content, images: [torch.zeros(1, 10) for _ in images])
    line = "answers otherwise than the model, by " if how == "otherwise" else "ExecuTorch cannot take this model "
    with pytest.raises(EdgelabError, match=rf"^m\.pte:? {line}"):
        executorch.to_pte(model, tmp_path / "m.pte")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_and_with_another_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgelabError, match=r"^expected a file that ends in \.pte, got 'm\.onnx'$"):
        executorch.to_pte(small(), tmp_path / "m.onnx")
    monkeypatch.setattr(executorch, "find_spec", lambda name: None)
    with pytest.raises(EdgelabError, match=r'^m\.pte: the package executorch is missing: pip install "edgelab\[execu'):
        executorch.to_pte(small(), tmp_path / "m.pte")
