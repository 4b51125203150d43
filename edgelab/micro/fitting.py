"""Does a .tflite file fit a microcontroller? Its flash and its RAM, against the boards of `targets`.

- **Flash** is the file and the program. The program is known only when it is linked, so there are two figures: never
  less than TensorFlow Lite Micro's framework without a kernel (`memory.FRAMEWORK_BYTES`), and, if one is careless, as
  much as a user found with every kernel linked in (`ALL_KERNELS`). With just the operators of one file it is between.
- **RAM** is the tensor arena, one array in one block of memory, and beside it what kernels made for the processor want
  as scratch memory (`SCRATCH`) and the stack, buffers and variables of a small program (`PROGRAM`). Both of these are
  assumptions, named so in every output; the arena is what the runtime itself took (`memory.arena`), or, where the
  package tflite-micro is missing, the activations that are alive at once, which is less than it takes.
- What is short of the arena or of the least flash does not fit. What is short of the rest is tight: try it.
- A board with an 8-bit processor is out: the runtime needs one of 32 bits.

Time is not estimated: it depends on kernels and memories more than on anything in a data sheet. `edgelab.boards` has
what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelab import isolated, memory
from edgelab._columns import aligned
from edgelab.errors import EdgelabError
from edgelab.memory import FRAMEWORK_BYTES, FRAMEWORK_SOURCE
from edgelab.micro.operators import adders
from edgelab.micro.targets import BOARDS, Board

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ALL_KERNELS = 164_818
ALL_KERNELS_SOURCE = "github.com/tensorflow/tensorflow/issues/48073 (.text with AllOpsResolver, TensorFlow 2.4.1)"
SCRATCH, PROGRAM = 4096, 8192
STEP = 1024


@dataclass(frozen=True)
class Needs:
    """What a file asks of a board. `arena` is the smallest the runtime starts in; `arena_by` says who says so.

    `adders` are the functions of the runtime's resolver that have its operators linked in. `inputs` and `outputs` are
    the types of the first of either, such as int8.
    """

    path: Path
    file: int
    arena: int
    arena_by: str
    macs: int | None
    operators: tuple[str, ...]
    adders: tuple[str, ...]
    inputs: str
    outputs: str

    @property
    def arena_bytes(self) -> int:
        """The arena to give the interpreter: with scratch memory for optimised kernels, in whole KiB."""
        return -(-(self.arena + SCRATCH) // STEP) * STEP

    @property
    def ram(self) -> int:
        """Arena and program, in bytes."""
        return self.arena_bytes + PROGRAM

    @property
    def flash(self) -> tuple[int, int]:
        """Bytes of flash: at least, and with every kernel linked in."""
        return self.file + FRAMEWORK_BYTES, self.file + ALL_KERNELS


@dataclass(frozen=True)
class Fit:
    """Whether a file fits a board: what is `short` in any case, and what is `tight`, for it hangs on assumptions."""

    board: Board
    needs: Needs
    short: tuple[str, ...]
    tight: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it fits with everything that is assumed."""
        return not self.short and not self.tight

    @property
    def verdict(self) -> str:
        """Such as "does not: RAM short by 30,720 bytes"; it begins with fits, tight or does not."""
        if self.short:
            return f"does not: {', '.join(self.short)}"
        return f"tight: {', '.join(self.tight)}" if self.tight else "fits"


def needs(path: Path | str) -> Needs:
    """What the .tflite file at `path` needs of a microcontroller; the file is read in a child process.

    Raises EdgelabError, one line, for a missing or damaged file, one of another kind, an operator that TensorFlow Lite
    Micro does not have, or that its interpreter does not run with these inputs.
    """
    path = Path(path)
    memory.check_tflite(path)
    with isolated.Worker() as worker:
        found = worker.call("edgelab.micro.fitting:read", path)
    added = adders(found["operators"], path.name)
    arena, arena_by = _arena(path, found["activations"])
    return Needs(
        path=path,
        file=path.stat().st_size,
        arena=arena,
        arena_by=arena_by,
        macs=found["macs"],
        operators=tuple(found["operators"]),
        adders=added,
        inputs=found["inputs"],
        outputs=found["outputs"],
    )


def read(path: str) -> dict[str, Any]:
    """What follows from the graph, in this process."""
    from edgelab.layers import layer_table, reading, tflite_file

    with reading(Path(path)):
        graph = tflite_file.Graph(Path(path), None)
        operators = sorted({graph.kind(op) for op in graph.graph.operators})
        ends = [graph.types[graph.graph.tensors[int(one[0])].type] for one in (graph.graph.inputs, graph.graph.outputs)]
    return {
        "operators": operators,
        "inputs": ends[0].lower(),
        "outputs": ends[1].lower(),
        "macs": layer_table(path).macs,
        "activations": memory.peak_activations(path).bytes,
    }


def _arena(path: Path, activations: int) -> tuple[int, str]:
    """Bytes of the arena, and by whom."""
    if memory.has_runtime():
        found = memory.arena(path)
        return found.smallest, found.runtime
    return activations, "at least: the activations alone, for the package tflite-micro is missing here"


def fit(path: Path | str | Needs, board: Board) -> Fit:
    """Whether the file, or the one that `needs` was asked about, fits `board`; what is short is named with its bytes.

    Short is what the arena alone, or the file with the least of the runtime, lacks; tight what it lacks with the rest.
    """
    wanted = path if isinstance(path, Needs) else needs(path)
    least, most = wanted.flash
    short = [f"{board.bits}-bit processor"] if board.bits < 32 else []
    tight = []
    if wanted.arena > board.ram:
        short.append(f"RAM short by {wanted.ram - board.ram:,} bytes")
    elif wanted.arena > board.block:
        short.append(f"largest block of RAM short by {wanted.arena - board.block:,} bytes")
    elif over := max(wanted.ram - board.ram, wanted.arena_bytes - board.block, 0):
        tight.append(f"RAM short by {over:,} bytes with what is assumed beside the arena")
    if least > board.flash:
        short.append(f"flash short by {least - board.flash:,} bytes")
    elif most > board.flash:
        tight.append(f"flash short by {most - board.flash:,} bytes with every kernel linked in")
    return Fit(board, wanted, tuple(short), tuple(tight))


def fits(path: Path | str | Needs, boards: Sequence[Board] = BOARDS) -> list[Fit]:
    """`fit` for every board, in their order."""
    wanted = path if isinstance(path, Needs) else needs(path)
    return [fit(wanted, board) for board in boards]


def to_frame(found: Sequence[Fit]) -> pd.DataFrame:
    """One row a board: board, core, MHz, RAM and flash in KiB, verdict, source."""
    import pandas as pd

    rows = [
        {
            "board": one.board.name,
            "core": one.board.core,
            "MHz": one.board.mhz,
            "RAM KiB": one.board.ram // 1024,
            "flash KiB": one.board.flash // 1024,
            "does it fit?": one.verdict,
            "source": one.board.source,
        }
        for one in found
    ]
    return pd.DataFrame(rows)


def in_words(wanted: Needs, found: Sequence[Fit]) -> str:
    """What a file needs, and the table of boards, as lines to read."""
    least, most = wanted.flash
    macs = "not known" if wanted.macs is None else f"{wanted.macs:,} an image"
    lines = [
        f"{wanted.path}: {wanted.inputs} in, {wanted.outputs} out",
        "",
        f"flash      {least:,} to {most:,} bytes: {wanted.file:,} the file, then TensorFlow Lite Micro, from its",
        f"           framework alone ({FRAMEWORK_BYTES:,}, {FRAMEWORK_SOURCE.split(',')[0]}) to all of its kernels",
        f"           ({ALL_KERNELS:,}, a user's report)",
        f"RAM        {wanted.ram:,} bytes: {wanted.arena_bytes:,} arena, {PROGRAM:,} assumed for the program",
        f"arena      {wanted.arena:,} bytes by {wanted.arena_by}, and {SCRATCH:,} assumed for optimised kernels",
        f"MACs       {macs}",
        f"operators  {', '.join(wanted.adders)}",
        "",
    ]
    rows = [("board", "core", "MHz", "RAM KiB", "flash KiB", "does it fit?")]
    for one in found:
        board = one.board
        sizes = (f"{board.ram // 1024:,}", f"{board.flash // 1024:,}")
        rows.append((board.name, board.core, str(board.mhz), *sizes, one.verdict))
    return "\n".join(lines + aligned(rows, right=(2, 3, 4)))


def run(wanted: Needs, inputs: np.ndarray) -> np.ndarray:
    """What TensorFlow Lite Micro's own interpreter gives for `inputs`, values as the file takes them, one at a time.

    The arena has just the bytes that `wanted` says. Raises EdgelabError where the package tflite-micro is missing.
    """
    if not memory.has_runtime():
        raise EdgelabError(f"{wanted.path.name}: running it needs the package tflite-micro, for Linux on x86-64")
    import numpy as np
    from tflite_micro.python.tflite_micro.runtime import Interpreter

    interpreter, answers = Interpreter.from_file(str(wanted.path), arena_size=wanted.arena), []
    for one in inputs:
        interpreter.set_input(one[None], 0)
        interpreter.invoke()
        answers.append(interpreter.get_output(0)[0])
    return np.array(answers)


def check_int8(wanted: Needs) -> None:
    """Raise EdgelabError unless the file takes and gives int8."""
    if {wanted.inputs, wanted.outputs} != {"int8"}:
        raise EdgelabError(
            f"{wanted.path.name}: expected int8 in and out for a microcontroller, got {wanted.inputs} in and "
            f"{wanted.outputs} out: make it with edgelab export --int8"
        )
