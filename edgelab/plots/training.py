"""How a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgelab.errors import EdgelabError
from edgelab.plots._base import LINES, STYLE, Figure, legend_below, new_canvas, style_of, table, to_svg

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


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
        canvas, axes = new_canvas(2)
        for index, (name, rows) in enumerate(histories.items()):
            _curve(axes[0], name, rows, "validation_accuracy", 100, index)
            _curve(axes[1], name, rows, "loss", 1, index)
        for ax, label in zip(axes, ("validation accuracy, %", "training loss"), strict=True):
            ax.set(xlabel="epoch", ylabel=label)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(canvas, axes[0].get_legend_handles_labels()[0])
        svg = to_svg(canvas)
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
    ax.plot(epochs, values, label=name, linestyle=line, markevery=spacing if len(rows) > 8 else 1, **style_of(index))  # type: ignore[arg-type]


def _course_of(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    scores = [row["validation_accuracy"] for row in rows]
    best = max(range(len(rows)), key=lambda i: scores[i])
    return (
        f"{name}: from {scores[0]:.1%} after the first epoch to {scores[-1]:.1%} after {len(rows)}, "
        f"best {scores[best]:.1%} in epoch {int(rows[best]['epoch'])}."
    )
