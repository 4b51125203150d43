"""Latency: exact arithmetic on a clock of our own, then files that do more or less work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgelab import artifact, latency, provenance
from edgelab.artifact import Prepared
from edgelab.errors import EdgelabError
from edgelab.latency import Latency, Ratio

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
ON = Latency(0.2, 0.1, 0.3, 0.4, 50, "runtime 1, 1 thread, batch 1, Chip (avx2, no VNNI)")


class Clock:
    """Nanoseconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "perf_counter_ns", clock)
    return clock


class File:
    """Stands for an Artifact: every call takes what `next_ms(place in the load order, runs so far)` says."""

    runtime, threads = "runtime 1", 1

    def __init__(self, name: str, clock: Clock, next_ms: Callable[[int], float], batch: int = 1) -> None:
        self.path, self.clock, self.next_ms, self.batch = Path(name), clock, next_ms, batch
        self.runs = self.loads = 0

    def prepare(self, image: np.ndarray) -> Prepared:
        self.loads += 1

        def call() -> None:
            self.clock.now += round(1e6 * self.next_ms(self.runs))
            self.runs += 1

        return Prepared(call, np.repeat(image, self.batch, 0))


def test_median_quartiles_and_p95_are_those_of_the_runs_after_the_warm_up(clock: Clock) -> None:
    file = File("a.onnx", clock, lambda run: 1 if run < latency.WARM_UP else 10 + (run - latency.WARM_UP) % 101)
    seen = latency.measure_latency(file, IMAGE)
    durations = 10.0 + np.arange(file.runs - latency.WARM_UP) % 101
    assert seen.repetitions == len(durations) == 50, "50 runs take longer than half a second here"
    assert seen.median_ms == np.median(durations)
    assert (seen.low_ms, seen.high_ms, seen.p95_ms) == tuple(np.percentile(durations, [25, 75, 95]))


def test_a_slow_file_is_warmed_up_by_one_run(clock: Clock) -> None:
    file = File("a.onnx", clock, lambda run: 1000)
    assert latency.measure_latency(file, IMAGE).repetitions == file.runs - 1 == 5


@pytest.mark.parametrize(("ms", "runs"), [(0.5, 1000), (5, 100), (30, 50), (500, 10), (60_000, 1)])
def test_half_a_second_or_fifty_runs_and_never_more_than_five_seconds(clock: Clock, ms: float, runs: int) -> None:
    assert latency.measure_latency(File("a.onnx", clock, lambda _: ms), IMAGE).repetitions == runs


def test_a_ratio_is_exact_where_times_are(clock: Clock) -> None:
    slow, fast = File("slow.onnx", clock, lambda _: 3.0), File("fast.onnx", clock, lambda _: 2.0)
    ratio = latency.compare_latency(slow, fast, IMAGE)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert (ratio.first.median_ms, ratio.second.median_ms, ratio.direction) == (3.0, 2.0, "slower")
    assert ratio.names == ("slow.onnx", "fast.onnx")
    assert slow.loads == fast.loads == latency.LOADS == 10
    assert ratio.first.repetitions == ratio.second.repetitions == 400, "pairs of 5 ms for two seconds"
    back = latency.compare_latency(fast, slow, IMAGE)
    assert back.value == pytest.approx(1 / ratio.value) and back.direction == "faster"


def test_a_disturbance_meets_both(clock: Clock) -> None:
    """The machine gets ten times slower for two thirds of the time: the medians suffer, the ratio does not."""
    start = clock.now

    def disturbed(ms: float) -> Callable[[int], float]:
        return lambda _: ms * (10 if (clock.now - start) // 10**8 % 3 else 1)

    a, b = File("a.onnx", clock, disturbed(1.2)), File("b.onnx", clock, disturbed(1.0))
    ratio = latency.compare_latency(a, b, IMAGE)
    assert ratio.low <= 1.2 <= ratio.high
    assert (ratio.low, ratio.high) == pytest.approx((1.2, 1.2), rel=1e-3)
    assert ratio.first.p95_ms == pytest.approx(12)


def test_what_the_order_of_loading_costs_is_in_the_interval(clock: Clock) -> None:
    """The file that is loaded second is 3 % faster: a file compared with itself still has 1 in its interval."""
    last = []

    class Placed(File):
        def prepare(self, image: np.ndarray) -> Prepared:
            last.append(self)
            factor = 0.97 if len(last) % 2 == 0 else 1.0
            return Prepared(lambda: setattr(clock, "now", clock.now + round(1e6 * factor)), image)

    ratio = latency.compare_latency(Placed("a.onnx", clock, float), Placed("a.onnx", clock, float), IMAGE)
    assert (ratio.low, ratio.high) == pytest.approx((0.97, 1 / 0.97))
    assert ratio.value == pytest.approx(1.0)
    assert [file is last[0] for file in last] == [True, False, False, True] * 5


def test_the_interval_is_the_second_to_the_ninth_of_ten_loads(clock: Clock) -> None:
    """Ten loads of known ratio, in any order: one that is far off on either side does not move the interval."""
    ratios = [1.05, 50.0, 1.02, 1.09, 1.03, 1.08, 1.06, 0.001, 1.04, 1.07]
    other = File("b.onnx", clock, lambda _: 5.0)
    file = File("a.onnx", clock, lambda _: 5.0 * ratios[file.loads - 1])
    ratio = latency.compare_latency(file, other, IMAGE)
    assert (ratio.low, ratio.high) == pytest.approx((1.02, 1.09))
    assert ratio.value == pytest.approx(np.sqrt(1.05 * 1.06))


def test_both_go_first_equally_often(clock: Clock) -> None:
    order: list[str] = []
    calls = [lambda: (order.append("a"), setattr(clock, "now", clock.now + 10**6)), lambda: order.append("b")]
    times = latency.interleaved(calls, 0.4, 0)
    assert times.shape == (400, 2) and (times == [1, 0]).all()
    order = order[2 * latency.WARM_UP :]
    first = order[::2]
    assert 150 < first.count("a") < 250
    assert all({x, y} == {"a", "b"} for x, y in zip(first, order[1::2], strict=True))


def test_untimed_calls_come_right_before_and_do_not_count(clock: Clock) -> None:
    made: list[int] = []
    call = lambda: (made.append(0), setattr(clock, "now", clock.now + 1000 * len(made)))  # noqa: E731
    times = latency.interleaved([call], 10e-6, 3, untimed=2)
    assert times[:, 0].tolist() == [0.008, 0.011, 0.014], "after five of warm-up the third, the sixth, the ninth"


def test_files_of_different_batch_are_not_compared(clock: Clock) -> None:
    a, b = File("a.onnx", clock, lambda _: 1.0), File("b.onnx", clock, lambda _: 1.0, batch=8)
    with pytest.raises(EdgelabError, match=r"same batch to compare, got a\.onnx of 1 and b\.onnx of 8"):
        latency.compare_latency(a, b, IMAGE)


def test_the_conditions_are_named(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_name_and_flags", lambda: ("Chip", {"avx2"}))
    seen = latency.measure_latency(File("a.onnx", clock, lambda _: 2.0, batch=4), IMAGE)
    assert seen.on == "runtime 1, 1 thread, batch 4, Chip (avx2, no VNNI)"
    assert str(seen) == f"2.00 ms (half of 250 runs 2.00 to 2.00, 95 % below 2.00), {seen.on}"
    several = File("a.onnx", clock, lambda _: 2.0)
    several.threads = 2
    assert "runtime 1, 2 threads, batch 1, " in latency.measure_latency(several, IMAGE).on


@pytest.mark.parametrize(
    ("value", "low", "high", "direction", "words"),
    [
        (
            1.26,
            1.22,
            1.31,
            "slower",
            "a takes 1.26 times as long as b (95 % interval 1.22 to 1.31; 0.200 against 0.200 ms)",
        ),
        (0.78, 0.77, 0.8, "faster", "a takes 0.780 times as long as b (95 % interval 0.770 to 0.800; "),
        (0.99, 0.97, 1.01, "no different", "a takes as long as b, as far as can be seen: 0.990 times (95 % interval "),
        (1.01, 0.99, 1.02, "no different", "a takes as long as b, as far as can be seen: 1.01 times (95 % interval "),
    ],
)
def test_the_sentence_says_what_the_interval_allows(
    value: float, low: float, high: float, direction: str, words: str
) -> None:
    ratio = Ratio(value, low, high, ON, ON, ("a", "b"))
    assert ratio.direction == direction
    assert ratio.sentence().startswith(words) and ratio.sentence().endswith(f"), {ON.on}")
    other = Latency(0.2, 0.1, 0.3, 0.4, 50, "runtime 2")
    assert Ratio(value, low, high, ON, other, ("a", "b")).sentence().endswith(f"{ON.on}, against runtime 2")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.03706, "0.0371"), (0.9996, "1.00"), (1.264, "1.26"), (99.94, "99.9"), (99.96, "100"), (12345.6, "12,346")],
)
def test_three_digits(value: float, text: str) -> None:
    assert latency.three(value) == text


def _convolutions(path: Path, count: int) -> artifact.Artifact:
    """A file of `count` 3x3 convolutions, 16 channels wide."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng, names = np.random.default_rng(0), ["images", *(f"c{i}" for i in range(count))]
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.1, (16, 16 if i else 3, 3, 3)).astype(np.float32), f"w{i}")
        for i in range(count)
    ]
    nodes = [helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1, 1, 1, 1]) for i in range(count)]
    nodes.append(helper.make_node("GlobalMaxPool", [names[-1]], ["logits"]))
    sizes = {"images": ["n", 3, 32, 32], "logits": ["n", 16, 1, 1]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in sizes.items()]
    graph = helper.make_graph(nodes, "convolutions", ports[:1], ports[1:], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return artifact.load(path)


def test_more_work_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SECONDS", 0.2)
    large, small = _convolutions(tmp_path / "large.onnx", 12), _convolutions(tmp_path / "small.onnx", 2)
    ratio = latency.compare_latency(large, small, IMAGE)
    assert ratio.low > 2 and ratio.direction == "slower"
    same = latency.compare_latency(small, small, IMAGE)
    assert same.low < 1.05 and same.high > 0.95
    assert latency.measure_latency(large, IMAGE).on.startswith(f"{large.runtime}, 1 thread, batch 1, ")


def test_an_image_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    file = _convolutions(tmp_path / "small.onnx", 1)
    with pytest.raises(EdgelabError, match=r"takes inputs of .*, got images of 28x28x3"):
        latency.measure_latency(file, IMAGE[:, :28, :28])
