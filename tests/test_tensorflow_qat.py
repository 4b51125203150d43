"""int8 by TFMOT: checkpoints, files that answer as the network, and models it cannot take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras
from support import eagerly, same

from edgelab import zoo
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table
from edgelab.profiles import Recipe
from edgelab.qat import Int8, LowBit
from edgelab.tensorflow import models, qat, train

RECIPE = Recipe(epochs=2, batch=32, peak_rate=0.02, crop=1)
layers = keras.layers


@pytest.fixture
def start(tiny: Dataset) -> zoo.Checkpoint:
    """An untrained network passed off as trained, its logits larger than a step of TFMOT's first range, -6..6."""
    arrays = models.to_arrays(models.build("resnet8", 2))
    arrays["fc.weight"] = 20 * arrays["fc.weight"]
    meta = {"data_fingerprint": tiny.fingerprint, "class_names": ["0", "1"], "train_seconds": 100.0}
    return zoo.Checkpoint("resnet8", tiny.name, replace(RECIPE, seed=7), arrays, [], meta)


def test_made_once_then_found_and_the_file_answers_as_the_network(
    start: zoo.Checkpoint, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second network in the process has other variable names; that must not matter. No test image is needed."""
    recipe = replace(RECIPE, epochs=1)
    with eagerly():
        made = qat.load_or_quantize(start, Int8(), replace(tiny, test=None), recipe)
    assert made.origin == zoo.Origin("qat_int8", "tensorflow", start.key)
    assert made.meta["train_seconds"] > 100 and len(made.history) == 1
    monkeypatch.setattr(qat, "fine_tune", None)
    found = qat.load_or_quantize(start, Int8(), tiny, recipe)
    assert same(found.arrays, made.arrays) and found.history == made.history
    network, images = qat.restore(found), tiny.test.images
    answers = train.logits(network, images)
    assert np.array_equal(train.logits(qat.restore(made), images), answers)
    file = qat.save(network, tmp_path / "eight.tflite")
    assert np.abs(file.predict(images) - answers).max() < 0.1 * np.ptp(answers)
    rows = [row for row in layer_table(file.path).layers if row.macs]
    assert {(row.weight_bits, row.activation_bits) for row in rows} == {(8, 8)}


def test_training_resumes(tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after the first of two epochs: what an undisturbed run gives."""
    undisturbed = qat.prepare_int8(models.build("plain_cnn", 2))
    qat.fine_tune(undisturbed, tiny, RECIPE)
    state, original = tmp_path / "state", train._Training.on_epoch_begin

    def interrupt(self: object, epoch: int, logs: dict | None = None) -> None:
        if epoch:
            raise KeyboardInterrupt
        original(self, epoch, logs)

    monkeypatch.setattr(train._Training, "on_epoch_begin", interrupt)
    with pytest.raises(KeyboardInterrupt):
        qat.fine_tune(qat.prepare_int8(models.build("plain_cnn", 2)), tiny, RECIPE, state)
    monkeypatch.setattr(train._Training, "on_epoch_begin", original)
    resumed = qat.prepare_int8(models.build("plain_cnn", 2))
    assert len(qat.fine_tune(resumed, tiny, RECIPE, state)) == 2
    pairs = zip(qat.to_arrays(resumed).values(), qat.to_arrays(undisturbed).values(), strict=True)
    assert all(np.allclose(one, other, atol=1e-5) for one, other in pairs)


def small(order: Callable[[object], object]) -> keras.Model:
    image = keras.Input((32, 32, 3))
    return keras.Model(image, order(layers.Conv2D(4, 3)(image)))


def with_nan() -> keras.Model:
    model = models.build("resnet8")
    layer = model.get_layer("fc")
    kernel = layer.kernel.numpy()
    kernel[:2, 0] = np.nan
    layer.kernel.assign(kernel)
    return model


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: qat.prepare_int8(models.build("resnet8")),
            r"the model is quantized already: start from the float model",
        ),
        (with_nan, r"2 of 640 values in 'fc.weight' are NaN or infinite: train the model again"),
        (
            lambda: keras.Sequential([keras.Input((32, 32, 3)), small(layers.ReLU()), layers.Flatten()]),
            r"model 'model\w*' stands inside the model: apply its layers one by one instead",
        ),
        (
            lambda: small(lambda x: layers.BatchNormalization(name="late")(layers.ReLU()(x))),
            r"BatchNorm 'late' stands behind ReLU: put it straight behind the convolution",
        ),
        (lambda: small(layers.PReLU()), r"TFMOT cannot quantize 'model\w*' \(Layer p_re_lu\w*:.*is not supported"),
        (lambda: Path("a.tflite"), r"expected a tf_keras model to quantize, got PosixPath: start from the network"),
    ],
    ids=["twice", "NaN", "nested", "BatchNorm", "layer", "file"],
)
def test_what_cannot_be_quantized_is_refused_in_one_line(make: Callable[[], keras.Model], line: str) -> None:
    with pytest.raises(EdgelabError, match=line) as caught:
        qat.prepare_int8(make())
    assert "\n" not in str(caught.value)


def test_other_plans_and_checkpoints(start: zoo.Checkpoint, tiny: Dataset) -> None:
    with pytest.raises(
        EdgelabError, match=r"TFMOT quantizes to 8 bits only, got qat_lsq_4bit: use edgelab.pytorch.qat"
    ):
        qat.load_or_quantize(start, LowBit(4), tiny, RECIPE)
    with pytest.raises(EdgelabError, match=r"holds no quantization-aware network of TensorFlow but baseline"):
        qat.restore(start)
