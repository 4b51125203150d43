"""Putting the outputs of a finished run into the repository, where readers see them without running anything.

The outputs of the profile `ci` go back into notebooks/, where tests compare them, and the records of their run into
book/results/run_ci.json. Those of `zoo` and `full` become the pages of the book, in book/executed/, with their rows in
book/results/ledger.csv and their records in book/results/run.json.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelab import profiles, runs
from edgelab.files import atomic_path
from edgelab.reproduce import numbered

if TYPE_CHECKING:
    from edgelab import zoo

EXTRA_KEYS = ["metadata.papermill", "cell.metadata.papermill", "cell.metadata.execution"]
IDENTITY = ("chapter", "technique", "framework", "runtime", "model", "data", "seed")
NOT_NUMBERS = {*IDENTITY, "data_fingerprint", "latency_on", "versions", "commit", "machine", "wall_s", "when"}


def clean(notebook: Any, injected: bool) -> Any:
    """An executed notebook as it is kept: outputs and counts stay; run metadata and standard error (progress) go.

    The cell papermill has added says with which profile the outputs were made: it stays where `injected` is true.
    """
    import nbstripout

    cells = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags and not injected:
            continue
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        cells.append(cell)
    notebook.cells = cells
    nbstripout.strip_output(notebook, keep_output=True, keep_count=True, keep_id=True, extra_keys=EXTRA_KEYS)
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def _keep_notebook(source: Path, target: Path, injected: bool) -> None:
    import nbformat

    with atomic_path(target) as temporary:
        text = nbformat.writes(clean(nbformat.read(source, as_version=4), injected))
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _merge_ledger(chapters: Sequence[str], source: Path, target: Path) -> list[str]:
    """Replace the rows of `chapters` in `target` by those in `source`; returns what has changed, one line a row."""
    from edgelab.ledger import COLUMNS

    old, fresh = _read_rows(target), [row for row in _read_rows(source) if row["chapter"] in chapters]
    kept = [row for row in old if row["chapter"] not in chapters]
    if not fresh and len(kept) == len(old):
        return []
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, *fresh], key=lambda row: row["chapter"]))
    return differences([row for row in old if row["chapter"] in chapters], fresh)


def differences(old: Iterable[Mapping[str, str]], new: Iterable[Mapping[str, str]]) -> list[str]:
    """How the numbers of ledger rows have changed, one line a row: "01_baseline ...: accuracy 0.81 -> 0.82"."""
    before, after = numbered(old, IDENTITY), numbered(new, IDENTITY)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        *names, seed, _ = map(str, key)
        name = f"{' '.join(names)} seed {seed}"
        if key not in after:
            lines.append(f"{name}: gone")
        elif key not in before:
            lines.append(f"{name}: new, accuracy {after[key]['accuracy']}, bytes {after[key]['bytes']}")
        else:
            pairs = [(column, before[key].get(column, ""), value) for column, value in after[key].items()]
            moved = [f"{c} {a or 'empty'} -> {b or 'empty'}" for c, a, b in pairs if c not in NOT_NUMBERS and a != b]
            lines.append(f"{name}: {', '.join(moved) or 'unchanged'}")
    return lines


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seal(root: Path, chapter: str) -> dict[str, str]:
    """SHA-256 of what is published of `chapter`: its page's `outputs` and its ledger `rows`, whatever their order.

    The record of the run in run.json holds both, so that a number changed by hand does not fit the run any more.
    """
    import nbformat

    cells = nbformat.read(root / "book" / "executed" / f"{chapter}.ipynb", as_version=4).cells
    rows = [
        [*row.values()] for row in _read_rows(root / "book" / "results" / "ledger.csv") if row["chapter"] == chapter
    ]
    outputs = [cell.outputs for cell in cells if cell.cell_type == "code"]
    return {"outputs": _sha256(outputs), "rows": _sha256(sorted(rows))}


def _keep_records(path: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    runs.write(path, {**runs.read(path), **records})


def publish_chapters(root: Path, chapters: Sequence[str], profile: profiles.Profile, output: Path) -> None:
    """Keep what `chapters` have left in the folder `output`, and print which numbers have changed."""
    into = root / "notebooks" if profile.name == "ci" else root / "book" / "executed"
    for chapter in chapters:
        _keep_notebook(output / f"{chapter}.ipynb", into / f"{chapter}.ipynb", injected=profile.name != "ci")
    print(f"published {len(chapters)} notebook{'s' * (len(chapters) != 1)} in {into}")
    results, finished = root / "book" / "results", runs.read(output / "run.json")
    if profile.name == "ci":
        _keep_records(results / "run_ci.json", {name: finished[name] for name in chapters})
        return
    changes = _merge_ledger(chapters, output / "ledger.csv", results / "ledger.csv")
    _keep_records(results / "run.json", {name: {**finished[name], "sha256": seal(root, name)} for name in chapters})
    print("\n".join(changes) or "no ledger rows", flush=True)
    _keep_picture(root)
    models = {row["model"] for row in _read_rows(output / "ledger.csv") if row["chapter"] in chapters}
    _keep_checkpoints(models, profile)


def _keep_picture(root: Path) -> None:
    """Draw the comparison for places that show no book, such as the README."""
    from edgelab import book

    if figure := book.comparison(book.Records(root)):
        with atomic_path(root / "book" / "_static" / "comparison.svg") as temporary:
            temporary.write_bytes(figure.svg)


def _is_kept(checkpoint: zoo.Checkpoint, path: Path) -> bool:
    """Whether `path` holds this very checkpoint; written anew, its header could be in another order."""
    from edgelab import zoo

    if not path.exists():
        return False
    kept = zoo.load(path)
    same = all(np.array_equal(kept.arrays[name], array) for name, array in checkpoint.arrays.items())
    return same and replace(kept, arrays={}) == replace(checkpoint, arrays={})


def _keep_checkpoints(models: Iterable[str], profile: profiles.Profile) -> None:
    """Keep this machine's checkpoints of `models` for the profile `zoo`, in place of those an earlier recipe gave."""
    from edgelab import data, zoo

    recipes = {**profile.recipes, **profile.others}
    wanted = [name for name in sorted(models) if name in recipes]
    if not wanted:
        return
    dataset = data.load(profile.data)
    for model in wanted:
        checkpoint = zoo.find(model, dataset, recipes[model], kept=False)
        if checkpoint:
            path = zoo.KEPT / f"{checkpoint.key}.safetensors"
            if not _is_kept(checkpoint, path):
                zoo.keep(checkpoint, zoo.KEPT)
            for other in zoo.KEPT.glob(f"{path.stem.rpartition('-')[0]}-*.safetensors"):
                if other != path:
                    other.unlink()
            print(f"kept {path}")
