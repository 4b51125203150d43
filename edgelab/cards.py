"""What a model file takes and gives, as a plain dict: `describe`, for all who feed it pictures from somewhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgelab import artifact, labels
from edgelab.artifact import RULES, Ending, Pixels, Port, first_line
from edgelab.errors import EdgelabError

CLOSE = 0.02


def describe(path: Path | str) -> dict[str, Any]:
    """What the model file at `path` takes and gives, as a plain dict that JSON can hold.

    - `labels`: the names of the classes or None; `classes`: their number or None.
    - `height`, `width`, `channels`: of an image, None where any will do; `layout`: NHWC or NCHW; `order`: RGB or BGR.
    - `mean`, `deviation` (one value, or one a channel): a float input takes (pixel - mean) / deviation, a quantized one
      that divided by `scale`, rounded, plus `zero_point`. `pixels`: that rule's name (`artifact.PIXELS`). All three are
      None where the file does not say; `told_by`: its "input" (type, scale, zero point), its "metadata" or None.
    - `input`, `output`: `dtype`, `scale` and `zero_point` (scale 0: not quantized).
    - `ending`: softmax, log_softmax or sigmoid if the outputs have gone through it last, else None: they are logits.

    Raises EdgelabError where the file cannot be run, takes no images, or does not give one value a class.
    """
    path = Path(path)
    file = artifact.load(path)
    source, result = file.ports()
    shape = file.image_shape()
    if shape.channels not in (1, 3, None):
        raise EdgelabError(f"{path} takes images of {shape.channels} channels: expected 1 (grey) or 3 (RGB)")
    told = metadata(path)
    rule = pixel_rule(path, source, told)
    ports = {
        name: {"dtype": str(port.dtype), "scale": port.scale, "zero_point": port.zero_point}
        for name, port in (("input", source), ("output", result))
    }
    return {
        "labels": names if (names := labels.read(path)) is None else list(names),
        "classes": _classes(path, result),
        **{name: getattr(shape, name) for name in ("height", "width", "channels")},
        "layout": "NHWC" if shape.channels_last else "NCHW",
        "order": "BGR" if told.is_bgr else "RGB",
        **rule._asdict(),
        **ports,
        "ending": told.ending,
    }


class PixelRule(NamedTuple):
    """What a file says its pixels are to be, see `describe`."""

    pixels: Pixels | None
    mean: float | Sequence[float] | None
    deviation: float | Sequence[float] | None
    told_by: str | None


def pixel_rule(path: Path, source: Port, told: artifact.Told) -> PixelRule:
    """The rule for pixels that the file at `path` states, by its input `source` and its `metadata`.

    Raises EdgelabError where the metadata make no sense.
    """
    if source.dtype.kind != "f":
        pixels: Pixels = source.pixels if source.scale else "raw"
        return PixelRule(pixels, *RULES[pixels], "input")
    if told.normalised is None:
        return PixelRule(None, None, None, None)
    try:
        mean, deviation = (np.array(values, np.float64) for values in told.normalised)
        ends = np.array([[0.0], [255.0]])
        for pixels, (centre, width) in RULES.items():
            if (np.abs((ends - mean) / deviation - (ends - centre) / width) <= CLOSE * 255 / width).all():
                return PixelRule(pixels, centre, width, "metadata")
    except Exception as error:
        raise _unreadable(path, error) from error
    return PixelRule(None, *told.normalised, "metadata")


def not_offered(path: Path | str, rule: PixelRule) -> EdgelabError:
    """For a file that asks for pixels in a way which is none of `artifact.PIXELS`."""
    values = (np.ravel(np.array(part, np.float64)) for part in (rule.mean, rule.deviation))
    mean, deviation = (", ".join(f"{value:g}" for value in part) for part in values)
    return EdgelabError(
        f"{path} asks for pixels less {mean}, divided by {deviation}, which is not offered: "
        f"build that into the network, or choose --pixels {', '.join(artifact.PIXELS)}"
    )


def metadata(path: Path) -> artifact.Told:
    """What `artifact.told` reads from the file at `path`. Raises EdgelabError where it cannot be read."""
    try:
        return artifact.told(path)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> EdgelabError:
    return EdgelabError(f"{path}: its metadata cannot be read ({first_line(error)}): make it anew")


def _classes(path: Path, result: Port) -> int | None:
    """The number of classes, from the sizes of the output behind the batch, of which only one may be above 1."""
    sizes = [size for size in result.shape[1:] if size != 1]
    if len(sizes) > 1 or not result.shape[1:] or sizes == []:
        got = "x".join("any" if size is None else str(size) for size in result.shape[1:]) or "nothing"
        raise EdgelabError(f"{path} gives {got} for an image: expected one value for each of two classes or more")
    return sizes[0]


def probabilities(outputs: np.ndarray, ending: Ending | None) -> np.ndarray:
    """Probabilities (n, classes) from `outputs` float32 (n, classes): by softmax, unless the network ends in such."""
    if ending in ("softmax", "sigmoid"):
        return np.clip(outputs, 0, 1)
    if ending == "log_softmax":
        return np.exp(np.minimum(outputs, 0))
    powers = np.exp(outputs - outputs.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
