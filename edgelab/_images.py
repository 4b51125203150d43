"""Image folders and archives of them, read member by member in memory: nothing is ever extracted to disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from edgelab._dataset import TEST_SHARE, Size, Source, Split, Unsplit, stratified_holdout
from edgelab._guard import CIFAR_CLASSES, CIFAR_COUNTS, has_jpeg_blocks
from edgelab.errors import EdgelabError
from edgelab.files import file_hash

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
JPEGS = (".jpg", ".jpeg")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".zip")
RESERVED = ("digits", "cifar10", "cifar10-jpeg")
LAYOUTS = "train/<class>/* and test/<class>/*, or <class>/*"
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
MAX_TOTAL = 4 * 2**30
MAX_IMAGE = 64 * 2**20

Parts = tuple[str, ...]
Member = tuple[Parts, bytes | None]
"""Path below the source, split at the slashes, and the content of an image file; None for a folder."""


def source(path: Path, is_whole: bool = False) -> Source:
    """The image folder or archive at `path`. Raises EdgelabError where there is neither.

    Where it has no train and test folders, a fifth of it becomes the test images, or all of it if `is_whole`.
    """
    name, read = _found(path)
    key = _folder_key(path) if path.is_dir() else file_hash(path)
    return Source(f"{name} {key}", lambda size: _read(path, name, read(path), size, is_whole))


def members(path: Path) -> Iterator[Member]:
    """Every folder and every image file, undecoded, of the image folder or archive at `path`.

    Raises EdgelabError where there is neither.
    """
    return _found(path)[1](path)


def _found(path: Path) -> tuple[str, Callable[[Path], Iterator[Member]]]:
    """The name of the image folder or archive at `path`, and how its members are read."""
    suffix = next((s for s in sorted(ARCHIVES, key=len, reverse=True) if path.name.lower().endswith(s)), "")
    if path.is_dir():
        return path.resolve().name, _folder_members
    if path.is_file() and suffix:
        return path.name[: -len(suffix)], _zip_members if suffix == ".zip" else _tar_members
    if path.exists():
        raise EdgelabError(f"expected an image folder or an archive ({', '.join(ARCHIVES)}), got the file {path}")
    raise EdgelabError(
        f"there is no data set {str(path)!r}: expected digits, cifar10, cifar10-jpeg, "
        f"or the path of an image folder or archive ({', '.join(ARCHIVES)})"
    )


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let every error name `path`, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except EdgelabError as error:
        raise EdgelabError(f"{path}: {error}") from error
    # Damaged archives make the standard library raise struct.error, KeyError, RuntimeError and more.
    except Exception as error:
        raise EdgelabError(
            f"{path}: cannot be read, truncated or damaged? ({one_line(error)}); fetch or make it again"
        ) from error


def resized(image: Image.Image, size: Size) -> Image.Image:
    """`image` in `size` (height, width); another aspect ratio is squeezed, not cropped."""
    return image if image.size == size[::-1] else image.resize(size[::-1], Image.Resampling.BICUBIC)


def listed(path: Path, suffixes: tuple[str, ...] = IMAGES) -> Iterator[tuple[Parts, str, bool]]:
    """Every folder (True) and image file (False) below the folder `path`, sorted, hidden ones left out."""
    for root, folders, files in os.walk(path):
        folders.sort()
        above = Path(root).relative_to(path).parts
        for name in sorted(folders + files):
            is_folder = name in folders
            if (is_folder or name.lower().endswith(suffixes)) and _is_visible((*above, name)):
                yield (*above, name), os.path.join(root, name), is_folder


def _folder_key(path: Path) -> str:
    """Digest over where a folder is and the names, sizes and times of change of what is in it."""
    digest = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape"))
    for parts, file, is_folder in listed(path):
        try:
            about = os.stat(file)
        except OSError as error:
            raise EdgelabError(f"cannot read the image {file}: {error.strerror}") from error
        digest.update(repr((parts, is_folder or (about.st_size, about.st_mtime_ns))).encode())
    return digest.hexdigest()


def _folder_members(path: Path) -> Iterator[Member]:
    for parts, file, is_folder in tqdm(list(listed(path)), f"reading {path.name}", unit="file", delay=1):
        try:
            yield parts, None if is_folder else Path(file).read_bytes()
        except OSError as error:
            raise EdgelabError(f"cannot read the image {file}: {error.strerror}") from error


class _Counted:
    """A stream that ends in an error beyond `MAX_TOTAL` bytes and remembers where its last non-zero byte was."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.total, self.used = stream, 0, 0

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        chunk = self.stream.read(size)
        if content := len(chunk.rstrip(b"\0")):
            self.used = self.total + content
        self.total += len(chunk)
        if self.total > MAX_TOTAL:
            raise EdgelabError(f"expected at most {MAX_TOTAL / 2**30:g} GiB once unpacked, got more")
        return chunk


def _tar_members(path: Path) -> Iterator[Member]:
    """The images and folders in a .tar, .tar.gz or .tar.xz, in the order they stand there."""
    with (
        path.open("rb") as file,
        tqdm.wrapattr(file, "read", path.stat().st_size, desc=f"reading {path.name}", delay=1) as raw,
        _decompressed(path, raw) as stream,
    ):
        counted: Any = _Counted(stream)
        with tarfile.open(fileobj=counted, mode="r|") as tar:
            for member in tar:
                parts = _safe_parts(member.name)
                if member.isdir():
                    yield parts, None
                elif not member.isfile():
                    raise EdgelabError(f"expected only files and folders, got the link or device {member.name!r}")
                elif _is_image(parts, member.size) and (content := tar.extractfile(member)):
                    yield parts, content.read()
            while counted.read(1 << 20):
                pass
            # tarfile ends quietly at a header it cannot read; a whole archive ends with zeros behind its last member.
            if not counted.used <= tar.offset < counted.total:
                raise EdgelabError("unexpected end: the archive is truncated or damaged")


def _decompressed(path: Path, raw: Any) -> AbstractContextManager[Any]:
    if path.name.lower().endswith("xz"):
        return lzma.open(raw)
    return gzip.open(raw) if path.name.lower().endswith("gz") else nullcontext(raw)


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > MAX_TOTAL:
            raise EdgelabError(f"expected at most {MAX_TOTAL / 2**30:g} GiB once unpacked, got more")
        for member in tqdm(members, f"reading {path.name}", unit="file", delay=1):
            parts = _safe_parts(member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise EdgelabError(f"expected only files and folders, got the link {member.filename!r}")
            if member.is_dir():
                yield parts, None
            elif _is_image(parts, member.file_size):
                yield parts, archive.read(member)


def _safe_parts(name: str) -> Parts:
    """The parts of a member's name. Raises EdgelabError where it leads out of the archive."""
    plain = name.replace("\\", "/")
    parts = PurePosixPath(plain).parts
    if plain.startswith("/") or ".." in parts or re.match("[A-Za-z]:", plain):
        raise EdgelabError(f"expected names that stay inside the archive, got {name!r}")
    return parts


def _is_visible(parts: Parts) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _is_image(parts: Parts, size: int) -> bool:
    """Whether a member is a visible image file. Raises EdgelabError where it is too large to be one."""
    if not parts or not parts[-1].lower().endswith(IMAGES) or not _is_visible(parts):
        return False
    if not 0 <= size <= MAX_IMAGE:
        raise EdgelabError(f"expected image files of at most {MAX_IMAGE // 2**20} MiB, got {'/'.join(parts)}")
    return True


def _read(path: Path, name: str, members: Iterator[Member], size: Size | None, is_whole: bool) -> Unsplit:
    """Every image of `members`, decoded and in order: sorted by class, then by file name."""
    with named(path):
        images, folders, sizes = _decoded(members, size)
        places = arranged(images, folders, is_whole)
    class_names = tuple(sorted({label for _, label, _ in places}))
    train, test = (
        [(class_names.index(label), parts) for split, label, parts in places if split in wanted]
        for wanted in (("train", "all"), ("test",))
    )
    splits = [_stacked(images, part) for part in (train, test)]
    if not test and is_whole:
        splits = [Split(splits[0].images[:0], splits[0].labels[:0]), splits[0]]
    elif not test:
        kept, held = stratified_holdout(splits[0].labels, TEST_SHARE)
        splits = [Split(splits[0].images[i], splits[0].labels[i]) for i in (kept, held)]
    is_cifar = sizes == {(32, 32)} and _is_cifar(class_names, splits)
    if is_cifar and (all(p[-1].lower().endswith(JPEGS) for p in images) or _has_blocks(splits[0])):
        name = "cifar10-jpeg"
    elif name in RESERVED:
        name += "-folder"
    return Unsplit(name, splits[0], splits[1], class_names)


def _decoded(
    members: Iterable[Member], wanted: Size | None
) -> tuple[dict[Parts, np.ndarray], set[Parts], set[tuple[int, int]]]:
    """The pixels of every image, the folders, and the sizes (width, height) of the images as they come."""
    images: dict[Parts, np.ndarray] = {}
    folders, sizes = set(), set()
    first, total = "", 0
    for parts, content in members:
        name = "/".join(parts)
        if content is None:
            folders.add(parts)
            continue
        whole = upright(content, name)
        size = (whole.width, whole.height)
        images[parts] = np.asarray(resized(whole, wanted) if wanted else whole)
        sizes.add(size)
        first = first or f"{name} is {size[0]}x{size[1]}"
        if wanted is None and len(sizes) > 1:
            raise EdgelabError(
                f"expected images of one size, but {first} and {name} is {size[0]}x{size[1]}: "
                "pass image_size=32 (or another size) to resize them"
            )
        total += images[parts].nbytes
        if total > MAX_TOTAL:
            raise EdgelabError(f"expected at most {MAX_TOTAL / 2**30:g} GiB of pixels: pass a smaller image_size")
    return images, folders, sizes


def upright(content: bytes, name: str) -> Image.Image:
    """The image in an encoded file, in RGB, turned as its EXIF data says, on white where it is transparent."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("more than 8 bits a pixel, save it with 8")
            return on_white(ImageOps.exif_transpose(image))
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        raise EdgelabError(f"cannot read the image {name} ({one_line(error)}): mend or remove it") from error


def on_white(image: Image.Image) -> Image.Image:
    """`image` in RGB, on white where it is transparent: what lies beneath has never been meant to be seen."""
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        whole = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    return image.convert("RGB")


def one_line(error: Exception) -> str:
    """The message of a decoder's error without line breaks."""
    text = re.sub(r"image file <_io\.BytesIO object at \w+>", "the image file", str(error) or type(error).__name__)
    return " ".join(text.split())


def arranged(images: Iterable[Parts], folders: Iterable[Parts], is_whole: bool) -> list[tuple[str, str, Parts]]:
    """(split, class, path) of every image, sorted; split is train, test, or all where there is no such layer.

    Folders around the data set are looked through. Raises EdgelabError where the layout is none of `LAYOUTS` or a class
    is too small: training, validation and test images need at least one each, of those that there are to be.
    """
    paths = sorted(images)
    if not paths:
        raise EdgelabError(f"expected images ({', '.join(IMAGES)}) as {LAYOUTS}, found none")
    depth = 0
    while len(tops := {p[depth] for p in [*paths, *folders] if len(p) > depth}) == 1 and (is_whole or tops != {"test"}):
        if min(map(len, paths)) < depth + 3:
            break
        depth += 1
    is_split = {top.lower() for top in tops} >= {"train", "test"}
    length = depth + (3 if is_split else 2)

    def split(parts: Parts) -> str:
        return parts[depth].lower() if is_split else "all"

    known = ("train", "test") if is_split else ("all",)
    if wrong := next((p for p in paths if len(p) != length or split(p) not in known), None):
        raise EdgelabError(f"expected {LAYOUTS}, found {'/'.join(wrong)}")
    places = [(split(p), p[-2], p) for p in paths]
    classes = [(split(p), p[-1]) for p in folders if len(p) == length - 1 and split(p) in known]
    _check_classes(places, classes, is_whole)
    return places


def _check_classes(places: list[tuple[str, str, Parts]], folders: list[tuple[str, str]], is_whole: bool) -> None:
    counts = Counter((split, label) for split, label, _ in places)
    names = sorted({label for _, label in [*counts, *folders]})
    has_split = places[0][0] != "all"
    if len(names) < 2 and (has_split or not is_whole):
        raise EdgelabError(f"expected two classes or more as {LAYOUTS}, found only {names[0]!r}")
    least = {"train": 2, "test": 1} if has_split else {"all": 1 if is_whole else 3}
    for label in names:
        for split, needed in least.items():
            if counts[split, label] < needed:
                where = "" if split == "all" else f" in {split}/"
                images = f"{needed} image{'s' if needed > 1 else ''}"
                raise EdgelabError(
                    f"expected at least {images} of class {label!r}{where}, found {counts[split, label]}"
                )


def _stacked(images: dict[Parts, np.ndarray], part: list[tuple[int, Parts]]) -> Split:
    if not part:
        return Split(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0, np.int64))
    return Split(np.stack([images[parts] for _, parts in part]), np.array([label for label, _ in part], np.int64))


def _has_blocks(split: Split) -> bool:
    return split.images.shape[1:3] == (32, 32) and has_jpeg_blocks(split.images)


def _is_cifar(class_names: tuple[str, ...], splits: list[Split]) -> bool:
    counts = [np.bincount(split.labels).tolist() for split in splits]
    return class_names == CIFAR_CLASSES and counts == [[count] * 10 for count in CIFAR_COUNTS]
