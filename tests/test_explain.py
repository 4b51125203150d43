"""Explanations: verdicts follow from figures, whatever these are, and the figures belong to what really ran."""

from __future__ import annotations

import math
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_files import IMAGE, onnx_file, sparse_tflite_file, tflite_file

from edgelab import artifact, explain, latency, provenance
from edgelab.errors import EdgelabError
from edgelab.explain import Int8Report, Operator, Profile, SparseWeight, SparsityReport
from edgelab.explain import _litert as litert
from edgelab.explain import _onnxruntime as ort
from edgelab.explain import _sparsity as sparse
from edgelab.explain._processor import processor_sentence
from edgelab.explain._profile import BUILT_IN, ONNX_RUNTIME, XNNPACK, counterparts
from edgelab.explain._weights import _filled, weights, without_zeros
from edgelab.latency import Latency, Ratio
from edgelab.layers import Layer, layer_table
from edgelab.storage import sparse_sizes

AVX2, VNNI, NEON, DOTPROD = ("avx2",), ("avx2", "avx_vnni"), ("neon",), ("neon", "dotprod")
ON = "runtime 1, 1 thread, batch 1, Chip"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements as short as they can be."""
    monkeypatch.setattr(latency, "SECONDS", 0.02)
    for module in (litert, ort):
        monkeypatch.setattr(module, "SECONDS", 0.02)
        monkeypatch.setattr(module, "ROUNDS", 8)


def layer(macs: int, source: tuple[int, ...], kind: str = "convolution", name: str = "a") -> Layer:
    return Layer(name, kind, source, (8, 8, 4), macs=macs)


def operator(ms: float, macs: int = 0, kind: str = "CONV_2D", **changes: object) -> Operator:
    row = layer(macs, (8, 8, 3)) if macs else layer(0, (8, 8, 4), kind)
    return replace(Operator(row, kind, XNNPACK, "int8", ms), **changes)


def profile(*operators: Operator, whole: float | None = None, plain: float | None = None) -> Profile:
    total = sum(o.ms for o in operators if not math.isnan(o.ms))
    return Profile(operators, total if whole is None else whole, 0.001, "By hand", plain)


def report(
    ours: Profile, theirs: Profile | None = None, ratio: float = 1.0, instructions: tuple[str, ...] = AVX2
) -> Int8Report:
    first, second = (Latency(ms, ms, ms, ms, 50, ON) for ms in (ratio, 1.0))
    compared = Ratio(ratio, ratio * 0.99, ratio * 1.01, first, second, ("i.tflite", "f.tflite"))
    return Int8Report(Path("i.tflite"), instructions, first, ours, compared if theirs else None, theirs)


FLOAT = profile(operator(0.2, 1000, arithmetic="float32"), operator(0.8, 9000, arithmetic="float32"))


def test_a_slower_int8_file_is_explained_by_what_is_slower() -> None:
    ours = profile(operator(0.7, 1000), operator(0.85, 9000), plain=3.0, whole=1.6)
    verdict = report(ours, FLOAT, 1.55).verdict
    assert verdict.startswith(
        f"i.tflite takes 1.55 times as long as f.tflite (95 % interval 1.53 to 1.57; 1.55 against 1.00 ms), {ON}:"
        " int8 is slower here. All 2 operators run in XNNPACK's int8 kernels; without XNNPACK, in LiteRT's own kernels,"
        " the network takes 3.00 ms. 100 % of the operators' time is convolution. The operators take 0.550 ms more than"
        " in float32: convolution 0.550 more. Operator 1 (CONV_2D, 8x8x3 to 8x8x4) alone makes 91 % of that with 10 %"
        " of the MACs: 0.700 ms against 0.200 in float32; its 3 input channels cost as much as 8,"
    )
    assert "no int8 dot product (VNNI): XNNPACK widens bytes to 16 bits" in verdict
    assert "measured: 0.00645 int8 against 0.0100 float32 GMAC/s, so the narrower numbers gain nothing here." in verdict
    assert verdict.endswith("By hand, the operators add up to 1.55 ms, the network takes 1.60 ms beside them.")


def test_a_faster_int8_file_is_never_called_slower() -> None:
    ours = profile(operator(0.05, 1000), operator(0.6, 9000))
    verdict = report(ours, FLOAT, 0.65).verdict
    assert "takes 0.650 times as long" in verdict and "int8 is faster here" in verdict
    assert "The operators take 0.350 ms less than in float32: convolution 0.350 less." in verdict
    assert "Operator 1 (CONV_2D, 8x8x3 to 8x8x4) alone makes 43 % of that with 10 % of the MACs" in verdict
    assert "GMAC/s, which is where int8 gains." in verdict
    assert not any(word in verdict for word in ("slower", "cost as much as 8", "gain nothing", "more than in float32"))


def test_no_difference_is_not_explained_away() -> None:
    verdict = report(profile(operator(0.21, 1000), operator(0.8, 9000)), FLOAT, 1.0).verdict
    assert "takes as long as f.tflite, as far as can be seen" in verdict
    assert not any(word in verdict for word in ("int8 is", "than in float32", "gain nothing", "where int8 gains"))


@pytest.mark.parametrize(("ratio", "ms"), [(1.4, 0.5), (0.7, 1.5)])
def test_operators_that_contradict_the_whole_are_said_to(ratio: float, ms: float) -> None:
    verdict = report(profile(operator(ms, 10000)), FLOAT, ratio).verdict
    assert f"The operators one by one do not show that: they add up to {ms:.3f} and 1.00 ms." in verdict.replace(
        "1.50 and", "1.500 and"
    )
    assert "gain nothing" not in verdict and "where int8 gains" not in verdict


def test_every_kind_of_operator_that_differs_is_listed() -> None:
    ours = profile(operator(1.4, 10000), operator(0.3, kind="QUANTIZE"), operator(0.05, kind="ADD"))
    theirs = profile(operator(1.0, 10000, arithmetic="float32"), operator(0.15, kind="ADD", arithmetic="float32"))
    verdict = report(ours, theirs, 1.5).verdict
    assert (
        "0.600 ms more than in float32: convolution 0.400 more, quantize and dequantize 0.300 more, ADD 0.100"
        in verdict
    )
    assert "80 % of the operators' time is convolution, 17 % converting to and from int8" in verdict
    assert "alone makes" not in verdict, "the only layer with MACs takes no more than its part"


def test_one_operator_may_lose_more_than_the_whole_network() -> None:
    ours, theirs = profile(operator(0.9, 100), operator(0.1, 9900)), profile(operator(0.2, 100), operator(0.7, 9900))
    assert "alone makes more than all of that with 1 % of the MACs: 0.900" in report(ours, theirs, 1.1).verdict


@pytest.mark.parametrize(
    ("changes", "channels", "instructions", "said"),
    [
        ({}, 3, AVX2, "its 3 input channels cost as much as 8"),
        ({}, 1, VNNI, "its one input channel costs as much as 8"),
        ({}, 8, AVX2, ""),
        ({}, 3, NEON, ""),
        ({"kernel": ONNX_RUNTIME}, 3, AVX2, ""),
        ({"kernel": BUILT_IN}, 3, AVX2, "in float32; XNNPACK runs it in float32 but not in int8."),
        ({"arithmetic": "float32"}, 3, AVX2, ""),
    ],
)
def test_few_input_channels_are_blamed_only_where_the_kernel_is_known(
    changes: dict, channels: int, instructions: tuple[str, ...], said: str
) -> None:
    slow = operator(0.9, 1000, layer=layer(1000, (8, 8, channels)), **changes)
    verdict = report(profile(slow, operator(0.8, 9000)), FLOAT, 1.7, instructions).verdict
    assert "alone makes" in verdict
    assert said in verdict if said else "in float32." in verdict


def test_what_fell_back_is_named_with_its_share() -> None:
    ours = profile(
        operator(0.6, 9000),
        operator(0.2, kind="SOFTMAX", kernel=BUILT_IN),
        operator(0.1, kind="MEAN", arithmetic="float32"),
        operator(0.1, 1000, arithmetic="float32 values, int8 weights"),
        operator(0.1, kind="QUANTIZE", arithmetic="float32"),
    )
    assert (
        "1 of 4 operators run in XNNPACK's int8 kernels; SOFTMAX in LiteRT's (18 % of the time); MEAN in float32 (9 %"
        " of the time); CONV_2D on values that are quantized at run time (9 % of the time)." in report(ours).verdict
    )


def test_the_kernels_that_make_the_macs_come_first() -> None:
    ours = profile(operator(0.2, 9000), operator(0.8, kind="HARD_SWISH", kernel=BUILT_IN))
    said = "1 of 2 operators run in XNNPACK's int8 kernels; HARD_SWISH in LiteRT's (80 % of the time)."
    assert said in report(ours).verdict and "80 % of the operators' time is HARD_SWISH." in report(ours).verdict


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [
        ((1.1, 0.0), (1.0, 0.5), 1.2),
        ((0.9, 0.5), (1.0, 0.0), 0.8),
        ((0.9, 0.5), (1.0, 0.0), 1.3),
        ((1.1, 0.0), (1.0, 0.5), 0.8),
    ],
)
def test_macs_are_no_reason_where_they_go_the_other_way(
    ours: tuple[float, float], theirs: tuple[float, float], ratio: float
) -> None:
    """Milliseconds of the layer with MACs and of an addition: no two of MACs, sum and ratio need to agree."""
    mine, other = (profile(operator(ms, 10000), operator(rest, kind="ADD")) for ms, rest in (ours, theirs))
    verdict = report(mine, other, ratio).verdict
    assert "float32 GMAC/s. By hand" in verdict


def test_only_int8_operators_count_for_the_speed_of_int8() -> None:
    ours = profile(operator(0.1, 9000), operator(0.9, 1000, arithmetic="float32"))
    assert "measured: 0.0900 int8 against 0.0100 float32 GMAC/s" in report(ours, FLOAT, 1.0).verdict


def test_a_kernel_that_loses_to_the_plain_one_is_named() -> None:
    ours = profile(operator(0.9, 1000, plain_ms=0.3), operator(1.0, 9000, plain_ms=0.98))
    said = "Operator 1 (CONV_2D, 8x8x3 to 8x8x4) would take 0.300 instead of 0.900 ms in LiteRT's own kernel"
    assert said in report(ours).verdict and "Operator 2" not in report(ours).verdict


def test_without_a_float_file_nothing_is_compared() -> None:
    verdict = report(profile(operator(0.5, 1000))).verdict
    assert verdict.startswith("i.tflite takes 1.00 ms (half of 50 runs 1.00 to 1.00, 95 % below 1.00), runtime 1")
    assert "measured: 0.00200 GMAC/s. With the float32 file too" in verdict
    assert not any(word in verdict for word in ("slower", "faster", "against"))


def test_what_could_not_be_timed_is_counted() -> None:
    ours = profile(operator(0.5, 1000), operator(math.nan, 500), whole=0.9)
    verdict = report(ours).verdict
    assert "add up to 0.500 ms, the network takes 0.900 ms beside them; 1 of them could not be timed." in verdict
    assert "nan" not in verdict
    assert "No operator could be timed." in report(profile(operator(math.nan, 500))).verdict
    assert report(ours).to_frame()["ms"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("instructions", "kernel", "words"),
    [
        (AVX2, XNNPACK, "no int8 dot product (VNNI): XNNPACK .* for 16 int8 MACs, where one .* makes 8 in float32"),
        (AVX2, ONNX_RUNTIME, "no int8 dot product .* three instructions for 32 int8 MACs, where one .* makes 8 in"),
        (("avx2", "avx512f"), XNNPACK, "no int8 dot product .* for 32 int8 MACs, where one .* makes 16 in float32"),
        (AVX2, BUILT_IN, "no int8 dot product .VNNI.: an int8 MAC takes several instructions$"),
        (NEON, XNNPACK, "no int8 dot product .sdot.: .* for 16 int8 MACs, where one .fmla. makes 4 in float32"),
        (VNNI, XNNPACK, "has an int8 dot product .avx_vnni.: one instruction makes 32 int8 MACs or more, where 8 "),
        (("avx2", "avx512f", "avx512_vnni"), XNNPACK, "one instruction makes 64 int8 MACs or more, where 16 can"),
        (
            DOTPROD,
            ONNX_RUNTIME,
            "has an int8 dot product .dotprod.: one instruction makes 16 int8 MACs or more, where 4",
        ),
        ((), XNNPACK, "^Which int8 instructions this processor has is not known$"),
    ],
)
def test_the_processor_is_described_as_it_is(instructions: tuple[str, ...], kernel: str, words: str) -> None:
    import re

    assert re.search(words.replace("(VNNI)", r"\(VNNI\)"), processor_sentence(instructions, kernel))


def test_counterparts_do_the_same_work() -> None:
    ours = [
        operator(1, 100),
        operator(2, 100),
        operator(3, 50),
        operator(4, kind="QLinearAdd"),
        operator(5, kind="MEAN"),
    ]
    theirs = [operator(6, kind="Add"), operator(7, 100), operator(8, 100), operator(9, kind="Softmax")]
    assert [other.ms if other else None for other in counterparts(ours, theirs)] == [7, 8, None, 6, None]


def test_the_table_has_a_row_an_operator() -> None:
    ours = profile(operator(0.5, 1000), operator(0.25, kind="QUANTIZE"))
    frame = report(ours, FLOAT, 1.2).to_frame()
    assert frame["share"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert frame["gmacs_per_s"][0] == pytest.approx(1000 / 0.5e-3 / 1e9)
    assert frame["times_float32"][0] == pytest.approx(2.5) and math.isnan(frame["times_float32"][1])
    assert "without_xnnpack_ms" not in frame and "float32_ms" not in report(ours).to_frame()


# Real files


def test_operators_of_a_tflite_file_run_where_they_run_in_the_network(tmp_path: Path, quick: None) -> None:
    files = [artifact.load(tflite_file(tmp_path / f"{kind}.tflite", kind == "int8")) for kind in ("int8", "float")]
    ours, theirs = litert.profiles(files, IMAGE)
    kinds = ["CONV_2D", "AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert [o.kind for o in ours.operators] == [o.kind for o in theirs.operators] == kinds
    assert [o.kernel for o in ours.operators] == [XNNPACK, BUILT_IN, XNNPACK, XNNPACK]
    assert {o.kernel for o in theirs.operators} == {XNNPACK}
    assert {o.arithmetic for o in ours.operators} == {"int8"} and {o.arithmetic for o in theirs.operators} == {
        "float32"
    }
    assert [o.layer.macs for o in ours.operators] == [row.macs for row in layer_table(files[0].path).layers]
    assert all(o.ms >= 0 and o.plain_ms is not None and o.plain_ms >= 0 for o in ours.operators)
    assert max(ours.operators, key=lambda o: o.ms).kind == "CONV_2D"
    assert 0 < ours.call_ms < ours.whole_ms and ours.plain_ms and ours.plain_ms > 0
    assert 0.3 < theirs.sum_ms / theirs.whole_ms < 3


@pytest.mark.parametrize("quantized", [True, False])
def test_an_operator_cut_out_computes_what_it_does_in_the_network(tmp_path: Path, quantized: bool) -> None:
    file = artifact.load(tflite_file(tmp_path / "m.tflite", quantized))
    inputs = file.prepare(IMAGE).inputs
    graph = litert.Graph(file.path, inputs.shape[1:])
    whole = litert.interpreter_of(1, delegates=False, model_path=str(file.path), experimental_preserve_all_tensors=True)
    litert._feed(whole, [inputs])
    whole.invoke()
    for op in graph.graph.operators:
        content, sources = litert.cut_out(graph, op)
        alone = litert.interpreter_of(1, delegates=False, model_content=content)
        litert._feed(alone, [whole.get_tensor(index) for index in sources])
        alone.invoke()
        (end,) = alone.get_output_details()
        expected = whole.get_tensor(int(op.outputs[0]))
        np.testing.assert_array_equal(alone.get_tensor(end["index"]), expected)
        assert np.ptp(expected) > 0 and sources == [int(op.inputs[0])]


def test_times_go_to_the_calls_they_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call number k takes 10 + k ms: two additions, then each file's network in either way and its operators."""
    made: list[bool] = []
    interpreter_of = litert.interpreter_of

    def noted(threads: int, *, delegates: bool, **options: object) -> object:
        made.extend([delegates] if "model_content" in options else [])
        return interpreter_of(threads, delegates=delegates, **options)

    monkeypatch.setattr(litert, "interpreter_of", noted)
    monkeypatch.setattr(litert, "interleaved", lambda calls, *_, **__: 10.0 + np.arange(len(calls))[None])
    files = [artifact.load(tflite_file(tmp_path / f"{kind}.tflite", kind == "int8")) for kind in ("int8", "float")]
    ours, theirs = litert.profiles(files, IMAGE)
    assert made == [True, False] + [False, False] + [True, False] * 2 + [True, False] * 4 + [True, False]
    assert (ours.call_ms, ours.whole_ms, ours.plain_ms) == (10, 12, 13)
    assert [o.ms for o in ours.operators] == [14 - 10, 16 - 11, 18 - 10, 20 - 10], "the second runs without XNNPACK"
    assert [o.plain_ms for o in ours.operators] == [15 - 11, 17 - 11, 19 - 11, 21 - 11]
    assert (theirs.whole_ms, theirs.plain_ms) == (22, 23)
    assert [o.ms for o in theirs.operators] == [14, 16, 18, 20]


def test_another_batch_is_fed_and_mixed_numbers_are_named(tmp_path: Path) -> None:
    file = artifact.load(tflite_file(tmp_path / "m.tflite", False))
    graph = litert.Graph(file.path, (32, 32, 3))
    (conv, *_), images = graph.graph.operators, np.ones((2, 32, 32, 3), np.float32)
    alone = litert.interpreter_of(1, delegates=True, model_content=litert.cut_out(graph, conv)[0])
    litert._feed(alone, [images])
    alone.invoke()
    assert alone.get_tensor(alone.get_output_details()[0]["index"]).shape == (2, 16, 16, 8)
    assert litert._arithmetic(graph, conv) == "float32"
    graph.graph.tensors[conv.inputs[1]].type = next(k for k, name in graph.types.items() if name == "INT8")
    assert litert._arithmetic(graph, conv) == "float32 values, int8 weights"


def test_an_operator_that_cannot_run_alone_has_no_time(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_out = litert.cut_out

    def refuse(graph: litert.Graph, op: object) -> tuple[bytes, list[int]]:
        if graph.kind(op) == "RESHAPE":
            raise RuntimeError("no")
        return cut_out(graph, op)

    monkeypatch.setattr(litert, "cut_out", refuse)
    (found,) = litert.profiles([artifact.load(tflite_file(tmp_path / "m.tflite", True))], IMAGE)
    assert [math.isnan(o.ms) for o in found.operators] == [False, False, True, False]
    assert found.operators[0].ms == max(o.ms for o in found.operators if not math.isnan(o.ms))


def test_operators_of_an_onnx_file_are_those_of_the_optimised_graph(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [artifact.load(onnx_file(tmp_path / f"{kind}.onnx", kind == "int8")) for kind in ("int8", "float")]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ours, theirs = ort.profiles(files, IMAGE)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before, "notes are written elsewhere"
    assert [o.kind for o in ours.operators if o.layer.macs] == ["QLinearConv", "QGemm"]
    assert {o.arithmetic for o in ours.operators if o.layer.macs} == {"int8"}
    assert {"QuantizeLinear", "DequantizeLinear"} <= {o.kind for o in ours.operators}
    assert {o.arithmetic for o in theirs.operators} == {"float32"} and not any(
        o.floats for o in ours.operators if o.layer.macs
    )
    for file, found in zip(files, (ours, theirs), strict=True):
        assert sum(o.layer.macs for o in found.operators) == layer_table(file.path).macs > 0
        assert found.plain_ms is None and 0 < found.call_ms < found.sum_ms
    assert sum(o.group == "quantize and dequantize" for o in ours.operators) >= 2


def test_the_network_is_timed_without_the_profiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls number 0 to 2 are noted down (the chain and two files), 3 and 4 are the files alone."""

    def fake(calls: list, *_: float, **__: int) -> np.ndarray:
        for call in calls * 2:
            call()
        return np.arange(len(calls))[None] * 10.0

    monkeypatch.setattr(ort, "interleaved", fake)
    files = [artifact.load(onnx_file(tmp_path / f"{name}.onnx", False)) for name in "ab"]
    assert [found.whole_ms for found in ort.profiles(files, IMAGE)] == [30, 40]


def test_what_noting_costs_is_taken_off_and_an_unknown_graph_is_no_obstacle(tmp_path: Path) -> None:
    note = {"name": "a_kernel_time", "args": {"op_name": "QLinearConv", "output_type_shape": [{"uint8": [1, 4, 8]}]}}

    class Session:
        path = optimised = tmp_path / "none.onnx"
        shape = (3, 32, 32)

        def events(self) -> list:
            return [ort._Event([{**note, "dur": us}]) for us in (7, 1)]

    first, second = ort._operators(Session(), 0.002)
    assert (first.ms, second.ms) == pytest.approx((0.005, 0.0))
    assert (first.kind, first.layer.output_shape, first.layer.macs) == ("QLinearConv", (4, 8), 0)


def test_a_layer_filled_up_to_whole_vectors_is_told_as_the_file_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime does with eight channels on a processor that works on sixteen."""

    class Session:
        path, optimised, shape = "file", "optimised", (3, 32, 32)

    known = {"file": [("conv", 55), ("fc", 32)], "optimised": [("b_nchwc", 110), ("ReorderOutput", 0), ("fc", 32)]}

    def table(path: str, shape: tuple) -> types.SimpleNamespace:
        return types.SimpleNamespace(layers=[Layer(name, "any", (), (), macs=macs) for name, macs in known[path]])

    monkeypatch.setattr(ort, "layer_table", table)
    assert {name: layer.macs for name, layer in ort._layers(Session()).items()} == {
        "b_nchwc": 55,
        "ReorderOutput": 0,
        "fc": 32,
    }


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("QLinearConv", "uint8", "int8"),
        ("QLinearConv", "int8", "int8"),
        ("Conv", "float", "float32"),
        ("DynamicQuantizeMatMul", "float", "float32 values, int8 weights"),
        ("DynamicQuantizeLinear", "float", "float32"),
    ],
)
def test_onnx_numbers_are_named(kind: str, values: str, expected: str) -> None:
    args = {"op_name": kind, "input_type_shape": [{values: [1]}]}
    assert ort._arithmetic(ort._Event([{"name": "a", "dur": 1, "args": args}])) == expected


def test_the_profilers_notes_are_averaged_over_the_middle_half() -> None:
    """The runs that count are every second one, from the last; the mean of the middle half resolves below 1 us."""
    durations = [999, 5, 999, 4, 999, 5, 999, 100, 999, 5, 999, 0, 999, 4, 999, 6]
    notes = [{"name": "a_kernel_time", "dur": d, "args": {"op_name": "Conv"}} for d in durations]
    event = ort._Event(notes)
    assert (event.name, event.kind) == ("a", "Conv")
    assert event.ms == pytest.approx(np.mean([4, 5, 5, 5]) / 1000)


@pytest.mark.parametrize(("make", "suffix"), [(tflite_file, "tflite"), (onnx_file, "onnx")])
def test_both_files_are_explained_together(tmp_path: Path, quick: None, make, suffix: str) -> None:
    ours, theirs = (make(tmp_path / f"{kind}.{suffix}", kind == "int8") for kind in ("int8", "float"))
    found = explain.int8(ours, theirs)
    assert found.verdict.startswith(f"int8.{suffix} takes ") and f"float.{suffix} " in found.verdict
    assert found.ratio and found.ratio.names == (f"int8.{suffix}", f"float.{suffix}")
    assert found.latency is found.ratio.first
    frame = found.to_frame()
    assert frame["float32_ms"][frame["macs"] > 0].notna().all() and (frame["macs"] > 0).sum() == 2
    alone = explain.int8(str(ours), image=IMAGE)
    assert alone.ratio is None and alone.verdict.startswith(f"int8.{suffix} takes ") and "GMAC/s" in alone.verdict


def test_a_file_that_is_not_quantized_is_one_line(tmp_path: Path) -> None:
    found = explain.int8(onnx_file(tmp_path / "m.onnx", False))
    assert found.verdict == "m.onnx is not quantized: no layer has 8-bit weights, there is no int8 to explain."
    assert found.to_frame().empty


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    ours = onnx_file(tmp_path / "int8.onnx", True)
    with pytest.raises(EdgelabError, match=r"float32 \.onnx file to compare int8\.onnx with, got m\.tflite$"):
        explain.int8(ours, tflite_file(tmp_path / "m.tflite", False))
    with pytest.raises(EdgelabError, match=r"got other\.onnx, which is quantized$"):
        explain.int8(ours, onnx_file(tmp_path / "other.onnx", True))
    with pytest.raises(EdgelabError, match=r"images of any size: give one image"):
        explain.int8(onnx_file(tmp_path / "open.onnx", False, size="any"))


# Zeros


def unsigned_file(path: Path, quantized: bool, pruned: bool) -> Path:
    return onnx_file(path, quantized, pruned, unsigned=True)


@pytest.mark.parametrize("make", [tflite_file, onnx_file, unsigned_file])
@pytest.mark.parametrize("quantized", [True, False])
def test_zeros_are_found_where_they_are(tmp_path: Path, make, quantized: bool) -> None:
    """Filter 2 of the convolution is zero, as are input channel 1 and, in the dense layer, three of every four."""
    path = make(tmp_path / f"m.{'tflite' if make is tflite_file else 'onnx'}", quantized, pruned=True)
    conv, dense = weights(path, artifact.load(path).prepare(IMAGE).inputs.shape[1:])
    assert conv.values.shape[0] == 8 and conv.values.shape[-1] == 3 and dense.values.shape == (4, 8)
    assert not conv.values[2].any() and not conv.values[..., 1].any() and conv.values[0, ..., 0].all()
    np.testing.assert_array_equal(dense.values != 0, np.tile([True, False, False, False], (4, 2)))
    first, second = sparse._layers(layer_table(path), [conv, dense])
    assert (first.weights, first.zeros) == (216, 9 * (8 + 2)) and (second.weights, second.zeros) == (32, 24)
    assert (first.filters, first.zero_filters, first.channels, first.zero_channels) == (8, 1, 3, 1)
    assert (second.filters, second.zero_filters, second.channels, second.zero_channels) == (4, 0, 8, 6)
    assert (first.two_of_four, second.two_of_four, first.in_blocks) == (None, True, None)
    formats = sparse_sizes(layer_table(path)).layers[0]
    assert (first.mask_bytes, first.csr_bytes) == (-(-formats.mask_bits // 8), -(-formats.csr_bits // 8))
    assert first.bytes == 216 * (1 if quantized else 4) and 0 < first.gzip_bytes != first.bytes


@pytest.mark.parametrize("make", [tflite_file, onnx_file])
@pytest.mark.parametrize("quantized", [True, False])
def test_the_copy_without_zeros_is_else_the_same(tmp_path: Path, make, quantized: bool) -> None:
    suffix = "tflite" if make is tflite_file else "onnx"
    path, copy = make(tmp_path / f"m.{suffix}", quantized, pruned=True), tmp_path / f"copy.{suffix}"
    shape = artifact.load(path).prepare(IMAGE).inputs.shape[1:]
    without_zeros(path, shape, copy)
    assert artifact.load(copy).predict(IMAGE).shape == (1, 4)
    for old, new in zip(weights(path, shape), weights(copy, shape), strict=True):
        assert new.values.all() and old.name == new.name
        kept = old.values != 0
        np.testing.assert_array_equal(new.values[kept], old.values[kept])
        assert np.abs(new.values[~kept]).max() <= np.quantile(np.abs(old.values[kept]), 0.05)
        assert len(np.unique(new.values[~kept])) > 1


@pytest.mark.parametrize("limit", [-128, 127])
def test_a_zero_at_the_end_of_the_range_is_filled_inwards(limit: int) -> None:
    stored = np.array([limit] * 200 + [0] * 40, np.int8)
    filled = _filled(stored, stored.astype(int) - limit)
    assert (filled[:200] != limit).all() and (filled[200:] == 0).all()
    assert (np.abs(filled[:200].astype(int) - limit) < 128).all()


def test_blocks_and_the_pattern_are_counted_along_the_input_channels() -> None:
    zero = np.zeros((2, 40), bool)
    zero[0, :16] = zero[1, 20:36] = True  # one whole block of sixteen, and one that lies across two
    assert sparse._in_blocks(zero, 32) == pytest.approx(16 / 32)
    assert sparse._in_blocks(zero[:, :15], 10) is None and sparse._in_blocks(zero, 0) is None
    assert sparse._two_of_four(np.array([[True, True, False, False, False, True, True, False]])) is True
    assert sparse._two_of_four(np.array([[True, True, False, False, False, True, False, False]])) is False
    assert sparse._two_of_four(np.ones((4, 3), bool)) is None


def test_weights_in_the_sparse_encoding_are_unpacked(tmp_path: Path) -> None:
    path, dense = sparse_tflite_file(tmp_path / "m.tflite")
    (found,) = weights(path, (1, 1, 8))
    assert found.sparse
    np.testing.assert_array_equal(found.values, dense)
    found = explain.sparsity(path)
    assert found.files is None and found.ratio is None, "zeros that are not stored cannot be filled"
    assert found.sparsity == pytest.approx((dense == 0).mean())
    assert "encodes no weights as sparse" not in found.kernels


ROW = SparseWeight("a", "convolution", 1000, 800, 10, 0, 50, 0, 0.05, False, 1000, 400, 325, 500)
FILES = sparse.Files("p.onnx", 1000, 300, "d.onnx", 1000, 900)


def of(
    row: SparseWeight = ROW, files: sparse.Files = FILES, ratio: tuple[float, float, float] = (1.0, 0.99, 1.01)
) -> str:
    first = Latency(0.2, 0.2, 0.2, 0.2, 50, ON)
    return SparsityReport("p.onnx", (row,), "No kernel skips.", files, Ratio(*ratio, first, first, ("p", "d"))).verdict


def test_a_pruned_file_that_gains_nothing() -> None:
    assert of().split(". ") == [
        "In p.onnx 80 % of 1,000 weights are zero, in 1 of 1 layers",
        "The file is no smaller than d.onnx, for it stores a zero like any other weight (1,000 against 1,000 bytes);"
        " compressed with gzip it is 67 % smaller (300 against 900); a bit mask with the other values would take 325"
        " bytes, CSR 500",
        "No filter of 10 and no input channel is zero throughout; 5 % of the zeros lie in whole blocks of 16",
        "No kernel skips",
        "p takes as long as d, as far as can be seen: 1.00 times (95 % interval 0.990 to 1.01; 0.200 against 0.200 ms),"
        f" {ON}: a zero is multiplied like any other weight",
        "To be faster everywhere, whole filters have to be removed, not single weights.",
    ]


def test_a_pruned_file_that_gains_something_is_said_to() -> None:
    smaller = of(files=replace(FILES, bytes=400, gzip_bytes=890), ratio=(0.7, 0.65, 0.75))
    assert "The file is 60 % smaller than d.onnx (400 against 1,000 bytes); gzip saves no more (890" in smaller
    assert "takes 0.700 times as long" in smaller and smaller.endswith("something saves time here.")
    assert not any(word in smaller for word in ("no smaller", "like any other", "have to be removed", "Cutting out"))
    assert "the zeros even cost time." in of(ratio=(1.3, 1.2, 1.4))


def test_a_busy_machine_allows_no_conclusion() -> None:
    wide = of(ratio=(1.0, 0.7, 1.3))
    assert "this machine is too busy to say more" in wide and "like any other weight. To" not in wide


def test_zero_filters_and_the_pattern_are_named() -> None:
    said = of(replace(ROW, zero_filters=4, zero_channels=20, two_of_four=True))
    assert (
        "4 of 10 filters and 20 of 50 input channels are zero throughout; 1 of the 1 pruned layers follow the 2:4"
        in said
    )
    assert said.endswith(
        "Cutting out the filters that are zero throughout makes the network smaller and faster everywhere."
    )


def test_a_pattern_in_few_layers_is_no_pattern() -> None:
    rows = tuple(replace(ROW, two_of_four=following) for following in (True, False, False))
    assert "2:4" not in sparse._pattern(rows) and "2 of the 3 pruned" in sparse._pattern((*rows[:2], rows[0]))


def test_a_network_that_was_not_pruned() -> None:
    verdict = SparsityReport("m.onnx", (replace(ROW, zeros=0),), "").verdict
    assert verdict == "m.onnx is not pruned: none of its 1,000 weights is zero."
    verdict = SparsityReport("m.onnx", (replace(ROW, zeros=14),), "").verdict
    assert verdict == "m.onnx is hardly pruned, if at all: 1.4 % of its 1,000 weights are zero."


def test_which_kernels_could_skip_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tflite_file(tmp_path / "m.tflite", True)
    file, table, stored = artifact.load(path), layer_table(path), weights(path, (32, 32, 3))
    monkeypatch.setattr(provenance, "int8_instructions", lambda: AVX2)
    assert "never uses its sparse kernels on x86 processors with AVX, and elsewhere could not here: the file" in (
        sparse._kernels(file, table, stored)
    )
    monkeypatch.setattr(provenance, "int8_instructions", lambda: DOTPROD)
    said = sparse._kernels(file, table, stored)
    assert (
        "cannot use its sparse kernels: the file encodes no weights as sparse, the network is not float32, few" in said
    )
    onnx = artifact.load(onnx_file(tmp_path / "m.onnx", False))
    assert sparse._kernels(onnx, table, stored).startswith("ONNX Runtime's kernels")


def test_xnnpacks_conditions_one_by_one() -> None:
    first = Layer("a", "convolution", (96, 96, 3), (), (3, 3), (2, 2), macs=9, effective_macs=9, activation_bits=32)
    point = replace(first, kernel=(1, 1), input_shape=(48, 48, 8), macs=90, effective_macs=30)
    packed = [explain._weights.Weight("a", np.ones(3), b"", sparse=True)]

    def obstacles(*layers: Layer, stored: list = packed) -> list[str]:
        return sparse._obstacles(explain._sparsity.LayerTable(layers, {}), stored)

    assert obstacles(first, point) == []
    assert obstacles(first, point, stored=[]) == ["the file encodes no weights as sparse"]
    assert obstacles(replace(first, stride=(1, 1)), point) == [
        "it does not start with a 3x3 convolution of stride 2 on 3 channels"
    ]
    assert obstacles(first, point, replace(point, kernel=(3, 3))) == ["it has convolutions other than 1x1"]
    assert obstacles(first, replace(point, effective_macs=31)) == ["fewer than two thirds of the 1x1 weights are zero"]
    assert obstacles(first, replace(point, activation_bits=8)) == ["the network is not float32"]


@pytest.mark.parametrize(("make", "suffix"), [(tflite_file, "tflite"), (onnx_file, "onnx")])
def test_a_pruned_file_is_explained(tmp_path: Path, quick: None, make, suffix: str) -> None:
    path = make(tmp_path / f"m.{suffix}", False, pruned=True)
    found = explain.sparsity(path)
    assert found.verdict.startswith(
        f"In m.{suffix} 46 % of 248 weights are zero, in 2 of 2 layers. The file is no smaller "
    )
    assert found.files and found.files.dense_name == f"m without zeros.{suffix}"
    assert found.files.gzip_bytes < found.files.dense_gzip_bytes
    assert found.ratio and found.ratio.names == (f"m.{suffix}", f"m without zeros.{suffix}")
    assert found.to_frame()["sparsity"].tolist() == pytest.approx([90 / 216, 24 / 32])
    other = explain.sparsity(path, make(tmp_path / f"dense.{suffix}", False), IMAGE)
    assert other.files and other.files.dense_name == f"dense.{suffix}"
    assert other.ratio and other.ratio.names[1] == f"dense.{suffix}"
    full = explain.sparsity(make(tmp_path / f"d.{suffix}", False))
    assert full.verdict == f"d.{suffix} is not pruned: none of its 248 weights is zero." and full.ratio is None
