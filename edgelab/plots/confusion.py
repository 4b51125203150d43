"""Which classes are taken for which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgelab.plots._base import STYLE, Figure, table, to_svg

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from edgelab.comparison import Confusion

MOST_NUMBERED = 20
INCHES_A_CELL = 0.52


def confusion_matrix(confusion: Confusion) -> Figure:
    """The confusion matrix: a row a true class, shaded by the share of its images, with the counts in the cells.

    Beyond 20 classes the cells are shaded only; the table has every number. Shades go by the square root, so that rare
    confusions are seen beside the diagonal.
    """
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure as Canvas

    matrix, names = confusion.matrix, confusion.class_names
    shares = np.sqrt(matrix / np.maximum(matrix.sum(1, keepdims=True), 1))
    side = 2.2 + INCHES_A_CELL * min(len(names), MOST_NUMBERED)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        canvas = Canvas(figsize=(side, side - 0.4), layout="constrained", facecolor="white")
        ax = canvas.subplots()
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        if len(names) <= MOST_NUMBERED:
            _write_counts(ax, matrix, shares)
        ticks: dict[str, Any] = {"labels": names, "fontsize": 10 if len(names) <= MOST_NUMBERED else 5}
        ax.set_xticks(range(len(names)), rotation=45, ha="right", rotation_mode="anchor", **ticks)
        ax.set_yticks(range(len(names)), **ticks)
        ax.set(xlabel="predicted class", ylabel="true class")
        svg = to_svg(canvas)
    caption = (
        "Confusion matrix: images of each true class by predicted class. Darker is a larger share of the row, by its "
        f"square root{'; empty cells are 0' if len(names) <= MOST_NUMBERED else ''}."
    )
    return Figure(svg, _told(confusion), caption, table(confusion.to_frame(), "Confusion matrix and recall by class"))


def _write_counts(ax: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    """Counts in black or white, whichever stands out more from the shade of its cell."""
    import matplotlib as mpl

    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            if count:
                red, green, blue = (_linear(part) for part in mpl.colormaps["Blues"](shares[row, column])[:3])
                dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179
                ax.text(column, row, str(count), ha="center", va="center", size=9, color="white" if dark else "black")


def _linear(part: float) -> float:
    """A part of an sRGB colour as light (WCAG 2.2, relative luminance): black and white stand out alike at 0.179."""
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _told(confusion: Confusion) -> str:
    matrix = confusion.matrix
    right, images = int(matrix.diagonal().sum()), int(matrix.sum())
    told = f"Confusion matrix of {len(matrix)} classes, {images:,} images, {right:,} of them classified correctly. "
    true, predicted, count = confusion.most_frequent
    if not count:
        return told + "No image was taken for another class."
    of = int(matrix[confusion.class_names.index(true)].sum())
    recalls = zip(confusion.recalls, confusion.class_names, strict=True)
    worst, name = min((recall.value, name) for recall, name in recalls if recall)
    return (
        f"{told}Most frequent confusion: {true} taken for {predicted}, {count:,} of {of:,} images. "
        f"Lowest recall: {name}, {worst:.1%}."
    )
