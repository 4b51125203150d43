"""Time per operator in LiteRT: its Python interpreter has no profiler, so every operator is cut out and run alone.

Each operator becomes a model file of its own, with its weights and the inputs it had in the whole network, and all of
them and the whole network run in turns in one measurement. What a call of any file costs is measured on a file of one
addition of one value, and taken off. An operator alone has its data in the cache and no neighbour to be fused with; how
far that carries is seen by comparing the sum of the operators with the whole network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgelab.artifact import Artifact, quiet
from edgelab.explain._profile import BUILT_IN, XNNPACK, Operator, Profile
from edgelab.latency import interleaved
from edgelab.layers import layer_table
from edgelab.layers.tflite_file import HANDLERS, UNPACKING, Graph

METHOD = "Cut out and run alone"
SECONDS, ROUNDS = 2.0, 30


def profiles(files: Sequence[Artifact], image: np.ndarray | None) -> list[Profile]:
    """The profile of every .tflite file on one image, all in one measurement."""
    with quiet():
        tables = [_Pieces(file, image) for file in files]
        calls = [_addition(delegates=True), _addition(delegates=False)]
    calls += [call for table in tables for call in table.calls]
    times = np.median(interleaved(calls, SECONDS, ROUNDS, untimed=1), axis=0).tolist()
    call_ms, plain_call_ms = times[:2]
    found, start = [], 2
    for table in tables:
        found.append(table.profile(times[start : start + len(table.calls)], call_ms, plain_call_ms))
        start += len(table.calls)
    return found


class _Pieces:
    """The calls of one file: the network, the network without XNNPACK, every operator in either way."""

    def __init__(self, file: Artifact, image: np.ndarray | None) -> None:
        prepared = file.prepare(image)
        shape = prepared.inputs.shape[1:]
        self.graph, self.layers = Graph(file.path, shape), layer_table(file.path, shape).layers
        self.operators = [
            (place, op)
            for place, op in enumerate(self.graph.graph.operators)
            if not (self.graph.kind(op) in UNPACKING and self.graph.constant(int(op.inputs[0])))
        ]
        plain = interpreter_of(file.threads, delegates=False, model_path=str(file.path))
        keeps = interpreter_of(
            file.threads, delegates=False, model_path=str(file.path), experimental_preserve_all_tensors=True
        )
        for interpreter in (plain, keeps):
            _feed(interpreter, [prepared.inputs])
        keeps.invoke()
        self.delegated = _delegated(file, prepared.inputs)
        self.alone = [self._alone(place, op, keeps, file.threads) for place, op in self.operators]
        self.calls: list[Callable[[], object]] = [prepared.call, plain.invoke]
        self.calls += [call for pair in self.alone for call in pair]

    def _alone(self, place: int, op: Any, keeps: Any, threads: int) -> list[Callable[[], object]]:
        """The operator's call as it runs in the network, and without XNNPACK; none where it cannot run alone."""
        try:
            content, inputs = cut_out(self.graph, op)
            values = [keeps.get_tensor(index) for index in inputs]
            calls = []
            for delegates in (place in self.delegated, False):
                interpreter = interpreter_of(threads, delegates=delegates, model_content=content)
                _feed(interpreter, values)
                interpreter.invoke()
                calls.append(interpreter.invoke)
        except (RuntimeError, ValueError):
            return []
        return calls

    def profile(self, times: list[float], call_ms: float, plain_call_ms: float) -> Profile:
        """The finished profile from the median milliseconds of `calls`."""
        whole_ms, plain_ms, *rest = times
        found = []
        for (place, op), layer, calls in zip(self.operators, self.layers, self.alone, strict=True):
            kernel = XNNPACK if place in self.delegated else BUILT_IN
            ms, plain = (rest.pop(0), rest.pop(0)) if calls else (math.nan, math.nan)
            ms = float(np.maximum(ms - (call_ms if kernel == XNNPACK else plain_call_ms), 0.0))
            plain = float(np.maximum(plain - plain_call_ms, 0.0))
            found.append(Operator(layer, self.graph.kind(op), kernel, _arithmetic(self.graph, op), ms, plain))
        return Profile(tuple(found), whole_ms, call_ms, METHOD, plain_ms)


def interpreter_of(threads: int, *, delegates: bool, **options: Any) -> Any:
    """An interpreter with XNNPACK (`delegates`) or with LiteRT's own kernels alone."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(num_threads=threads, experimental_op_resolver_type=kind, **options)


def _feed(interpreter: Any, values: Sequence[np.ndarray]) -> None:
    ports = interpreter.get_input_details()
    for port, value in zip(ports, values, strict=True):
        if tuple(port["shape"]) != value.shape:
            interpreter.resize_tensor_input(port["index"], value.shape)
    interpreter.allocate_tensors()
    for port, value in zip(ports, values, strict=True):
        interpreter.set_tensor(port["index"], value)


def _delegated(file: Artifact, inputs: np.ndarray) -> set[int]:
    """Places of the operators that XNNPACK takes over: all between its outputs and its inputs."""
    interpreter = interpreter_of(file.threads, delegates=True, model_path=str(file.path))
    _feed(interpreter, [inputs])
    nodes = interpreter._get_ops_details()
    producers = {
        int(output): place
        for place, node in enumerate(nodes)
        if node["op_name"] != "DELEGATE"
        for output in node["outputs"]
    }
    found: set[int] = set()
    for node in nodes:
        if node["op_name"] == "DELEGATE":
            stop, waiting = set(map(int, node["inputs"])), list(map(int, node["outputs"]))
            while waiting:
                place = producers.get(waiting.pop())
                if place is None or place in found:
                    continue
                found.add(place)
                waiting += [int(index) for index in nodes[place]["inputs"] if int(index) not in stop]
    return found


def cut_out(graph: Graph, op: Any) -> tuple[bytes, list[int]]:
    """A model file of `op` alone with its constants, and which tensors of the network are its inputs."""
    from ai_edge_litert import schema_py_generated as schema

    before = [graph.producers.get(int(index)) for index in op.inputs]
    ops = [found for index, found in zip(op.inputs, before, strict=True) if found and graph.constant(int(index))]
    ops.append(op)
    used = list(dict.fromkeys(int(i) for o in ops for i in (*o.inputs, *o.outputs) if i >= 0))
    model, part = schema.ModelT(), schema.SubGraphT()
    model.version, model.operatorCodes, model.subgraphs = 3, graph.model.operatorCodes, [part]
    model.buffers, part.tensors, part.operators = [schema.BufferT()], [], []
    made = {int(output) for o in ops for output in o.outputs}
    inputs = []
    for index in used:
        tensor = copy.copy(graph.graph.tensors[index])
        stored = graph.model.buffers[tensor.buffer]
        holds = stored.data is not None and len(stored.data) > 0
        if not holds and index not in made:
            inputs.append(index)
        tensor.buffer = len(model.buffers) if holds else 0
        model.buffers += [stored] if holds else []
        tensor.shape, tensor.shapeSignature = np.array(graph.shapes[index], np.int32), None
        part.tensors.append(tensor)
    places = {index: place for place, index in enumerate(used)}
    for o in ops:
        moved = copy.copy(o)
        moved.inputs, moved.outputs = (
            np.array([places.get(int(i), -1) for i in ends], np.int32) for ends in (o.inputs, o.outputs)
        )
        part.operators.append(moved)
    part.inputs = np.array([places[index] for index in inputs], np.int32)
    part.outputs = part.operators[-1].outputs
    return pack(model), inputs


def pack(model: Any) -> bytes:
    """The file of a model object of the schema."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _addition(*, delegates: bool) -> Callable[[], object]:
    """The call of a file that adds one value to itself: next to nothing but the call."""
    from ai_edge_litert import schema_py_generated as schema

    model, part, code, op = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    op.inputs, op.outputs = np.array([0, 0], np.int32), np.array([1], np.int32)
    part.tensors = [schema.TensorT(), schema.TensorT()]
    for tensor in part.tensors:
        tensor.shape, tensor.type = np.array([1], np.int32), schema.TensorType.FLOAT32
    part.operators, part.inputs, part.outputs = [op], np.array([0], np.int32), np.array([1], np.int32)
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [part], [schema.BufferT()]
    interpreter = interpreter_of(1, delegates=delegates, model_content=pack(model))
    _feed(interpreter, [np.ones(1, np.float32)])
    return interpreter.invoke


def _arithmetic(graph: Graph, op: Any) -> str:
    """The type of the values, and of the weights where it is another: "int8", "float32 values, int8 weights"."""
    kind = graph.kind(op)
    source, place = HANDLERS[kind][1:3] if kind in HANDLERS else (0, -1)
    if not len(op.inputs):
        return "none"
    values = graph.types[graph.graph.tensors[op.inputs[source]].type].lower()
    if place < 0 or place >= len(op.inputs):
        return values
    weight = int(op.inputs[place])
    producer = graph.producers.get(weight)
    weights = graph.types[graph.graph.tensors[weight].type].lower()
    return values if weights == values or producer else f"{values} values, {weights} weights"
