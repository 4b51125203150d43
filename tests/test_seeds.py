"""Differences between repeated trainings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edgelab import seeds
from edgelab.errors import EdgelabError


def test_the_interval_is_scipys() -> None:
    from scipy.stats import ttest_rel

    reference, other = [70.0, 72.0, 71.0], [73.0, 74.5, 74.2]
    found = seeds.paired(reference, other)
    low, high = ttest_rel(other, reference).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.mean == pytest.approx(np.mean(other) - np.mean(reference))
    assert found.sentence().startswith("+2.90 points (95 % interval +2.0")
    assert found.sentence().endswith("3 seeds): a difference that cannot be chance alone")


def test_what_all_seeds_share_does_not_widen_it() -> None:
    """A seed that is lucky in both ways says nothing about their difference."""
    found = seeds.paired([60.0, 70.0, 80.0], [61.0, 71.0, 81.0])
    assert (found.low, found.high) == pytest.approx((1, 1))


def test_about_one_in_twenty_intervals_misses() -> None:
    rng = np.random.default_rng(0)
    missed = [not (d.low <= 1 <= d.high) for d in (seeds.paired([0.0] * 3, rng.normal(1, 2, 3)) for _ in range(1000))]
    assert 0.03 < np.mean(missed) < 0.07
    assert "cannot be told from none" in seeds.paired([1.0, 2.0], [2.0, 1.0]).sentence()


@pytest.mark.parametrize(("reference", "other"), [([1.0], [2.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])])
def test_too_few_or_unequal(reference: list[float], other: list[float]) -> None:
    with pytest.raises(EdgelabError, match="two or more seeds, the same on both sides, got"):
        seeds.paired(reference, other)


def test_the_mean_lies_within_its_interval_which_is_scipys() -> None:
    from scipy.stats import ttest_1samp

    values = [83.0, 83.4, 82.7]
    found = seeds.mean(values)
    assert (found.low, found.high) == pytest.approx(tuple(ttest_1samp(values, 0).confidence_interval()))
    assert (found.n, found.mean) == (3, pytest.approx(np.mean(values)))
    with pytest.raises(EdgelabError, match="the results of two or more seeds, got 1"):
        seeds.mean(values[:1])


def test_a_difference_is_clear_where_its_interval_leaves_out_zero() -> None:
    assert seeds.paired([60.0, 70.0, 80.0], [61.1, 71.0, 80.9]).is_clear
    assert not seeds.paired([60.0, 70.0, 80.0], [63.0, 69.0, 80.9]).is_clear
    assert not seeds.paired([60.0, 70.0, 80.0], [61.0, 71.0, 81.0]).is_clear


ROWS = [
    ("c", "net", "pytorch", "baseline", 0, 0.80),
    ("c", "net", "pytorch", "baseline", 1, 0.82),
    ("c", "net", "pytorch", "ptq_int8", 0, 0.79),
    ("c", "net", "pytorch", "ptq_int8", 1, 0.80),
    ("c", "net", "tensorflow", "baseline", 0, 0.50),
    ("c", "net", "tensorflow", "qat_int8", 0, 0.60),
    ("c", "net", "tensorflow", "qat_int8", 1, 0.62),
    ("d", "net", "pytorch", "distillation", 0, 0.90),
    ("d", "net", "pytorch", "distillation", 1, 0.91),
]


def ledger() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=["chapter", "model", "framework", "technique", "seed", "accuracy"])


def test_what_was_repeated_is_held_against_its_own_reference() -> None:
    """Never against another chapter's or framework's, nor against a single seed."""
    found = seeds.repeated(ledger()).set_index(["framework", "technique"])
    assert list(found.index) == [
        ("pytorch", "baseline"), ("pytorch", "ptq_int8"), ("tensorflow", "qat_int8"), ("pytorch", "distillation"),
    ]  # fmt: skip
    assert found["accuracy"].tolist() == pytest.approx([81, 79.5, 61, 90.5])
    assert found.loc[("pytorch", "ptq_int8"), "points"] == pytest.approx(-1.5)
    assert found["points"].isna().tolist() == [True, False, True, True]


def test_a_figure_shows_every_seed_and_says_the_intervals() -> None:
    from edgelab import plots

    rows = ledger()
    figure = plots.accuracy_by_seed(rows[rows["chapter"] == "c"], "A net.")
    assert "ptq_int8, pytorch 79.5 (" in figure.alt and "seed 1" in figure.table.html and ">82<" in figure.table.html
    assert figure.svg.count(b"<svg") == 1
    with pytest.raises(EdgelabError, match="no technique was measured with two seeds or more"):
        plots.accuracy_by_seed(rows[rows["seed"] == 0], "x")
