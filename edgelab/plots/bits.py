"""What fewer bits cost: accuracy against the width of weights and activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgelab.errors import EdgelabError
from edgelab.plots._base import LINES, STYLE, Figure, new_canvas, style_of, table, to_svg

if TYPE_CHECKING:
    import pandas as pd


def accuracy_by_bits(curves: Mapping[str, Mapping[int, float]], caption: str) -> Figure:
    """Accuracy against bits, the fewest at the right, one line for every entry of `curves`: {bits: accuracy 0..1}.

    `caption` says what was quantized and on which images the accuracy was measured.
    Raises EdgelabError where there is no curve or one is empty.
    """
    import matplotlib as mpl

    if not curves or not all(curves.values()):
        raise EdgelabError("no accuracies to draw: expected at least one curve, each with at least one point")
    widths = sorted({bits for points in curves.values() for bits in points}, reverse=True)
    with mpl.rc_context(STYLE):
        canvas, (ax,) = new_canvas(1)
        for index, (name, points) in enumerate(curves.items()):
            x, y = zip(*((widths.index(b), 100 * a) for b, a in sorted(points.items())), strict=True)
            ax.plot(x, y, linestyle=LINES[index % len(LINES)], label=name, **style_of(index))  # type: ignore[arg-type]
        ax.set_xticks(range(len(widths)), [str(bits) for bits in widths])
        ax.set(xlabel="bits of weights and activations", ylabel="accuracy, %")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        svg = to_svg(canvas)
    told = "; ".join(_told(name, points) for name, points in curves.items())
    return Figure(svg, f"{caption} {told}.", caption, table(_numbers(curves), caption))


def _told(name: str, points: Mapping[int, float]) -> str:
    return f"{name}: " + ", ".join(f"{points[bits]:.1%} with {bits} bits" for bits in sorted(points, reverse=True))


def _numbers(curves: Mapping[str, Mapping[int, float]]) -> pd.DataFrame:
    """One row a width, one column a curve."""
    import pandas as pd

    frame = pd.DataFrame({name: pd.Series(points, dtype=float) for name, points in curves.items()})
    frame = (100 * frame.sort_index(ascending=False)).add_suffix(", %")
    frame.insert(0, "bits", frame.index)
    return frame
