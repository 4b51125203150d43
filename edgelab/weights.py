"""Weights as named NumPy arrays: whether they fit a network, and a safe file for them that notices damage.

The names and the layout are always PyTorch's: the bridge between the two tracks and the content of a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

Arrays = Mapping[str, np.ndarray]

FEW = 256  # so many different values are numbered with a byte


def check_fit(expected: Arrays, got: Arrays) -> None:
    """Raise EdgelabError, naming the first mismatch, unless both hold the same names with the same shapes."""
    shapes = [{name: tuple(array.shape) for name, array in arrays.items()} for arrays in (expected, got)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        wanted, came = (str(known.get(name, "nothing")) for known in shapes)
        if wanted != came:
            raise EdgelabError(
                f"the weights do not fit the model at {name!r}: expected {wanted}, got {came}; "
                "build the model these weights were trained for, with as many classes"
            )


def _digest(arrays: Arrays, described: str) -> str:
    """SHA-256 over the description and every array's name, type, shape and bytes."""
    digest = hashlib.sha256(described.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def coarse(arrays: Arrays) -> dict[str, np.ndarray]:
    """`arrays` as a compact file keeps them: float32, with 8 significant bits where they have two or more dimensions.

    Zeros stay zeros. In place of the bits that are lost the values have noise, always the same, of at most half a unit
    of the last bit kept: else a compressor would find in them a regularity that trained weights do not have.
    Arrays of few values, such as clustered weights, stay as they are.
    """
    return {name: _coarse(array) if array.ndim > 1 else array for name, array in arrays.items()}


def _coarse(array: np.ndarray) -> np.ndarray:
    if _table(array) is not None:
        return array + np.float32(0)
    return _filled(_upper(array)).reshape(array.shape)


def _table(array: np.ndarray) -> np.ndarray | None:
    """The values of `array` (float32) where they are few: FEW at most, four times fewer than what is not zero."""
    values = np.unique(array).astype(np.float32) + np.float32(0)
    return values if len(values) <= min(FEW, int(np.count_nonzero(array)) // 4) else None


def _upper(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32 values, rounded to nearest: bfloat16 as uint16 (n,)."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).ravel()
    return ((bits + 0x8000) >> 16).astype(np.uint16)


def _filled(upper: np.ndarray) -> np.ndarray:
    """float32 values around those with these upper halves; zeros are exact."""
    noise = np.random.PCG64(0).random_raw(len(upper)).astype(np.uint32) & 0xFFFF
    bits = (upper.astype(np.uint32) << 16) + noise - 0x8000
    return np.where(upper & 0x7FFF, bits, 0).astype(np.uint32).view(np.float32)


def _packed(array: np.ndarray) -> np.ndarray:
    if (values := _table(array)) is None:
        return _packed_halves(array)
    numbers = np.searchsorted(values, array.ravel()).astype(np.uint8)
    return np.frombuffer(lzma.compress(values.tobytes() + numbers.tobytes()), np.uint8)


def _packed_halves(array: np.ndarray) -> np.ndarray:
    """One bit a value that says whether it is zero, and the upper halves of those that are not, compressed.

    The bytes with the exponents stand together, before the others: they are what can be compressed.
    """
    upper = _upper(array)
    nonzero = (upper & 0x7FFF) != 0
    halves = [(upper[nonzero] >> shift & 0xFF).astype(np.uint8).tobytes() for shift in (8, 0)]
    return np.frombuffer(lzma.compress(np.packbits(nonzero).tobytes() + b"".join(halves)), np.uint8)


def _unpacked(content: np.ndarray, shape: list[int], few: int) -> np.ndarray:
    """What `_packed` packed: the numbers of values in a table of `few`, or, where that is 0, halves."""
    data = np.frombuffer(lzma.decompress(content.tobytes()), np.uint8)
    if few:
        return data[: 4 * few].view(np.float32)[data[4 * few :]].reshape(shape)
    upper = np.zeros(math.prod(shape), np.uint16)
    bits, rest = np.split(data, [math.ceil(upper.size / 8)])
    halves = rest.reshape(2, -1).astype(np.uint16)
    upper[np.unpackbits(bits, count=upper.size).astype(bool)] = halves[0] << 8 | halves[1]
    return _filled(upper).reshape(shape)


def save(path: Path, arrays: Arrays, about: Mapping[str, Any], *, compact: bool = False) -> None:
    """Write `arrays` and what is to be known `about` them (anything JSON can hold) to one `.safetensors` file.

    `compact`: arrays of two or more dimensions become `coarse` and are compressed, which makes zeros nearly free.
    """
    from safetensors.numpy import save_file

    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if compact:
        large = {name: array for name, array in tensors.items() if array.ndim > 1}
        tables = {name: len(values) for name, a in large.items() if (values := _table(a)) is not None}
        about = {**about, "shapes": {name: list(array.shape) for name, array in large.items()}, "tables": tables}
        tensors |= {name: _packed(array) for name, array in large.items()}
    described = json.dumps(about, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"about": described, "sha256": _digest(tensors, described)})


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file that `save` wrote and what is known about them.

    Raises EdgelabError where the file is missing, is damaged, was changed, or was written by something else.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise EdgelabError(f"no weights at {path}: expected a .safetensors file there")
    try:
        with safe_open(path, "numpy") as file:
            known = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise EdgelabError(f"{path} is damaged ({problem}): delete it and train again, or fetch it anew") from None
    if not known.keys() >= {"about", "sha256"}:
        raise EdgelabError(f"{path} was not written by edgelab: expected 'about' and 'sha256' in its header")
    if _digest(arrays, known["about"]) != known["sha256"]:
        raise EdgelabError(f"{path} was changed after it was written (SHA-256 differs): delete it and train again")
    about = json.loads(known["about"])
    shapes, tables = about.pop("shapes", {}), about.pop("tables", {})
    whole = {name: _unpacked(arrays[name], shape, tables.get(name, 0)) for name, shape in shapes.items()}
    return {**arrays, **whole}, about
