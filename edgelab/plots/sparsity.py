"""What zeros cost: accuracy against the share of weights that are zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgelab.plots._base import Figure
from edgelab.plots._curves import accuracy_curves

if TYPE_CHECKING:
    import pandas as pd


def accuracy_by_sparsity(curves: Mapping[str, Mapping[float, float]], caption: str) -> Figure:
    """Accuracy against sparsity, one line for every entry of `curves`: {sparsity: accuracy}, both 0..1.

    `caption` says what was pruned and on which images the accuracy was measured.
    Raises EdgelabError where there is no curve or one is empty.
    """
    return accuracy_curves(curves, caption, "weights that are zero, %", lambda share: 100 * share, _told, _numbers)


def _told(points: Mapping[float, float]) -> str:
    first, last = min(points), max(points)
    if first == last:
        return f"{points[first]:.1%} at {first:.0%}"
    return f"from {points[first]:.1%} at {first:.0%} to {points[last]:.1%} at {last:.0%}"


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    frame.insert(0, "zero, %", [round(100 * level, 4) for level in frame.index])
    return frame
