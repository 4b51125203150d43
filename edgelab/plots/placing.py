"""Where buffers lie in one block of memory, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgelab.errors import EdgelabError
from edgelab.plots._base import COLOURS, HATCHES, STYLE, Figure, new_canvas, table, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgelab.memory import Buffer

KIB = 1024


def memory_map(placed: Sequence[tuple[int, Buffer]], caption: str) -> Figure:
    """Buffers as boxes: from their first to their last operator, at their offset (bytes) in the block.

    `placed` are offsets with their buffers; `caption` says which network and which planner.
    Raises EdgelabError where there is none.
    """
    import matplotlib as mpl
    import pandas as pd

    if not placed:
        raise EdgelabError("no buffers to draw: expected at least one")
    last = max(buffer.last for _, buffer in placed)
    top = max(offset + buffer.bytes for offset, buffer in placed)
    most = max(sum(b.bytes for _, b in placed if b.first <= step <= b.last) for step in range(last + 1))
    with mpl.rc_context(STYLE):
        canvas, (axes,) = new_canvas(1)
        _draw(axes, placed)
        axes.axhline(most / KIB, color="black", linestyle="--")
        axes.set(xlim=(-0.7, last + 0.7), ylim=(0, 1.08 * top / KIB), xlabel="operator", ylabel="offset, KiB")
        svg = to_svg(canvas)
    alt = f"{caption} {len(placed)} buffers end at {top:,} bytes; the most that is in use at once, dashed, is {most:,}."
    rows = [(b.name, b.first, b.last, offset, b.bytes) for offset, b in placed]
    frame = pd.DataFrame(rows, columns=["buffer", "first operator", "last operator", "offset", "bytes"])
    return Figure(svg, alt, caption, table(frame, caption))


def _draw(axes: Axes, placed: Sequence[tuple[int, Buffer]]) -> None:
    from matplotlib.patches import Rectangle

    for i, (offset, buffer) in enumerate(placed):
        corner, width = (buffer.first - 0.5, offset / KIB), buffer.last - buffer.first + 1
        box = Rectangle(corner, width, buffer.bytes / KIB, alpha=0.55, edgecolor="black")
        box.set(facecolor=COLOURS[i % len(COLOURS)], hatch=HATCHES[i % len(HATCHES)])
        axes.add_patch(box)
