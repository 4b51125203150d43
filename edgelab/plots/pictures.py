"""The images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgelab.plots._base import STYLE, Figure, table, to_svg

if TYPE_CHECKING:
    import numpy as np


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
        svg = to_svg(canvas)
    numbers = pd.DataFrame({"class": list(labels), "mean pixel": [round(float(image.mean()), 1) for image in pixels]})
    return Figure(svg, f"{caption}: {', '.join(labels)}.", caption, table(numbers, "The images' classes"))
