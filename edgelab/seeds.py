"""Whether one way of training beats another, from trainings that were repeated with the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgelab.errors import EdgelabError


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
        """Whether the interval leaves out zero."""
        return not self.low <= 0 <= self.high

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
