"""Memory: the RAM that a network's activations need, TensorFlow Lite Micro's arena, and what goes to flash.

`peak_activations` counts from the graph alone, for any file. `arena` asks the runtime itself, for .tflite files. They
differ. The arena's head holds the same activations, but rounded up to whole 16 bytes, with scratch memory of the
operators and a copy where the convention below sees a view, and placed by a greedy planner that can leave gaps: none
for our `resnet8`, a third more for our `ds_cnn`. Its tail holds what stays: a record of every tensor and operator and
the scale of every channel.

The convention of `peak_activations`:

- Everything is for one image. Operators run one after the other, in the order of the file. Weights are not counted.
- A tensor lives from the operator that makes it to the last one that reads it. At an operator, all of its inputs and
  outputs are alive: nothing is computed in place. The graph's input lives from the start, its output to the end, and
  state that is kept from image to image always.
- What only depends on constants is a constant: weights that are unpacked at run time, sizes of a reshape.
- A view (Reshape, Squeeze, Flatten and the like) is the tensor it views.
- ONNX files leave to the runtime what the TFLite converter has done, so it is taken as done. An activation function
  or BatchNormalization that is the only reader of its input takes its place. QuantizeLinear that is the only reader
  of its input is part of the operator before it, and DequantizeLinear part of those after it: the float tensor between
  them counts at its quantized width. It counts as float where the graph begins or ends with it.
- Operators that carry graphs of their own (loops, branches) are counted from outside and named in `Peak.uncounted`.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgelab.artifact import first_line
from edgelab.errors import EdgelabError
from edgelab.layers import reading

if TYPE_CHECKING:
    import pandas as pd

    from edgelab.layers.table import Shape

TFLITE_VIEWS = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS"}
ONNX_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "DequantizeLinear"}
ONNX_FUSED = {"QuantizeLinear", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "BatchNormalization"}


@dataclass(frozen=True)
class Step:
    """One operator: its name and kind, and the bytes of all activations alive while it runs."""

    operator: str
    kind: str
    bytes: int


@dataclass(frozen=True)
class Peak:
    """The activations of one image, operator by operator; `uncounted` are operators whose own graphs are left out."""

    steps: tuple[Step, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The most that is alive at once."""
        return max(step.bytes for step in self.steps)

    @property
    def at(self) -> str:
        """The name of the first operator at which that is so; in a .tflite file that of its output."""
        return next(step.operator for step in self.steps if step.bytes == self.bytes)

    def to_frame(self) -> pd.DataFrame:
        """One row an operator: operator, kind, bytes."""
        import pandas as pd

        return pd.DataFrame([vars(step) for step in self.steps])


def peak_activations(path: Path | str, input_shape: Shape | None = None) -> Peak:
    """Peak activation memory of a .tflite or .onnx file for one image; the module says by which convention.

    `input_shape` is the shape of one image without the batch in the file's own layout, needed only where the file
    leaves it open. Raises EdgelabError for a missing, damaged or unsupported file, or an input shape that is missing.
    """
    path = Path(path)
    with reading(path):
        flow = FLOWS[path.suffix.lower()](path, input_shape)
        steps = _steps(flow)
    if not steps:
        raise EdgelabError(f"{path.name} has no operator that makes an activation: there is nothing to count")
    return Peak(steps, tuple(flow.uncounted))


class Operator(NamedTuple):
    """An operator with the activations it reads and makes, by their keys.

    The first output of a view is its first input; the first output of a fused one takes its place where nobody else
    reads it.
    """

    name: str
    kind: str
    reads: tuple[Hashable, ...]
    makes: tuple[Hashable, ...]
    is_view: bool
    is_fused: bool


@dataclass
class Flow:
    """A graph in the form that both file formats share: what operators do to activations of so many bytes."""

    inputs: set[Hashable]
    outputs: set[Hashable]
    operators: list[Operator] = field(default_factory=list)
    sizes: dict[Hashable, int] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)


def _tflite_flow(path: Path, input_shape: Shape | None) -> Flow:
    from edgelab.layers import tflite_file

    graph = tflite_file.Graph(path, input_shape)
    state = {i for i, tensor in enumerate(graph.graph.tensors) if tensor.isVariable}
    flow = Flow({*map(int, graph.graph.inputs), *state}, {*map(int, graph.graph.outputs), *state})
    held: set[Any] = set(flow.inputs)
    for op in graph.graph.operators:
        kind, inputs, makes = graph.kind(op), [*map(int, op.inputs)], tuple(map(int, op.outputs))
        reads = tuple(index for index in inputs if index in held)
        if inputs and not reads:
            continue
        held.update(makes)
        is_view = kind in TFLITE_VIEWS and reads[0] == inputs[0]
        name = graph.name(makes[0]) if makes else kind
        flow.operators.append(Operator(name, kind, reads, makes, is_view, False))
        options = (op.builtinOptions, getattr(op, "builtinOptions2", None))
        if any("subgraph" in name.lower() for found in options if found for name in vars(found)):
            flow.uncounted.append(kind)
    for index in held:
        flow.sizes[index] = _bytes(graph.shapes[index], graph.bits(index), graph.batch)
    return flow


def _onnx_flow(path: Path, input_shape: Shape | None) -> Flow:
    from edgelab.layers import onnx_file

    graph = onnx_file.Graph(path, input_shape)
    flow = Flow(set(graph.inputs), set(graph.outputs))
    held: set[Any] = set(flow.inputs)
    for node in graph.nodes:
        inner = [*_captured(node)]
        reads = tuple(name for name in (*node.input, *inner) if name in held)
        if any(node.input) and not reads:
            continue
        makes = tuple(name for name in node.output if name)
        held.update(makes)
        is_end = node.op_type == "DequantizeLinear" and node.output[0] in flow.outputs
        is_view = node.op_type in ONNX_VIEWS and reads[0] == node.input[0] and not is_end
        is_fused = node.op_type in ONNX_FUSED and reads[0] == node.input[0]
        name = node.name or node.output[0]
        flow.operators.append(Operator(name, node.op_type, reads, makes, is_view, is_fused))
        if inner:
            flow.uncounted.append(node.op_type)
    for key in held:
        flow.sizes[key] = _bytes(graph.shapes[key], graph.width(key), graph.batch)
    return flow


FLOWS: dict[str, Callable[[Path, Any], Flow]] = {".tflite": _tflite_flow, ".onnx": _onnx_flow}


def _captured(node: Any) -> Iterable[str]:
    """Every name that the graphs inside a node mention: some are the node's own, some are read from outside."""
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from _captured(inner)


def _bytes(shape: Shape, bits: int | None, batch: int) -> int:
    """Bytes of one image's share of a tensor; text and handles count nothing."""
    share = batch if shape and shape[0] % batch == 0 else 1
    return math.ceil(math.prod(shape) // share * (bits or 0) / 8)


def _homes(flow: Flow) -> dict[Hashable, Hashable]:
    """For every activation the one whose memory it is in: itself, or that of what it views or takes the place of."""
    readers = Counter(key for op in flow.operators for key in set(op.reads))
    shared = {key for key in flow.sizes if readers[key] != 1 or key in flow.inputs or key in flow.outputs}
    homes = {key: key for key in flow.inputs}
    for op in flow.operators:
        homes.update((key, key) for key in op.makes)
        if not op.reads:
            continue
        before = homes[op.reads[0]]
        if op.is_view or (op.is_fused and before not in shared):
            homes[op.makes[0]] = before
            if op.makes[0] in shared:
                shared.add(before)
    return homes


def _steps(flow: Flow) -> tuple[Step, ...]:
    """What is alive at every operator, but for those that only make a view or are fused into the one before them."""
    homes = _homes(flow)
    running = [op for op in flow.operators if not op.makes or any(homes[key] == key for key in op.makes)]
    sizes: dict[Hashable, int] = {}
    for key, home in homes.items():
        sizes[home] = min(flow.sizes[key], sizes.get(home, flow.sizes[key]))
    born = {homes[key]: 0 for key in flow.inputs}
    dies = dict.fromkeys(born, 0)
    for i, op in enumerate(running):
        for key in (*op.reads, *op.makes):
            born.setdefault(homes[key], i)
            dies[homes[key]] = i
    dies.update((homes[key], len(running) - 1) for key in flow.outputs if key in homes)
    changes = [0] * (len(running) + 1)
    for home, start in born.items():
        changes[start] += sizes[home]
        changes[dies[home] + 1] -= sizes[home]
    return tuple(Step(op.name, op.kind, alive) for op, alive in zip(running, accumulate(changes), strict=False))


class Buffer(NamedTuple):
    """A place in the arena: what it takes, and the first and last operator (from 0) at which it must not be touched."""

    name: str
    bytes: int
    first: int
    last: int


def buffers(path: Path | str) -> list[Buffer]:
    """The activations of a .tflite file as TensorFlow Lite Micro asks its planner for them, in the file's order.

    Sizes are rounded up to 16 bytes, and a view has memory of its own. What kernels want as scratch memory is not here.
    Raises EdgelabError for a missing or damaged file or one of another kind.
    """
    path = check_tflite(path)
    with reading(path):
        flow = _tflite_flow(path, None)
    born = dict.fromkeys(flow.inputs, 0)
    dies = dict(born)
    for i, op in enumerate(flow.operators):
        for key in (*op.reads, *op.makes):
            born.setdefault(key, i)
            dies[key] = i
    dies |= {key: len(flow.operators) - 1 for key in flow.outputs if key in dies}
    names = {key: op.name for op in flow.operators for key in op.makes}
    keys = sorted(born, key=lambda key: int(str(key)))
    return [Buffer(names.get(key, "input"), -(-flow.sizes[key] // 16) * 16, born[key], dies[key]) for key in keys]


MAX_ARENA = 256 * 2**20
TIME_LIMIT = 60


@dataclass(frozen=True)
class Arena:
    """A tensor arena of TensorFlow Lite Micro, in bytes: what `runtime` used of it.

    `head` holds tensors and scratch memory, reused from operator to operator, `tail` what stays; `bytes` is their sum.
    `smallest` is the smallest arena in which the interpreter starts: small networks can need more to start than to run.
    """

    head: int
    tail: int
    smallest: int
    runtime: str

    @property
    def bytes(self) -> int:
        """All that is used once the interpreter has started."""
        return self.head + self.tail


def arena(path: Path | str) -> Arena:
    """The tensor arena that TensorFlow Lite Micro takes for the .tflite file at `path`, by the runtime's own record.

    It is that of the `tflite-micro` package: reference kernels on a 64-bit processor. On a microcontroller the records
    in the tail are smaller (32-bit pointers), and optimised kernels such as CMSIS-NN ask for more scratch memory. The
    runtime runs in a process of its own, so that no file can take this one down.
    Raises EdgelabError where the package is missing (it exists for Linux on x86-64), the file is damaged, an operator
    is missing in TensorFlow Lite Micro or does not take its inputs (half-precision or weight-only files), or the arena
    would exceed 256 MiB.
    """
    path = check_tflite(path)
    if not has_runtime():
        raise EdgelabError(
            f"{path.name}: the arena needs the package tflite-micro, which is missing here: "
            "on Linux x86-64, pip install tflite-micro"
        )
    probe = Path(__file__).with_name("_arena_probe.py")
    command = [sys.executable, "-P", str(probe), str(path), str(MAX_ARENA), str(math.ceil(TIME_LIMIT))]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        raise EdgelabError(f"{path.name}: TensorFlow Lite Micro gave no answer in {TIME_LIMIT} s") from error
    if done.returncode:
        raise EdgelabError(f"{path.name}: TensorFlow Lite Micro does not run this file ({_reason(done)})")
    head, tail, smallest = map(int, done.stdout.split())
    return Arena(head, tail, smallest, f"tflite-micro {version('tflite-micro')}")


def has_runtime() -> bool:
    """Whether the package tflite-micro is here, which `arena` asks."""
    return find_spec("tflite_micro") is not None


def check_tflite(path: Path | str) -> Path:
    """The path of a .tflite file. Raises EdgelabError where there is none or it is of another kind."""
    path = Path(path)
    if path.suffix.lower() != ".tflite":
        raise EdgelabError(f"expected a .tflite file, the only kind microcontroller runtimes take, got {path.name!r}")
    if not path.is_file():
        raise EdgelabError(f"there is no model file at {path}: check the path or make the file first")
    return path


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What the runtime says first, without the source file it says it in."""
    if done.returncode < 0:
        return f"it crashed with signal {-done.returncode}: the file may be damaged"
    return re.sub(r"^\S+\.cc(:\d+)? ", "", first_line(RuntimeError(done.stderr)))


FRAMEWORK_BYTES = 9732
FRAMEWORK_SOURCE = (
    "TFLM Code Size FAQ, github.com/tensorflow/tflite-micro, tensorflow/lite/micro/examples/memory_footprint/README.md"
)


@dataclass(frozen=True)
class Flash:
    """What a .tflite file needs of a microcontroller's flash, in bytes: what is known of it, and a note on the rest."""

    file: int
    framework: int
    kernels: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The file and the framework: less than this it cannot be."""
        return self.file + self.framework

    @property
    def note(self) -> str:
        """What the figures stand for and what they leave out."""
        return (
            f"at least {self.bytes:,} bytes: {self.file:,} for the file and {self.framework:,} for TensorFlow Lite "
            f"Micro without kernels on an Arm Cortex-M3 ({FRAMEWORK_SOURCE}); the code of {len(self.kernels)} kernels "
            f"({', '.join(self.kernels)}) and of the application comes on top and depends on kernel library and "
            "compiler: read it from the linker's map"
        )


def flash(path: Path | str) -> Flash:
    """What the .tflite file at `path` needs of flash: the file, the runtime's framework, and which kernels.

    The framework's 9,732 bytes are what its authors report for a Cortex-M3 board; no general figure for the kernels is
    given because there is none. Raises EdgelabError for a missing or damaged file or one of another kind.
    """
    from edgelab.layers import tflite_file

    path = check_tflite(path)
    with reading(path):
        graph = tflite_file.Graph(path, None)
        kernels = sorted({graph.kind(op) for op in graph.graph.operators})
    return Flash(path.stat().st_size, FRAMEWORK_BYTES, tuple(kernels))
