"""Channels in TensorFlow: traced without a tool, and the same ones go as `torch-pruning` takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras

from edgelab.errors import EdgelabError
from edgelab.pytorch import channels as pytorch_channels
from edgelab.pytorch import models as pytorch_models
from edgelab.tensorflow import channels, models, train


@pytest.mark.parametrize("name", [*models.MODELS, *models.OTHERS])
def test_the_same_channels_go_as_in_pytorch(name: str) -> None:
    """Weight by weight, with flattening, residual additions and depthwise layers on the way."""
    other = pytorch_models.build(name, seed=1)
    arrays = pytorch_models.to_arrays(other)
    bundles = [bundle for bundle in channels._bundles(models.build(name)) if not bundle.fixed]
    for percent in (20, 60):
        ours = channels._cut(arrays, bundles, percent)
        theirs = pytorch_models.to_arrays(pytorch_channels._narrowed(other, percent))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_the_factor_is_met_and_the_network_runs() -> None:
    """As `torch-pruning` does it; the network computes what PyTorch's does."""
    other = pytorch_models.build("plain_cnn", seed=1)
    model = models.from_arrays(models.build("plain_cnn"), pytorch_models.to_arrays(other))
    ours, theirs = channels.remove_channels(model, 2), pytorch_channels.remove_channels(other, 2)
    arrays = models.to_arrays(ours)
    assert all(np.array_equal(arrays[key], value) for key, value in pytorch_models.to_arrays(theirs).items())
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    from edgelab.pytorch import train as pytorch_train

    assert np.abs(train.logits(ours, images) - pytorch_train.logits(theirs, images)).max() < 1e-4


def test_widths_that_do_not_fit_are_refused() -> None:
    arrays = models.to_arrays(models.build("resnet8"))
    with pytest.raises(EdgelabError, match=r"^the widths of the weights do not go together \(.*\)$"):
        channels.resized(
            models.build("resnet8"), {**arrays, "stage1.b.conv.weight": np.zeros((8, 16, 3, 3), np.float32)}
        )
    with pytest.raises(EdgelabError, match=r"^the weights do not fit the model at 'fc.weight'"):
        channels.resized(models.build("resnet8"), {**arrays, "fc.weight": np.zeros((10, 32), np.float32)})


def test_what_cannot_be_done_is_refused() -> None:
    model = models.build("plain_cnn")
    with pytest.raises(EdgelabError, match=r"^expected a speed-up from 1 upwards, got 0.5: write 2 for half the MACs$"):
        channels.remove_channels(model, 0.5)
    with pytest.raises(EdgelabError, match=r"^expected a tf_keras model to prune, got PosixPath: prune before saving"):
        channels.remove_channels(Path("model.tflite"), 2)
    image = keras.Input((8, 8, 3))
    odd = keras.Model(image, keras.layers.Dense(2)(keras.layers.LayerNormalization(name="odd")(image)))
    with pytest.raises(EdgelabError, match=r"^channels cannot be traced through 'odd', a LayerNormalization layer$"):
        channels.remove_channels(odd, 2)
    shared = keras.layers.Conv2D(3, 3, padding="same")
    with pytest.raises(EdgelabError, match=r"^expected a Functional model that calls every layer once"):
        channels.remove_channels(keras.Model(image, shared(shared(image))), 2)
    model.get_layer("fc2").bias.assign(np.full(10, np.nan))
    with pytest.raises(
        EdgelabError, match=r"^10 of 10 values in 'fc2.bias' are NaN or infinite: train the model again$"
    ):
        channels.remove_channels(model, 2)
