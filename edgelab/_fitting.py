"""Images for a model file: which ones, in its size, under its labels, and fed as it expects. Every choice is said."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from edgelab import _cifar, data
from edgelab._images import LUMA
from edgelab.artifact import PIXELS, Artifact, ImageShape, Pixels
from edgelab.cards import metadata, not_offered, pixel_rule
from edgelab.data import Dataset, Split
from edgelab.errors import EdgelabError
from edgelab.labels import Labels
from edgelab.measure import wilson

NAMED = ("digits", "cifar10", "cifar10-jpeg")
NAMED_SIZE, NAMED_CLASSES = (32, 32), 10
RANGES: dict[Pixels, str] = {"centred": "-1..1", "unit": "0..1", "raw": "0..255"}
TRIED = 200
SHOWN = 12  # classes named in a note
BEYOND_CHANCE = 0.1


class Model(NamedTuple):
    """A model file and what images for it must be like; `shape` without None, `labels` None where it carries none."""

    file: Artifact
    shape: ImageShape
    classes: int
    labels: Labels


class Feed(NamedTuple):
    """What a model is fed for pixels, and why."""

    pixels: Pixels
    why: str


@dataclass
class Images:
    """Images that fit a model: `dataset` as it was found, `test` in the model's form and under its labels.

    `training` is a sample of training images in the same form, of measured ones where there are no others. `notes` says
    what was done to the images.
    """

    dataset: Dataset
    test: Split
    training: Split
    notes: list[str] = field(default_factory=list)


def find(name: str, file: Artifact, size: tuple[int | None, int | None]) -> tuple[Dataset, list[str]]:
    """The data set `name` for `file`, and notes: images from a folder or archive are resized to `size` (height, width).

    A folder or archive without train and test folders is taken whole. The built-in sets stay as they are. Raises
    EdgelabError where there is none, or its images differ in size and `size` is open.
    """
    if name in NAMED:
        return data.load(name), []
    height, width = size
    try:
        dataset = data.load_whole(name)
    except EdgelabError:
        if height is None or width is None:
            raise
        dataset = None
    if height is None or width is None or (dataset and dataset.test.images.shape[1:3] == (height, width)):
        assert dataset is not None
        return dataset, []
    if not (8 <= height <= 1024 and 8 <= width <= 1024):
        raise EdgelabError(
            f"{file.path.name} takes images of {height}x{width}: resized they can be to 8 to 1024 a side"
        )
    return data.load_whole(name, image_size=(height, width)), [
        f"images resized to {height}x{width} (squeezed, not cropped), which the file takes"
    ]


def given(model: Model, dataset: Dataset, limit: int | None) -> Images:
    """The test images of `dataset` (a sample of `limit`) as `model` takes them.

    Raises EdgelabError where they have another form or other classes.
    """
    targets = _targets(model, dataset)
    sample = _sample(dataset.train if len(dataset.train) else dataset.test, TRIED)
    test, training = (_fitted(model, split, targets) for split in (_sample(dataset.test, limit), sample))
    model.file.predict(test.images[:1])
    notes = ["images turned to grey, for the file takes one channel"] if model.shape.channels == 1 else []
    if model.labels is None and dataset.name not in NAMED:
        order = ", ".join(dataset.class_names[:SHOWN]) + (", ..." if len(dataset.class_names) > SHOWN else "")
        notes.append(f"the file names no classes: its outputs are taken for the folders in alphabetical order, {order}")
    return Images(dataset, test, training, notes)


def at_hand(model: Model, limit: int | None, pixels: str) -> Images | None:
    """The first data set on this machine whose training images the file clearly gets right more often than by chance.

    Tried are `digits` and CIFAR-10, the latter only where it needs no download, and only for a file that takes images
    of their size and knows as many classes. None where none fits.
    """
    if model.shape[:2] != NAMED_SIZE or model.shape.channels not in (1, 3) or model.classes != NAMED_CLASSES:
        return None
    for name in ("digits", "cifar10") if _cifar.is_here() else ("digits",):
        try:
            images = given(model, data.load(name), limit)
            fed = feed(model, images, pixels)
        except EdgelabError:  # other class names, or pixels that are not offered
            continue
        n = len(images.training)
        correct = int(_right(model, images.training, fed.pixels).sum())
        if wilson(correct, n)[0] > 1 / model.classes + BEYOND_CHANCE:
            name = images.dataset.name
            images.notes.append(f"no data was named: {name} was tried, and {correct} of {n} training images were right")
            return images
    return None


def _sample(split: Split, n: int | None) -> Split:
    if n is None or n >= len(split):
        return split
    chosen = data.stratified_sample(split.labels, n)
    return Split(split.images[chosen], split.labels[chosen])


def _fitted(model: Model, split: Split, targets: np.ndarray) -> Split:
    """`split` with the model's labels, in grey where the model takes one channel."""
    images = split.images
    if model.shape.channels == 1:
        images = in_grey(images)
    return Split(images, targets[split.labels])


def in_grey(images: np.ndarray) -> np.ndarray:
    """uint8 RGB pixels (..., 3) as grey ones (..., 1)."""
    return np.rint(images @ LUMA).astype(np.uint8)[..., None]


def _targets(model: Model, dataset: Dataset) -> np.ndarray:
    """The model's output for every class of `dataset`: by name, or in order where the model has no names."""
    file, names = model.file.path.name, dataset.class_names
    if model.labels is None:
        if len(names) != model.classes:
            raise EdgelabError(
                f"{file} has {model.classes} outputs and no class names, {dataset.name} has {len(names)} classes: "
                "expected as many, or names in the file"
            )
        return np.arange(len(names))
    if len(model.labels) != model.classes:
        raise EdgelabError(f"{file} has {model.classes} outputs but names {len(model.labels)} classes: mend its names")
    places = {plain(label): place for place, label in reversed([*enumerate(model.labels)])}
    if unknown := [name for name in names if plain(name) not in places]:
        known = f"{', '.join(model.labels[:5])}{', ...' if len(model.labels) > 5 else ''}"
        raise EdgelabError(
            f"{file} does not know these classes of {dataset.name}: {', '.join(unknown)} (it has {known})"
        )
    return np.array([places[plain(name)] for name in names])


def plain(name: str) -> str:
    """The name of a class without its case, underscores and extra spaces: as names are compared."""
    return " ".join(name.replace("_", " ").casefold().split())


def feed(model: Model, images: Images, pixels: str) -> Feed:
    """What to feed the model: as a quantized input says itself, else as `pixels` says, else ("auto") as its metadata
    say, else by trying.

    Raises EdgelabError where the metadata cannot be read or ask for what is not offered.
    """
    source, _ = model.file.ports()
    if source.dtype.kind != "f":
        by = f"has scale {source.scale:.6g} and zero point {source.zero_point}" if source.scale else "has no scale"
        chosen = source.pixels if source.scale else "raw"
        return Feed(chosen, f"{RANGES[chosen]} ({chosen}), for the {source.dtype} input {by}")
    if pixels in PIXELS:
        chosen = next(known for known in PIXELS if known == pixels)
        return Feed(chosen, f"{RANGES[chosen]} ({chosen}), as asked")
    rule = pixel_rule(model.file.path, source, metadata(model.file.path))
    if rule.pixels:
        return Feed(rule.pixels, f"{RANGES[rule.pixels]} ({rule.pixels}), as the file's metadata say")
    if rule.told_by:
        raise not_offered(model.file.path, rule)
    return _tried(model, images)


def _tried(model: Model, images: Images) -> Feed:
    """What the answers on the training sample speak for.

    The first of centred, unit and raw stands unless another is right so much more often on the same images that chance
    hardly explains it, by more than two standard errors of the difference, the square root of the number of images on
    which they differ. Images of less than half of the classes are no trial: a wrong range may please those few.
    """
    seen = len(np.unique(images.training.labels))
    if 2 * seen < model.classes:
        why = f"the course's own: images of {seen} of {model.classes} classes are too few to find out, give --pixels"
        return Feed("centred", f"{RANGES['centred']} (centred), {why}")
    right = {known: _right(model, images.training, known) for known in PIXELS}
    chosen: Pixels = "centred"
    for known, answers in right.items():
        gain = int(answers.sum()) - int(right[chosen].sum())
        if gain > 2 * np.sqrt((answers != right[chosen]).sum()):
            chosen = known
    counts = ", ".join(f"{answers.sum()} fed {RANGES[known]}" for known, answers in right.items())
    origin = "training images" if len(images.dataset.train) else "of the measured images (there are no others)"
    best = right[chosen].sum() == max(answers.sum() for answers in right.values())
    found = "found by trying" if best else "the course's own, since none was clearly better on"
    return Feed(chosen, f"{RANGES[chosen]} ({chosen}), {found} {len(images.training)} {origin}: right were {counts}")


def _right(model: Model, split: Split, pixels: Pixels) -> np.ndarray:
    """Which images of `split` the model gets right when it is fed `pixels`."""
    from tqdm import tqdm

    logits = replace(model.file, pixels=pixels).stream(split.images)
    name = f"trying {model.file.path.name} on {RANGES[pixels]}"
    answers = [row for rows in tqdm(logits, name, len(split), leave=False, delay=1) for row in rows.argmax(1)]
    return np.array(answers) == split.labels
