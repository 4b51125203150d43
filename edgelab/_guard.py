"""The guard: what is wrong with the images and labels of a data set, said in words."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgelab._dataset import Dataset, Split

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_COUNTS = (5_000, 1_000)
SPLITS = ("train", "validation", "test")
BLOCK_EDGE = 1.03


def find_problems(dataset: Dataset) -> list[str]:
    """What looks wrong with `dataset`, one line a finding; empty where nothing does.

    Checked in each split: shape and channel order (uint8, NHWC, 3 channels), value range, images of a single colour,
    labels (integers, one an image, in range), classes without images. Checked across splits: equal size, exact copies
    of test images in train or validation and of validation images in train, recompressed CIFAR-10. Channel order means
    NHWC against NCHW; RGB against BGR cannot be told from pixels and is not checked.

    These are warnings: nothing is raised here. `load` raises EdgelabError where it can tell that a data set is unusable
    (unreadable or differing images, fewer than two classes, a class too small for every split), so it never returns one
    with wrong shapes, types or labels; what remains, single-coloured images, copies and recompression, it writes to
    standard error, one line each, when it decodes a data set for the first time. A data set that `load_whole` has not
    split is checked as one set of images.
    """
    problems = []
    shapes = set()
    is_split = bool(len(dataset.train) or len(dataset.validation))
    for name in SPLITS if is_split else ("test",):
        split = getattr(dataset, name)
        findings = [*_form(split.images), *_labels(split, len(dataset.class_names))]
        problems += [f"{name}: {finding}" for finding in findings]
        shapes.add(split.images.shape[1:])
    if len(shapes) > 1:
        problems.append(f"the splits differ in image shape: {', '.join(map(str, sorted(shapes)))}")
    if len(dataset.class_names) < 2 and is_split:
        problems.append(f"expected two classes or more, found {len(dataset.class_names)}")
    problems += _copies(dataset)
    if _is_recompressed(dataset):
        problems.append(
            "these are CIFAR-10 images recompressed as JPEG, not the official pixels: "
            "do not compare results with published ones"
        )
    return problems


def _form(images: np.ndarray) -> list[str]:
    """Findings on shape, channel order and values of the images of one split."""
    if len(images) == 0:
        return ["no images"]
    if images.ndim != 4:
        meaning = ": greyscale without a channel axis?" if images.ndim == 3 else ""
        return [f"expected shape (n, height, width, 3), got {images.shape}{meaning}"]
    if images.shape[3] != 3:
        meaning = {1: "greyscale: repeat the channel three times", 4: "RGBA: drop the fourth channel"}.get(
            images.shape[3], "transpose(0, 2, 3, 1) if this is NCHW" if images.shape[1] in (1, 3) else "not RGB"
        )
        return [f"expected shape (n, height, width, 3), got {images.shape}: {meaning}"]
    low, high = images.min(), images.max()
    if images.dtype != np.uint8:
        return [f"expected uint8 pixels 0..255, got {images.dtype} {low:g}..{high:g}"]
    if high <= 1:
        return [f"expected pixels 0..255, got {low}..{high}: fractions 0..1 cut to integers?"]
    likely = np.flatnonzero((images[:, 0, 0] == images[:, -1, -1]).all(axis=1))
    plain = np.array([i for i in likely if (images[i] == images[i, 0, 0]).all()], dtype=np.int64)
    return [f"{_count(plain, 'image')} of a single colour"] if len(plain) else []


def _labels(split: Split, classes: int) -> list[str]:
    """Findings on the labels of one split with `classes` classes."""
    labels = split.labels
    if labels.shape != (len(split.images),):
        return [f"expected one label an image, got {labels.shape} for {len(split.images)} images"]
    if not np.issubdtype(labels.dtype, np.integer):
        return [f"expected integer labels, got {labels.dtype}"]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        return [f"{_count(wrong, 'label')} outside 0..{classes - 1}, such as {labels[wrong[0]]}"]
    empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    return [f"no images of class {c}" for c in empty] if len(labels) else []


def _count(indices: np.ndarray, noun: str) -> str:
    return f"{len(indices)} {noun}{'s' if len(indices) > 1 else ''} (first: index {indices[0]})"


def _copies(dataset: Dataset) -> list[str]:
    """Findings on images that stand, pixel for pixel, in two splits."""
    seen: dict[bytes, tuple[str, int]] = {}
    problems = []
    for name in SPLITS:
        hashes = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in getattr(dataset, name).images]
        copies = np.array([i for i, value in enumerate(hashes) if value in seen], dtype=np.int64)
        if len(copies):
            where, index = seen[hashes[copies[0]]]
            problems.append(
                f"{name}: {_count(copies, 'image')} also found in an earlier split "
                f"({name} {copies[0]} is {where} {index}): results on {name} will be too good"
            )
        seen.update((value, (name, i)) for i, value in enumerate(hashes) if value not in seen)
    return problems


def _is_recompressed(dataset: Dataset) -> bool:
    train, validation, test = (getattr(dataset, name) for name in SPLITS)
    training, testing = (10 * count for count in CIFAR_COUNTS)
    is_cifar = (
        tuple(sorted(dataset.class_names)) == CIFAR_CLASSES
        and test.images.shape[1:] == (32, 32, 3)
        and len(train) + len(validation) in (training, 0)
        and len(test) == testing
    )
    return is_cifar and has_jpeg_blocks(train.images if len(train) else test.images)


def has_jpeg_blocks(images: np.ndarray) -> bool:
    """Whether neighbouring pixels of uint8 NHWC `images` differ more across the edges of 8x8 blocks than beside them.

    Compares the mean absolute difference across the edges at 8, 16, ... with that one pixel before and after them, on
    at most 5,000 images. The ratio is 1.07 on the JPEG copy of CIFAR-10 (quality 75). On crops of two photographs,
    shrunk to 32x32, it is 0.99 to 1.00 as they are and after JPEG of quality 90 or more, and 1.08 after quality 75.
    """
    grey = images[:: max(1, len(images) // 5_000)].sum(axis=3, dtype=np.int16)
    ratios = []
    for axis in (1, 2):
        steps = np.abs(np.diff(grey, axis=axis)).mean(axis=(0, 3 - axis))
        edges = np.arange(7, len(steps) - 1, 8)
        ratios.append(steps[edges].sum() / max((steps[edges - 1] + steps[edges + 1]).sum() / 2, 1e-9))
    return float(np.mean(ratios)) > BLOCK_EDGE
