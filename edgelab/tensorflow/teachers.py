"""Teachers from ImageNet in TensorFlow: MobileNetV2 and ResNet50 of Keras applications."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tf_keras as keras
from tensorflow import Tensor
from tf_keras import layers

from edgelab.errors import EdgelabError
from edgelab.teachers import UNTRAINED, Backbone, check_backbone, check_same, identity, parts, say_untrained
from edgelab.tensorflow import models, train
from edgelab.zoo import Checkpoint

CAFFE_MEANS = (103.939, 116.779, 123.68)


def _mobilenet_input(x: Tensor) -> Tensor:
    """(pixel - 128) / 128 to pixel / 127.5 - 1."""
    return layers.Rescaling(128 / 127.5, offset=128 / 127.5 - 1)(x)


def _resnet_input(x: Tensor) -> Tensor:
    """(pixel - 128) / 128 to pixels in the order blue, green, red, less the means of ImageNet."""
    return layers.Rescaling(128.0, offset=[128 - mean for mean in CAFFE_MEANS])(x[..., ::-1])


BACKBONES: dict[str, tuple[Callable[..., keras.Model], Callable[[Tensor], Tensor]]] = {
    "mobilenet_v2": (keras.applications.MobileNetV2, _mobilenet_input),
    "resnet50": (keras.applications.ResNet50, _resnet_input),
}


def _body(name: str, size: int, weights: str | Path | None) -> tuple[keras.Model, str]:
    """The network at `size` and where its weights really come from: random ones where ImageNet's cannot be fetched."""
    make, _ = BACKBONES[name]
    shape = {"input_shape": (size, size, 3), "include_top": False, "pooling": "avg"}
    if weights == "imagenet":
        try:
            return make(weights="imagenet", **shape), "imagenet"
        except Exception as problem:  # Keras raises bare Exception where the download fails
            say_untrained(name, f"its ImageNet weights cannot be fetched: {str(problem).splitlines()[0]}")
    elif weights is None:
        say_untrained(name, "no weights were asked for")
    body = models._drawn(make(weights=None, **shape), 0)
    if weights is None or weights == "imagenet":
        return body, UNTRAINED
    path = Path(weights).expanduser()
    try:
        body.load_weights(path)
    except (OSError, ValueError, ImportError) as problem:
        why = str(problem).splitlines()[0]
        raise EdgelabError(f"cannot take weights from {path}: expected those of {name}, no top ({why})") from None
    return body, str(weights)


def backbone(name: str, size: int = 96, weights: str | Path | None = "imagenet") -> Backbone:
    """The frozen network `name`, which enlarges images to `size` x `size` pixels.

    `weights` are "imagenet" (fetched by Keras; where there is no network they are random instead, as the log says), the
    path of a Keras weights file without the top, or None: untrained, which the log says too.
    Raises EdgelabError for an unknown name, an odd size, or a file that does not hold this network's weights.
    """
    check_backbone(name, size, BACKBONES)
    body, come_from = _body(name, size, weights)
    image = keras.Input((None, None, 3), name="image")
    enlarged = layers.Resizing(size, size, "bilinear", name="resize")(image)
    network = keras.Model(image, body(BACKBONES[name][1](enlarged)), name=name)
    network.trainable = False
    mark = identity({f"{i:04}": array for i, array in enumerate(network.get_weights())})

    def compute(images: np.ndarray) -> np.ndarray:
        return train.logits(network, images, 50)

    return Backbone(name, size, "tensorflow", come_from, mark, network, compute)


def base(checkpoint: Checkpoint) -> Backbone:
    """The backbone that `checkpoint`'s last layer was fitted to. Raises EdgelabError where it is not found any more."""
    name, size, weights, _ = parts(checkpoint)
    return check_same(backbone(name, size, weights), checkpoint)


def restore(checkpoint: Checkpoint) -> keras.Model:
    """The whole teacher, images in and logits out, of a checkpoint by `edgelab.teachers.load_or_transfer`.

    Raises EdgelabError where the backbone it was fitted to is not found any more.
    """
    weight, bias = (checkpoint.arrays[f"fc.{part}"] for part in ("weight", "bias"))
    network = base(checkpoint).network
    head = layers.Dense(len(bias), name="fc")
    whole = keras.Model(network.input, head(network.output), name=checkpoint.model)
    head.set_weights([weight.T, bias])
    whole.trainable = False
    return whole
