from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from edgelab.files import atomic_path, file_hash


def test_the_file_appears_whole_when_the_block_ends(tmp_path: Path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("all of it")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text() == "all of it"
    assert os.listdir(target.parent) == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_writers_at_once_do_not_mix(tmp_path: Path):
    target = tmp_path / "file.txt"
    inside = threading.Barrier(4, timeout=10)

    def write(letter: str) -> None:
        with atomic_path(target) as temporary:
            temporary.write_text(letter * 1000)
            inside.wait()

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in {letter * 1000 for letter in "abcd"}
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_the_file_is_as_readable_as_any_other(tmp_path: Path):
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_file_hash_is_the_hash_of_the_content(tmp_path: Path, algorithm: str):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert file_hash(tmp_path / "file", algorithm) == hashlib.new(algorithm, content).hexdigest()
