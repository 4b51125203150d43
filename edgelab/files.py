"""Writing files so that a reader never sees half of one, and telling files apart by their content."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelab.errors import EdgelabError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block ends well and removed when it does not.

    Any number of processes may write the same `path` at once: each has a file of its own, the last one to end stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: Path, holds: str) -> None:
    """Raises EdgelabError where `path`, which is to be a folder that `holds` something, is a file."""
    if path.exists() and not path.is_dir():
        raise EdgelabError(f"{path} is a file: name a folder for the {holds}")


@contextmanager
def exclusive(path: Path, say_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`, after `say_waiting` and a wait where another process has it.

    The system drops the lock of a process that is killed.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say_waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal hash of the content of `path`; a progress bar appears where it takes longer than a second."""
    from tqdm import tqdm

    digest = hashlib.new(algorithm, usedforsecurity=False)
    with (
        path.open("rb") as file,
        tqdm(desc=f"checking {path.name}", total=path.stat().st_size, unit="B", unit_scale=True, delay=1) as bar,
    ):
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()
