"""Data sets: uint8 NHWC images with integer labels, split once and for all, with a fingerprint.

A model in this course sees `normalise(images)`: (pixel - 128) / 128, so that the int8 input of a quantized model is
simply pixel - 128 (scale 1/128, zero point 0).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """`images` uint8 (n, height, width, 3) and `labels` int64 (n,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
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


def fingerprint(train: Split, test: Split, class_names: tuple[str, ...]) -> str:
    """SHA-256 over class names, shapes, pixels and labels of the training images (before the split) and the test images."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for split in (train, test):
        digest.update(str(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images))
        digest.update(split.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloads, decoded images and checkpoints are kept: EDGELAB_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ["EDGELAB_CACHE"]) if os.environ.get("EDGELAB_CACHE") else user_cache_path("edgelab")
