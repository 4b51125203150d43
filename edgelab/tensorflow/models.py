"""The course's three networks in tf_keras: NHWC float32 in [-1, 1) in, logits out.

A layer is named as in `edgelab.pytorch.models`, with "/" for "."; weights travel under PyTorch's names, in its layout.
Convolutions have no bias where BatchNorm follows; the order is always Conv -> BatchNorm -> ReLU, which
quantization-aware training recognises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import tf_keras as keras
from tensorflow import Tensor
from tf_keras import layers

from edgelab.errors import EdgelabError
from edgelab.networks import DS_CNN_BLOCKS, RESNET20_BLOCKS
from edgelab.weights import check_fit

INPUT_SHAPE = (32, 32, 3)


def _bn(x: Tensor, name: str, relu: bool = True) -> Tensor:
    x = layers.BatchNormalization(epsilon=1e-3, momentum=0.9, name=f"{name}/bn")(x)
    return layers.ReLU(name=f"{name}/relu")(x) if relu else x


def _conv_bn(x: Tensor, name: str, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> Tensor:
    """Conv -> BatchNorm -> ReLU (the ReLU is left out before a residual addition)."""
    convolved = layers.Conv2D(outputs, kernel, stride, padding="same", use_bias=False, name=f"{name}/conv")(x)
    return _bn(convolved, name, relu)


def _plain_cnn(x: Tensor, classes: int) -> Tensor:
    """Three 3x3 convolutions with max pooling and two fully connected layers: no BatchNorm, 620,362 parameters.

    The ReLU stands inside the layer: after a layer without BatchNorm, quantization-aware training (TFMOT 0.8) would
    leave the weights in float32 if it were a layer of its own.
    """
    for i, outputs in enumerate((32, 64, 128), 1):
        x = layers.Conv2D(outputs, 3, padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPool2D(name=f"pool{i}")(x)
    x = layers.Dense(256, activation="relu", name="fc1")(layers.Flatten(name="flatten")(x))
    return layers.Dense(classes, name="fc2")(x)


def _residual_block(x: Tensor, name: str, outputs: int, stride: int) -> Tensor:
    """Two 3x3 convolutions and a shortcut; a 1x1 convolution on the shortcut where the shape changes."""
    y = _conv_bn(x, f"{name}/a", outputs, 3, stride)
    y = _conv_bn(y, f"{name}/b", outputs, 3, relu=False)
    if stride > 1:
        x = layers.Conv2D(outputs, 1, stride, padding="same", name=f"{name}/shortcut")(x)
    return layers.ReLU(name=f"{name}/relu")(layers.Add(name=f"{name}/add")([y, x]))


def _resnet8(x: Tensor, classes: int) -> Tensor:
    """MLPerf Tiny's image-classification network (Banbury et al. 2021, arXiv:2106.07597): 12.5 M MACs."""
    x = _conv_bn(x, "stem", 16, 3)
    for name, outputs, stride in (("stage1", 16, 1), ("stage2", 32, 2), ("stage3", 64, 2)):
        x = _residual_block(x, name, outputs, stride)
    return layers.Dense(classes, name="fc")(layers.GlobalAveragePooling2D(name="mean")(x))


def _resnet20(x: Tensor, classes: int) -> Tensor:
    """The smallest of the networks for CIFAR-10 in He et al. 2016 (arXiv:1512.03385, section 4.2): 40.8 M MACs.

    As in resnet8, a 1x1 convolution stands on the shortcut where the shape changes.
    """
    x = _conv_bn(x, "stem", 16, 3)
    for i, (_, outputs, stride) in enumerate(RESNET20_BLOCKS):
        x = _residual_block(x, f"blocks/{i}", outputs, stride)
    return layers.Dense(classes, name="fc")(layers.GlobalAveragePooling2D(name="mean")(x))


def _ds_cnn(x: Tensor, classes: int) -> Tensor:
    """Depthwise-separable network after MobileNet (Howard et al. 2017, arXiv:1704.04861), sized for 32x32 images."""
    x = _conv_bn(x, "stem", DS_CNN_BLOCKS[0][0], 3)
    for i, (inputs, outputs, stride) in enumerate(DS_CNN_BLOCKS):
        name = f"blocks/{i}"
        depthwise = layers.DepthwiseConv2D(3, stride, "same", use_bias=False, name=f"{name}/depthwise/conv")(x)
        y = _conv_bn(_bn(depthwise, f"{name}/depthwise"), f"{name}/pointwise", outputs, 1)
        x = layers.Add(name=f"{name}/add")([x, y]) if stride == 1 and inputs == outputs else y
    return layers.Dense(classes, name="fc")(layers.GlobalAveragePooling2D(name="mean")(x))


MODELS: dict[str, Callable[[Tensor, int], Tensor]] = {"plain_cnn": _plain_cnn, "resnet8": _resnet8, "ds_cnn": _ds_cnn}
OTHERS: dict[str, Callable[[Tensor, int], Tensor]] = {"resnet20": _resnet20}
"""A network beside the course's three, to be cut."""


def build(name: str, classes: int = 10, seed: int = 0) -> keras.Model:
    """An untrained network with weights drawn from `seed`, uniform within +-1/sqrt(fan-in) as PyTorch draws them.

    Raises EdgelabError for an unknown name.
    """
    makers = MODELS | OTHERS
    if name not in makers:
        raise EdgelabError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    image = keras.Input(INPUT_SHAPE, name="image")
    return _drawn(keras.Model(image, makers[name](image, classes), name=name), seed)


def redrawn(model: keras.Model, seed: int) -> keras.Model:
    """A copy of `model`, as narrow as it is, with first weights drawn from `seed` and BatchNorm as at the start."""
    return _drawn(keras.models.clone_model(model), seed)


def _drawn(model: keras.Model, seed: int) -> keras.Model:
    """`model` with new weights in its layers, drawn from `seed` as PyTorch draws them."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for key, array in to_arrays(model).items():
        bound = array[0].size ** -0.5 if array.ndim > 1 else 0.0
        drawn[key] = rng.uniform(-bound, bound, array.shape).astype(np.float32) if bound else array
    return from_arrays(model, drawn)


WEIGHTS = {
    layers.DepthwiseConv2D: {"weight": "depthwise_kernel", "bias": "bias"},
    layers.Conv2D: {"weight": "kernel", "bias": "bias"},
    layers.Dense: {"weight": "kernel", "bias": "bias"},
    layers.BatchNormalization: {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
}
AXES = {"depthwise_kernel": (2, 3, 0, 1), "kernel": (3, 2, 0, 1)}


def _pairs(model: keras.Model) -> dict[str, tuple[layers.Layer, str]]:
    """PyTorch's name of every weight -> (the Keras layer, the layer's attribute)."""
    found, known = {}, {layer.name for layer in model.layers}
    for layer in model.layers:
        names = next((names for kind, names in WEIGHTS.items() if isinstance(layer, kind)), {})
        for ours, theirs in names.items():
            if getattr(layer, theirs, None) is not None:
                found[f"{_torch_name(layer.name, known)}.{ours}"] = (layer, theirs)
    return found


def _torch_name(name: str, others: Collection[str]) -> str:
    """PyTorch's name of a layer: of a convolution "x" with "x/BatchNorm", as MobileNetV3 has them, x.conv and x.bn."""
    if f"{name}/BatchNorm" in others:
        name = f"{name}/conv"
    return name.removesuffix("BatchNorm").replace("/", ".") + ("bn" if name.endswith("/BatchNorm") else "")


def _flattened(layer: layers.Layer) -> tuple[int, int, int] | None:
    """(height, width, channels) of the feature map that `Flatten` lays out before the Dense `layer`, if so."""
    source = layer.inbound_nodes[0].inbound_layers if layer.inbound_nodes else None
    return tuple(source.input_shape[1:]) if isinstance(source, layers.Flatten) else None


def _to_torch(layer: layers.Layer, attribute: str) -> np.ndarray:
    array = getattr(layer, attribute).numpy()
    if array.ndim == 4:
        return array.transpose(AXES[attribute])
    if array.ndim == 2 and (shape := _flattened(layer)):
        array = array.reshape(*shape, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    return array.T


def _to_keras(layer: layers.Layer, attribute: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(np.argsort(AXES[attribute]))
    if array.ndim == 2 and (shape := _flattened(layer)):
        height, width, channels = shape
        array = array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(array.shape)
    return array.T


def to_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """All weights and BatchNorm statistics as NumPy arrays under their PyTorch names and in PyTorch's layout.

    Convolutions (out, in, height, width), depthwise (channels, 1, height, width), fully connected (out, in) with the
    inputs in the order channel, row, column.
    """
    return {name: np.ascontiguousarray(_to_torch(*place)) for name, place in _pairs(model).items()}


def from_arrays(model: keras.Model, arrays: dict[str, np.ndarray]) -> keras.Model:
    """Copy `arrays` (names and layout as in `to_arrays`) into `model` and return it.

    Raises EdgelabError where a name or a shape does not fit.
    """
    check_fit(to_arrays(model), arrays)
    for name, (layer, attribute) in _pairs(model).items():
        getattr(layer, attribute).assign(_to_keras(layer, attribute, arrays[name]))
    return model
