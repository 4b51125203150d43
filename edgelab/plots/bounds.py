"""What bounds a layer's speed: the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgelab.plots._base import STYLE, WIDTH, Figure, plain_numbers, short_names, table, to_svg
from edgelab.roofline import Point, Roof, points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from edgelab.layers import LayerTable

LOOKS: dict[str, dict[str, Any]] = {
    "memory": {"color": "#D55E00", "marker": "s", "mfc": "white"},
    "compute": {"color": "#0072B2", "marker": "o"},
}
ROOF = "#333333"
WIDE = 30  # largest over smallest value from which ticks are powers of ten only
ROOM = 2.5  # the axis goes on by this factor beyond the outermost point


def roofline(layers: LayerTable, machine: Roof) -> Figure:
    """The layers under the roof of `machine`: MACs a byte against the MACs a second they can reach at most.

    Above, one point a layer on the roof; below, the layers by name in the order they run, each at its intensity. Layers
    that wait for memory are hollow squares, layers that wait for arithmetic filled circles. `edgelab.roofline` says
    which bytes are counted. Raises EdgelabError as `edgelab.roofline.points` does.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    placed = points(layers, machine)
    with mpl.rc_context(STYLE):
        names_height = 0.24 * len(placed)
        canvas = Canvas(figsize=(WIDTH, 3.8 + names_height), layout="constrained", facecolor="white")
        above, below = canvas.subplots(2, 1, sharex=True, height_ratios=(3, names_height + 0.1))
        _draw_roof(above, placed, machine)
        _draw_names(below, placed, machine)
        svg = to_svg(canvas)
    caption = (
        f"Roofline of {machine.name}: at most {_rate(machine.macs_per_second)} MACs and "
        f"{_rate(machine.bytes_per_second)} bytes a second ({machine.source}). Bytes are parameters, input and output, "
        "each moved once. No layer can be above the roof; real ones stay below it. After Williams, Waterman and "
        "Patterson 2009, doi:10.1145/1498765.1498785."
    )
    return Figure(
        svg, _told(placed, machine), caption, table(_numbers(placed, machine), f"Layers under {machine.name}")
    )


def _draw_roof(ax: Axes, placed: Sequence[Point], machine: Roof) -> None:
    """The roof with a point a layer, the ridge point labelled."""
    unit, divisor = _unit(machine.macs_per_second)
    edges = [point.intensity for point in placed] + [machine.ridge]
    low, high = min(edges) / ROOM, max(edges) * ROOM
    peak = machine.macs_per_second / divisor
    ax.plot([low, machine.ridge, high], [low / machine.ridge * peak, peak, peak], color=ROOF, zorder=1)
    for point in placed:
        ax.plot(point.intensity, point.attainable / divisor, linestyle="", zorder=2, **LOOKS[point.bound])
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low / machine.ridge * peak, peak * ROOM))
    ax.set_ylabel(f"attainable MACs/s,\n{unit} (log)")
    for axis, span in ((ax.xaxis, high / low), (ax.yaxis, machine.ridge / low * ROOM)):
        plain_numbers(axis, (1, 2, 5) if span < WIDE else (1,))
    ax.axvline(machine.ridge, color=ROOF, linestyle=":", linewidth=1.2, zorder=0)
    right = machine.ridge * machine.ridge > low * high
    ax.annotate(
        f"ridge point: {machine.ridge:,.3g} MACs a byte",
        (machine.ridge, peak),
        (-6 if right else 6, 8),
        textcoords="offset points",
        ha="right" if right else "left",
    )
    entries = [
        ax.plot([], [], linestyle="", label=f"waits for {'arithmetic' if bound == 'compute' else bound}", **look)[0]
        for bound, look in LOOKS.items()
    ]
    ax.figure.legend(handles=entries, loc="outside upper center", ncols=len(entries), frameon=False)


def _draw_names(ax: Axes, placed: Sequence[Point], machine: Roof) -> None:
    """A row a layer, its point under the one on the roof."""
    for row, point in enumerate(placed):
        ax.plot(point.intensity, row, linestyle="", zorder=2, **LOOKS[point.bound])
    ax.axvline(machine.ridge, color=ROOF, linestyle=":", linewidth=1.2, zorder=0)
    ax.set_yticks(range(len(placed)), short_names([point.layer.name for point in placed]), fontsize=10)
    ax.set_ylim(len(placed) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("arithmetic intensity, MACs a byte (log)")


def _unit(rate: float) -> tuple[str, float]:
    return ("billion", 1e9) if rate >= 1e9 else ("million", 1e6)


def _rate(rate: float) -> str:
    """Such as "240 million"."""
    unit, divisor = _unit(rate)
    return f"{rate / divisor:,.4g} {unit}"


def _told(placed: Sequence[Point], machine: Roof) -> str:
    waiting = [point for point in placed if point.bound == "memory"]
    macs = sum(point.layer.macs for point in waiting) / sum(point.layer.macs for point in placed)
    time = sum(point.seconds for point in waiting) / sum(point.seconds for point in placed)
    lowest, highest = (choose(placed, key=lambda point: point.intensity) for choose in (min, max))
    return (
        f"Roofline of {machine.name}: {len(waiting)} of {len(placed)} layers wait for memory, with {macs:.0%} of the "
        f"MACs and {time:.0%} of the least time. Ridge point at {machine.ridge:,.3g} MACs a byte; the layers go from "
        f"{lowest.intensity:,.3g} ({lowest.layer.name}) to {highest.intensity:,.3g} ({highest.layer.name})."
    )


def _numbers(placed: Sequence[Point], machine: Roof) -> pd.DataFrame:
    import pandas as pd

    unit, divisor = _unit(machine.macs_per_second)
    return pd.DataFrame(
        {
            "layer": [point.layer.name for point in placed],
            "kind": [point.layer.kind for point in placed],
            "MACs": [point.layer.macs for point in placed],
            "bytes": [round(point.bytes) for point in placed],
            "MACs a byte": [point.intensity for point in placed],
            f"{unit} MACs/s": [point.attainable / divisor for point in placed],
            "waits for": ["memory" if point.bound == "memory" else "arithmetic" for point in placed],
            "least time, us": [point.seconds * 1e6 for point in placed],
        }
    )
