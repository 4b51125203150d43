"""What fewer bits cost: accuracy against the width of weights and activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgelab.plots._base import Figure
from edgelab.plots._curves import accuracy_curves

if TYPE_CHECKING:
    import pandas as pd


def accuracy_by_bits(curves: Mapping[str, Mapping[int, float]], caption: str) -> Figure:
    """Accuracy against bits, the fewest at the right, one line for every entry of `curves`: {bits: accuracy 0..1}.

    `caption` says what was quantized and on which images the accuracy was measured.
    Raises EdgelabError where there is no curve or one is empty.
    """
    widths = sorted({bits for points in curves.values() for bits in points}, reverse=True)
    axis, ticks = "bits of weights and activations", [str(bits) for bits in widths]
    return accuracy_curves(curves, caption, axis, widths.index, _told, _numbers, ticks)


def _told(points: Mapping[int, float]) -> str:
    return ", ".join(f"{points[bits]:.1%} with {bits} bits" for bits in sorted(points, reverse=True))


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    falling = frame.sort_index(ascending=False)
    falling.insert(0, "bits", falling.index)
    return falling
