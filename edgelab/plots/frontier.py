"""The Pareto front: accuracy against everything it is paid for with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, NamedTuple

from edgelab.errors import EdgelabError
from edgelab.pareto import dominated, front
from edgelab.plots._base import STYLE, WIDTH, Figure, legend_below, plain_numbers, style_of, table, to_svg
from edgelab.plots.tradeoffs import framework_style, interval, legend_entries

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D


class Cost(NamedTuple):
    """A column of the ledger that accuracy is paid for with: what it is called, and in which unit it is drawn."""

    name: str
    unit: str
    divisor: float


COSTS = {
    "bytes": Cost("file size", "kB", 1e3),
    "gzip_bytes": Cost("file size after gzip", "kB", 1e3),
    "macs": Cost("MACs", "million", 1e6),
    "ram_bytes": Cost("RAM", "kB", 1e3),
    "energy_uj": Cost("estimated energy", "uJ", 1),
    "latency_ms": Cost("latency", "ms", 1),
}
USUAL = tuple(column for column in COSTS if column != "gzip_bytes")
GREY = "#858585"
PALE = "#cccccc"
LINE = "#333333"
POINTS = 72  # an inch
LOGARITHMIC = 4  # largest over smallest cost from which the axis is logarithmic
TICKS = {8: (1, 2, 5), 30: (1, 3), math.inf: (1,)}  # up to which largest over smallest cost such ticks do not touch
LABEL_AT = (-5, 4)  # points from the file that a label belongs to
LABEL_ROOM = (24, 12)  # points that a label needs, across and down
MARGINS = (0.26, 0.07)  # shares of the axis left of the cheapest file, for its label, and right of the dearest


@dataclass(frozen=True)
class Panel:
    """One cost: the rows it was measured for, which of them are on the front, and by which the others are dominated.

    Latency belongs to the runtime and processor `on` which it was measured; of several each has a panel and a `letter`.
    """

    column: str
    rows: tuple[int, ...]
    front: tuple[int, ...]
    beaten: Mapping[int, int]
    on: str = ""
    letter: str = ""

    @property
    def name(self) -> str:
        """What is paid with, such as file size or latency A."""
        return f"{COSTS[self.column].name} {self.letter}".rstrip()

    def spent(self, row: Mapping[str, Any]) -> float:
        """What `row` costs, in the unit that is drawn."""
        return float(row[self.column] / COSTS[self.column].divisor)


def pareto(ledger: pd.DataFrame, *costs: str) -> Figure:
    """Accuracy with its 95 % interval against each of `costs`, with the files that no other dominates joined by a line.

    `costs` are columns of the ledger: "bytes", "macs", "ram_bytes", "energy_uj" and "latency_ms", which are all drawn
    where none is named, and "gzip_bytes". What was not measured is left out and said so; latency has a panel for each
    `latency_on`. Dominated files are grey and crossed out, the others numbered as in the table; `edgelab.pareto` says
    what dominates.
    Raises EdgelabError without rows or costs to draw, for an unknown cost, and for accuracies on different data.
    """
    import matplotlib as mpl

    rows: list[Any] = ledger.to_dict("records")
    chosen = costs or USUAL
    _check(rows, chosen)
    panels = [panel for column in chosen for panel in _panels(rows, column)]
    if not panels:
        raise EdgelabError(f"no measurements of {', '.join(chosen)} to draw: measure them first")
    models = list(dict.fromkeys(row["model"] for row in rows))
    with mpl.rc_context(STYLE):
        canvas, axes, spare = _grid(len(panels))
        for ax, panel in zip(axes, panels, strict=True):
            _draw(ax, panel, rows, models)
        _key(canvas, spare, legend_entries(models, sorted({row["framework"] for row in rows})))
        canvas.draw_without_rendering()  # settles the layout, on which it depends which labels are near each other
        for ax, panel in zip(axes, panels, strict=True):
            _number(ax, panel, rows)
        svg = to_svg(canvas)
    found = " ".join(_finding(panel, rows) for panel in panels)
    numbers = table(_numbers(rows, panels), "Accuracy and cost of every file")
    return Figure(svg, f"Accuracy of {len(rows)} model files. {found}", _caption(rows, panels, chosen), numbers)


def _check(rows: Sequence[Mapping[str, Any]], costs: Sequence[str]) -> None:
    if not rows:
        raise EdgelabError("no measurements to draw: run a chapter that measures something first")
    if unknown := [cost for cost in costs if cost not in COSTS]:
        raise EdgelabError(f"unknown cost {unknown[0]!r}: choose among {', '.join(COSTS)}")
    versions = {(str(row["data"]), row["data_fingerprint"]) for row in rows}
    if len(versions) > 1:
        names = ", ".join(sorted(name for name, _ in versions))
        raise EdgelabError(f"expected accuracies on the same images, got {len(versions)} data sets ({names}): take one")


def _panels(rows: Sequence[Mapping[str, Any]], column: str) -> list[Panel]:
    """One panel, or one for every machine and runtime where the cost is time; none where nothing was measured."""
    import pandas as pd

    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if not pd.isna(row[column]):
            groups.setdefault(str(row["latency_on"]) if column == "latency_ms" else "", []).append(index)
    panels = []
    for (on, members), letter in zip(groups.items(), ascii_uppercase, strict=False):
        own = [rows[index] for index in members]
        best = tuple(members[index] for index in front(own, column))
        beaten = {members[loser]: members[winner] for loser, winner in dominated(own, column).items()}
        panels.append(Panel(column, tuple(members), best, beaten, on, letter if len(groups) > 1 else ""))
    return panels


def _grid(count: int) -> tuple[Canvas, list[Axes], Axes | None]:
    """A canvas with `count` panels, in two columns where there are several, and the cell that is left over."""
    from matplotlib.figure import Figure as Canvas

    columns = min(count, 2)
    lines = -(-count // columns)
    size = (WIDTH, 4.6) if count == 1 else (WIDTH, 2.7 * lines + (0 if count % 2 else 0.8))
    canvas = Canvas(figsize=size, layout="constrained", facecolor="white")
    cells = list(canvas.subplots(lines, columns, squeeze=False, sharey=True).ravel())
    for ax in cells[:count:columns]:
        ax.set_ylabel("test accuracy, %")
    return canvas, cells[:count], cells[count] if count < len(cells) else None


def _draw(ax: Axes, panel: Panel, rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> None:
    spent = {index: panel.spent(rows[index]) for index in panel.rows}
    for index, cost in spent.items():
        _point(ax, cost, rows[index], models.index(rows[index]["model"]), index in panel.beaten)
    edge = [(spent[index], 100 * rows[index]["accuracy"]) for index in panel.front]
    edge.append((max(spent.values()), edge[-1][1]))
    ax.plot(*zip(*edge, strict=True), drawstyle="steps-post", color=LINE, linewidth=1.3, zorder=1.8)
    _scale(ax, min(spent.values()), max(spent.values()), f"{panel.name}, {COSTS[panel.column].unit}")


def _scale(ax: Axes, low: float, high: float, label: str) -> None:
    """The axis of costs, with room for labels left of the lowest; logarithmic where costs differ much."""
    from matplotlib.ticker import MaxNLocator

    logarithmic = low > 0 and high / low >= LOGARITHMIC
    if logarithmic:
        ax.set_xscale("log")
        plain_numbers(ax.xaxis, next(steps for most, steps in TICKS.items() if high / low < most))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.margins(0.12)
    ends = ax.xaxis.get_transform().transform([low, high])
    span = (ends[1] - ends[0]) or abs(ends[0]) or 1
    shown = [ends[0] - MARGINS[0] * span, ends[1] + MARGINS[1] * span]
    ax.set_xlim(*ax.xaxis.get_transform().inverted().transform(shown))
    ax.set_xlabel(f"{label} (log)" if logarithmic else label)


def _point(ax: Axes, cost: float, row: Mapping[str, Any], model: int, beaten: bool) -> None:
    """A file with its interval; a dominated one is grey and crossed out, beneath those that are not."""
    accuracy = 100 * row["accuracy"]
    bars = [[accuracy - 100 * row["accuracy_low"]], [100 * row["accuracy_high"] - accuracy]]
    look: dict[str, Any] = style_of(model) | ({"color": GREY} if beaten else {})
    marker = framework_style(row["framework"], look["color"])
    if beaten:
        marker["zorder"] -= 1.5
        ax.plot(cost, accuracy, marker="x", color=GREY, ms=marker["ms"] + 5, mew=0.8, zorder=0.4)
    ax.errorbar(
        cost,
        accuracy,
        bars,
        linestyle="",
        capsize=3,
        elinewidth=1.2 if beaten else None,
        ecolor=PALE if beaten else None,
        **look,
        **marker,
    )


def _number(ax: Axes, panel: Panel, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the numbers of the front's files above and left of them, where no point can be; near ones share a label."""
    from matplotlib.patheffects import withStroke

    labels: list[tuple[list[str], tuple[float, float], Any]] = []
    for index in panel.front:
        point = panel.spent(rows[index]), 100 * rows[index]["accuracy"]
        place = ax.transData.transform(point) * POINTS / ax.figure.dpi
        if labels and (abs(place - labels[-1][2]) < LABEL_ROOM).all():
            labels[-1][0].append(str(index + 1))
        else:
            labels.append(([str(index + 1)], point, place))
    look: dict[str, Any] = {"ha": "right", "fontsize": 10, "fontweight": "bold", "zorder": 5, "in_layout": False}
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for names, point, _ in labels:
        text = ", ".join(sorted(names, key=int))
        label = ax.annotate(text, point, LABEL_AT, textcoords="offset points", path_effects=halo, **look)
        beyond = (ax.bbox.x0 - label.get_window_extent().x0) * POINTS / ax.figure.dpi
        label.xyann = (LABEL_AT[0] + max(0, beyond), LABEL_AT[1])


def _key(canvas: Canvas, spare: Axes | None, entries: list[Line2D]) -> None:
    """The legend, in the `spare` cell where there is one, else below."""
    from matplotlib.lines import Line2D

    entries += [
        Line2D([], [], color=LINE, linewidth=1.3, label="front, with numbers"),
        Line2D([], [], linestyle="", marker="x", color=GREY, markersize=9, label="grey, crossed: dominated"),
    ]
    if spare is None:
        legend_below(canvas, entries, fontsize=10)
    else:
        spare.axis("off")
        spare.legend(handles=entries, loc="center", frameon=False, fontsize=10)


def _named(index: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """Such as "3 ds_cnn, ptq_int8, PyTorch"; the technique only where there are several."""
    row = rows[index]
    several = len({row["technique"] for row in rows}) > 1
    framework = {"tensorflow": "TensorFlow", "pytorch": "PyTorch"}[row["framework"]]
    return ", ".join([f"{index + 1} {row['model']}", *([row["technique"]] if several else []), framework])


def _finding(panel: Panel, rows: Sequence[Mapping[str, Any]]) -> str:
    """Who is on the front of `panel`, in one sentence."""
    unit = COSTS[panel.column].unit
    told = [
        f"{_named(index, rows)} ({rows[index]['accuracy']:.1%} at {panel.spent(rows[index]):,.4g} {unit})"
        for index in (panel.front if len(panel.front) < 3 else (panel.front[0], panel.front[-1]))
    ]
    ends = f"from {told[0]} to {told[1]}" if len(panel.front) > 2 else " and ".join(told)
    return f"By {panel.name}, {len(panel.front)} of {len(panel.rows)} on the front: {ends}."


def _caption(rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel], costs: Sequence[str]) -> str:
    on_front = sorted({index for panel in panels for index in panel.front})
    said = [
        f"Test accuracy on {rows[0]['data']} with its 95 % interval against what it costs. The line is the Pareto "
        "front; a crossed-out file is dominated: another is as accurate, costs no more, and is better in one of both. "
        "Where intervals overlap, which of two files is more accurate may be chance.",
        f"On a front: {'; '.join(_named(index, rows) for index in on_front)}.",
    ]
    said += [f"{panel.name[0].upper()}{panel.name[1:]}: {panel.on}." for panel in panels if panel.on]
    drawn = Counter(panel.column for panel in panels for _ in panel.rows)
    if partly := [f"{COSTS[column].name} ({n} of {len(rows)})" for column, n in drawn.items() if n < len(rows)]:
        said.append(f"Measured for some files only: {', '.join(partly)}.")
    if missing := [COSTS[cost].name for cost in costs if cost not in drawn]:
        said.append(f"Not measured: {', '.join(missing)}.")
    return " ".join(said)


def _numbers(rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel]) -> pd.DataFrame:
    """One row a file: what it is, its accuracy, its costs, and the number of one that dominates it at which costs."""
    import pandas as pd

    named = {name: [row[name] for row in rows] for name in ("model", "technique", "framework", "seed")}
    told = {name: values for name, values in named.items() if name == "model" or len(set(values)) > 1}
    frame = pd.DataFrame({"no.": range(1, len(rows) + 1), **told, "accuracy, %": [interval(row) for row in rows]})
    for panel in panels:
        values = [panel.spent(row) if index in panel.rows else None for index, row in enumerate(rows)]
        frame[f"{panel.name}, {COSTS[panel.column].unit}"] = pd.array(values, dtype="Float64")
    return frame.assign(**{"dominated by": [_dominators(index, panels) for index in range(len(rows))]})


def _dominators(index: int, panels: Sequence[Panel]) -> str:
    """Such as "5 (file size, RAM), 2 (latency)"; empty for a file on every front."""
    found: dict[int, list[str]] = {}
    for panel in panels:
        if index in panel.beaten:
            found.setdefault(panel.beaten[index] + 1, []).append(panel.name)
    return ", ".join(f"{winner} ({', '.join(names)})" for winner, names in found.items())
