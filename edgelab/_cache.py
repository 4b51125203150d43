"""Decoded data sets on disk: one .npy of all pixels, memory-mapped on load, and one .json with everything else."""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgelab._dataset import Dataset, Split, cache_folder
from edgelab._guard import SPLITS, find_problems
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

LAYOUT = 1


def cached(key: str, make: Callable[[], Dataset]) -> Dataset:
    """The data set kept under `key`, its images mapped from disk; made, checked and kept where there is none.

    Of several processes one makes it and the others wait. A damaged entry, found by its checksum, is made anew. What
    the guard finds in a new data set goes to standard error. Raises EdgelabError where the cache cannot be written.
    """
    from filelock import FileLock

    folder = cache_folder() / "images"
    stem = folder / hashlib.sha256(f"{LAYOUT} {key}".encode()).hexdigest()[:32]
    if dataset := _opened(stem):
        return dataset
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for leftover in folder.glob(".*.part"):  # of a process that was killed: only the holder of the lock writes
                leftover.unlink()
            return _opened(stem) or _kept(stem, make())
    except OSError as error:
        raise EdgelabError(
            f"cannot write the cache {folder}: {error.strerror or error}; point EDGELAB_CACHE at a folder with room"
        ) from error


def _checksum(pixels: np.ndarray, facts: dict[str, Any]) -> int:
    return zlib.crc32(pixels.data, zlib.crc32(json.dumps(facts, sort_keys=True).encode()))


def _opened(stem: Path) -> Dataset | None:
    """The data set kept at `stem`, or None where there is none or it is damaged."""
    try:
        entry = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        # Copy-on-write: the arrays are writable, as the frameworks like them, and the file stays as it is.
        pixels = np.load(stem.with_suffix(".npy"), mmap_mode="c", allow_pickle=False)
        facts = entry["facts"]
        if entry["checksum"] != _checksum(pixels, facts):
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError):
        return None
    labels = [np.array(split, dtype=np.int64) for split in facts["labels"]]
    images = np.split(pixels, np.cumsum([len(split) for split in labels])[:-1])
    train, validation, test = map(Split, images, labels)
    return Dataset(facts["name"], train, validation, test, tuple(facts["class_names"]), facts["fingerprint"])


def _kept(stem: Path, dataset: Dataset) -> Dataset:
    """Write `dataset` to `stem`, pixels first, and open it from there."""
    for problem in find_problems(dataset):
        print(f"edgelab: {dataset.name}: {problem}", file=sys.stderr)
    splits = [getattr(dataset, name) for name in SPLITS]
    facts = {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
        "labels": [split.labels.tolist() for split in splits],
    }
    shape = (sum(map(len, splits)), *dataset.train.images.shape[1:])
    with atomic_path(stem.with_suffix(".npy")) as temporary:
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        np.concatenate([split.images for split in splits], out=pixels)
        entry = {"checksum": _checksum(pixels, facts), "facts": facts}
        pixels.flush()
        del pixels
    with atomic_path(stem.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(entry), encoding="utf-8")
    return _opened(stem) or dataset
