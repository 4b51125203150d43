"""Running the course: chapters are checked, executed one after the other and remembered.

A chapter's results appear each in one step: its ledger rows, its notebook and at last its record in run.json. So a run
that is killed, at any moment, later repeats the chapter it was in and nothing that was finished.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgelab import profiles, reproduce, runs
from edgelab.errors import EdgelabError
from edgelab.files import exclusive

CHAPTERS = "[0-9][0-9]_*.ipynb"
COMPARISON = "09"  # which is no notebook
PACKAGE = Path(__file__).resolve().parent
APART = {"__pycache__", "checkpoints"}  # folders of the package whose files do not all count as its own
QUIET_KERNEL = ["--log-level=50"]  # its log is about its own sockets; what cells print is not part of it
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Job:
    """One chapter to be run: its notebook, the parameters it gets, and the SHA-256 that says when to run it again."""

    notebook: Path
    parameters: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """The chapter's name, such as 01_baseline."""
        return self.notebook.stem


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


@contextmanager
def _kernel_environment(ledger: Path) -> Iterator[None]:
    """The environment kernels inherit: `ledger` to write to, and paths that hold in the notebook's folder too."""
    before = dict(os.environ)
    os.environ["EDGELAB_LEDGER"] = str(ledger)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TensorFlow then starts in two seconds less, without Keras 3
    for name in ("EDGELAB_DATA", "EDGELAB_CACHE"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _keep_failure(job: Job, executed: Path, output: Path, error: Exception) -> EdgelabError:
    """Put the half-executed notebook where the reader can open it; returns the line that says so."""
    from papermill.exceptions import PapermillExecutionError

    failed = output / f"{job.name}.failed.ipynb"
    if executed.exists():
        os.replace(executed, failed)
    if isinstance(error, PapermillExecutionError):
        message = (str(error.evalue).splitlines() or [""])[0]
        what = f"in cell [{error.exec_count}] ({error.ename}: {message})"
    else:
        what = f"({(str(error).splitlines() or [type(error).__name__])[0]})"
    return EdgelabError(f"{job.name} failed {what}: its output and traceback are in {failed}")


def _execute(job: Job, output: Path) -> None:
    """Run one chapter and put its ledger, its notebook and its record in place, in this order.

    The kernel writes to a copy of the ledger in a folder of its own. A kernel that outlives a killed run for a moment
    can so touch no result, and rows of a chapter that fails later are never seen.
    """
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from papermill.exceptions import PapermillExecutionError

    from edgelab import ledger, provenance

    running = Path(tempfile.mkdtemp(prefix=".running-", dir=output))
    executed, rows, results = running / f"{job.name}.ipynb", running / "ledger.csv", output / "ledger.csv"
    if results.exists():
        shutil.copyfile(results, rows)
        ledger.drop_chapter(rows, job.name)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    try:
        with _kernel_environment(rows):
            kernel = {"kernel_name": "python3", "language": "python", "extra_arguments": QUIET_KERNEL}
            papermill.execute_notebook(job.notebook, executed, job.parameters, cwd=job.notebook.parent, **kernel)
    except NoSuchKernel as error:
        raise EdgelabError(
            "Jupyter has no kernel named python3 to run chapters in: pip install ipykernel, then run again"
        ) from error
    except (PapermillExecutionError, RuntimeError) as error:  # a kernel that dies raises RuntimeError
        raise _keep_failure(job, executed, output, error) from error
    seconds = round(time.perf_counter() - clock, 1)
    if rows.exists():
        os.replace(rows, results)
    os.replace(executed, output / executed.name)
    record = {"hash": job.digest, "parameters": job.parameters, "started": started, "seconds": seconds}
    finished = runs.read(output / "run.json")
    runs.write(output / "run.json", {**finished, job.name: {**record, "provenance": provenance.collect()}})
    (output / f"{job.name}.failed.ipynb").unlink(missing_ok=True)
    shutil.rmtree(running, ignore_errors=True)


def _run_jobs(jobs: Sequence[Job], output: Path) -> None:
    for left in output.glob(".running-*"):
        shutil.rmtree(left, ignore_errors=True)
    for number, job in enumerate(jobs, 1):
        done = output / f"{job.name}.ipynb"
        record = runs.read(output / "run.json").get(job.name, {})
        if record.get("hash") == job.digest and done.exists():
            print(f"[{number}/{len(jobs)}] {job.name}: up to date, {done}", flush=True)
            continue
        print(f"[{number}/{len(jobs)}] {job.name}: running", flush=True)
        _execute(job, output)
        print(f"[{number}/{len(jobs)}] {job.name}: done, {done}", flush=True)


def run(
    chapters: Sequence[str] = (),
    profile: str = "ci",
    parameters: Mapping[str, str] | None = None,
    output: Path | None = None,
    publish: bool = False,
) -> Path:
    """Execute `chapters` (none: all) and return the folder with the results, `output` or build/<profile>.

    A chapter whose notebook, parameters, code, package versions and EDGELAB_DATA are those of its last finished run is
    left as it is. Two runs into one folder take turns. With `publish` the outputs then go into the repository, see
    `edgelab.publish`; else what was measured is held against the published results, see `edgelab.reproduce`, unless
    the profile is ci, of which none are published.
    Raises EdgelabError before anything runs for an unknown chapter, profile or parameter; and when a chapter fails,
    whose notebook is kept as <chapter>.failed.ipynb. Later chapters are then not run.
    """
    chosen = profiles.get(profile)
    root = find_root()
    notebooks = select(root, chapters)
    values = [check_parameters(notebook, profile, parameters or {}) for notebook in notebooks]
    names = [path.stem for path in notebooks]
    output = (output or root / "build" / profile).resolve()
    waiting = f"another run is at work in {output}: waiting for it to end"
    with exclusive(output / ".lock", lambda: print(waiting, flush=True)):
        pairs = zip(notebooks, values, strict=True)
        _run_jobs([Job(path, value, _digest(path, chosen, value)) for path, value in pairs], output)
        if publish:
            from edgelab.publish import publish_chapters

            publish_chapters(root, names, chosen, output)
        elif profile != "ci":
            reproduce.report(root, output, names)
    return output
