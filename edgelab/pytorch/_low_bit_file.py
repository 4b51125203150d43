"""An .onnx file with integers of 2, 4 or 8 bits, made of the float file of a network whose weights are on grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgelab.qat import Grid

OPSETS = {2: 25, 4: 21, 8: 21}  # the first operator set with integers of this width
TYPES = {
    (2, True): TensorProto.INT2,
    (2, False): TensorProto.UINT2,
    (4, True): TensorProto.INT4,
    (4, False): TensorProto.UINT4,
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
}
WIDTHS = {kind: width for (width, _), kind in TYPES.items()}


class Layer(NamedTuple):
    """A layer's weights as integers, the grid they are on, and grid and step of its inputs."""

    integers: np.ndarray
    of_weight: Grid
    of_input: Grid
    input_step: float


def with_integers(proto: onnx.ModelProto, layers: Mapping[str, Layer]) -> onnx.ModelProto:
    """`proto` with its weights, named after `layers`, as integers, and the inputs of these layers rounded to grids.

    What the exporter has multiplied the weights with (BatchNorm) becomes their scale, one a channel.
    """
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    graph = new.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in list(graph.node):
        layer = layers.get(node.input[1].removesuffix(".weight")) if len(node.input) > 1 else None
        if layer is not None:
            tensor = stored[node.input[1]]
            nodes += _weight_node(graph, tensor, layer) + _input_nodes(graph, node, layer)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    opset = max(OPSETS[grid.container] for layer in layers.values() for grid in (layer.of_weight, layer.of_input))
    new.opset_import[0].version = opset
    return new


def _weight_node(graph: onnx.GraphProto, tensor: onnx.TensorProto, layer: Layer) -> list[onnx.NodeProto]:
    """DequantizeLinear in place of the constant `tensor`, which is replaced by integers, scales and zero point.

    Eight bits are stored unsigned, with 128 for zero: then no kernel on any processor overflows.
    """
    values, name = numpy_helper.to_array(tensor), tensor.name
    rows = layer.integers.reshape(len(values), -1)
    squares = np.square(rows).sum(1)
    scales = (values.reshape(rows.shape) * rows).sum(1) / np.where(squares, squares, 1)
    scales = np.where(squares, scales, scales[squares > 0].mean() if squares.any() else 1)
    alike = np.allclose(scales, scales[0], rtol=1e-5)
    eight = layer.of_weight.container == 8
    shift, kind = (128, TensorProto.UINT8) if eight else (0, TYPES[layer.of_weight.container, True])
    shape = () if alike else (len(scales),)
    _store(graph, f"{name}_scale", scales[0] if alike else scales)
    graph.initializer.append(_packed(f"{name}_zero", kind, np.full(shape, shift)))
    parts = [f"{name}_integers", f"{name}_scale", f"{name}_zero"]
    graph.initializer.append(_packed(parts[0], kind, layer.integers + shift))
    graph.initializer.remove(tensor)
    return [helper.make_node("DequantizeLinear", parts, [name], f"{name}_dequantize", axis=0)]


def _input_nodes(graph: onnx.GraphProto, node: onnx.NodeProto, layer: Layer) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear before the input of `node`, behind Max and Min below eight bits.

    These cut to the grid where the container is wider. Nor does ONNX Runtime 1.31 load a file without them: it pulls
    QuantizeLinear in front of a MaxPool or Reshape, which it cannot run with so few bits; or, behind a Clip, fails.
    """
    grid, name, source = layer.of_input, node.input[1].removesuffix(".weight"), node.input[0]
    nodes = []
    for kind, integer in (("Max", grid.low), ("Min", grid.high)) if grid.bits < 8 else ():
        bound, result = f"{name}_{kind.lower()}", f"{name}_{kind.lower()}_of"
        _store(graph, bound, integer * np.asarray(layer.input_step, np.float32))
        nodes.append(helper.make_node(kind, [source, bound], [result], f"{result}_node"))
        source = result
    how, between, rounded = [f"{name}_step", f"{name}_zero"], f"{name}_integers", f"{name}_input"
    _store(graph, how[0], layer.input_step)
    graph.initializer.append(_packed(how[1], TYPES[grid.container, grid.signed], np.zeros(())))
    nodes.append(helper.make_node("QuantizeLinear", [source, *how], [between], f"{name}_quantize"))
    nodes.append(helper.make_node("DequantizeLinear", [between, *how], [rounded], f"{name}_dequantize"))
    node.input[0] = rounded
    return nodes


def _store(graph: onnx.GraphProto, name: str, values: np.ndarray | float) -> None:
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))


def _packed(name: str, kind: int, values: np.ndarray) -> onnx.TensorProto:
    """A constant of narrow integers, several in a byte where they have fewer than eight bits, the first one lowest."""
    width = WIDTHS[kind]
    fields = values.astype(np.int64).ravel() & (2**width - 1)
    fields = np.pad(fields, (0, -fields.size % (8 // width))).reshape(-1, 8 // width)
    content = (fields << width * np.arange(8 // width)).sum(1).astype(np.uint8).tobytes()
    return helper.make_tensor(name, kind, values.shape, content, raw=True)
