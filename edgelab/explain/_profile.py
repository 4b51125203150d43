"""What a profile of one file is, whichever runtime it comes from: operators and their times."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from edgelab.layers import Layer

XNNPACK, BUILT_IN, ONNX_RUNTIME = "XNNPACK", "LiteRT", "ONNX Runtime"
CONVERSION = "quantize and dequantize"
LAYOUT = "change of layout"
# Operators of both runtimes that compute nothing of the network.
GROUPS = {
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear"), CONVERSION),
    **dict.fromkeys(("DynamicQuantizeLinear", "CAST", "Cast"), CONVERSION),
    **dict.fromkeys(("TRANSPOSE", "Transpose", "ReorderInput", "ReorderOutput"), LAYOUT),
    **dict.fromkeys(("RESHAPE", "Reshape", "SQUEEZE", "Squeeze", "Flatten"), LAYOUT),
}


@dataclass(frozen=True)
class Operator:
    """One operator as it ran: its layer, `kind` as the runtime calls it, whose `kernel` ran it and on which kind of
    number (`arithmetic`), and the milliseconds a run took. NaN is a time that could not be taken; `plain_ms` is the
    time in LiteRT's own kernel, without XNNPACK, None in ONNX Runtime.
    """

    layer: Layer
    kind: str
    kernel: str
    arithmetic: str
    ms: float
    plain_ms: float | None = None

    @property
    def group(self) -> str:
        """The kind of layer where it makes MACs, else conversion, change of layout or what it is called."""
        return self.layer.kind if self.layer.macs else GROUPS.get(self.kind, self.name)

    @property
    def name(self) -> str:
        """What the runtime calls it, without the names that ONNX Runtime's int8 and fused forms have."""
        return self.kind.removeprefix("QLinear").removeprefix("Nhwc").removeprefix("Fused")

    @property
    def floats(self) -> bool:
        """Whether it takes floating point numbers and does not quantize them on the way in."""
        return self.arithmetic.startswith("float") and "weights" not in self.arithmetic


@dataclass(frozen=True)
class Profile:
    """The operators of one file in the order they run, and the whole network beside them in the same run.

    Milliseconds: `whole_ms` of the network, `call_ms` of what each operator's time was freed from (see `method`),
    `plain_ms` of the network without XNNPACK. `method` says how the operators were timed, for a sentence.
    """

    operators: tuple[Operator, ...]
    whole_ms: float
    call_ms: float
    method: str
    plain_ms: float | None = None

    @property
    def sum_ms(self) -> float:
        """All operators together, without those that could not be timed."""
        return total(self.operators)

    def by_group(self) -> dict[str, float]:
        """Milliseconds of every kind of operator."""
        times: dict[str, float] = defaultdict(float)
        for operator in self.operators:
            times[operator.group] += 0.0 if math.isnan(operator.ms) else operator.ms
        return dict(times)


def total(operators: Iterable[Operator]) -> float:
    """Milliseconds of all `operators` whose time is known."""
    return sum(operator.ms for operator in operators if not math.isnan(operator.ms))


def counterparts(ours: Iterable[Operator], theirs: Iterable[Operator]) -> list[Operator | None]:
    """For each of our operators the one of theirs that does the same work, None where there is none.

    Two operators do the same where kind of layer and MACs agree or, without MACs, what they are called and how many
    values they give; of several alike the first goes with the first.
    """
    waiting: dict[tuple, list[Operator]] = defaultdict(list)
    for operator in theirs:
        waiting[_work(operator)].append(operator)
    return [found.pop(0) if (found := waiting[_work(operator)]) else None for operator in ours]


def _work(operator: Operator) -> tuple:
    if operator.layer.macs:
        return operator.group, operator.layer.macs
    return operator.name, math.prod(operator.layer.output_shape)
