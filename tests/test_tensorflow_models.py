"""The Keras networks: twins of the PyTorch networks, weight for weight."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras
from support import same

from edgelab.data import Dataset, Split
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe
from edgelab.pytorch import models as pytorch_models
from edgelab.pytorch import train as pytorch_train
from edgelab.tensorflow import models, train

NAMES = (*models.MODELS, *models.OTHERS)


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> dict[str, dict[str, np.ndarray]]:
    """Weights of each network after a few steps on digits: BatchNorm statistics far from 0 and 1."""
    from dataclasses import replace

    parts = {"train": (digits.train, 256), "validation": (digits.validation, 20)}
    few = replace(digits, **{name: Split(part.images[:n], part.labels[:n]) for name, (part, n) in parts.items()})
    recipe = Recipe(epochs=3, batch=16, peak_rate=0.05, crop=0, flip=False)
    arrays = {}
    for name in NAMES:
        network = pytorch_models.build(name)
        pytorch_train.train(network, few, recipe)
        arrays[name] = pytorch_models.to_arrays(network)
    return arrays


def agree(name: str, arrays: dict[str, np.ndarray], images: np.ndarray) -> None:
    """Both frameworks give the same logits, on images that do not all give the same."""
    in_torch = pytorch_train.logits(pytorch_models.from_arrays(pytorch_models.build(name), arrays), images)
    in_keras = train.logits(models.from_arrays(models.build(name, seed=9), arrays), images)
    assert in_torch.std(0).min() > 0.05
    assert np.abs(in_torch - in_keras).max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_logits_agree_on_real_images(name: str, trained: dict[str, dict[str, np.ndarray]], digits: Dataset) -> None:
    """PyTorch to Keras: the same weights, the same logits within 1e-4."""
    agree(name, trained[name], digits.test.images[:100])


@pytest.mark.parametrize("name", NAMES)
def test_the_bridge_works_both_ways(name: str, trained: dict[str, dict[str, np.ndarray]], digits: Dataset) -> None:
    """Through Keras and back nothing is lost; weights changed in Keras arrive in PyTorch."""
    network = models.from_arrays(models.build(name), trained[name])
    assert same(models.to_arrays(network), trained[name])
    rng = np.random.default_rng(0)
    network.set_weights([w * rng.uniform(0.9, 1.1, w.shape) for w in network.get_weights()])
    arrays = models.to_arrays(network)
    assert not same(arrays, trained[name])
    outputs = pytorch_train.logits(
        pytorch_models.from_arrays(pytorch_models.build(name), arrays), digits.test.images[:50]
    )
    assert np.abs(outputs - train.logits(network, digits.test.images[:50])).max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_seed_decides_the_weights(name: str) -> None:
    """Drawn as in PyTorch: uniform, with the same spread, no two layers alike."""
    arrays = models.to_arrays(models.build(name, seed=1))
    assert same(arrays, models.to_arrays(models.build(name, seed=1)))
    assert not same(arrays, models.to_arrays(models.build(name, seed=2)))
    for key, array in pytorch_models.to_arrays(pytorch_models.build(name)).items():
        if array.ndim > 1:
            assert arrays[key].std() == pytest.approx(array.std(), rel=0.15)


def test_redrawn_keeps_the_widths_and_nothing_that_was_learnt() -> None:
    network = models.build("resnet8", seed=1)
    arrays = models.to_arrays(network)
    arrays["stem.bn.running_var"] = arrays["stem.bn.running_var"] + 3
    fresh = models.to_arrays(models.redrawn(models.from_arrays(network, arrays), 2))
    assert same(fresh, models.to_arrays(models.build("resnet8", seed=2)))
    assert same(models.to_arrays(network), arrays)


def test_classes_and_input() -> None:
    """As many logits as classes, from 32x32 RGB."""
    network = models.build("ds_cnn", classes=3)
    assert network.input_shape == (None, 32, 32, 3)
    assert network.output_shape == (None, 3)


def test_unknown_model_and_weights_that_do_not_fit() -> None:
    """The same lines as in PyTorch."""
    with pytest.raises(EdgelabError, match=r"^unknown model 'resnet': choose one of plain_cnn, resnet8, ds_cnn$"):
        models.build("resnet")
    three = models.to_arrays(models.build("plain_cnn", classes=3))
    with pytest.raises(EdgelabError, match=r"at 'fc2.bias': expected \(10,\), got \(3,\)"):
        models.from_arrays(models.build("plain_cnn"), three)
    with pytest.raises(EdgelabError, match=r"at 'fc2.bias': expected \(10,\), got nothing"):
        models.from_arrays(models.build("plain_cnn"), {k: v for k, v in three.items() if k != "fc2.bias"})


@pytest.mark.parametrize("name", NAMES)
def test_quantization_aware_training_takes_the_network(name: str) -> None:
    """TFMOT recognises the patterns: every kernel is quantized, and no BatchNorm stands between two quantizers."""
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    quantized = tfmot.quantization.keras.quantize_model(models.build(name))
    for wrapper in (layer for layer in quantized.layers if hasattr(layer, "layer")):
        own = {weight.name.split("/")[-1] for weight in wrapper.weights}
        if isinstance(wrapper.layer, keras.layers.Conv2D | keras.layers.Dense):
            depthwise = isinstance(wrapper.layer, keras.layers.DepthwiseConv2D)
            assert ("depthwise_kernel_min:0" if depthwise else "kernel_min:0") in own
            followed = quantized.get_layer(wrapper.name.replace("conv", "bn")) if "/conv" in wrapper.name else None
            assert followed is None or "post_activation_min:0" not in own


def test_pruning_keeps_the_names() -> None:
    """After wrapping and stripping the weights are found under the same names."""
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    network = models.build("resnet8")
    stripped = tfmot.sparsity.keras.strip_pruning(tfmot.sparsity.keras.prune_low_magnitude(network))
    assert same(models.to_arrays(stripped), models.to_arrays(network))
