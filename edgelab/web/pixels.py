"""From a picture of any size to the pixels a network takes, in whole numbers, so that JavaScript gets the same ones.

The twin is `toPixels` in book/_static/web/models.js.
"""

from __future__ import annotations

import numpy as np

from edgelab.errors import EdgelabError

SIDE = 32


def to_pixels(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The largest square in the middle of `picture`, uint8 (height, width, 3), as uint8 (`side`, `side`, 3).

    Each new pixel is the mean of the area it covers, rounded half up; a picture that is smaller is enlarged by the same
    rule. Where what is cut off cannot be halved, one pixel more goes at the bottom or right.
    Raises EdgelabError for another array.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise EdgelabError(f"expected uint8 (height, width, 3), got {picture.dtype} {picture.shape}: convert it to RGB")
    height, width = picture.shape[:2]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    square = picture[top : top + size, left : left + size].astype(np.int64)
    shares = _overlaps(size, side)
    sums = np.einsum("ip,pqc,jq->ijc", shares, square, shares, optimize=True)
    area = size * size
    return ((2 * sums + area) // (2 * area)).astype(np.uint8)


def _overlaps(size: int, side: int) -> np.ndarray:
    """How much of each of `size` pixels lies in each of `side` new ones, in `side`-ths of a pixel, (side, size)."""
    new, old = np.arange(side)[:, None], np.arange(size)[None, :]
    ends = np.minimum((new + 1) * size, (old + 1) * side)
    starts = np.maximum(new * size, old * side)
    return np.maximum(ends - starts, 0)
