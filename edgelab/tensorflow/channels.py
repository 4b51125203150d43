"""Structured pruning in TensorFlow: whole channels are taken out, so that every runtime has less to do.

A channel cannot go alone: with it go the filter that makes it, its BatchNorm values, and the input channel of every
layer that reads it; a residual addition ties the channels of both its sides together. TensorFlow has no tool that
traces these dependencies; for Functional models of common layers it takes one pass over the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tf_keras as keras

from edgelab.artifact import first_line
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table
from edgelab.pruning import Arrays, check_finite, check_speed_up, kept_channels, smallest_cut
from edgelab.tensorflow import models

layers = keras.layers
CARRYING = (
    layers.Activation,
    layers.AveragePooling2D,
    layers.BatchNormalization,
    layers.DepthwiseConv2D,
    layers.Dropout,
    layers.Flatten,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.MaxPooling2D,
    layers.ReLU,
    layers.ZeroPadding2D,
)


@dataclass(eq=False)
class Bundle:
    """Channels that can only go together: the layers that make them, that carry them on, and that read them."""

    channels: int
    fixed: bool = False
    makers: list[str] = field(default_factory=list)
    carriers: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)

    def join(self, other: Bundle) -> None:
        """Take over all that belongs to `other`."""
        self.fixed |= other.fixed
        self.makers += other.makers
        self.carriers += other.carriers
        self.readers += other.readers


def remove_channels(model: keras.Model, speed_up: float) -> keras.Model:
    """A copy of `model` with so many channels taken out of every layer that its MACs fall by the factor `speed_up`.

    Every layer loses the same share, least important channels first: importance is the sum of the squares of all
    weights that would go. Multiples of four stay, so the factor is met or a little exceeded. The classes stay.
    Raises EdgelabError for a factor below 1 or out of reach, NaN weights, or dependencies that cannot be traced.
    """
    check_speed_up(speed_up)
    if not isinstance(model, keras.Model):
        got = type(model).__name__
        raise EdgelabError(f"expected a tf_keras model to prune, got {got}: prune before saving a file")
    arrays = models.to_arrays(model)
    check_finite(arrays)
    if speed_up == 1:
        return resized(model, arrays)
    bundles = [bundle for bundle in _bundles(model) if not bundle.fixed]

    counted = [(row.macs, f"{row.name.replace('/', '.')}.weight") for row in layer_table(model).layers if row.macs]

    def macs_after(percent: int) -> int:
        cut = _cut(arrays, bundles, percent)
        return sum(macs // arrays[weight].size * cut[weight].size for macs, weight in counted)

    percent = smallest_cut(macs_after, sum(macs for macs, _ in counted), speed_up)
    return resized(model, _cut(arrays, bundles, percent))


def _bundles(model: keras.Model) -> list[Bundle]:
    """The channels of all layers of a Functional `model`, bundled by what depends on what."""
    carried: dict[str, Bundle] = {}
    for layer, sources in _graph(model):
        before = [carried[source] for source in sources]
        name = layer.name.replace("/", ".")
        if isinstance(layer, layers.InputLayer):
            bundle = Bundle(layer.output_shape[0][-1], fixed=True)
        elif isinstance(layer, layers.Conv2D | layers.Dense) and getattr(layer, "groups", 1) == 1:
            before[0].readers.append(name)
            bundle = Bundle(layer.output_shape[-1], makers=[name])
        elif isinstance(layer, CARRYING) and getattr(layer, "depth_multiplier", 1) == 1:
            bundle = before[0]
            bundle.carriers.append(name)
        elif isinstance(layer, layers.Add):
            bundle = before[0]
            for other in {id(b): b for b in before[1:] if b is not bundle}.values():
                bundle.join(other)
                carried |= {key: bundle for key, value in carried.items() if value is other}
        else:
            raise EdgelabError(f"channels cannot be traced through {layer.name!r}, a {type(layer).__name__} layer")
        carried[layer.name] = bundle
    for output in model.output_names:
        carried[output].fixed = True
    return list({id(bundle): bundle for bundle in carried.values()}.values())


def _graph(model: keras.Model) -> list[tuple[keras.layers.Layer, list[str]]]:
    """Every layer with the names of those it reads, inputs first."""
    known = model.get_config()["layers"]
    if any(len(layer.get("inbound_nodes", "no Functional model")) > 1 for layer in known):
        raise EdgelabError("expected a Functional model that calls every layer once: channels cannot be traced here")
    reads = {layer["name"]: [source[0] for node in layer["inbound_nodes"] for source in node] for layer in known}
    return [(layer, reads[layer.name]) for layer in model.layers]


def _cut(arrays: Arrays, bundles: list[Bundle], percent: int) -> dict[str, np.ndarray]:
    """`arrays` without the least important `percent` of every bundle's channels."""
    cut = dict(arrays)
    for bundle in bundles:
        order = np.argsort(_importance(arrays, bundle), kind="stable")
        stay = np.sort(order[bundle.channels - kept_channels(bundle.channels, percent) :])
        for name in (*bundle.makers, *bundle.carriers):
            for key in cut.keys() & {f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")}:
                cut[key] = cut[key][stay]
        for name in bundle.readers:
            weight = cut[f"{name}.weight"]
            by_channel = weight.reshape(len(weight), bundle.channels, -1)[:, stay]
            cut[f"{name}.weight"] = by_channel.reshape(len(weight), -1, *weight.shape[2:])
    return cut


def _importance(arrays: Arrays, bundle: Bundle) -> np.ndarray:
    """For every channel of `bundle` the sum of the squares of all weights that go with it, but depthwise kernels.

    As `torch-pruning` reckons it by default.
    """
    total = np.zeros(bundle.channels)
    for name in (*bundle.makers, *bundle.carriers):
        weight = arrays.get(f"{name}.weight", np.zeros(0))
        if name in bundle.makers or weight.ndim == 1:
            total += np.square(weight).reshape(bundle.channels, -1).sum(1)
    for name in bundle.readers:
        weight = arrays[f"{name}.weight"]
        total += np.square(weight).reshape(len(weight), bundle.channels, -1).sum((0, 2))
    return total


def resized(model: keras.Model, arrays: Arrays) -> keras.Model:
    """A copy of `model` with its channels cut to what `arrays` (as of `models.to_arrays`) have, and holding them.

    Raises EdgelabError where a name is missing or unknown, or the widths do not go together.
    """

    def resize(layer: keras.layers.Layer) -> keras.layers.Layer:
        config, weight = layer.get_config(), arrays.get(f"{layer.name.replace('/', '.')}.weight")
        for width in {"filters", "units"} & config.keys():
            if weight is not None:
                config[width] = len(weight)
        return type(layer).from_config(config)

    try:
        narrow = keras.models.clone_model(model, clone_function=resize)
    except ValueError as error:
        raise EdgelabError(f"the widths of the weights do not go together ({first_line(error)})") from error
    return models.from_arrays(narrow, dict(arrays))
