"""What zeros cost: accuracy against the share of weights that are zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgelab.errors import EdgelabError
from edgelab.plots._base import LINES, STYLE, Figure, new_canvas, style_of, table, to_svg

if TYPE_CHECKING:
    import pandas as pd


def accuracy_by_sparsity(curves: Mapping[str, Mapping[float, float]], caption: str) -> Figure:
    """Accuracy against sparsity, one line for every entry of `curves`: {sparsity: accuracy}, both 0..1.

    `caption` says what was pruned and on which images the accuracy was measured.
    Raises EdgelabError where there is no curve or one is empty.
    """
    import matplotlib as mpl

    if not curves or not all(curves.values()):
        raise EdgelabError("no accuracies to draw: expected at least one curve, each with at least one point")
    with mpl.rc_context(STYLE):
        canvas, (ax,) = new_canvas(1)
        for index, (name, points) in enumerate(curves.items()):
            x, y = zip(*((100 * s, 100 * a) for s, a in sorted(points.items())), strict=True)
            ax.plot(x, y, linestyle=LINES[index % len(LINES)], label=name, **style_of(index))  # type: ignore[arg-type]
        ax.set(xlabel="weights that are zero, %", ylabel="accuracy, %")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        svg = to_svg(canvas)
    told = "; ".join(_told(name, points) for name, points in curves.items())
    return Figure(svg, f"{caption} {told}.", caption, table(_numbers(curves), caption))


def _told(name: str, points: Mapping[float, float]) -> str:
    first, last = min(points), max(points)
    if first == last:
        return f"{name}: {points[first]:.1%} at {first:.0%}"
    return f"{name}: from {points[first]:.1%} at {first:.0%} to {points[last]:.1%} at {last:.0%}"


def _numbers(curves: Mapping[str, Mapping[float, float]]) -> pd.DataFrame:
    """One row a sparsity, one column a curve."""
    import pandas as pd

    frame = pd.DataFrame({name: pd.Series(points, dtype=float) for name, points in curves.items()}).sort_index()
    frame = (100 * frame).add_suffix(", %")
    frame.insert(0, "zero, %", [round(100 * level, 4) for level in frame.index])
    return frame
