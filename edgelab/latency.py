"""How long a model file takes for one run, and how many times as long as another.

What is timed is the runtime's own call alone (`invoke` or `run`) on one batch, whose input has been converted and set
before: no pixels are converted, no file is loaded, no answer is read. Each file is loaded, warmed up, then run again
and again, as in a program that does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from edgelab import provenance
from edgelab.artifact import Artifact
from edgelab.errors import EdgelabError

SECONDS, REPETITIONS = 0.5, 50
WARM_UP = 5
LOADS = 10


@dataclass(frozen=True)
class Latency:
    """Milliseconds a run of one batch: the median, the quartiles `low_ms` and `high_ms` (half of all runs lie between
    them), and what 95 % of the runs do not exceed; from so many `repetitions`. `on` says on what: runtime, threads,
    batch, processor and its int8 instructions.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    p95_ms: float
    repetitions: int
    on: str

    def __str__(self) -> str:
        """Such as "0.371 ms (half of 2641 runs 0.369 to 0.372, 95 % below 0.403), ai-edge-litert 2.3.0, ..."."""
        spread = f"half of {self.repetitions} runs {three(self.low_ms)} to {three(self.high_ms)}"
        return f"{three(self.median_ms)} ms ({spread}, 95 % below {three(self.p95_ms)}), {self.on}"


@dataclass(frozen=True)
class Ratio:
    """How many times as long `names[0]` takes as `names[1]`, with an interval from `low` to `high` (see
    `compare_latency`), and the latency of either in that run.
    """

    value: float
    low: float
    high: float
    first: Latency
    second: Latency
    names: tuple[str, str]

    @property
    def direction(self) -> str:
        """`slower`, `faster`, or `no different` where the interval holds 1."""
        return "slower" if self.low > 1 else "faster" if self.high < 1 else "no different"

    def sentence(self) -> str:
        """Such as "a.tflite takes 1.37 times as long as b.tflite (95 % interval 1.35 to 1.38; 0.371 against ...".

        Where the interval holds 1, the sentence says that no difference is seen.
        """
        first, second = self.names
        here = self.first.on if self.first.on == self.second.on else f"{self.first.on}, against {self.second.on}"
        interval = f"95 % interval {three(self.low)} to {three(self.high)}"
        times = f"{three(self.first.median_ms)} against {three(self.second.median_ms)} ms"
        seen = f"takes {three(self.value)} times as long as {second}"
        if self.direction == "no different":
            seen = f"takes as long as {second}, as far as can be seen: {three(self.value)} times"
        return f"{first} {seen} ({interval}; {times}), {here}"


def three(value: float) -> str:
    """A number with three significant digits, such as 1.00, 0.0371 or 12,345."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def measure_latency(
    artifact: Artifact, image: np.ndarray | None, seconds: float | None = None, repetitions: int | None = None
) -> Latency:
    """The latency of `artifact` on one image (1, H, W, C) uint8, over at least 50 runs and half a second.

    Where the file takes no images, None stands for noise.
    `seconds` and `repetitions` are for those who cannot wait so long.

    Raises EdgelabError where the image does not fit the file.
    """
    prepared = artifact.prepare(image)
    times = interleaved([prepared.call], seconds or SECONDS, repetitions or REPETITIONS)
    return _latency(times[:, 0], _conditions(artifact, len(prepared.inputs)))


def compare_latency(a: Artifact, b: Artifact, image: np.ndarray | None) -> Ratio:
    """How many times as long `a` takes as `b` on one image (1, H, W, C) uint8 (None: noise), both run in turns.

    A run of either makes a pair, in random order, so that whatever disturbs the machine meets both. Since where a
    file's buffers come to lie in memory can cost a percent, both files are loaded ten times, in alternating order. Each
    load gives the median of its pairs' ratios; `value` is the median of the ten, the interval reaches from the second
    to the ninth: it holds the median of all loads with 97.9 % probability whatever their distribution, 1 - 22/2**10.
    Takes two seconds, longer for files that need more than 20 ms a pair.
    Raises EdgelabError where the image does not fit a file or their batches differ.
    """
    rows = [_load(a, b, image, swapped=bool(load % 2)) for load in range(LOADS)]
    (times_a, times_b), batch = np.concatenate([times for times, _ in rows]).T, rows[0][1]
    logs = np.sort([np.median(np.log(times[:, 0] / times[:, 1])) for times, _ in rows])
    value, low, high = np.exp([np.median(logs), logs[1], logs[-2]])
    first, second = (_latency(times, _conditions(file, batch)) for times, file in ((times_a, a), (times_b, b)))
    return Ratio(float(value), float(low), float(high), first, second, (a.path.name, b.path.name))


def _load(a: Artifact, b: Artifact, image: np.ndarray | None, *, swapped: bool) -> tuple[np.ndarray, int]:
    """Milliseconds (pairs, 2) of `a` and `b`, freshly loaded, and their batch."""
    files = (b, a) if swapped else (a, b)
    prepared = [file.prepare(image) for file in files]
    if len({len(p.inputs) for p in prepared}) > 1:
        got = " and ".join(f"{file.path.name} of {len(p.inputs)}" for file, p in zip(files, prepared, strict=True))
        raise EdgelabError(f"expected two files of the same batch to compare, got {got}")
    times = interleaved([p.call for p in prepared], 4 * SECONDS / LOADS, REPETITIONS // LOADS)
    return times[:, ::-1] if swapped else times, len(prepared[0].inputs)


def interleaved(calls: Sequence[Callable[[], object]], seconds: float, least: int, *, untimed: int = 0) -> np.ndarray:
    """Milliseconds (rounds, len(calls)): every call once a round, in random order, after a warm-up.

    Goes on until there are `least` rounds and `seconds` have passed, but no longer than ten times `seconds`. `untimed`
    is how often a call is made just before the one that is timed, so that its data are in the cache.
    """
    _warm_up(calls, seconds)
    orders = np.random.default_rng(0)
    rows: list[list[int]] = []
    begin = now = perf_counter_ns()
    while (len(rows) < least or now - begin < seconds * 1e9) and (not rows or now - begin < seconds * 1e10):
        row = [0] * len(calls)
        for place in orders.permutation(len(calls)):
            call = calls[place]
            for _ in range(untimed):
                call()
            start = perf_counter_ns()
            call()
            now = perf_counter_ns()
            row[place] = now - start
        rows.append(row)
    return np.array(rows) / 1e6


def _warm_up(calls: Sequence[Callable[[], object]], seconds: float) -> None:
    """Make every call five times, or only once where the five would take longer than `seconds`."""
    for call in calls:
        begin = perf_counter_ns()
        call()
        if (perf_counter_ns() - begin) * WARM_UP < seconds * 1e9:
            for _ in range(WARM_UP - 1):
                call()


def _latency(times: np.ndarray, on: str) -> Latency:
    low, median, high, p95 = (float(value) for value in np.percentile(times, [25, 50, 75, 95]))
    return Latency(median, low, high, p95, len(times), on)


def _conditions(artifact: Artifact, batch: int) -> str:
    threads = f"{artifact.threads} thread{'s' if artifact.threads > 1 else ''}"
    instructions = provenance.int8_text(provenance.int8_instructions())
    return f"{artifact.runtime}, {threads}, batch {batch}, {provenance.processor()} ({instructions})"
