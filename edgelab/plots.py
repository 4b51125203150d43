"""Figures for notebooks and the book: each carries alternative text, a caption and the table it was drawn from.

Colours are those of Okabe and Ito 2008 (Color Universal Design), which colour-blind readers tell apart; marker and line
style say the same again, so that a figure can be read when printed in grey. The background is white in any theme.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from edgelab.energy import EnergyTable
    from edgelab.ledger import Record

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
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
TABLE_STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:0.82em"
CELL_STYLE = "padding:0.2em 0.4em;white-space:nowrap;border-bottom:1px solid #8888;text-align:"


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
    return Table(
        f'<div style="overflow:auto;max-height:28em"><table style="{TABLE_STYLE}">{inner}</table></div>', caption
    )


def _cell(tag: str, text: str, side: str) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    return f'<{tag}{scope} style="{CELL_STYLE}{side}">{escape(text)}</{tag}>'


def _shown(value: object) -> str:
    import pandas as pd

    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _style(index: int) -> dict[str, str]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _canvas(columns: int) -> tuple[Canvas, list[Axes]]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.4 * columns if columns > 1 else 7.2, 4.2), layout="constrained", facecolor="white")
    return canvas, list(canvas.subplots(1, columns, squeeze=False)[0])


def _svg(canvas: Canvas) -> bytes:
    buffer = BytesIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Validation accuracy and training loss by epoch, one line for every entry of `histories`.

    A history is what `train` returns: one row an epoch with `epoch`, `loss` and `validation_accuracy` (0..1).
    Raises EdgelabError where there is none or one is empty.
    """
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    empty = [name for name, rows in histories.items() if not rows]
    if empty or not histories:
        raise EdgelabError(
            f"no learning curve to draw{' for ' + ', '.join(empty) if empty else ''}: train a model first"
        )
    with mpl.rc_context(STYLE):
        canvas, axes = _canvas(2)
        for index, (name, rows) in enumerate(histories.items()):
            _curve(axes[0], name, rows, "validation_accuracy", 100, index)
            _curve(axes[1], name, rows, "loss", 1, index)
        for ax, label in zip(axes, ("validation accuracy, %", "training loss"), strict=True):
            ax.set(xlabel="epoch", ylabel=label)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].legend(loc="lower right")
        svg = _svg(canvas)
    ends = [_course_of(name, rows) for name, rows in histories.items()]
    caption = "Learning curves: accuracy on the validation images and loss on the training images after each epoch."
    return Figure(
        svg, f"Learning curves. {' '.join(ends)}", caption, table(_by_epoch(histories), "Learning curves by epoch")
    )


def _by_epoch(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> pd.DataFrame:
    """One row an epoch, two columns a history."""
    import pandas as pd

    columns = {}
    for name, rows in histories.items():
        epochs = [row["epoch"] for row in rows]
        columns[f"{name}: loss"] = pd.Series([row["loss"] for row in rows], epochs)
        columns[f"{name}: validation accuracy, %"] = pd.Series(
            [100 * row["validation_accuracy"] for row in rows], epochs
        )
    return pd.DataFrame(columns).rename_axis("epoch").reset_index()


def _curve(ax: Axes, name: str, rows: Sequence[Mapping[str, float]], key: str, scale: float, index: int) -> None:
    epochs, values = [row["epoch"] for row in rows], [scale * row[key] for row in rows]
    spacing = (index % 3, max(1, len(rows) // 8))
    line = LINES[index % len(LINES)]
    ax.plot(epochs, values, label=name, linestyle=line, markevery=spacing if len(rows) > 8 else 1, **_style(index))  # type: ignore[arg-type]


def _course_of(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    scores = [row["validation_accuracy"] for row in rows]
    best = max(range(len(rows)), key=lambda i: scores[i])
    return (
        f"{name}: from {scores[0]:.1%} after the first epoch to {scores[-1]:.1%} after {len(rows)}, "
        f"best {scores[best]:.1%} in epoch {int(rows[best]['epoch'])}."
    )


def accuracy_against_size(ledger: pd.DataFrame) -> Figure:
    """Test accuracy with its 95 % interval against the bytes of the file, one point for every row of `ledger`.

    Marker and colour say which model, filled points are TensorFlow's files and rings PyTorch's.
    Raises EdgelabError where there are no rows.
    """
    import matplotlib as mpl

    if ledger.empty:
        raise EdgelabError("no measurements to draw: run a chapter that measures something first")
    frame = ledger.sort_values(["model", "bytes"])
    rows: list[Any] = frame.to_dict("records")
    models = list(dict.fromkeys(frame["model"]))
    with mpl.rc_context(STYLE):
        canvas, (ax,) = _canvas(1)
        for row in rows:
            _point(ax, row, models.index(row["model"]))
        ax.set(xlabel="size of the model file, kB (logarithmic)", ylabel="test accuracy, %", xscale="log")
        _plain_numbers(ax)
        _legend(ax, models, sorted(set(frame["framework"])))
        svg = _svg(canvas)
    numbers = frame[["model", "technique", "framework", "data", "seed", "bytes"]].assign(
        **{name.replace("_", " ") + ", %": 100 * frame[name] for name in ("accuracy", "accuracy_low", "accuracy_high")}
    )
    best, smallest = max(rows, key=itemgetter("accuracy")), min(rows, key=itemgetter("bytes"))
    alt = (
        f"Accuracy against file size for {len(frame)} model files. Most accurate: {_told(best)}. "
        f"Smallest: {_told(smallest)}."
    )
    data = " and ".join(sorted(set(frame["data"])))
    caption = f"Test accuracy on {data} against the size of the model file; bars are 95 % intervals."
    return Figure(svg, alt, caption, table(numbers, "Accuracy and size of every file"))


def _point(ax: Axes, row: Mapping[str, Any], index: int) -> None:
    accuracy = 100 * row["accuracy"]
    interval = [[accuracy - 100 * row["accuracy_low"]], [100 * row["accuracy_high"] - accuracy]]
    style = _style(index) | _framework_style(row["framework"], COLOURS[index % len(COLOURS)])
    ax.errorbar(row["bytes"] / 1000, accuracy, interval, capsize=4, linestyle="", **style)


def _framework_style(framework: str, colour: str) -> dict[str, Any]:
    """A small filled point or a larger ring: the same network in both frameworks shows as a point within a ring."""
    filled = framework == "tensorflow"
    return {"mfc": colour if filled else "none", "ms": 6 if filled else 11, "mew": 1.6, "zorder": 3 if filled else 2}


def _plain_numbers(ax: Axes) -> None:
    """Tick labels such as 50, 100, 200 in place of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.12)


def _legend(ax: Axes, models: Sequence[str], frameworks: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], linestyle="", label=model, **_style(i)) for i, model in enumerate(models)]  # type: ignore[arg-type]
    for framework in frameworks:
        label = {"tensorflow": "filled: TensorFlow", "pytorch": "ring: PyTorch"}.get(framework, framework)
        style = _framework_style(framework, "#555555")
        entries.append(Line2D([], [], linestyle="", marker="o", color="#555555", label=label, **style))
    ax.legend(handles=entries, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"{row['model']} ({row['technique']}, {row['framework']}) with {row['accuracy']:.1%} at {row['bytes']:,} bytes"
    )


def results(records: Sequence[Record], caption: str) -> Table:
    """The table under every "Measure" section: one row a file; the technique is shown where there are several.

    Raises EdgelabError where there are no records.
    """
    import pandas as pd

    if not records:
        raise EdgelabError("no records to show: measure a file first")
    rows = [
        {
            "model": record.model,
            "technique": record.technique,
            "runtime": {"ai-edge-litert": "LiteRT", "onnxruntime": "ONNX Runtime"}[record.runtime.split(" ")[0]],
            "accuracy, %": _interval(record),
            "bytes": record.bytes,
            "gzip": record.gzip_bytes,
            "MACs": record.macs,
            "energy": None if record.relative_energy is None else round(record.relative_energy, 2),
        }
        for record in records
    ]
    frame = pd.DataFrame(rows)
    if frame["technique"].nunique() == 1:
        frame = frame.drop(columns="technique")
    return table(frame, f"{caption}. Accuracy with 95 % interval; energy: million MACs times bytes per operand.")


def _interval(record: Record) -> str:
    low, high = 100 * record.accuracy_low, 100 * record.accuracy_high
    return f"{100 * record.accuracy:.2f} ({low:.2f} to {high:.2f})"


def images(pixels: np.ndarray, labels: Sequence[str], caption: str) -> Figure:
    """A row or two of `pixels` (n, height, width, 3) uint8 under their `labels`."""
    import matplotlib as mpl
    import pandas as pd
    from matplotlib.figure import Figure as Canvas

    columns = min(len(labels), 5)
    rows = -(-len(labels) // columns)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(1.3 * columns, 1.5 * rows), layout="constrained", facecolor="white")
        axes = canvas.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes:
            ax.axis("off")
        for ax, image, label in zip(axes, pixels, labels, strict=False):
            ax.imshow(image, interpolation="nearest")
            ax.set_title(label, fontsize=10)
        svg = _svg(canvas)
    numbers = pd.DataFrame({"class": list(labels), "mean pixel": [round(float(image.mean()), 1) for image in pixels]})
    return Figure(svg, f"{caption}: {', '.join(labels)}.", caption, table(numbers, "The images' classes"))


HATCHES = ("", "//", "..", "xx", "\\\\")
LEVELS = ("compute", "buffer", "on chip", "off chip", "static")
LONGEST_LABEL = 24
CHECKED = ("macs", "cost ratios", "cost ratios, network unseen")


def energy_by_layer(energy: EnergyTable) -> Figure:
    """Estimated energy of every layer (uJ an inference), stacked by the level of the machine it is spent at."""
    import matplotlib as mpl

    parts = energy.to_frame()
    layers = list(dict.fromkeys(parts["layer"]))
    micro = parts.assign(uj=parts["picojoules"] / 1e6).groupby(["layer", "level"], sort=False)["uj"].sum()
    frame = micro.unstack(fill_value=0).loc[layers]
    frame = frame[[level for level in LEVELS if level in frame.columns]]
    with mpl.rc_context(STYLE):
        canvas, (ax,) = _canvas(1)
        canvas.set_figheight(max(2.4, 0.9 + 0.3 * len(frame)))
        left = 0 * frame.iloc[:, 0]
        for index, level in enumerate(frame.columns):
            style: dict[str, Any] = {
                "color": COLOURS[index],
                "hatch": HATCHES[index],
                "edgecolor": "white",
                "label": level,
            }
            ax.barh(range(len(frame)), frame[level], left=left, **style)
            left = left + frame[level]
        short = [name if len(name) <= LONGEST_LABEL else f"...{name[3 - LONGEST_LABEL :]}" for name in layers]
        ax.set(xlabel="estimated energy, uJ an inference", yticks=range(len(frame)), yticklabels=short)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        svg = _svg(canvas)
    totals, levels = frame.sum(axis=1), frame.sum()
    alt = (
        f"Estimated energy of {len(frame)} layers, {energy.total_uj:.4g} uJ in all. Most in {totals.idxmax()}, "
        f"{totals.max() / totals.sum():.0%}; by level most in {levels.idxmax()}, {levels.max() / levels.sum():.0%}."
    )
    numbers = frame.assign(total=totals).add_suffix(", uJ").rename_axis(columns=None).reset_index()
    caption = f"Estimated energy by layer and by where it is spent. {energy.note}"
    return Figure(svg, alt, caption, table(numbers, "Estimated energy by layer and level"))


def board_check(check: pd.DataFrame) -> Figure:
    """Errors of the energy models on measured boards, from `edgelab.boards.check_against_boards`, complete systems.

    One point a system, one band a network, one lane a model; the table has the medians of every model.
    """
    import matplotlib as mpl

    from edgelab.boards import summarise

    known = check[check["complete"]]
    networks = sorted(set(known["network"]))
    with mpl.rc_context(STYLE):
        canvas, (ax,) = _canvas(1)
        for index, model in enumerate(CHECKED):
            rows = known[known["model"] == model]
            lanes = [networks.index(name) + 0.25 * (index - 1) for name in rows["network"]]
            ax.plot(100 * rows["error"], lanes, linestyle="", mfc="none", label=model, **_style(index))  # type: ignore[arg-type]
        ax.axvline(0, color="#555555", linewidth=1)
        ax.set(xlabel="predicted against measured, % too much", yticks=range(len(networks)), yticklabels=networks)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=len(CHECKED), frameon=False, fontsize=9)
        svg = _svg(canvas)
    medians = 100 * summarise(check)
    told = "; ".join(f"{model} {error:.0f} %" for model, error in medians.loc[list(CHECKED), "all"].items())
    count = len(known[["round", "organisation", "system"]].drop_duplicates())
    alt = f"Errors of predictions for four networks on {count} systems. Median absolute error: {told}."
    caption = f"Each of {count} measured systems, each network predicted from the system's others."
    numbers = medians.add_suffix(", %").reset_index()
    return Figure(svg, alt, caption, table(numbers, "Median absolute error of every model by network, and the worst"))
