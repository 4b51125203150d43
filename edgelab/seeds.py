"""Whether one way of training beats another, from trainings that were repeated with the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import pandas as pd

REFERENCES = ("baseline", "distillation_without_teacher")
"""What the others of a chapter are compared with: the network as it was, or trained without a teacher."""
WAY = ["chapter", "model", "framework", "technique"]
COLUMNS = [*WAY, "seeds", "accuracy", "low", "high", "points", "points_low", "points_high", "clear"]


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values, a seed each, and its 95 % interval by Student's t; in the unit of what was given."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Mean):
    """The mean of differences between two ways of training."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero; differences that are all the same leave it without an interval."""
        return self.low < self.high and not self.low <= 0 <= self.high

    def sentence(self, unit: str = "points") -> str:
        """The mean, its interval, and whether it can be told from nothing."""
        told = "cannot be chance alone" if self.is_clear else "cannot be told from none"
        return (
            f"{self.mean:+.2f} {unit} (95 % interval {self.low:+.2f} to {self.high:+.2f}, {self.n} seeds): a "
            f"difference that {told}"
        )


def mean(values: Sequence[float]) -> Mean:
    """The mean over trainings that differ in the seed alone: where would that of many more lie?

    With few seeds the interval is wide: for three, 2.5 standard deviations to each side (Student 1908, Biometrika
    6:1-25). Raises EdgelabError for fewer than two values.
    """
    if len(values) < 2:
        raise EdgelabError(f"expected the results of two or more seeds, got {len(values)}")
    from scipy.stats import t

    n, middle = len(values), float(np.mean(values))
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Mean(n, middle, middle - half, middle + half)


def paired(reference: Sequence[float], other: Sequence[float]) -> Difference:
    """By how much `other` is above `reference`; the same place in both is the same seed.

    Raises EdgelabError unless both have the same number of values, two or more.
    """
    if len(reference) != len(other) or len(other) < 2:
        raise EdgelabError(f"expected two or more seeds, the same on both sides, got {len(reference)} and {len(other)}")
    found = mean(np.subtract(other, reference).tolist())
    return Difference(found.n, found.mean, found.low, found.high)


def by_seed(ledger: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent: a row for each technique that `ledger` has with two seeds or more, a column a seed.

    The index is WAY: chapter, network, framework and technique.
    """
    shares = 100 * ledger.pivot_table(index=WAY, columns="seed", values="accuracy", aggfunc="last")
    return shares[shares.count(axis=1) > 1].dropna(axis=1, how="all")


def repeated(ledger: pd.DataFrame) -> pd.DataFrame:
    """The techniques of `by_seed` over their seeds, in percent.

    Columns besides WAY: `accuracy`, the mean of so many `seeds`, with its interval from `low` to `high`; `points`, the
    mean difference from the reference of the same chapter, network, framework and seeds (see REFERENCES), with its
    interval from `points_low` to `points_high`, and whether that is `clear`; these are missing without a reference.
    """
    import pandas as pd

    shares, rows = by_seed(ledger), []
    for way, row in zip(shares.index, shares.to_numpy(), strict=True):
        average = mean(row[~np.isnan(row)].tolist())
        gain = _gain(shares.loc[way[:-1]], way[-1])
        told = [gain.mean, gain.low, gain.high, gain.is_clear] if gain else [math.nan] * 3 + [None]
        rows.append([*way, average.n, average.mean, average.low, average.high, *told])
    return pd.DataFrame(rows, columns=COLUMNS)


def _gain(shares: pd.DataFrame, technique: str) -> Difference | None:
    """How far `technique` is above the first reference in `shares`, a row a technique; None where there is none."""
    reference = next((name for name in REFERENCES if name in shares.index), None)
    if reference in (None, technique):
        return None
    both = shares.loc[[reference, technique]].dropna(axis=1)
    return paired(*both.to_numpy().tolist()) if both.shape[1] > 1 else None
