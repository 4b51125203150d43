"""The class names that a model file carries: read them, and write them where there are none."""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgelab.artifact import PIXELS, Pixels, check_suffix, first_line, labelled, load
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

ONNX_KEYS = ("labels", "classes", "names")
MAX_LABEL_FILE = 16 * 2**20

Labels = tuple[str, ...] | None


def read(path: Path | str) -> Labels:
    """The names of the classes, in the order of the outputs, as the file at `path` has them; None where it has none.

    - .tflite: the label file of its metadata, a .txt with "label" in its name in the zip archive that is appended to
      the model (TensorFlow Lite Metadata), one name a line. Of several, translated ones say, the shortest name counts.
    - .onnx: the metadata property labels, classes or names: a JSON list or a dict from number to name, the latter also
      as Ultralytics writes it, or names separated by lines, else by commas.

    Raises EdgelabError for another suffix, a file that cannot be read, and labels that cannot.
    """
    path = Path(path)
    check_suffix(path)
    try:
        return {".tflite": _of_tflite, ".onnx": _of_onnx}[path.suffix.lower()](path)
    # Damaged archives and metadata make the libraries raise whatever they like.
    except Exception as error:
        raise EdgelabError(f"{path}: its class labels cannot be read ({first_line(error)}): write them anew") from error


def write(path: Path | str, names: Sequence[str], pixels: Pixels = "centred") -> None:
    """Write the `names` of the classes, in the order of the outputs, into the model file at `path`, in place of others.

    With them goes what a float input takes for `pixels` (see `artifact.Artifact`). The file's answers stay as they are.
    Raises EdgelabError where the file is no model, the names are not as many as its outputs, or one is not a line.
    """
    path = Path(path)
    if pixels not in PIXELS:
        raise EdgelabError(f"expected pixels one of {', '.join(PIXELS)}, got {pixels!r}")
    load(path)
    try:
        content = labelled(path.read_bytes(), path.suffix, names, pixels)
    except EdgelabError as error:
        raise EdgelabError(f"{path}: {error}") from error
    except Exception as error:
        raise EdgelabError(f"{path}: no class names can be written into it ({first_line(error)})") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _of_tflite(path: Path) -> Labels:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        files = [member for member in archive.infolist() if _is_label_file(member.filename)]
        if not files:
            return None
        chosen = min(files, key=lambda member: (len(member.filename), member.filename))
        if chosen.file_size > MAX_LABEL_FILE:
            raise EdgelabError(f"{chosen.filename} is larger than {MAX_LABEL_FILE // 2**20} MiB")
        return _lines(archive.read(chosen).decode("utf-8-sig"))


def _is_label_file(name: str) -> bool:
    return name.lower().endswith(".txt") and "label" in name.lower().rpartition("/")[2]


def _of_onnx(path: Path) -> Labels:
    import onnx

    found = {entry.key.lower(): entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    text = next((found[key] for key in ONNX_KEYS if found.get(key, "").strip()), None)
    return _parsed(text.strip()) if text else None


def _parsed(text: str) -> Labels:
    """The names in a metadata property. Raises ValueError, SyntaxError and more where a list or dict is malformed."""
    if text[0] not in "[{(":
        return _lines(text) if "\n" in text else tuple(name.strip() for name in text.split(","))
    try:
        names: Any = json.loads(text)
    except ValueError:
        names = ast.literal_eval(text)
    if isinstance(names, dict):
        places = {int(place): name for place, name in names.items()}
        names = [places[place] for place in range(len(places))]
    return tuple(str(name).strip() for name in names)


def _lines(text: str) -> Labels:
    """One name a line; empty lines at the end are none."""
    return tuple(line.strip() for line in text.rstrip().splitlines()) or None
