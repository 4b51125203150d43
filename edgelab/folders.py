"""Image folders to write: pictures as files, and a copy of a folder without some of its files."""

from __future__ import annotations

import io
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgelab import _images
from edgelab._dataset import Split
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

MARK = ".made-by-edgelab"


def pictures(split: Split, class_names: Sequence[str], most: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """The images of `split` under names for `write`: "cat/000.png" and so on, numbered within their class.

    With `most`, {class: number}, at most so many of each class, and none of classes that are not in it.
    """
    numbered: Counter[str] = Counter()
    found = {}
    for image, label in zip(split.images, split.labels, strict=True):
        name = class_names[label]
        if most is None or numbered[name] < most.get(name, 0):
            found[f"{name}/{numbered[name]:03}.png"] = image
        numbered[name] += 1
    return found


def write(images: Mapping[str, np.ndarray], folder: Path | str) -> Path:
    """Write `images`, {name such as "cat/001.png": uint8 (height, width, 3)}, into `folder` and return it.

    The suffix decides: .png keeps the pixels, .jpg does not. The same images give the same files, so that nothing
    made of them has to be made again. Raises EdgelabError where `folder` is there and was not written by this function.
    """
    from PIL import Image

    def encoded() -> Iterable[tuple[str, bytes]]:
        for name, pixels in images.items():
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, Image.registered_extensions()[Path(name).suffix.lower()])
            yield name, stream.getvalue()

    return _written(encoded(), Path(folder))


def without(path: Path | str, files: Collection[str], folder: Path | str) -> Path:
    """Copy the image folder or archive at `path` to `folder`, all but `files`, and return the new folder.

    The files are named as in `analysis.Analysis`; the folder or archive itself stays as it is. Raises EdgelabError for
    a file that is not there, and as `write` does.
    """
    path, left = Path(path).expanduser(), set(files)
    members = _images.members(path)
    with _images.named(path):
        found = [("/".join(parts), content) for parts, content in members if content is not None]
    if missing := sorted(left - {name for name, _ in found}):
        raise EdgelabError(f"{path} has no image {missing[0]!r} to leave out: name it as the analysis does")
    return _written(((name, content) for name, content in found if name not in left), Path(folder))


def _written(files: Iterable[tuple[str, bytes]], folder: Path) -> Path:
    """Put `files` (name, content) into `folder`, in place of what was written there before."""
    if folder.exists():
        if not (folder / MARK).is_file():
            raise EdgelabError(f"{folder} is there and was not written by edgelab: name another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    for name, content in files:
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
        # A time that follows from the content: unchanged images are recognised, changed ones are decoded again.
        os.utime(folder / name, (0, 10**9 + zlib.crc32(content) % 10**8))
    return folder
