"""Weight files: exact, and any damage is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelab import weights
from edgelab.errors import EdgelabError

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "count": np.array(7, dtype=np.int64),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "w.safetensors"
    weights.save(path, ARRAYS, {"recipe": {"rate": 0.1}, "names": ["ä"]})
    return path


def test_what_is_saved_is_loaded(file: Path) -> None:
    arrays, about = weights.load(file)
    assert about == {"recipe": {"rate": 0.1}, "names": ["ä"]}
    assert arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(arrays[k], ARRAYS[k]) and arrays[k].dtype == ARRAYS[k].dtype for k in ARRAYS)
    assert arrays["count"].shape == ()
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_every_changed_byte_is_noticed(file: Path) -> None:
    """Header, description and tensors alike: a file with one other byte is never loaded."""
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(EdgelabError, match=str(file)) as caught:
            weights.load(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated(length: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(EdgelabError, match=r"w.safetensors is damaged \(.*\): delete it and train again"):
        weights.load(file)


def test_missing_and_foreign(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(EdgelabError, match=r"^no weights at .*nowhere: expected a .safetensors file there$"):
        weights.load(tmp_path / "nowhere")
    save_file({"x": np.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(EdgelabError, match=r"foreign was not written by edgelab: expected 'about' and 'sha256'"):
        weights.load(tmp_path / "foreign")
