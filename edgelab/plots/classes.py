"""What a data set is made of: images of each class, and the brightness of each colour channel in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgelab.errors import EdgelabError
from edgelab.plots._base import HATCHES, LONGEST_LABEL, STYLE, WIDTH, Figure, table, to_svg

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CHANNELS = {"red": ("#D55E00", "s"), "green": ("#009E73", "^"), "blue": ("#0072B2", "o")}


def classes(balance: pd.DataFrame, channels: pd.DataFrame, caption: str) -> Figure:
    """Images of each class, by split, beside mean and standard deviation of each channel's pixels in it.

    `balance` and `channels` are those of `analysis.Analysis`. Raises EdgelabError where there are no classes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    if balance.empty:
        raise EdgelabError("no classes to draw: analyse a folder with images first")
    splits = [str(name) for name in balance.columns if name not in ("class", "images", "share")]
    names = [name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 3]}..." for name in balance["class"]]
    with mpl.rc_context(STYLE):
        height = 1.6 + 0.32 * len(names)
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained", facecolor="white")
        left, right = canvas.subplots(1, 2, sharey=True)
        _counted(left, balance, splits)
        _channels(right, channels.set_index("class").loc[list(balance["class"])])
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        svg = to_svg(canvas)
    told = ", ".join(f"{name} {count:,}" for name, count in zip(balance["class"], balance["images"], strict=True))
    whole = channels.set_index("class").loc["all"]
    means = ", ".join(f"{name} {whole[f'mean_{name}']:.0f}" for name in CHANNELS)
    alt = f"{caption} Images: {told}. Mean of the channels over all: {means}."
    numbers = balance.merge(channels, on="class", how="right")
    return Figure(svg, alt, caption, table(numbers.round(4), caption))


def _counted(ax: Axes, balance: pd.DataFrame, splits: list[str]) -> None:
    start = 0 * balance["images"]
    for index, split in enumerate(splits):
        style: dict[str, Any] = {
            "color": ("#0072B2", "#E69F00")[index % 2],
            "hatch": HATCHES[index],
            "edgecolor": "white",
        }
        label = "" if split == "all" else split
        ax.barh(range(len(balance)), balance[split], left=start, label=label, **style)
        start = start + balance[split]
    if len(splits) > 1:
        ax.legend(frameon=False, fontsize=10)
    ax.set_xlabel("images")
    ax.grid(visible=False, axis="y")


def _channels(ax: Axes, channels: pd.DataFrame) -> None:
    for index, (name, (colour, marker)) in enumerate(CHANNELS.items()):
        places = [row + 0.2 * (index - 1) for row in range(len(channels))]
        spread = channels[f"variance_{name}"] ** 0.5
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "", "markersize": 5, "elinewidth": 1.2}
        ax.errorbar(channels[f"mean_{name}"], places, xerr=spread, label=name, **style)
    ax.set(xlabel="pixels: mean and\nstandard deviation", xlim=(-10, 265))
    ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=0.6)
    ax.grid(visible=False, axis="y")
