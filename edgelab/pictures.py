"""One picture of any kind as a network takes it: upright, on white where it is transparent, in RGB or grey, resized."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgelab._images import IMAGES, MAX_IMAGE, on_white, one_line, resized
from edgelab.errors import EdgelabError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF")  # what is read by no other program
SUFFIXES = (*IMAGES, ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LARGEST = 1024


def read(
    path: Path | str, height: int | None, width: int | None, channels: int = 3
) -> tuple[np.ndarray, tuple[int, int]]:
    """The picture in the file at `path` as uint8 (height, width, channels), and its own height and width, upright.

    It is turned as its EXIF data say; of several frames the first counts; 16-bit grey loses its lower 8 bits. Another
    shape is squeezed, not cropped. Where a size is None the picture keeps its own, or is reduced to at most `LARGEST`
    pixels a side. One channel is grey by ITU-R BT.601, as `edgelab measure` has it.
    Raises EdgelabError, one line, where there is none or it cannot be read.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise EdgelabError(f"there is no image at {path}: check the path")
    if path.stat().st_size > MAX_IMAGE:
        raise EdgelabError(f"expected an image file of at most {MAX_IMAGE // 2**20} MiB, {path} is larger")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as many pixels are an error
            with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
                upright = _in_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise EdgelabError(f"cannot read the image {path} (none of {kinds}): mend or remove it") from None
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        raise EdgelabError(f"cannot read the image {path} ({one_line(error)[:160]}): mend or remove it") from error
    size = (upright.height, upright.width)
    least = min(1.0, LARGEST / max(size))
    own = (max(1, round(size[0] * least)), max(1, round(size[1] * least)))
    pixels = np.asarray(resized(upright, (height or own[0], width or own[1])))
    return (_grey(pixels) if channels == 1 else pixels), size


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    return on_white(image)


def _eight_bits(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bits a pixel, save it with 8")
    return (values >> (8 if image.mode != "I" or values.max() > 255 else 0)).astype(np.uint8)


def _grey(pixels: np.ndarray) -> np.ndarray:
    from edgelab._fitting import in_grey

    return in_grey(pixels)
