"""Every model file that ships answers as the checkpoint it was made from, and is all that is needed to ask it."""

from __future__ import annotations

import json
import subprocess
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from edgelab import artifact, cards, data, export, isolated, zoo

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "edgelab" / "models", ROOT / "book" / "_static" / "models")
FILES = sorted(path for folder in FOLDERS for path in folder.iterdir() if path.suffix in (".tflite", ".onnx"))
LISTED = {
    entry["file"]: entry for entry in json.loads((FOLDERS[1] / "models.json").read_text(encoding="utf-8"))["models"]
}
AGREEING = {"float32": 0.995, "int8": 0.9}


def checkpoint(path: Path) -> zoo.Checkpoint:
    """The checkpoint of a file: the page's list names it, or the README beside the file."""
    if path.name in LISTED:
        return zoo.load(zoo.KEPT / f"{LISTED[path.name]['checkpoint']}.safetensors")
    return zoo.load(export.find("ds_cnn"))


def test_these_are_all_files_that_are_tracked() -> None:
    listed = subprocess.run(["git", "ls-files", "*.tflite", "*.onnx"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        assert {ROOT / name for name in listed.stdout.split()} == set(FILES)
    assert {path.name for path in FILES if path.parent == FOLDERS[1]} == set(LISTED) and len(FILES) == len(LISTED) + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_round_trip_of_every_shipped_file(path: Path) -> None:
    """On digits, which neither has seen: the same classes, and logits that go together."""
    kept, images = checkpoint(path), data.load("digits").validation.images
    track = "tensorflow" if path.suffix == ".tflite" else "pytorch"
    with artifact.quiet():
        pruning, train = (import_module(f"edgelab.{track}.{name}") for name in ("pruning", "train"))
        expected = train.logits(pruning.restore(kept), images)
    got = artifact.load(path).predict(images)
    form = "int8" if "int8" in path.stem else "float32"
    assert (got.argmax(1) == expected.argmax(1)).mean() >= AGREEING[form]
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > (0.99 if form == "int8" else 0.99999)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_shipped_file_says_everything_itself(path: Path) -> None:
    card, kept = cards.describe(path), checkpoint(path)
    assert card["labels"] == kept.meta["class_names"] and card["pixels"] == "centred"
    assert (card["height"], card["width"], card["channels"], card["ending"]) == (32, 32, 3, None)
    with isolated.Worker() as worker:
        assert worker.call("edgelab._seeing:prepare", path, 1, "auto")["labels"] == card["labels"]
