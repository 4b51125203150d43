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


def rounded(arrays: Arrays) -> dict[str, np.ndarray]:
    """`arrays` with all that have two or more dimensions rounded to bfloat16: 8 significant bits, zeros stay zeros."""
    return {name: _bfloat16(a) if a.ndim > 1 else a for name, a in arrays.items()}


def _bfloat16(array: np.ndarray) -> np.ndarray:
    """float32 with its lower 16 bits rounded away, half to even; zeros lose their sign."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32) + np.float32(0)


def _packed(array: np.ndarray) -> np.ndarray:
    """One bit a value that says whether it is zero, and the upper two bytes of those that are not, compressed.

    The exponents' bytes stand together, before the others: they are what can be compressed.
    """
    flat = np.ascontiguousarray(array).ravel()
    values = flat[flat != 0].view(np.uint32)
    upper = [(values >> shift & 0xFF).astype(np.uint8).tobytes() for shift in (24, 16)]
    return np.frombuffer(lzma.compress(np.packbits(flat != 0).tobytes() + b"".join(upper)), np.uint8)


def _unpacked(content: np.ndarray, shape: list[int]) -> np.ndarray:
    array = np.zeros(math.prod(shape), np.uint32)
    data = np.frombuffer(lzma.decompress(content.tobytes()), np.uint8)
    bits, rest = np.split(data, [math.ceil(array.size / 8)])
    upper = rest.reshape(2, -1).astype(np.uint32)
    array[np.unpackbits(bits, count=array.size).astype(bool)] = upper[0] << 24 | upper[1] << 16
    return array.view(np.float32).reshape(shape)


def save(path: Path, arrays: Arrays, about: Mapping[str, Any], *, compact: bool = False) -> None:
    """Write `arrays` and what is to be known `about` them (anything JSON can hold) to one `.safetensors` file.

    `compact`: arrays of two or more dimensions are `rounded` and compressed, which makes zeros nearly free.
    """
    from safetensors.numpy import save_file

    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if compact:
        large = {name: array for name, array in rounded(tensors).items() if array.ndim > 1}
        about = {**about, "shapes": {name: list(array.shape) for name, array in large.items()}}
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
    shapes = about.pop("shapes", {})
    return {name: _unpacked(a, shapes[name]) if name in shapes else a for name, a in arrays.items()}, about
