"""What every figure is made of: the table, the figure with its words, and one style for all."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
HATCHES = ("", "//", "..", "xx", "\\\\")
LINES = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#d9d9d9",
    "lines.linewidth": 1.8,
    "lines.markersize": 7,
    "svg.hashsalt": "edgelab",
}
WIDTH = 5.9  # inches; text stays readable where a phone shows the figure at two thirds of its size
LONGEST_LABEL = 24
# What TensorFlow's converter appends to a layer's name for the operators it has fused.
OPERATORS = {"BiasAdd", "Conv2D", "FusedBatchNormV3", "MatMul", "Relu", "Relu6", "bn", "depthwise_conv", "relu"}
TABLE_STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:0.82em"
CELL_STYLE = "padding:0.2em 0.35em;border-bottom:1px solid #8888;"
SIDES = {"left": "text-align:left", "right": "white-space:nowrap;text-align:right"}
MOST_ROWS = 25  # that are shown without scrolling


@dataclass(frozen=True, repr=False)
class Table:
    """A table that shows itself in a notebook; `html` is the whole element."""

    html: str
    caption: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """The caption, for places that show text only."""
        return f"[table: {self.caption}]"


@dataclass(frozen=True, repr=False)
class Figure:
    """A drawing that shows itself in a notebook: `svg` bytes, `alt` text, `caption` and the `table` behind it."""

    svg: bytes
    alt: str
    caption: str
    table: Table

    def _repr_html_(self) -> str:
        style = "max-width:100%;height:auto;background:#fff"
        source = f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"
        image = f'<img class="dark-light" alt="{escape(self.alt)}" style="{style}" src="{source}">'
        details = f"<details><summary>The numbers behind this figure</summary>{self.table.html}</details>"
        return f'<figure style="margin:1em 0">{image}<figcaption>{escape(self.caption)}</figcaption>{details}</figure>'

    def __repr__(self) -> str:
        """The alternative text, for places that show text only."""
        return f"[figure: {self.alt}]"


def table(frame: pd.DataFrame, caption: str) -> Table:
    """`frame` as an HTML table without its index: numbers to the right, missing values empty, text escaped."""
    from pandas.api.types import is_numeric_dtype

    sides = ["right" if is_numeric_dtype(frame[name]) else "left" for name in frame.columns]
    head = "".join(_cell("th", str(name), side) for name, side in zip(frame.columns, sides, strict=True))
    rows = (
        "".join(_cell("td", _shown(value), side) for value, side in zip(row, sides, strict=True))
        for row in frame.itertuples(index=False, name=None)
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    title = f'<caption style="text-align:left">{escape(caption)}</caption>'
    inner = f"{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    height = ";max-height:28em" if len(frame) > MOST_ROWS else ""
    return Table(f'<div style="overflow:auto{height}"><table style="{TABLE_STYLE}">{inner}</table></div>', caption)


def _cell(tag: str, text: str, side: str) -> str:
    if tag == "th":
        return f'<th scope="col" style="{CELL_STYLE}text-align:{side}">{escape(text)}</th>'
    return f'<td style="{CELL_STYLE}{SIDES[side]}">{escape(text)}</td>'


def _shown(value: object) -> str:
    import pandas as pd

    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, Integral) and not isinstance(value, bool) else str(value)


def style_of(index: int) -> dict[str, str]:
    """Colour and marker of the series number `index`; no two of the first 56 look the same."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def new_canvas(columns: int) -> tuple[Canvas, list[Axes]]:
    """An empty white figure with its axes side by side."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, 4 if columns == 1 else 3.2), layout="constrained", facecolor="white")
    return canvas, list(canvas.subplots(1, columns, squeeze=False)[0])


def legend_below(canvas: Canvas, handles: Sequence[Artist], **look: Any) -> None:
    """The legend below the panels, in three columns or as many as the canvas is wide enough for."""
    for columns in (3, 2, 1):
        legend = canvas.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, **look)
        if columns == 1 or legend.get_window_extent().width <= canvas.bbox.width:
            return
        legend.remove()


def plain_numbers(axis: Axis, steps: Sequence[int]) -> None:
    """Labels such as 50, 100, 200 (`steps` 1, 2, 5) in place of powers of ten on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    axis.set_minor_formatter(NullFormatter())


def short_names(names: Sequence[str]) -> list[str]:
    """Layers' `names` without the folder they all lie in and the operators a converter appends to a name.

    The names of a .tflite file, such as "net/stage1/a/relu/Relu", become those of the network: "stage1/a". Where two
    would be the same they stay as they are. What is still long is shortened at the front.
    """
    parts = [name.split("/") for name in names]
    lying = [folders for folders in parts if len(folders) > 1]
    shared = 1 if len(lying) > 1 and len({folders[0] for folders in lying}) == 1 else 0
    rest = [folders[shared:] if len(folders) > 1 else folders for folders in parts]
    cut = ["/".join(_without_operators(folders)) for folders in rest]
    told = [short if cut.count(short) == 1 else "/".join(long) for short, long in zip(cut, rest, strict=True)]
    return [name if len(name) <= LONGEST_LABEL else f"...{name[3 - LONGEST_LABEL :]}" for name in told]


def _without_operators(folders: Sequence[str]) -> Sequence[str]:
    while len(folders) > 1 and folders[-1] in OPERATORS:
        folders = folders[:-1]
    return folders


def to_svg(canvas: Canvas) -> bytes:
    """`canvas` as SVG, the same bytes each time."""
    buffer = BytesIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
