"""What seeds do: the accuracy of trainings that were repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelab.errors import EdgelabError
from edgelab.plots._base import STYLE, Figure, new_canvas, style_of, table, to_svg

if TYPE_CHECKING:
    import pandas as pd

HALF = 0.28  # of the height of a bar


def accuracy_by_seed(ledger: pd.DataFrame, caption: str) -> Figure:
    """One line for every technique of one network in `ledger`: a marker a seed, and a bar for the mean's 95 % interval.

    `caption` says which network on which images. Raises EdgelabError where nothing was repeated.
    """
    import matplotlib as mpl

    from edgelab import seeds

    shares, found = seeds.by_seed(ledger), seeds.repeated(ledger)
    if found.empty:
        raise EdgelabError("nothing to draw: no technique was measured with two seeds or more")
    names = list(found["technique"] + ", " + found["framework"])
    places = range(len(names))
    with mpl.rc_context(STYLE):
        canvas, (ax,) = new_canvas(1)
        canvas.set_figheight(1.3 + 0.34 * len(names))
        ax.use_sticky_edges = False  # else the longest bar touches the axis
        width = found["high"].clip(upper=100) - found["low"]
        ax.barh(places, width, left=found["low"], height=2 * HALF, color="#d9d9d9", label="95 % interval of the mean")
        ends = ([place - HALF for place in places], [place + HALF for place in places])
        ax.vlines(found["accuracy"], ends[0], ends[1], color="black")
        for index, seed in enumerate(shares):
            ax.plot(shares[seed], places, linestyle="", mfc="none", label=f"seed {seed}", **style_of(index))  # type: ignore[arg-type]
        ax.set_yticks(places, names, fontsize=9)
        ax.invert_yaxis()
        ax.set_xlabel("accuracy, %")
        ax.grid(axis="y", visible=False)
        canvas.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=9)
        svg = to_svg(canvas)
    ranges = found[["accuracy", "low", "high"]].round(2).to_numpy()
    told = "; ".join(f"{name} {mean} ({low} to {high})" for name, (mean, low, high) in zip(names, ranges, strict=True))
    numbers = found.merge(shares.add_prefix("seed ").reset_index()).round(2)
    return Figure(svg, f"{caption} Mean over seeds and its interval, %: {told}.", caption, table(numbers, caption))
