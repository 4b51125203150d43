"""What a data set is: splits, fingerprint, input convention, and where its files are kept.

`edgelab.data` finds and reads data sets; this module knows none of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """`images` uint8 (n, height, width, 3) and `labels` int64 (n,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of one data set; `fingerprint` is the SHA-256 over all their pixels and labels."""

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Unsplit:
    """A data set as it was found, before the validation split is taken from `train`."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]


Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Source:
    """Where images come from: `key` stands for their name and content, `read(size)` decodes and, if asked, resizes."""

    key: str
    read: Callable[[Size | None], Unsplit]


def normalise(images: np.ndarray) -> np.ndarray:
    """uint8 pixels to float32 in [-1, 1): (pixel - 128) / 128."""
    return (images.astype(np.float32) - 128) / 128


def stratified_holdout(labels: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out) in ascending order; `share` of every class, at least one image, is held out."""
    rng = np.random.default_rng(seed)
    held = [
        rng.permutation(members)[: max(1, round(share * len(members)))]
        for members in (np.flatnonzero(labels == c) for c in np.unique(labels))
    ]
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def stratified_sample(labels: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Indices, ascending, of exactly `n` of the labelled images, or of all where there are fewer.

    Every class has its share, to within one image, in whatever order the images stand. It is always the same sample,
    and a smaller one is part of every larger one. `n` is 0 or more.
    """
    rng = np.random.default_rng(seed)
    rank = np.empty(len(labels))
    for members in (np.flatnonzero(labels == c) for c in np.unique(labels)):
        rank[rng.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.lexsort((rng.random(len(labels)), rank))[:n])


def fingerprint(train: Split, test: Split, class_names: tuple[str, ...]) -> str:
    """SHA-256 over class names, shapes, pixels and labels of the training (before the split) and the test images."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for split in (train, test):
        digest.update(str(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(split.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloads, decoded images and checkpoints are kept: EDGELAB_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_path

    named = os.environ.get("EDGELAB_CACHE")
    return Path(named).expanduser() if named else user_cache_path("edgelab")
