"""Running the course: chapters are chosen, checked, executed where anything has changed, compared or published."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgelab import profiles, reproduce
from edgelab._executing import Job, run_jobs
from edgelab.errors import EdgelabError
from edgelab.files import exclusive

CHAPTERS = "[0-9][0-9]_*.ipynb"
COMPARISON = "09"  # which is no notebook
PACKAGE = Path(__file__).resolve().parent
APART = {"__pycache__", "checkpoints"}  # folders of the package whose files do not all count as its own
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def find_root(start: Path | None = None) -> Path:
    """The folder that holds notebooks/: `start` (default: the current one), one above it, or the package's own tree.

    Raises EdgelabError where none of them does.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, PACKAGE.parent):
        if any((folder / "notebooks").glob(CHAPTERS)):
            return folder
    raise EdgelabError(f"no course here: expected notebooks/00_start.ipynb in {start} or above it; change to a clone")


def select(root: Path, wanted: Sequence[str] = ()) -> list[Path]:
    """The notebooks of the `wanted` chapters ("1", "01" or "01_baseline"; none: all) in the order of the course.

    Raises EdgelabError for a chapter that is not there.
    """
    notebooks = sorted((root / "notebooks").glob(CHAPTERS))
    chosen = set()
    for name in wanted:
        found = {path for path in notebooks if name == path.stem or (name and name.zfill(2) == path.stem[:2])}
        if not found and name.zfill(2) == COMPARISON:
            raise EdgelabError("chapter 9 is a page of the book, made from what the others have measured: edgelab book")
        if not found:
            raise EdgelabError(f"unknown chapter {name!r}: choose from {', '.join(path.stem for path in notebooks)}")
        chosen |= found
    return [path for path in notebooks if not wanted or path in chosen]


def _literal(text: str) -> Any:
    """`text` read as a Python literal; as it stands where it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _value(chapter: str, name: str, text: str, declared: Mapping[str, str]) -> Any:
    """`text` as a value of the type that the notebook's default for `name` has."""
    default = _literal(declared["default"])
    kind = type(default)
    value = text if kind is str else _literal(text.capitalize() if kind is bool else text)
    if kind is float and type(value) is int:
        value = float(value)
    if kind in KINDS and type(value) is not kind:
        known = f"{KINDS[kind]} (by default {declared['default']})"
        raise EdgelabError(f"parameter {name!r} of {chapter} is {known}, not {text!r}")
    return value


def check_parameters(notebook: Path, profile: str, given: Mapping[str, str]) -> dict[str, Any]:
    """What to inject into `notebook`: the profile and the `given` texts, converted to the types of its parameters cell.

    Raises EdgelabError for a parameter the notebook does not declare and for a value of another type.
    """
    import papermill

    try:
        declared = papermill.inspect_notebook(notebook)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EdgelabError(f"{notebook} cannot be read as a notebook ({reason}): restore it from git") from error
    if "profile" in given:
        raise EdgelabError(f"the profile is not given with -p: write --profile {given['profile']}")
    for name in ("profile", *given):
        if name not in declared:
            known = ", ".join(sorted(declared)) or "none at all (no cell is tagged 'parameters')"
            raise EdgelabError(f"{notebook.stem} has no parameter {name!r}: it has {known}")
    values = {name: _value(notebook.stem, name, text, declared[name]) for name, text in given.items()}
    if values.get("folder"):  # notebooks run in their own folder: a path holds from where the command was given
        values["folder"] = str(Path(values["folder"]).expanduser().absolute())
    return {"profile": profile, **values}


def _digest(notebook: Path, profile: profiles.Profile, parameters: Mapping[str, Any]) -> str:
    """SHA-256 over the notebook's sources, the parameters, edgelab's files and the versions of installed packages.

    Of the checkpoints only those count that the profile may use; of the data only the value of EDGELAB_DATA, not what
    lies there. Outputs and most metadata do not count: saving a notebook anew repeats nothing.
    """
    import nbformat

    from edgelab import provenance

    cells = nbformat.read(notebook, as_version=4).cells
    sources = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells]
    chosen = [parameters, os.environ.get("EDGELAB_DATA", ""), provenance.versions()]
    digest = hashlib.sha256(json.dumps([sources, chosen], sort_keys=True).encode())
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and not APART & {*path.relative_to(PACKAGE).parts}]
    kept = PACKAGE.glob("checkpoints/*.safetensors") if profile.uses_kept else ()
    for path in sorted([*files, *kept]):
        digest.update(f"\n{path.relative_to(PACKAGE).as_posix()} ".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run(
    chapters: Sequence[str] = (),
    profile: str = "ci",
    parameters: Mapping[str, str] | None = None,
    output: Path | None = None,
    publish: bool = False,
    at_once: int = 1,
) -> Path:
    """Execute `chapters` (none: all) and return the folder with the results, `output` or build/<profile>.

    A chapter whose notebook, parameters, code, package versions and EDGELAB_DATA are those of its last finished run is
    left as it is; of the others so many are executed `at_once`. Two runs into one folder take turns. With `publish` the
    outputs then go into the repository, see `edgelab.publish`; else what was measured is held against the published
    results, see `edgelab.reproduce`, unless the profile is ci, of which none are published.
    Raises EdgelabError before anything runs for an unknown chapter, profile or parameter, and for publishing measured
    times of chapters that would disturb each other; and when a chapter fails,
    whose notebook is kept as <chapter>.failed.ipynb. Later chapters are then not run.
    """
    chosen = profiles.get(profile)
    if publish and at_once > 1 and profile != "ci":
        raise EdgelabError("published times are measured with one chapter at work: leave out --jobs or --publish")
    root = find_root()
    notebooks = select(root, chapters)
    values = [check_parameters(notebook, profile, parameters or {}) for notebook in notebooks]
    names = [path.stem for path in notebooks]
    output = (output or root / "build" / profile).resolve()
    waiting = f"another run is at work in {output}: waiting for it to end"
    with exclusive(output / ".lock", lambda: print(waiting, flush=True)):
        pairs = zip(notebooks, values, strict=True)
        run_jobs([Job(path, value, _digest(path, chosen, value)) for path, value in pairs], output, at_once)
        if publish:
            from edgelab.publish import publish_chapters

            publish_chapters(root, names, chosen, output)
        elif profile != "ci":
            reproduce.report(root, output, names)
    return output
