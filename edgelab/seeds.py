"""Whether one way of training beats another, from trainings that were repeated with the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgelab.errors import EdgelabError


@dataclass(frozen=True)
class Difference:
    """The mean of `n` differences, a seed each, and its 95 % interval by Student's t; in the unit of what was given."""

    n: int
    mean: float
    low: float
    high: float

    def sentence(self, unit: str = "points") -> str:
        """The mean, its interval, and whether it can be told from nothing."""
        told = "cannot be told from none" if self.low <= 0 <= self.high else "cannot be chance alone"
        return (
            f"{self.mean:+.2f} {unit} (95 % interval {self.low:+.2f} to {self.high:+.2f}, {self.n} seeds): a "
            f"difference that {told}"
        )


def paired(reference: Sequence[float], other: Sequence[float]) -> Difference:
    """By how much `other` is above `reference`; the same place in both is the same seed.

    With few seeds the interval is wide: for three, 2.5 times the standard deviation of the differences to each side.
    Raises EdgelabError unless both have the same number of values, two or more.
    """
    if len(reference) != len(other) or len(other) < 2:
        raise EdgelabError(f"expected two or more seeds, the same on both sides, got {len(reference)} and {len(other)}")
    from scipy.stats import t

    differences = np.subtract(other, reference)
    n, mean = len(differences), float(differences.mean())
    half = float(t.ppf(0.975, n - 1) * differences.std(ddof=1) / math.sqrt(n))
    return Difference(n, mean, mean - half, mean + half)
