"""The Pareto front is what its definition says, and the figure shows it: who is on it, who is beaten, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plots import Outline

from edgelab import plots
from edgelab.errors import EdgelabError
from edgelab.pareto import dominated, front
from edgelab.plots import _base, frontier

SMALL = st.integers(0, 3)
ROWS = st.lists(st.fixed_dictionaries({"accuracy": SMALL, "cost": st.one_of(st.none(), SMALL)}), max_size=8)


def dominates(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """The definition, in words: as accurate and as cheap, and better in one of the two."""
    if a["cost"] is None or b["cost"] is None:
        return False
    as_good = a["accuracy"] >= b["accuracy"] and a["cost"] <= b["cost"]
    return as_good and (a["accuracy"] > b["accuracy"] or a["cost"] < b["cost"])


@given(ROWS)
@settings(max_examples=400, deadline=None)
def test_front_and_dominated_are_their_definition(rows: list[dict[str, Any]]) -> None:
    beaten = {i: [j for j, other in enumerate(rows) if dominates(other, row)] for i, row in enumerate(rows)}
    free = [i for i, row in enumerate(rows) if row["cost"] is not None and not beaten[i]]
    assert front(rows, "cost") == sorted(free, key=lambda i: rows[i]["cost"])
    found = dominated(rows, "cost")
    assert set(found) == {i for i, by in beaten.items() if by}
    for loser, winner in found.items():
        assert winner in beaten[loser] and winner in free
        best = max(rows[j]["accuracy"] for j in beaten[loser])
        cheapest = min(rows[j]["cost"] for j in beaten[loser] if rows[j]["accuracy"] == best)
        assert (rows[winner]["accuracy"], rows[winner]["cost"]) == (best, cheapest)


def test_ties_share_the_front_and_a_tie_in_one_decides_by_the_other() -> None:
    names = ["twin", "twin", "dearer", "worse", "dear but best", "not measured"]
    costs, accuracies = [2, 2, 3, 2, 9, np.nan], [0.8, 0.8, 0.8, 0.7, 0.9, 0.99]
    rows = [{"cost": cost, "accuracy": accuracy} for cost, accuracy in zip(costs, accuracies, strict=True)]
    assert [names[i] for i in front(rows, "cost")] == ["twin", "twin", "dear but best"]
    assert {names[i]: names[j] for i, j in dominated(rows, "cost").items()} == {"dearer": "twin", "worse": "twin"}
    assert front(rows, "other") == [] and dominated([], "cost") == {}


def a_ledger(*files: tuple[str, float, float], **columns: Any) -> pd.DataFrame:
    """Files as (model, bytes, accuracy), each in both frameworks with a little more accuracy in PyTorch."""
    both = [(*file, framework) for file in files for framework in ("tensorflow", "pytorch")]
    frame = pd.DataFrame(both, columns=["model", "bytes", "accuracy", "framework"])
    frame["accuracy"] += 0.001 * (frame["framework"] == "pytorch")
    frame = frame.assign(accuracy_low=frame["accuracy"] - 0.01, accuracy_high=frame["accuracy"] + 0.008)
    frame = frame.assign(technique="baseline", data="digits", data_fingerprint="f", seed=0, macs=frame["bytes"])
    empty = {"ram_bytes": pd.NA, "energy_uj": np.nan, "latency_ms": np.nan, "latency_on": pd.NA}
    return frame.assign(**(empty | columns))


THREE = a_ledger(("plain_cnn", 2_400_000, 0.83), ("resnet8", 310_000, 0.84), ("ds_cnn", 390_000, 0.86))
FULL = THREE.assign(
    ram_bytes=pd.array([9000, 8000, 7000, 6000, 5000, None], dtype="Int64"),
    energy_uj=range(1, 7),
    latency_ms=[1, 2, 3, 4, 5, 6],
    latency_on=["LiteRT on a chip", "ORT on a chip"] * 3,
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Draws a front and returns matplotlib's figure."""

    def draw(ledger: pd.DataFrame, *costs: str) -> Any:
        kept = []
        with monkeypatch.context() as patch:
            patch.setattr(frontier, "to_svg", lambda canvas: kept.append(canvas) or b"")
            plots.pareto(ledger, *costs)
        return kept[0]

    return draw


def test_the_figure_tells_the_front_of_every_cost_that_was_measured() -> None:
    figure = plots.pareto(THREE)
    assert figure.alt == (
        "Accuracy of 6 model files. "
        "By file size, 2 of 6 on the front: 4 resnet8, PyTorch (84.1% at 310 kB) and "
        "6 ds_cnn, PyTorch (86.1% at 390 kB). "
        "By MACs, 2 of 6 on the front: 4 resnet8, PyTorch (84.1% at 0.31 million) and "
        "6 ds_cnn, PyTorch (86.1% at 0.39 million)."
    )
    assert "Test accuracy on digits" in figure.caption
    assert "On a front: 4 resnet8, PyTorch; 6 ds_cnn, PyTorch." in figure.caption
    assert figure.caption.endswith("Not measured: RAM, estimated energy, latency.")
    assert plots.pareto(THREE).svg == figure.svg


def test_the_table_names_a_dominating_file_for_every_cost() -> None:
    text = Outline(plots.pareto(FULL, "bytes", "energy_uj", "ram_bytes").table.html).text
    assert text[1:8] == ["no.", "model", "framework", "accuracy, %", "file size, kB", "estimated energy, uJ", "RAM, kB"]
    assert text[8] == "dominated by"
    first = text[9 : text.index("2")]
    assert first == [
        "1",
        "plain_cnn",
        "tensorflow",
        "83.00 (82.00 to 83.80)",
        "2,400",
        "1",
        "9",
        "6 (file size), 5 (RAM)",
    ]
    last = text[len(text) - 6 :]
    assert last == ["6", "ds_cnn", "pytorch", "86.10 (85.10 to 86.90)", "390", "6"], "on every front, its RAM unknown"


def test_dominating_files_are_numbered_as_in_the_whole_table() -> None:
    late = THREE.assign(ram_bytes=pd.array([None, None, None, 5000, 6000, 4000], dtype="Int64"))
    text = Outline(plots.pareto(late, "ram_bytes").table.html).text
    assert [cell for cell in text if "(RAM)" in cell] == ["6 (RAM)", "6 (RAM)"]


def test_technique_and_seed_are_told_where_there_are_several() -> None:
    mixed = THREE.assign(technique=["baseline", "ptq_int8"] * 3, seed=[0, 0, 0, 0, 0, 7])
    figure = plots.pareto(mixed, "bytes")
    assert "6 ds_cnn, ptq_int8, PyTorch (86.1% at 390 kB)" in figure.alt
    text = Outline(figure.table.html).text
    assert {"technique", "seed", "ptq_int8", "7"} <= set(text)


def test_a_long_front_is_told_by_its_ends_and_a_short_one_in_full() -> None:
    rising = a_ledger(("a", 1000, 0.5), ("b", 2000, 0.6), ("c", 3000, 0.7))
    figure = plots.pareto(rising[rising["framework"] == "pytorch"], "bytes")
    assert "3 of 3 on the front: from 1 a, PyTorch (50.1% at 1 kB) to 3 c, PyTorch (70.1% at 3 kB)." in figure.alt
    one = plots.pareto(rising[:1], "bytes")
    assert "1 of 1 on the front: 1 a, TensorFlow (50.0% at 1 kB)." in one.alt


def test_latency_is_compared_within_one_place_only(drawn: Callable[..., Any]) -> None:
    figure = plots.pareto(FULL, "latency_ms")
    assert "By latency A, 3 of 3 on the front: from 1 plain_cnn, TensorFlow (83.0% at 1 ms)" in figure.alt
    assert "By latency B, 3 of 3 on the front: from 2 plain_cnn, PyTorch (83.1% at 2 ms)" in figure.alt
    assert "Latency A: LiteRT on a chip. Latency B: ORT on a chip." in figure.caption
    labels = [ax.get_xlabel() for ax in drawn(FULL, "latency_ms").axes]
    assert labels == ["latency A, ms (log)", "latency B, ms"]
    same = plots.pareto(FULL.assign(latency_on="LiteRT on a chip"), "latency_ms")
    assert "By latency, 6 of 6 on the front" in same.alt
    assert "Latency: LiteRT on a chip." in same.caption


def test_what_was_measured_for_some_files_only_is_said() -> None:
    caption = plots.pareto(FULL, "bytes", "ram_bytes").caption
    assert caption.endswith("Measured for some files only: RAM (5 of 6).")
    assert "Not measured" not in caption


def test_dominated_files_are_grey_and_crossed_out_and_the_front_is_a_step_line(drawn: Callable[..., Any]) -> None:
    (ax,) = drawn(THREE, "bytes").axes
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in crosses] == [2400, 2400, 310, 390]
    points = [bars.lines[0] for bars in ax.containers]
    assert [point.get_color() == frontier.GREY for point in points] == [True, True, True, False, True, False]
    assert len({points[i].get_color() for i in (3, 5)}) == 2 and len({p.get_marker() for p in points}) == 3
    (step,) = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert list(step.get_xdata()) == [310, 390, 2400]
    assert list(step.get_ydata()) == pytest.approx([84.1, 86.1, 86.1])
    segment = ax.containers[5].lines[2][0].get_segments()[0]
    assert segment[:, 1].tolist() == pytest.approx([85.1, 86.9])


def test_a_dominated_twin_is_seen_within_the_ring_and_hides_nothing_of_the_front(drawn: Callable[..., Any]) -> None:
    (ax,) = drawn(THREE, "bytes").axes
    dot, ring = (ax.containers[i].lines[0] for i in (4, 5))
    assert dot.get_xdata() == ring.get_xdata() and ring.get_markersize() > 1.5 * dot.get_markersize()
    assert ring.get_markerfacecolor() == "none" and dot.get_markerfacecolor() == frontier.GREY
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    points = [bars.lines[0] for bars in ax.containers]
    order = [max(line.get_zorder() for line in lines) for lines in (crosses, [points[i] for i in (0, 1, 2, 4)])]
    (step,) = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert order[0] < min(point.get_zorder() for point in points)
    assert order[1] < step.get_zorder() < min(points[i].get_zorder() for i in (3, 5))


def synthetic(seed: int) -> pd.DataFrame:
    """Twenty files with costs that spread over up to three decades."""
    rng = np.random.default_rng(seed)
    count, techniques = 20, ["baseline", "ptq_int8", "magnitude_pruning", "qat_int8", "pqat"]
    accuracy = 0.8 + 0.08 * rng.random(count)
    values = {
        "model": rng.choice(["plain_cnn", "resnet8", "ds_cnn"], count),
        "technique": rng.choice(techniques, count),
        "framework": rng.choice(["tensorflow", "pytorch"], count),
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.0075,
        "accuracy_high": accuracy + 0.0072,
        "bytes": (10 ** rng.uniform(4, 6.5, count)).astype(int),
        "macs": rng.choice([8_930_000, 10_850_000, 12_500_000], count),
        "ram_bytes": (10 ** rng.uniform(4.6, 5.4, count)).astype(int),
        "energy_uj": 10 ** rng.uniform(1.5, 2.6, count),
        "latency_ms": rng.uniform(0.4, 0.9, count),
    }
    return pd.DataFrame(values).assign(latency_on="a chip", data="digits", data_fingerprint="f", seed=0)


@pytest.mark.parametrize("seed", range(2))
def test_numbers_and_ticks_of_twenty_files_do_not_touch(seed: int, drawn: Callable[..., Any]) -> None:
    with mpl.rc_context(_base.STYLE):
        canvas = drawn(synthetic(seed))
        canvas.draw_without_rendering()
        for ax in canvas.axes[:5]:
            numbers = [text.get_window_extent() for text in ax.texts]
            assert numbers and min(box.x0 for box in numbers) > ax.get_window_extent().x0 - 2, ax.get_xlabel()
            assert not any(a.overlaps(b) for a, b in combinations(numbers, 2)), ax.get_xlabel()
            low, high = ax.get_xlim()
            ticks = [t for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
            shown = [tick.label1.get_window_extent() for tick in ticks]
            assert len(shown) >= 2 and all(a.x1 + 3 < b.x0 for a, b in pairwise(shown)), ax.get_xlabel()
            told = ", ".join(text.get_text() for text in ax.texts).split(", ")
            assert len(set(told)) == len(told)


def test_equal_and_zero_costs_can_be_drawn(drawn: Callable[..., Any]) -> None:
    (ax,) = drawn(THREE.assign(macs=0), "macs").axes
    assert ax.get_xscale() == "linear" and ax.get_xlim()[0] < -0.1 < 0.05 < ax.get_xlim()[1]
    (ax,) = drawn(THREE.assign(energy_uj=7.0), "energy_uj").axes
    assert ax.get_xscale() == "linear" and [text.get_text() for text in ax.texts] == ["6"]
    assert ax.get_xlim()[0] < 6 and ax.get_xlim()[1] > 7.2
    level = dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), 0.8)
    (ax,) = drawn(THREE.assign(energy_uj=7.0, **level), "energy_uj").axes
    assert [text.get_text() for text in ax.texts] == ["1, 2, 3, 4, 5, 6"]


def test_the_legend_names_what_is_drawn_and_takes_a_free_cell(drawn: Callable[..., Any]) -> None:
    names = ["plain_cnn", "resnet8", "ds_cnn", "ring: PyTorch", "filled: TensorFlow"]
    names += ["front, with numbers", "grey, crossed: dominated"]
    three = drawn(FULL, "bytes", "macs", "ram_bytes")
    assert [text.get_text() for text in three.axes[3].get_legend().get_texts()] == names and not three.legends
    two = drawn(FULL, "bytes", "macs")
    assert len(two.axes) == 2 and [text.get_text() for text in two.legends[0].get_texts()] == names
    assert [ax.get_ylabel() for ax in two.axes] == ["test accuracy, %", ""]


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize(
    "models", [["resnet8", "ds_cnn"], ["mobilenet_v3_small_25", "mobilenet_v3_small_50"], ["n" * 30]]
)
def test_the_legend_lies_within_the_figure(models: list[str], panels: int, drawn: Callable[..., Any]) -> None:
    ledger = a_ledger(*((model, 1000 * (i + 1), 0.8 + i / 100) for i, model in enumerate(models)))
    costs = ("bytes", "macs", "ram_bytes")[:panels]
    with mpl.rc_context(_base.STYLE):
        canvas = drawn(ledger.assign(ram_bytes=range(len(ledger))), *costs)
        canvas.draw_without_rendering()
        legend = canvas.legends[0] if canvas.legends else canvas.axes[-1].get_legend()
        box = legend.get_window_extent()
        assert (canvas.bbox.x0, canvas.bbox.y0) <= (box.x0, box.y0)
        assert box.x1 <= canvas.bbox.x1 and box.y1 <= canvas.bbox.y1
        assert not any(box.overlaps(ax.get_tightbbox()) for ax in canvas.axes[:panels])


def test_what_cannot_be_drawn_is_one_line() -> None:
    with pytest.raises(EdgelabError, match=r"^no measurements to draw: run a chapter"):
        plots.pareto(THREE[:0])
    with pytest.raises(EdgelabError, match=r"^unknown cost 'size': choose among bytes, gzip_bytes, macs, ram_bytes, e"):
        plots.pareto(THREE, "bytes", "size")
    with pytest.raises(EdgelabError, match=r"^no measurements of ram_bytes, latency_ms to draw: measure them first$"):
        plots.pareto(THREE, "ram_bytes", "latency_ms")
    two = THREE.assign(data_fingerprint=["f"] * 5 + ["g"], data=["digits"] * 5 + ["cifar10"])
    with pytest.raises(
        EdgelabError, match=r"^expected accuracies on the same images, got 2 data sets \(cifar10, digits"
    ):
        plots.pareto(two)
