"""Two files on the same images: counts by hand, published intervals, and sentences that claim no more than that."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import brightest, coloured

from edgelab import comparison, measure
from edgelab.comparison import Comparison, compare, confusion, per_class_drop, predictions
from edgelab.errors import EdgelabError

LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
REFERENCE = np.array([0, 0, 1, 1, 1, 0, 2, 2, 0, 1])
OTHER = np.array([0, 1, 1, 1, 0, 0, 2, 2, 2, 0])
NAMES = ("cat", "dog", "ship")


def changed(lost: int, gained: int, n: int, wrong: int = 0) -> Comparison:
    """The comparison of two files on `n` images of one class, `lost` and `gained` of which changed sides."""
    labels = np.zeros(n, int)
    reference, other = labels.copy(), labels.copy()
    other[:lost] = 1
    reference[lost : lost + gained] = 1
    reference[n - wrong :] = other[n - wrong :] = 2
    return compare(reference, other, labels)


def test_counts_done_by_hand() -> None:
    found = compare(REFERENCE, OTHER, LABELS)
    assert (found.n, found.both_right, found.only_reference, found.only_other, found.both_wrong) == (10, 4, 2, 1, 3)
    assert (found.agreement, found.difference, found.p_value) == (0.6, -0.1, 1.0)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [(0, 0, 1), (1, 0, 1), (0, 6, 2 / 64), (10, 2, 2 * (1 + 12 + 66) / 4096), (7, 7, 1), (6, 16, 0.052479)],
)
def test_mcnemars_exact_test_is_a_coin_tossed_for_every_image_that_changed_sides(
    lost: int, gained: int, p: float
) -> None:
    assert changed(lost, gained, 161).p_value == pytest.approx(p, abs=5e-7)
    assert changed(lost, gained, 30, wrong=5).p_value == changed(lost, gained, 161).p_value


@pytest.mark.parametrize(
    ("lost", "gained", "n", "low", "high"),
    [  # Fagerland, Lydersen and Laake 2014, Stat. Med. 33:2850-2875: data of Bentur 2009 and Cavo 2012
        (7, 1, 21, -0.517, -0.026),
        (16, 6, 161, -0.124, -0.005),
    ],
)
def test_interval_against_published_values(lost: int, gained: int, n: int, low: float, high: float) -> None:
    found = changed(lost, gained, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)


def test_interval_ends_where_the_score_test_stops_rejecting() -> None:
    found, (lost, gained, n) = changed(9, 4, 300), (9, 4, 300)
    for end in (found.low, found.high):
        free = np.linspace(max(0, -end), (1 - abs(end)) / 2, 2_000_001)[1:]
        likely = lost * np.log(free) + gained * np.log(free + end) + (n - lost - gained) * np.log(1 - 2 * free - end)
        loss = free[likely.argmax()]
        score = (gained - lost - n * end) / math.sqrt(n * (2 * loss + end - end**2))
        assert abs(score) == pytest.approx(1.959964, abs=1e-3)


def test_interval_without_a_change_narrows_with_the_images() -> None:
    z = 1.959963984540054
    for n in (1, 50, 10_000):
        found = changed(0, 0, n)
        assert (found.low, found.high) == pytest.approx((-z * z / (n + z * z), z * z / (n + z * z)))


@pytest.mark.parametrize(("lost", "gained", "both_wrong"), [(0.03, 0.02, 0.15), (0.012, 0.004, 0.2), (0.1, 0.02, 0.3)])
def test_interval_covers_what_it_promises(lost: float, gained: float, both_wrong: float) -> None:
    rng, once = np.random.default_rng(1), functools.cache(changed)
    covered, runs, n = 0, 1500, 500
    for _ in range(runs):
        changes = rng.multinomial(n, [lost, gained, both_wrong, 1 - lost - gained - both_wrong])[:2]
        found = once(*map(int, changes), n)
        covered += found.low <= gained - lost <= found.high
    assert 0.93 < covered / runs < 0.97


class_numbers = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=60).map(
    lambda rows: np.array(rows).T
)
changes = st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(0, 20_000)).filter(any)


@settings(max_examples=150, deadline=None)
@given(class_numbers)
def test_swapping_the_files_negates_the_difference(arrays: np.ndarray) -> None:
    reference, other, labels = arrays
    there, back = compare(reference, other, labels), compare(other, reference, labels)
    assert (there.only_reference, there.only_other) == (back.only_other, back.only_reference)
    assert (there.both_right, there.both_wrong, there.agreement) == (back.both_right, back.both_wrong, back.agreement)
    assert there.difference == -back.difference
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
    assert there.p_value == back.p_value
    order = np.random.default_rng(0).permutation(len(labels))
    assert there == compare(reference[order], other[order], labels[order])


@settings(max_examples=150, deadline=None)
@given(changes)
def test_numbers_stay_in_their_ranges_and_agree_with_each_other(counts: tuple[int, int, int]) -> None:
    lost, gained, same = counts
    found = changed(lost, gained, n := lost + gained + same)
    assert found.both_right + found.only_reference + found.only_other + found.both_wrong == n
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert 0 < found.p_value <= 1
    assert np.sign(found.difference) == np.sign(gained - lost)
    assert found.p_value >= 0.05 or not found.low <= 0 <= found.high
    text = found.sentence()
    assert "\n" not in text and ("significant at" in text) == (found.p_value < 0.05)
    assert "-0.00 " not in text and "+0.00)" not in text


STANDINGS = {
    (40, 25, 10_000): (
        "is 0.15 points below float32 (95 % interval -0.32 to +0.01); of 10,000 images it lost 40 and gained 25",
        "p = 0.082: no significant drop was found, but a drop of up to 0.32 points is not ruled out",
    ),
    (20, 26, 500): (
        "is 1.20 points above float32 (95 % interval -1.51 to +3.98); of 500 images it lost 20 and gained 26",
        "p = 0.46: no significant gain was found, but a drop of up to 1.51 points is not ruled out",
    ),
    (0, 0, 10_000): (
        "is level with float32 (95 % interval -0.04 to +0.04); of 10,000 images it lost 0 and gained 0",
        "p = 1: no significant difference was found, but a drop of up to 0.04 points is not ruled out",
    ),
    (23, 2, 10_000): (
        "is 0.21 points below float32 (95 % interval -0.33 to -0.12); of 10,000 images it lost 23 and gained 2",
        "p < 0.001: the drop is significant at the 5 % level",
    ),
    (0, 6, 10_000): (
        "is 0.06 points above float32 (95 % interval +0.02 to +0.13); of 10,000 images it lost 0 and gained 6",
        "p = 0.031: the gain is significant at the 5 % level",
    ),
}


@pytest.mark.parametrize(("counts", "parts"), STANDINGS.items())
def test_sentence_claims_no_more_than_was_found(counts: tuple[int, int, int], parts: tuple[str, str]) -> None:
    text = f"int8 {parts[0]}; McNemar's exact test gives {parts[1]}"
    assert changed(*counts).sentence("float32", "int8") == text


def test_sentence_says_when_interval_and_test_disagree() -> None:
    drop, gain = changed(16, 6, 161).sentence(), changed(0, 4, 10_000).sentence()
    assert "p = 0.052: no significant drop was found, but the interval leaves out 0: a borderline case" in drop
    assert drop.endswith("and a drop of up to 12.40 points is not ruled out")
    assert "(95 % interval +0.002 to +0.103)" in gain and gain.endswith("leaves out 0: a borderline case")


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.0499, "p = 0.0499:"), (0.04996123, "p = 0.04996:"), (0.05, "p = 0.05:")]
)
def test_p_is_written_so_that_its_side_of_the_limit_shows(p_value: float, text: str) -> None:
    found = Comparison(100, 80, 9, 2, 9, 0.89, -0.07, -0.14, -0.01, p_value)
    assert text in found.sentence()
    assert ("significant at" in found.sentence()) == (p_value < 0.05)


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(
        EdgelabError, match=r"same images, got 9 for reference, 10 for other, 10 for labels: predict one"
    ):
        compare(REFERENCE[:9], OTHER, LABELS)
    with pytest.raises(EdgelabError, match=r"got float64 of shape 10x3 for other: take the argmax of logits$"):
        compare(REFERENCE, np.zeros((10, 3)), LABELS)
    with pytest.raises(EdgelabError, match=r"flat array of integers, got float64 of shape 10 for labels"):
        compare(REFERENCE, OTHER, LABELS / 2)
    with pytest.raises(EdgelabError, match=r"flat array of integers, got int64 of shape no for labels"):
        compare(REFERENCE, OTHER, np.int64(1))
    with pytest.raises(EdgelabError, match=r"^expected at least one image to compare on, got none$"):
        compare(LABELS[:0], LABELS[:0], LABELS[:0])
    with pytest.raises(EdgelabError, match=r"from 0 to 1, one for each of 2 names, got 2 in predicted: give the names"):
        confusion(LABELS, np.zeros(10, int), NAMES[:2])
    with pytest.raises(EdgelabError, match=r"one for each of 3 names, got -1 in labels"):
        per_class_drop(REFERENCE, OTHER, LABELS - 1, NAMES)


def test_predictions_do_not_depend_on_the_files_batch(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    split = coloured(41, wrong=6)
    single = predictions(brightest(tmp_path / "any.onnx"), split)
    assert "measuring any.onnx" in capsys.readouterr().err
    fours = predictions(brightest(tmp_path / "fixed.onnx", [4, 3, 32, 32]), split)
    assert single.dtype == fours.dtype == np.int64
    assert single.tolist() == fours.tolist() == (np.arange(41) % 3).tolist()
    assert compare(single, fours, split.labels).agreement == 1


def test_confusion_done_by_hand() -> None:
    found = confusion(REFERENCE, LABELS, NAMES)
    assert found.matrix.tolist() == [[2, 1, 0], [1, 2, 0], [1, 1, 2]]
    assert found.matrix.dtype == np.int64
    assert [recall and (recall.correct, recall.n) for recall in found.recalls] == [(2, 3), (2, 3), (2, 4)]
    assert found.recalls[2] == measure.Accuracy(2, 4, 0.5, *measure.wilson(2, 4))
    assert confusion(OTHER, LABELS, NAMES).most_frequent == ("cat", "dog", 2)
    assert confusion(OTHER[2:], LABELS[2:], NAMES).most_frequent == ("dog", "cat", 2)
    assert confusion(LABELS, LABELS, NAMES).most_frequent[2] == 0


def test_confusion_as_a_table_with_a_class_that_has_no_images() -> None:
    frame = confusion(REFERENCE[:6], LABELS[:6], NAMES).to_frame()
    assert list(frame.columns) == ["class", "images", "as cat", "as dog", "as ship", "recall", "low", "high"]
    assert frame["class"].tolist() == list(NAMES) and frame["images"].tolist() == [3, 3, 0]
    assert frame["as dog"].tolist() == [1, 2, 0]
    assert frame.loc[0, ["recall", "low", "high"]].tolist() == pytest.approx([2 / 3, *measure.wilson(2, 3)])
    assert frame.loc[2, ["recall", "low", "high"]].isna().all()


@settings(max_examples=60, deadline=None)
@given(class_numbers)
def test_confusion_and_classes_add_up_to_the_whole(arrays: np.ndarray) -> None:
    reference, other, labels = arrays
    found, drops = compare(reference, other, labels), per_class_drop(reference, other, labels, "abcd")
    matrix = confusion(other, labels, "abcd").matrix
    assert matrix.sum() == drops["n"].sum() == found.n
    assert matrix.trace() == found.both_right + found.only_other
    assert matrix.sum(0).tolist() == np.bincount(other, minlength=4).tolist()
    assert drops["lost"].sum() == found.only_reference and drops["gained"].sum() == found.only_other
    assert (drops["n"] * drops["difference"]).sum() == pytest.approx(found.n * found.difference)
    tested = drops[drops["n"] > 0]
    assert (tested["p_holm"] >= tested["p"]).all() and (tested["p_holm"] <= 1).all()


def test_drop_of_every_class_corrected_for_testing_them_all() -> None:
    labels = np.repeat([0, 1, 2, 3], [40, 40, 40, 20])
    reference, other = labels.copy(), labels.copy()
    for number, lost in enumerate((6, 7, 0)):
        other[40 * number : 40 * number + lost] = 4
    reference[80:88] = 4
    drops = per_class_drop(reference, other, labels, ["a", "b", "c", "d", "none"])
    assert list(drops.columns) == ["class", "n", "reference", "other", "difference", "lost", "gained", "p", "p_holm"]
    assert drops["class"].tolist() == ["a", "b", "c", "d", "none"]
    assert drops["n"].tolist() == [40, 40, 40, 20, 0]
    assert drops["lost"].tolist() == [6, 7, 0, 0, 0] and drops["gained"].tolist() == [0, 0, 8, 0, 0]
    assert drops["reference"].tolist()[:4] == [1, 1, 0.8, 1] and drops["other"].tolist()[:4] == [0.85, 0.825, 1, 1]
    assert drops["difference"].tolist()[:4] == pytest.approx([-0.15, -0.175, 0.2, 0])
    assert drops["p"].tolist()[:4] == pytest.approx([2 / 64, 2 / 128, 2 / 256, 1])
    assert drops["p_holm"].tolist()[:4] == pytest.approx([4 / 64, 6 / 128, 8 / 256, 1])
    assert drops.loc[4, ["reference", "other", "difference", "p", "p_holm"]].isna().all()


def test_corrected_p_never_falls_below_that_of_a_stronger_class() -> None:
    labels = np.repeat([0, 1], 40)
    other = labels.copy()
    other[:6], other[40:46] = 2, 2
    assert per_class_drop(labels, other, labels, "abc")["p_holm"].tolist()[:2] == pytest.approx([4 / 64, 4 / 64])


def test_several_files_against_one() -> None:
    labels = np.repeat([0, 1], 50)
    worse, other = labels.copy(), labels.copy()
    worse[:10], other[:6] = 1, 1
    frame = comparison.against(labels, {"worse": worse, "same": labels, "other": other}, labels)
    columns = ["file", "points", "low", "high", "lost", "gained", "same class", "p", "p_holm"]
    assert list(frame.columns) == columns and frame["file"].tolist() == ["worse", "same", "other"]
    assert frame["points"].tolist() == pytest.approx([-10, 0, -6]) and frame["lost"].tolist() == [10, 0, 6]
    assert frame["same class"].tolist() == pytest.approx([90, 100, 94]) and frame["gained"].tolist() == [0, 0, 0]
    assert ((frame["low"] <= frame["points"]) & (frame["points"] <= frame["high"])).all()
    assert frame["p_holm"].tolist() == pytest.approx([3 / 512, 1, 2 / 32])
    assert comparison.against(labels, {}, labels).columns.tolist() == columns
