"""ExecuTorch, PyTorch's own road to devices: a `.pte` file, which phones and embedded Linux run (and Arm's Ethos-U).

The package is an extra: `pip install "edgelab[executorch]"`. The file is lowered to XNNPACK, ExecuTorch's kernels for
processors of phones and computers; a microcontroller needs another lowering and the tool chain of its maker.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgelab.artifact import first_line, quiet
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

if TYPE_CHECKING:
    import torch
    from torch import nn

CHECKED, CLOSE = 8, 1e-3


def to_pte(model: nn.Module, path: Path | str) -> Path:
    """Write `model`, in float32, as an ExecuTorch program to `path` that answers as the model does.

    It takes one image (1, channels, height, width) of the model's attribute `input_shape`, else of 3x32x32,
    with pixels as in training. Raises EdgelabError where the package executorch is missing, the suffix is not .pte, the
    model cannot be exported, or the program's answers on noise differ by more than a thousandth of their range.
    """
    path = Path(path)
    if path.suffix.lower() != ".pte":
        raise EdgelabError(f"expected a file that ends in .pte, got {path.name!r}")
    if find_spec("executorch") is None:
        raise EdgelabError(f'{path.name}: the package executorch is missing: pip install "edgelab[executorch]"')
    import torch

    model = model.eval()
    images = torch.rand((CHECKED, 1, *getattr(model, "input_shape", (3, 32, 32))), generator=torch.Generator()) * 2 - 1
    try:
        with quiet(), torch.no_grad():
            content = _lowered(model, images[0])
            expected = torch.stack([model(image) for image in images])
            got = torch.stack(_answers(content, images))
    except Exception as error:
        raise EdgelabError(f"{path.name}: ExecuTorch cannot take this model ({first_line(error)})") from error
    apart = float((got - expected).abs().max() / (expected.max() - expected.min()).clamp(min=1e-9))
    if not apart <= CLOSE:
        raise EdgelabError(f"{path.name} answers otherwise than the model, by {apart:.2g} of the range: not written")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def _lowered(model: nn.Module, image: torch.Tensor) -> bytes:
    """The program's bytes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torch.export import export

    exported = export(model, (image,))
    return bytes(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


def _answers(content: bytes, images: torch.Tensor) -> list[torch.Tensor]:
    """What the program gives for each image."""
    from executorch.runtime import Runtime

    forward = Runtime.get().load_program(content).load_method("forward")
    return [forward.execute((image,))[0].clone() for image in images]
