"""Scale and zero point of an integer input or output of an .onnx file, found in the node beside it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import numpy_helper

MOVED = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
OUTPUT_SCALE = {  # which input of the node holds the scale of its output; the zero point follows it
    "QuantizeLinear": 1,
    "QLinearConv": 6,
    "QLinearMatMul": 6,
    "QGemm": 7,
    "QLinearAdd": 6,
    "QLinearMul": 6,
    "QLinearSigmoid": 3,
    "QLinearSoftmax": 3,
    "QLinearLeakyRelu": 3,
    "QLinearAveragePool": 3,
    "QLinearGlobalAveragePool": 3,
}


class Scales:
    """The (scale, zero point) of the values of one file; (0, 0) where a value has none."""

    def __init__(self, path: Path) -> None:
        """Read the graph at `path`."""
        graph = onnx.load(path).graph
        self.nodes = graph.node
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = node.attribute[0].t

    def of_input(self, name: str) -> tuple[float, int]:
        """As the first node reads it that reads the graph's input `name`; nodes have the scale right behind it."""
        for node in self.nodes:
            if name in node.input and node.op_type in MOVED:
                return self.of_input(node.output[0])
            if name in node.input and (
                node.op_type == "DequantizeLinear" or node.op_type.startswith(("QLinear", "QGemm"))
            ):
                return self._at(node, list(node.input).index(name) + 1)
        return 0.0, 0

    def of_output(self, name: str) -> tuple[float, int]:
        """As the node that makes the graph's output `name` wrote it."""
        for node in self.nodes:
            if name in node.output and node.op_type in MOVED:
                return self.of_output(node.input[0])
            if name in node.output and node.op_type in OUTPUT_SCALE:
                return self._at(node, OUTPUT_SCALE[node.op_type])
        return 0.0, 0

    def _at(self, node: onnx.NodeProto, place: int) -> tuple[float, int]:
        scale, zero = (self.constants.get(name) for name in (*node.input[place : place + 2], "", "")[:2])
        values = numpy_helper.to_array(scale) if scale else None
        if values is None or values.size != 1:
            return 0.0, 0
        return float(values.ravel()[0]), int(numpy_helper.to_array(zero).ravel()[0]) if zero else 0
