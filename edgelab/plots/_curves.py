"""Accuracy along one axis, a line for each way of getting there: what the figures of sparsity and of bits share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from edgelab.errors import EdgelabError
from edgelab.plots._base import LINES, STYLE, Figure, new_canvas, style_of, table, to_svg

if TYPE_CHECKING:
    import pandas as pd

Level = TypeVar("Level", int, float)


def accuracies(curves: Mapping[str, Mapping[Level, float]]) -> pd.DataFrame:
    """The `curves`, {level: accuracy 0..1} each, in percent: a row a level, from the lowest, and a column a curve."""
    import pandas as pd

    frame = pd.DataFrame({name: pd.Series(points, dtype=float) for name, points in curves.items()}).sort_index()
    return (100 * frame).add_suffix(", %")


def accuracy_curves(
    curves: Mapping[str, Mapping[Level, float]],
    caption: str,
    axis: str,
    place: Callable[[Level], float],
    told: Callable[[Mapping[Level, float]], str],
    numbers: Callable[[pd.DataFrame], pd.DataFrame],
    ticks: Sequence[str] = (),
) -> Figure:
    """Accuracy against the levels of `curves`, of which `place` says where they stand on the `axis` of that name.

    `told` puts a curve into words, `numbers` makes the table of what `accuracies` gives; `ticks` name 0, 1, 2, ...
    Raises EdgelabError where there is no curve or one is empty.
    """
    import matplotlib as mpl

    if not curves or not all(curves.values()):
        raise EdgelabError("no accuracies to draw: expected at least one curve, each with at least one point")
    with mpl.rc_context(STYLE):
        canvas, (ax,) = new_canvas(1)
        for index, (name, points) in enumerate(curves.items()):
            x, y = zip(*((place(level), 100 * share) for level, share in sorted(points.items())), strict=True)
            ax.plot(x, y, linestyle=LINES[index % len(LINES)], label=name, **style_of(index))  # type: ignore[arg-type]
        if ticks:
            ax.set_xticks(range(len(ticks)), ticks)
        ax.set(xlabel=axis, ylabel="accuracy, %")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        svg = to_svg(canvas)
    words = "; ".join(f"{name}: {told(points)}" for name, points in curves.items())
    return Figure(svg, f"{caption} {words}.", caption, table(numbers(accuracies(curves)), caption))
