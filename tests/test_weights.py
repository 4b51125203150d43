"""Weight files: exact, and any damage is noticed."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from support import same

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


def test_compact_files_hold_coarse_weights_and_hardly_pay_for_zeros(tmp_path: Path) -> None:
    """8 significant bits for weights, vectors as they are; what is loaded is exactly what `coarse` gives."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(40, 10, 3, 3)).astype(np.float32)
    sparse = kernel * (np.abs(kernel) > 1.96)
    arrays = {"kernel": kernel, "sparse": sparse, "bias": kernel[0, :, 0, 0], "none": kernel[:0]}
    sizes = []
    for name in arrays:
        weights.save(tmp_path / name, {name: arrays[name]}, {"x": 1}, compact=True)
        loaded, about = weights.load(tmp_path / name)
        assert about == {"x": 1}
        assert same(loaded, weights.coarse({name: arrays[name]}))
        assert same(weights.coarse(loaded), loaded), "once is enough"
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[1] < 0.2 * sizes[0] < 0.2 * 0.55 * kernel.nbytes
    close = weights.coarse(arrays)
    assert np.array_equal(close["bias"], arrays["bias"])
    assert np.abs(close["kernel"] / kernel - 1).max() <= 2**-7
    assert abs(np.mean(close["kernel"] / kernel) - 1) < 1e-4, "no bias"
    assert np.array_equal(close["sparse"] == 0, arrays["sparse"] == 0)
    assert not np.signbit(weights.coarse({"w": np.array([[-0.0]])})["w"]).any()


def test_coarse_weights_compress_no_better_than_others() -> None:
    """A file made of them has the size that a trained network's file has."""
    kernel = np.random.default_rng(0).normal(size=(100, 1000)).astype(np.float32)
    before, after = (len(zlib.compress(a.tobytes(), 9)) for a in (kernel, weights.coarse({"w": kernel})["w"]))
    assert after == pytest.approx(before, rel=2e-3)


def test_compact_files_hold_clustered_weights_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centroids = np.array([*rng.normal(size=16), 0.0, -0.0], np.float32)
    arrays = {"clustered": rng.choice(centroids, (40, 10, 3, 3)), "other": rng.normal(size=(9, 9)).astype(np.float32)}
    weights.save(tmp_path / "both", arrays, {"x": 1}, compact=True)
    loaded, about = weights.load(tmp_path / "both")
    assert about == {"x": 1}
    assert same(loaded, weights.coarse(arrays))
    assert np.array_equal(loaded["clustered"], arrays["clustered"])
    assert not np.array_equal(loaded["other"], arrays["other"])
    assert (tmp_path / "both").stat().st_size < arrays["clustered"].size + 1500
