"""The weights in a model file as arrays, and a copy of the file without a zero among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgelab.layers import reading

if TYPE_CHECKING:
    import onnx

    from edgelab.layers.onnx_file import Graph as OnnxGraph
    from edgelab.layers.tflite_file import Graph as TfliteGraph

Shape = tuple[int, ...]

# Where the output channels of a stored weight are, if not on the first axis.
TFLITE_OUTPUTS = {"DEPTHWISE_CONV_2D": -1, "CONV_3D": -1, "BATCH_MATMUL": -1}


@dataclass(frozen=True)
class Weight:
    """The weight of one layer: `values` with the output channels first and the input channels last, zero where the
    stored weight stands for zero; `raw` as it is stored. `sparse` where the file itself leaves out zeros.
    """

    name: str
    values: np.ndarray
    raw: bytes
    sparse: bool = False


def weights(path: Path, input_shape: Shape) -> list[Weight]:
    """The weight of every layer that makes MACs, each once. Raises EdgelabError where the file cannot be read."""
    with reading(path):
        return list(_tflite(path, input_shape) if path.suffix.lower() == ".tflite" else _onnx(path, input_shape))


def without_zeros(path: Path, input_shape: Shape, target: Path) -> None:
    """Write to `target` the file at `path` with small random weights in place of zeros, as if it were not pruned.

    Weights that the file itself leaves out stay zero.

    Raises EdgelabError where the file cannot be read.
    """
    with reading(path):
        fill = _fill_tflite if path.suffix.lower() == ".tflite" else _fill_onnx
        target.write_bytes(fill(path, input_shape))


def _tflite(path: Path, input_shape: Shape) -> Iterator[Weight]:
    from edgelab.layers.tflite_file import Graph

    graph, seen = Graph(path, input_shape), set()
    for kind, output, index in _tflite_places(graph):
        tensor = graph.graph.tensors[index]
        if tensor.buffer in seen:
            continue
        seen.add(tensor.buffer)
        data = np.asarray(graph.model.buffers[tensor.buffer].data, np.uint8)
        values = _unpacked(graph, index) if tensor.sparsity else _values(graph, index)
        values = np.moveaxis(values, TFLITE_OUTPUTS.get(kind, 0), 0)
        yield Weight(graph.name(output), values, data.tobytes(), tensor.sparsity is not None)


def _values(graph: TfliteGraph, index: int) -> np.ndarray:
    """What is stored in a tensor less its zero point, in its shape."""
    tensor = graph.graph.tensors[index]
    data, shape = np.asarray(graph.model.buffers[tensor.buffer].data, np.uint8), tuple(map(int, tensor.shape))
    return graph._values(tensor, data, graph.types[tensor.type], shape).reshape(shape)


def _unpacked(graph: TfliteGraph, index: int) -> np.ndarray:
    """The values of a tensor in TFLite's sparse encoding, by running the operator that unpacks it."""
    from edgelab.explain._litert import cut_out, interpreter_of

    (op,) = (op for op in graph.graph.operators if index in op.inputs)
    interpreter = interpreter_of(1, delegates=False, model_content=cut_out(graph, op)[0])
    interpreter.allocate_tensors()
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _tflite_places(graph: TfliteGraph) -> Iterator[tuple[str, int, int]]:
    """Kind and output of every operator that has a weight, and the tensor that stores it."""
    from edgelab.layers.tflite_file import HANDLERS

    for op in graph.graph.operators:
        kind = graph.kind(op)
        if kind not in HANDLERS:
            continue
        index = int(op.inputs[HANDLERS[kind][2]])
        if graph.constant(index) is None:
            continue
        while index in graph.producers:
            index = int(graph.producers[index].inputs[0])
        yield kind, int(op.outputs[0]), index


def _fill_tflite(path: Path, input_shape: Shape) -> bytes:
    from edgelab.explain._litert import pack
    from edgelab.layers.tflite_file import STORED, Graph

    graph = Graph(path, input_shape)
    for _, _, index in _tflite_places(graph):
        tensor = graph.graph.tensors[index]
        buffer, kind = graph.model.buffers[tensor.buffer], graph.types[tensor.type]
        if tensor.sparsity is not None or kind not in STORED:
            continue
        stored = np.frombuffer(np.asarray(buffer.data, np.uint8).tobytes(), STORED[kind])
        buffer.data = np.frombuffer(_filled(stored, _values(graph, index).ravel()).tobytes(), np.uint8)
    return pack(graph.model)


def _filled(stored: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`stored` with random numbers where `values` are zero, smaller than nearly all (95 %) of the others.

    That is how the weights were that magnitude pruning takes: the copy compresses like a network that was not pruned.
    """
    rng, zero = np.random.default_rng(0), values == 0
    count, others = int(zero.sum()), np.abs(values[~zero].astype(np.float64))
    limit = float(np.quantile(others, 0.05)) if others.size else 1.0
    signs, filled = rng.choice([-1, 1], count), stored.copy()
    if np.issubdtype(stored.dtype, np.floating):
        filled[zero] = signs * rng.uniform(limit / 1000, limit, count)
        return filled
    bounds, old = np.iinfo(stored.dtype), stored[zero].astype(np.int64)
    steps = signs * rng.integers(1, max(1, round(limit) - 1), count, endpoint=True)
    inside = (old + steps >= bounds.min) & (old + steps <= bounds.max)
    filled[zero] = old + np.where(inside, steps, -steps)
    return filled


def _onnx(path: Path, input_shape: Shape) -> Iterator[Weight]:
    from onnx import numpy_helper

    from edgelab.layers.onnx_file import Graph

    graph, seen = Graph(path, input_shape), set()
    for node, key, zero_point in _onnx_places(graph):
        if key in seen:
            continue
        seen.add(key)
        stored = numpy_helper.to_array(graph.constants[key])
        values = _less_zero_point(graph, stored, zero_point)
        yield Weight(node.name or node.output[0], _outputs_first(node, values), stored.tobytes())


def _onnx_places(graph: OnnxGraph) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    """Every node that has a weight, the constant that stores it and the constant that holds its zero point, or ""."""
    from edgelab.layers.onnx_file import HANDLERS, PASSED_ON

    for node in graph.nodes:
        slots = HANDLERS.get(node.op_type)
        if slots is None or len(node.input) <= slots.weight or graph.constant(node.input[slots.weight]) is None:
            continue
        name = node.input[slots.weight]
        zero_point = node.input[slots.zero_point] if 0 < slots.zero_point < len(node.input) else ""
        while name in graph.producers and graph.producers[name].op_type in PASSED_ON:
            producer = graph.producers[name]
            if producer.op_type == "DequantizeLinear" and len(producer.input) > 2:
                zero_point = producer.input[2]
            name = producer.input[0]
        yield node, name, zero_point if zero_point in graph.constants else ""


def _less_zero_point(graph: OnnxGraph, stored: np.ndarray, zero_point: str) -> np.ndarray:
    from onnx import numpy_helper

    from edgelab.layers.onnx_file import _aligned

    if not zero_point:
        return stored
    return stored.astype(np.int32) - _aligned(numpy_helper.to_array(graph.constants[zero_point]), stored.shape)


def _outputs_first(node: onnx.NodeProto, values: np.ndarray) -> np.ndarray:
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    columns = node.op_type.endswith(("MatMul", "MatMulInteger")) or node.op_type.endswith("Gemm")
    if columns and not attributes.get("transB"):
        return np.moveaxis(values, -1, 0)
    if node.op_type == "ConvTranspose":
        return np.moveaxis(values, 0, -1)
    return np.moveaxis(values, 1, -1) if values.ndim > 2 else values


def _fill_onnx(path: Path, input_shape: Shape) -> bytes:
    import onnx
    from onnx import numpy_helper

    from edgelab.layers.onnx_file import Graph

    graph, model = Graph(path, input_shape), onnx.load(path)
    filled: dict[str, np.ndarray] = {}
    for _, key, zero_point in _onnx_places(graph):
        stored = numpy_helper.to_array(graph.constants[key])
        filled[key] = _filled(stored.ravel(), _less_zero_point(graph, stored, zero_point).ravel()).reshape(stored.shape)
    for tensor in model.graph.initializer:
        if tensor.name in filled:
            tensor.CopyFrom(numpy_helper.from_array(filled[tensor.name], tensor.name))
    return model.SerializeToString()
