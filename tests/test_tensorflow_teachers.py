"""MobileNetV2 and ResNet50 of Keras applications as teachers, without a network."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras

from edgelab import teachers as transfer
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.tensorflow import models, teachers, train


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Keras does where a download fails."""

    def unreachable(name: str, origin: str, **_: object) -> str:
        raise Exception(f"URL fetch failure on {origin}")

    for module in ("mobilenet_v2", "resnet"):
        inside = getattr(keras.src.applications, module)
        monkeypatch.setattr(inside.data_utils, "get_file", unreachable)


@pytest.mark.parametrize(("name", "width"), [("mobilenet_v2", 1280), ("resnet50", 2048)])
def test_pixels_are_prepared_as_keras_does(name: str, width: int, tiny: Dataset) -> None:
    base = teachers.backbone(name, 32, None)
    module = {"mobilenet_v2": keras.applications.mobilenet_v2, "resnet50": keras.applications.resnet50}[name]
    images = tiny.test.images[:2]
    body = base.network.layers[-1]
    expected = body(module.preprocess_input(images.astype(np.float32))).numpy()
    assert expected.shape == (2, width)
    assert np.allclose(base.compute(images), expected, rtol=1e-3, atol=1e-4)


def test_without_a_network_weights_are_random_and_it_is_said(
    no_network: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        base = teachers.backbone("mobilenet_v2", 32)
    assert base.weights == transfer.UNTRAINED
    (line,) = [message for message in caplog.messages if "UNTRAINED" in message]
    assert line.startswith(
        "mobilenet_v2 is UNTRAINED (its ImageNet weights cannot be fetched: URL fetch failure on https"
    )


def test_weights_from_a_file(tiny: Dataset, tmp_path: Path) -> None:
    body = models._drawn(keras.applications.MobileNetV2((32, 32, 3), include_top=False, pooling="avg", weights=None), 7)
    path = tmp_path / "mobilenet.weights.h5"
    body.save_weights(path)
    base = teachers.backbone("mobilenet_v2", 32, path)
    assert base.weights == str(path)
    assert all(np.array_equal(a, b) for a, b in zip(base.network.get_weights(), body.get_weights(), strict=True))
    teacher = transfer.load_or_transfer(base, tiny)
    whole = teachers.restore(teacher)
    assert np.allclose(train.logits(whole, tiny.train.images), transfer.answers(teacher, base, tiny), atol=0.05)
    path.write_bytes(b"garbage")
    with pytest.raises(EdgelabError, match=f"cannot take weights from {path}: expected those of mobilenet_v2, no top"):
        teachers.restore(teacher)
