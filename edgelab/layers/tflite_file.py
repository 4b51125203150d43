"""Counting a .tflite file from its graph, read with the schema that ships with the LiteRT runtime."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgelab.artifact import quiet
from edgelab.errors import EdgelabError
from edgelab.layers.table import (
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

STORED = {"FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "INT8": "i1", "UINT8": "u1", "INT16": "<i2"}
STORED |= {"INT32": "<i4", "INT64": "<i8", "BFLOAT16": "<u2"}
PACKED = {"INT4": 4, "INT2": 2}
WEIGHT_TYPES = frozenset(STORED) - {"INT32", "INT64"} | frozenset(PACKED)
COMPUTED = {"BOOL": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128}
UNPACKING = ("DEQUANTIZE", "DENSIFY")


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _sizes(stored: np.ndarray | None) -> Shape:
    return () if stored is None else tuple(map(int, stored))


class Graph:
    """The main subgraph of a model file with the shapes its tensors have at run time."""

    def __init__(self, path: Path, input_shape: Shape | None) -> None:
        """Read `path`. Raises EdgelabError where the input shape is open and none is given."""
        from ai_edge_litert import schema_py_generated as schema

        content = path.read_bytes()
        if content[4:8] != b"TFL3":
            raise EdgelabError(f"{path} is no tflite model that can be counted (its mark TFL3 is missing)")
        self.model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
        self.graph: Any = self.model.subgraphs[0]
        self.types, self.operators = _names(schema.TensorType), _names(schema.BuiltinOperator)
        self.producers = {int(output): op for op in self.graph.operators for output in op.outputs}
        self.shapes = self._shapes(path, input_shape)
        self.batch = max(1, self.shapes[self.graph.inputs[0]][0])

    def _shapes(self, path: Path, input_shape: Shape | None) -> dict[int, Shape]:
        """The shape of every tensor: from the file, or by one run on zeros where the file leaves any size open.

        A file of any batch size stores 1 for every size that it leaves open, also for one that is more than the batch.
        """
        tensors = self.graph.tensors
        shapes = {i: _sizes(tensor.shape) for i, tensor in enumerate(tensors)}
        source = int(self.graph.inputs[0])
        if input_shape is None and -1 in _sizes(tensors[source].shapeSignature)[1:]:
            raise EdgelabError(f"{path.name} leaves its input shape open: give input_shape, (height, width, channels)")
        wanted = (shapes[source][0], *(input_shape or shapes[source][1:]))
        if wanted == shapes[source] and not any(-1 in _sizes(tensor.shapeSignature) for tensor in tensors):
            return shapes
        return shapes | _run_shapes(path, source, wanted)

    def kind(self, op: Any) -> str:
        """The operator's name, such as CONV_2D; a custom operator's own name."""
        code = self.model.operatorCodes[op.opcodeIndex]
        name = self.operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
        return code.customCode.decode() if name == "CUSTOM" and code.customCode else name

    def name(self, index: int) -> str:
        """A tensor's name; of several fused ones the first."""
        return (self.graph.tensors[index].name or b"").decode(errors="replace").split(";")[0]

    def bits(self, index: int) -> int | None:
        """Width of one value of a tensor, in bits; None for text and the like."""
        kind = self.types[self.graph.tensors[index].type]
        if kind in STORED:
            return 8 * np.dtype(STORED[kind]).itemsize
        return PACKED.get(kind) or COMPUTED.get(kind)

    def constant(self, index: int) -> Constant | None:
        """What is stored in tensor `index`, also where it is unpacked at run time; None for an activation."""
        if index < 0:
            return None
        producer = self.producers.get(index)
        if producer is not None:
            return self.constant(int(producer.inputs[0])) if self.kind(producer) in UNPACKING else None
        tensor = self.graph.tensors[index]
        data, kind = self.model.buffers[tensor.buffer].data, self.types[tensor.type]
        if data is None or len(data) == 0 or kind not in STORED.keys() | PACKED.keys():
            return None
        shape = _sizes(tensor.shape)
        nonzero = int(np.count_nonzero(self._values(tensor, np.asarray(data, np.uint8), kind, shape)))
        return Constant(tensor.buffer, shape, math.prod(shape), nonzero, self.bits(index) or 0)

    @staticmethod
    def _values(tensor: Any, data: np.ndarray, kind: str, shape: Shape) -> np.ndarray:
        """The stored values less their zero point; of a sparse tensor only those that are stored."""
        if kind in PACKED:
            per_byte = 8 // PACKED[kind]
            fields = [(data >> (PACKED[kind] * i)) & (2 ** PACKED[kind] - 1) for i in range(per_byte)]
            return np.stack(fields, -1).ravel()[: math.prod(shape)]
        values = np.frombuffer(data.tobytes(), STORED[kind])
        zero_points = tensor.quantization.zeroPoint if tensor.quantization else None
        if zero_points is None or not np.any(zero_points) or values.size != math.prod(shape):
            return values
        if len(zero_points) == 1:
            return values.reshape(shape) - int(zero_points[0])
        along = [1] * len(shape)
        along[tensor.quantization.quantizedDimension] = -1
        return values.reshape(shape) - np.asarray(zero_points).reshape(along)


def _run_shapes(path: Path, source: int, wanted: Shape) -> dict[int, Shape]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with quiet():
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=plain)
        interpreter.resize_tensor_input(source, wanted)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, np.zeros(wanted, interpreter.get_input_details()[0]["dtype"]))
        interpreter.invoke()
    return {details["index"]: tuple(map(int, details["shape"])) for details in interpreter.get_tensor_details()}


def _spatial(options: Any) -> Shape:
    strides = [getattr(options, name, None) for name in ("strideD", "strideH", "strideW")]
    return tuple(stride for stride in strides if stride is not None)


def _positions(graph: Graph, index: int) -> int:
    """Positions of one image in a channels-last tensor."""
    return math.prod(graph.shapes[index][:-1]) // graph.batch


def _convolution(graph: Graph, op: Any, weight: Constant) -> Work:
    channels = graph.shapes[op.inputs[0]][-1]
    *kernel, inputs = weight.shape[1:]
    groups = channels // inputs
    parts = ((weight, _positions(graph, op.outputs[0])),)
    return Work(convolution_kind(groups, channels), parts, tuple(kernel), _spatial(op.builtinOptions), groups)


def _convolution_3d(graph: Graph, op: Any, weight: Constant) -> Work:
    channels = graph.shapes[op.inputs[0]][-1]
    groups = channels // weight.shape[3]
    parts = ((weight, _positions(graph, op.outputs[0])),)
    return Work(convolution_kind(groups, channels), parts, weight.shape[:3], _spatial(op.builtinOptions), groups)


def _depthwise(graph: Graph, op: Any, weight: Constant) -> Work:
    parts = ((weight, _positions(graph, op.outputs[0])),)
    groups = graph.shapes[op.inputs[0]][-1]
    return Work(DEPTHWISE, parts, weight.shape[1:3], _spatial(op.builtinOptions), groups)


def _transposed(graph: Graph, op: Any, weight: Constant) -> Work:
    kernel = weight.shape[1:3] if len(weight.shape) == 4 else weight.shape[:3]
    return Work(TRANSPOSED, ((weight, _positions(graph, op.inputs[2])),), kernel, _spatial(op.builtinOptions))


def _dense(graph: Graph, op: Any, weight: Constant) -> Work:
    inputs = math.prod(graph.shapes[op.inputs[0]])
    return Work(DENSE, ((weight, inputs // weight.shape[-1] // graph.batch),))


def _matmul(graph: Graph, op: Any, weight: Constant) -> Work:
    inner = graph.shapes[op.inputs[0]][-2 if op.builtinOptions.adjX else -1]
    products = math.prod(graph.shapes[op.outputs[0]]) * inner
    return Work(DENSE, ((weight, products // weight.size // graph.batch),))


Handler = Callable[[Graph, Any, Constant], Work]
HANDLERS: dict[str, tuple[Handler, int, int, int]] = {  # with the places of the input, the weight and the bias
    "CONV_2D": (_convolution, 0, 1, 2),
    "CONV_3D": (_convolution_3d, 0, 1, 2),
    "DEPTHWISE_CONV_2D": (_depthwise, 0, 1, 2),
    "TRANSPOSE_CONV": (_transposed, 2, 1, 3),
    "CONV_3D_TRANSPOSE": (_transposed, 2, 1, 3),
    "FULLY_CONNECTED": (_dense, 0, 1, 2),
    "BATCH_MATMUL": (_matmul, 0, 1, 2),
}


def count(path: Path, input_shape: Shape | None) -> LayerTable:
    """The table of the main graph in the file at `path`; control flow into other graphs is named as uncounted."""
    graph, builder = Graph(path, input_shape), Builder()
    for op in graph.graph.operators:
        kind, inputs = graph.kind(op), [int(index) for index in op.inputs]
        if kind in UNPACKING and graph.constant(inputs[0]):
            continue
        handler, source, *places = HANDLERS.get(kind, (None, 0))
        stored = [graph.constant(inputs[place]) for place in places if place < len(inputs)]
        weight = stored[0] if stored else None
        work = handler(graph, op, weight) if handler and weight else None
        own = [constant for constant in stored if constant] if work else _others(graph, inputs)
        if work is None:
            builder.uncounted[kind] += 1
            source = next((place for place, index in enumerate(inputs) if not graph.constant(index)), 0)
        before = inputs[source] if inputs else int(op.outputs[0])
        shapes = graph.shapes[before][1:], graph.shapes[op.outputs[0]][1:]
        builder.add(graph.name(op.outputs[0]), kind, shapes, own, graph.bits(before), work)
    return builder.table()


def _others(graph: Graph, inputs: list[int]) -> list[Constant]:
    """Weights of an operator that is not counted (a scale, an embedding); single numbers and sizes are none."""
    found = ((graph.constant(index), graph.types[graph.graph.tensors[index].type]) for index in inputs if index >= 0)
    return [constant for constant, kind in found if constant and constant.size > 1 and kind in WEIGHT_TYPES]
