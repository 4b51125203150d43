"""Quantization-aware training, as far as no framework is needed: the plans, the grids of few bits, and their steps.

A grid has a step and integers from `low` to `high`; zero is always on it. Weights have signed grids, activations behind
a ReLU unsigned ones. After Esser et al. 2020, arXiv:1902.08153 (learned step size quantization, LSQ).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe

BITS = range(2, 9)
ENDS_BITS = 8  # the first and the last layer, as in the paper: they hold few weights and are sensitive
CANDIDATES = 100  # steps that are tried for the least error
SAMPLED = 50_000  # values they are tried on
CALIBRATION = 64  # training images that the first steps of the activations are chosen on
CONTAINERS = (2, 4, 8)  # widths of integers that files can hold


def gentle(recipe: Recipe) -> Recipe:
    """`recipe` at a quarter of its learning rate: weights have to find the right side of a step, not a new place.

    Faster, training first takes a network of few bits away from where the trained one was, and steps run off.
    """
    return replace(recipe, peak_rate=recipe.peak_rate / 4)


@dataclass(frozen=True)
class Int8:
    """Weights and activations of 8 bits, learnt with the tools of the framework: TFMOT or PyTorch's graph mode."""

    technique: str = "qat_int8"

    def recipe(self, fine_tuning: Recipe) -> Recipe:
        """A training of half the epochs, at the rate of `gentle`."""
        return replace(gentle(fine_tuning), epochs=max(1, fine_tuning.epochs // 2))


@dataclass(frozen=True)
class LowBit:
    """Weights and activations of `bits` bits with learned steps (LSQ), the first and the last layer with 8."""

    bits: int

    def __post_init__(self) -> None:
        """Refuse impossible widths at once."""
        check_bits(self.bits)

    @property
    def technique(self) -> str:
        """The name in the ledger, such as qat_lsq_4bit."""
        return f"qat_lsq_{self.bits}bit"

    def recipe(self, fine_tuning: Recipe) -> Recipe:
        """A training of as many epochs, at the rate of `gentle`."""
        return gentle(fine_tuning)


Plan = Int8 | LowBit


def check_bits(bits: int) -> int:
    """`bits`; raises EdgelabError unless it is a whole number from 2 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or bits not in BITS:
        raise EdgelabError(f"expected a width from {BITS[0]} to {BITS[-1]} bits, got {bits!r}")
    return int(bits)


def spread(images: np.ndarray) -> np.ndarray:
    """CALIBRATION of the `images`, taken at equal distances: data sets are often sorted by class."""
    return images[:: max(1, len(images) // CALIBRATION)][:CALIBRATION]


@dataclass(frozen=True)
class Grid:
    """The integers of so many `bits`: -2**(bits-1)..2**(bits-1)-1 if `signed`, else 0..2**bits-1."""

    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """The least integer."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The greatest integer."""
        return 2 ** (self.bits - self.signed) - 1

    @property
    def container(self) -> int:
        """The width of the narrowest integers that hold these in a file: 2, 4 or 8 bits."""
        return min(width for width in CONTAINERS if width >= self.bits)

    def integers(self, values: np.ndarray, step: float) -> np.ndarray:
        """The integers nearest to `values` / `step`, as floats of the same shape."""
        return np.clip(np.rint(values / step), self.low, self.high)

    def min_max_step(self, values: np.ndarray) -> float:
        """The least step with which no value is clipped; 1 where all are zero. An unsigned grid clips what is < 0."""
        least = float(values.min()) / self.low if self.low else 0.0
        return max(least, float(values.max()) / self.high) or 1.0

    def best_step(self, values: np.ndarray) -> float:
        """The step with the least mean squared error, of CANDIDATES up to that of `min_max_step`."""
        widest = self.min_max_step(values)
        some = values.ravel()[:: -(-values.size // SAMPLED)]
        steps = widest * np.arange(1, CANDIDATES + 1) / CANDIDATES
        return float(min(steps, key=lambda step: np.square(self.integers(some, step) * step - some).mean()))


def packed_bytes(grids: Mapping[str, Grid], weights: Mapping[str, int], others: int) -> int:
    """What a network needs in flash if every weight takes its bits and no more.

    `weights` are the numbers of weights by layer, `others` the float32 values beside them: scales, biases, BatchNorm.
    """
    return sum(-(-weights[name] * grid.bits // 8) for name, grid in grids.items()) + 4 * others
