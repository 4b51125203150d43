"""Counting an .onnx file from its graph: float, QDQ and QLinear forms, with shapes by inference or by one run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

from edgelab.artifact import quiet
from edgelab.errors import EdgelabError
from edgelab.layers.table import DENSE, TRANSPOSED, Builder, Constant, LayerTable, Shape, Work, convolution_kind

PASSED_ON = {"Identity", "DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"}
NOT_WEIGHTS = {"Resize", "Upsample", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
WEIGHT_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
NARROW = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}
WEIGHT_TYPES |= {TensorProto.INT8, TensorProto.UINT8, *NARROW}


def _bits(elem_type: int) -> int:
    return NARROW.get(elem_type) or 8 * helper.tensor_dtype_to_np_dtype(elem_type).itemsize


class Graph:
    """The main graph of a model file, its constants, and the shape and type of every other value."""

    def __init__(self, path: Path, input_shape: Shape | None) -> None:
        """Read `path`. Raises EdgelabError where the input shape is open and none is given."""
        proto = onnx.inliner.inline_local_functions(onnx.load(path))
        self.nodes = [node for node in proto.graph.node if node.op_type != "Constant"]
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].type == onnx.AttributeProto.TENSOR:
                self.constants[node.output[0]] = node.attribute[0].t
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.inputs = [value.name for value in proto.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in proto.graph.output]
        self.batch = _fix_input(proto, path, input_shape, set(self.constants))
        self.shapes, self.types = _shapes(proto, {name for node in self.nodes for name in node.output if name})

    def constant(self, name: str, zero_point: str = "") -> Constant | None:
        """What is stored under `name`, also where it is unpacked or reshaped at run time; None for an activation."""
        producer = self.producers.get(name)
        if producer is not None and producer.op_type in PASSED_ON:
            zero = producer.input[2] if producer.op_type == "DequantizeLinear" and len(producer.input) > 2 else ""
            found = self.constant(producer.input[0], zero)
            shape = self.shapes.get(name)
            return found._replace(shape=shape) if found and shape else found
        if name not in self.constants:
            return None
        tensor = self.constants[name]
        values = numpy_helper.to_array(tensor)
        if zero_point in self.constants:
            values = values.astype(np.int32) - _aligned(numpy_helper.to_array(self.constants[zero_point]), values.shape)
        return Constant(name, values.shape, values.size, int(np.count_nonzero(values)), _bits(tensor.data_type))

    def bits(self, name: str) -> int | None:
        """Width of one value, in bits; of a value that was just dequantized, the width it had before."""
        producer = self.producers.get(name)
        if producer is not None and producer.op_type == "DequantizeLinear":
            name = producer.input[0]
        return self.width(name)

    def width(self, name: str) -> int | None:
        """Width of one value as the file types it, in bits."""
        return _bits(self.types[name]) if self.types.get(name) else None


def _aligned(zero_point: np.ndarray, shape: Shape) -> np.ndarray:
    """A zero point an output channel in the shape that subtracts along the axis of that length."""
    if zero_point.size == 1:
        return zero_point.astype(np.int32).reshape(())
    axis = shape.index(zero_point.size)
    return zero_point.astype(np.int32).reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _fix_input(proto: onnx.ModelProto, path: Path, input_shape: Shape | None, constants: set[str]) -> int:
    """Set the input's open sizes in `proto` (the batch to 1) and return the batch."""
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if not inputs:
        raise EdgelabError(f"{path.name}: expected a model with an input, got none")
    dims = inputs[0].type.tensor_type.shape.dim
    batch = (dims[0].dim_value if dims else 0) or 1
    sizes = [batch, *(input_shape or [dim.dim_value for dim in dims[1:]])]
    if 0 in sizes or len(sizes) != len(dims):
        raise EdgelabError(f"{path.name} leaves its input shape open: give input_shape, (channels, height, width)")
    for dim, size in zip(dims, sizes, strict=True):
        dim.dim_value = size
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return batch


def _shapes(proto: onnx.ModelProto, outputs: set[str]) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shape and element type of every value: inferred, and by one run on zeros where that leaves some open."""
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes: dict[str, Shape] = {}
    types: dict[str, int] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    if missing := sorted(outputs - shapes.keys()):
        for name, result in _run(proto, missing).items():
            shapes[name] = result.shape
            types[name] = helper.np_dtype_to_tensor_dtype(result.dtype)
    return shapes, types


def _run(proto: onnx.ModelProto, names: list[str]) -> dict[str, np.ndarray]:
    import onnxruntime

    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    with quiet():
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {}
        for value in proto.graph.input:
            tensor = value.type.tensor_type
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            feeds[value.name] = np.zeros([dim.dim_value for dim in tensor.shape.dim], dtype)
        return dict(zip(names, session.run(names, feeds), strict=True))


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _convolution(graph: Graph, node: onnx.NodeProto, weight: Constant) -> Work:
    groups = _attribute(node, "group", 1)
    outputs, inputs, *kernel = weight.shape
    parts = ((weight, math.prod(graph.shapes[node.output[0]]) // outputs // graph.batch),)
    stride = tuple(_attribute(node, "strides", [1] * len(kernel)))
    return Work(convolution_kind(groups, inputs * groups), parts, tuple(kernel), stride, groups)


def _transposed(graph: Graph, node: onnx.NodeProto, weight: Constant) -> Work:
    inputs, _, *kernel = weight.shape
    parts = ((weight, math.prod(graph.shapes[node.input[0]]) // inputs // graph.batch),)
    stride = tuple(_attribute(node, "strides", [1] * len(kernel)))
    return Work(TRANSPOSED, parts, tuple(kernel), stride, _attribute(node, "group", 1))


def _gemm(graph: Graph, node: onnx.NodeProto, weight: Constant) -> Work:
    return Work(DENSE, ((weight, math.prod(graph.shapes[node.output[0]][:-1]) // graph.batch),))


def _matmul(graph: Graph, node: onnx.NodeProto, weight: Constant) -> Work:
    products = math.prod(graph.shapes[node.output[0]]) * weight.shape[-2 if len(weight.shape) > 1 else 0]
    return Work(DENSE, ((weight, products // weight.size // graph.batch),))


class Slots(NamedTuple):
    """How an operator is counted and where it takes its weight, its bias and the weight's zero point; -1 for none."""

    handler: Callable[[Graph, onnx.NodeProto, Constant], Work]
    weight: int = 1
    bias: int = 2
    zero_point: int = -1


HANDLERS = {
    **dict.fromkeys(("Conv", "FusedConv"), Slots(_convolution)),
    "ConvInteger": Slots(_convolution, 1, -1, 3),
    "QLinearConv": Slots(_convolution, 3, 8, 5),
    "ConvTranspose": Slots(_transposed),
    **dict.fromkeys(("Gemm", "FusedGemm"), Slots(_gemm)),
    "QGemm": Slots(_gemm, 3, 6, 5),
    **dict.fromkeys(("MatMul", "FusedMatMul"), Slots(_matmul, 1, -1)),
    "MatMulInteger": Slots(_matmul, 1, -1, 3),
    "QLinearMatMul": Slots(_matmul, 3, -1, 5),
}


def _input(node: onnx.NodeProto, place: int) -> str:
    return node.input[place] if 0 <= place < len(node.input) else ""


def count(path: Path, input_shape: Shape | None) -> LayerTable:
    """The table of the main graph in the file at `path`; loops and branches are named as uncounted."""
    graph, builder = Graph(path, input_shape), Builder()
    for node in graph.nodes:
        if node.op_type in PASSED_ON and graph.constant(node.output[0]):
            continue
        slots, work, stored = HANDLERS.get(node.op_type), None, []
        if slots and (weight := graph.constant(_input(node, slots.weight), _input(node, slots.zero_point))):
            work = slots.handler(graph, node, weight)
            stored = [weight, graph.constant(_input(node, slots.bias))]
        else:
            builder.uncounted[node.op_type] += 1
            stored = [] if node.op_type in NOT_WEIGHTS else [_other(graph, name) for name in node.input]
        source = next((name for name in node.input if name in graph.shapes), node.output[0])
        shapes = graph.shapes.get(source, ())[1:], graph.shapes.get(node.output[0], ())[1:]
        own = [constant for constant in stored if constant]
        builder.add(node.name or node.output[0], node.op_type, shapes, own, graph.bits(source), work)
    return builder.table()


def _other(graph: Graph, name: str) -> Constant | None:
    """A weight of an operator that is not counted (a scale, an embedding); single numbers and sizes are none."""
    constant = graph.constant(name)
    if constant is None or constant.size == 1 or graph.constants[constant.key].data_type not in WEIGHT_TYPES:
        return None
    return constant
