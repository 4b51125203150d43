"""Weights as named NumPy arrays: whether they fit a network, and a safe file for them that notices damage.

The names and the layout are always PyTorch's: the bridge between the two tracks and the content of a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
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


def save(path: Path, arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Write `arrays` and what is to be known `about` them (anything JSON can hold) to one `.safetensors` file."""
    from safetensors.numpy import save_file

    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
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
    return arrays, json.loads(known["about"])
