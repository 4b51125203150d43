"""Counting a tf_keras or Keras 3 model: its layers' `call` is wrapped for one run, as forward hooks do in torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgelab.errors import EdgelabError
from edgelab.layers.table import (
    CONVOLUTION,
    DENSE,
    DEPTHWISE,
    TRANSPOSED,
    Builder,
    Constant,
    LayerTable,
    Shape,
    Work,
    convolution_kind,
)


def _constant(layer: Any, name: str) -> Constant:
    return _stored((id(layer), name), getattr(layer, name))


def _stored(key: Hashable, values: Any) -> Constant:
    array = np.asarray(values)
    return Constant(key, array.shape, array.size, int(np.count_nonzero(array)), 8 * array.dtype.itemsize)


def _positions(shape: Shape, layer: Any) -> int:
    """Positions in a feature map: the product of `shape` without its channels."""
    return math.prod((shape[0], *shape[2:]) if layer.data_format == "channels_first" else shape[:-1])


def _convolution(layer: Any, source: Shape, result: Shape) -> Work:
    kernel, groups = _constant(layer, "kernel"), layer.groups
    kind = convolution_kind(groups, kernel.shape[-2] * groups)
    return Work(kind, ((kernel, _positions(result, layer)),), layer.kernel_size, layer.strides, groups)


def _depthwise(layer: Any, source: Shape, result: Shape) -> Work:
    kernel = _constant(layer, "depthwise_kernel" if hasattr(layer, "depthwise_kernel") else "kernel")
    return Work(DEPTHWISE, ((kernel, _positions(result, layer)),), layer.kernel_size, layer.strides, kernel.shape[-2])


def _separable(layer: Any, source: Shape, result: Shape) -> Work:
    kernels = [_constant(layer, name) for name in ("depthwise_kernel", "pointwise_kernel")]
    positions = _positions(result, layer)
    parts = tuple((kernel, positions) for kernel in kernels)
    return Work(CONVOLUTION, parts, layer.kernel_size, layer.strides, kernels[0].shape[-2])


def _transposed(layer: Any, source: Shape, result: Shape) -> Work:
    kernel = _constant(layer, "kernel")
    return Work(TRANSPOSED, ((kernel, _positions(source, layer)),), layer.kernel_size, layer.strides)


def _dense(layer: Any, source: Shape, result: Shape) -> Work:
    return Work(DENSE, ((_constant(layer, "kernel"), math.prod(source[:-1])),))


def _einsum(layer: Any, source: Shape, result: Shape) -> Work:
    """Each weight is used once for every index of the input that the kernel has not."""
    taken, kernel = layer.equation.split("->")[0].split(",")
    indices = taken.replace("...", "." * (len(source) - len(taken.replace("...", ""))))
    positions = math.prod(size for index, size in zip(indices, source, strict=True) if index not in kernel)
    return Work(DENSE, ((_constant(layer, "kernel"), positions),))


Handler = Callable[[Any, Shape, Shape], Work]  # layer, input and output shape; their first size is 1 for one image
HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    "Dense": _dense,
    "EinsumDense": _einsum,
}
CONTAINERS = {"Functional", "Sequential", "Wrapper", "Bidirectional"}
"""Layers that only call others."""


def _handler(layer: Any) -> Handler | None:
    return next((HANDLERS[cls.__name__] for cls in type(layer).__mro__ if cls.__name__ in HANDLERS), None)


def _is(layer: Any, *names: str) -> bool:
    return any(cls.__name__ in names for cls in type(layer).__mro__)


def _inner(layer: Any) -> list[Any]:
    return list(layer._flatten_layers(include_self=False))


def _own(layer: Any) -> list[Constant]:
    """What training adjusts in the layer itself (in a recurrent one with its cells), also where it is frozen."""
    found: list[Any] = []
    for part in [layer, *_inner(layer)] if _is(layer, "RNN") else [layer]:
        found += getattr(part, "_trainable_weights", None) or getattr(part, "_trainable_variables", [])
    return [_stored(id(variable), variable) for variable in found]


def _first(values: Any) -> Any:
    while isinstance(values, list | tuple | dict):
        values = next(iter(values.values() if isinstance(values, dict) else values))
    return values


def _input(model: Any, input_shape: Shape | None) -> tuple[int, ...]:
    """The shape to run with, batch first."""
    declared = getattr(model, "input_shape", None) if getattr(model, "inputs", None) else None
    if isinstance(declared, list | dict):
        raise EdgelabError(f"{model.name}: expected a model with one input, got {len(declared)}")
    batch = (declared[0] if declared else None) or 1
    shape = input_shape or (declared[1:] if declared else (None,))
    if None in shape:
        raise EdgelabError(f"{model.name} leaves its input shape open: give input_shape, (height, width, channels)")
    return (batch, *shape)


def _hook(layer: Any, report: Callable[[Any, Any, Any], None]) -> Callable[[], None]:
    """Make `layer` report every call; returns how to undo it."""
    original, was_own = layer.call, "call" in vars(layer)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        report(layer, _first(args or kwargs), _first(result))
        return result

    layer.call = call
    return lambda: setattr(layer, "call", original) if was_own else delattr(layer, "call")


def _layers(model: Any) -> list[Any]:
    """All layers, but not those inside a recurrent one, which it calls at every step or not at all."""
    found = [layer for layer in model._flatten_layers(include_self=True) if not _is(layer, "InputLayer")]
    cells = {id(inner) for layer in found if _is(layer, "RNN") for inner in _inner(layer)}
    return [layer for layer in found if id(layer) not in cells]


def _leftover(layer: Any, builder: Builder) -> None:
    """Name a layer that did not report and may compute more than those it calls; a row if it has parameters."""
    own = [] if _is(layer, "Wrapper") else _own(layer)
    if own:
        builder.add(layer.name, type(layer).__name__, ((), ()), own)
    if own or (_inner(layer) and not _is(layer, *CONTAINERS)):
        builder.uncounted[type(layer).__name__] += 1


def count(model: Any, input_shape: Shape | None) -> LayerTable:
    """The table of `model` for one image of `input_shape` (height, width, channels)."""
    builder, shape, reported = Builder(), _input(model, input_shape), set[int]()
    layers = _layers(model)

    def report(layer: Any, source: Any, result: Any) -> None:
        full = tuple(map(int, source.shape)), tuple(map(int, result.shape))
        per_image = [(sizes[0] // shape[0], *sizes[1:]) for sizes in full]
        handler = _handler(layer)
        reported.add(id(layer))
        work = handler(layer, *per_image) if handler else None
        own = [weight for weight, _ in work.parts] if work else _own(layer)
        own += [_constant(layer, "bias")] if work and getattr(layer, "bias", None) is not None else []
        bits = 8 * np.dtype(getattr(source.dtype, "name", source.dtype)).itemsize
        builder.add(layer.name, type(layer).__name__, (full[0][1:], full[1][1:]), own, bits, work)
        if work is None:
            builder.uncounted[type(layer).__name__] += 1

    with ExitStack() as stack:
        for layer in layers:
            if _handler(layer) or _is(layer, "RNN") or not _inner(layer):
                stack.callback(_hook(layer, report))
        model(np.zeros(shape, np.float32), training=False)
    for layer in layers:
        if id(layer) not in reported:
            _leftover(layer, builder)
    return builder.table()
