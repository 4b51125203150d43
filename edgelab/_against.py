"""A model file beside another of the same network, such as its float32 original: on the same images, and in turns.

`report.gather` calls it in the child process. A file that is no match is refused before anything is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgelab import _fitting, artifact, isolated, labels
from edgelab.artifact import Artifact
from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    from edgelab.latency import Ratio

PRUNED = 0.1  # share of zeros from which a file is no dense one; rounding to int8 makes a few percent


@dataclass
class Against:
    """What the report says of the other `file`, None where it was not measured.

    `difference` is the measured file's accuracy less the other's, -1..1, with its 95 % interval (low, high), and
    `agreement` the share of images given the same class, see `comparison.Comparison`. `latency_ratio` is how many times
    as long the measured file takes, see `latency.compare_latency`.
    """

    file: str
    difference: float | None = None
    difference_ci95: Sequence[float] | None = None
    agreement: float | None = None
    p_value: float | None = None
    latency_ratio: float | None = None
    latency_ratio_ci95: Sequence[float] | None = None


class Told(NamedTuple):
    """Fields of `Against` with what was measured, and what to say of it."""

    fields: dict[str, Any]
    words: dict[str, str]


def load(path: str, model: _fitting.Model, image: np.ndarray) -> _fitting.Model:
    """The file at `path`, run once on `image` under limits, as another of the network that `model` is.

    Raises EdgelabError where it cannot be run, takes other images, has other outputs, or names other classes.
    """
    isolated.about(path)
    isolated.limit(True)
    file, here = artifact.load(path, model.file.threads), model.file.path.name
    wanted, given = file.image_shape(), model.shape
    sizes = [want or size for want, size in zip(wanted[:3], given[:3], strict=True)]
    if sizes != [*given[:3]]:
        raise _no_match(path, f"takes images of {_text(sizes)}, here they are {_text(given[:3])}")
    classes = file.predict(image).shape[1]
    if classes != model.classes:
        raise _no_match(path, f"has {classes} outputs, {here} has {model.classes}")
    names = labels.read(file.path)
    if names and model.labels and [*map(_fitting.plain, names)] != [*map(_fitting.plain, model.labels)]:
        raise _no_match(path, f"names other classes than {here}")
    isolated.about(model.file.path)
    return _fitting.Model(file, given._replace(channels_last=wanted.channels_last), classes, model.labels)


def _no_match(path: str, why: str) -> EdgelabError:
    return EdgelabError(f"{path} {why}: expected another file of the same network")


def _text(sizes: Sequence[int | None]) -> str:
    return "x".join(map(str, sizes))


def compare_answers(
    file: Artifact, other: _fitting.Model, images: _fitting.Images, predicted: np.ndarray, pixels: str
) -> Told:
    """`predicted`, the classes that `file` gave the test images, against those that `other` gives them.

    What `other` is fed is found as for any file, see `_fitting.feed`.
    """
    from edgelab.comparison import compare
    from edgelab.measure import predictions

    isolated.about(other.file.path)
    fed = _fitting.feed(other, images, pixels)
    reference = predictions(replace(other.file, pixels=fed.pixels), images.test)
    isolated.about(file.path)
    result = compare(reference, predicted, images.test.labels)
    name, other_name = names(file, other.file)
    fields = {
        "difference": result.difference,
        "difference_ci95": (result.low, result.high),
        "agreement": result.agreement,
        "p_value": result.p_value,
    }
    return Told(fields, {"compared": result.sentence(other_name, name), "other_pixels": f"{other_name}: {fed.why}"})


def compare_speed(file: Artifact, other: Artifact, image: np.ndarray, known: Ratio | None) -> Told:
    """The latency of `file` against that of `other`, run in turns on `image` unless their ratio is `known`.

    Raises EdgelabError where their batches differ.
    """
    from edgelab.latency import compare_latency

    ratio = replace(known or compare_latency(file, other, image), names=names(file, other))
    interval = (round(ratio.low, 6), round(ratio.high, 6))
    fields = {"latency_ratio": round(ratio.value, 6), "latency_ratio_ci95": interval}
    return Told(fields, {"speed": ratio.sentence()})


def names(file: Artifact, other: Artifact) -> tuple[str, str]:
    """What to call the two: by their names, or by their whole paths where the names are the same."""
    if file.path.name == other.path.name:
        return str(file.path), str(other.path)
    return file.path.name, other.path.name


def twins(file: Artifact, other: Artifact, image: np.ndarray) -> tuple[Path | None, Path | None]:
    """`other` as the float file for `explain.int8`, and as the dense file for `explain.sparsity`; None where it is not.

    Either has to be of the format of `file`. A dense one has numbers of the same kind and few zeros: otherwise
    the verdict would put down to zeros what the numbers do, or compare zeros with zeros.
    Raises EdgelabError where the layers of a file cannot be counted.
    """
    from edgelab.explain import is_quantized
    from edgelab.layers import layer_table

    if other.format != file.format:
        return None, None
    is_float = not is_quantized(other, image)
    table = layer_table(other.path, other.prepare(image).inputs.shape[1:])
    is_dense = is_quantized(file, image) != is_float and table.nonzero > (1 - PRUNED) * table.parameters
    return other.path if is_float else None, other.path if is_dense else None
