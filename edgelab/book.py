"""Building the book: pages and executed notebooks are staged, markers become tables and figures, Sphinx does the rest.

A marker is a line `<!-- edgelab: NAME -->` in a page of book/. It is replaced by what the ledger and the records of
runs say, so that no figure of a run is ever typed into a page.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from edgelab import overview, timings
from edgelab._markdown import DASH, table
from edgelab.course import CHAPTERS
from edgelab.errors import EdgelabError
from edgelab.overview import BASELINE
from edgelab.web import pages as web_pages
from edgelab.web import runtime

if TYPE_CHECKING:
    import pandas as pd

    from edgelab.plots import Figure

MARKER = re.compile(r"^<!-- edgelab: ([\w-]+) -->$", re.MULTILINE)
TIMES = re.compile(r"<!-- times: (\w+) -->")
NOT_PAGES = ("executed", "results", "web")
BUILDERS = ("jupyter-book", "sphinx", "sphinx-book-theme", "pydata-sphinx-theme", "myst-nb", "sphinxcontrib-bibtex")
MADE_WHEN = "The day of each chapter's run, and the commit of the code that ran."
STAMP = ".edgelab-inputs"
TAIL = 15
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"


@dataclass(frozen=True)
class Records:
    """What is known about runs: the published ones (book/results/) and the one made here (build/ci/)."""

    root: Path

    @property
    def published_run(self) -> Path:
        """The record of the run whose outputs the book shows, chapter by chapter."""
        return self.root / "book" / "results" / "run.json"

    @property
    def digits_run(self) -> Path:
        """The record of the run whose outputs the committed notebooks hold, chapter by chapter."""
        return self.root / "book" / "results" / "run_ci.json"

    @property
    def zoo_run(self) -> Path:
        """The record of one run of all chapters from kept checkpoints: its outputs are not kept."""
        return self.root / "book" / "results" / "run_zoo.json"

    @property
    def published_ledger(self) -> Path:
        """The published measurements."""
        return self.root / "book" / "results" / "ledger.csv"

    @property
    def local_run(self) -> Path:
        """The record of the last `edgelab run --profile ci` in this tree."""
        return self.root / "build" / "ci" / "run.json"

    @property
    def local_ledger(self) -> Path:
        """The measurements of that run."""
        return self.root / "build" / "ci" / "ledger.csv"

    def files(self) -> list[Path]:
        """Those of the six that exist."""
        ran = self.published_run, self.digits_run, self.zoo_run, self.local_run
        return [path for path in (*ran, self.published_ledger, self.local_ledger) if path.is_file()]

    def runs(self) -> dict[str, timings.Run]:
        """The records of the four runs, {} for one that has left none."""
        paths = {"On digits": self.digits_run, "From checkpoints": self.zoo_run}
        paths |= {"Published": self.published_run, "This machine": self.local_run}
        return {heading: timings.read(path) for heading, path in paths.items()}

    def chapters(self) -> list[str]:
        """The names of the notebooks."""
        return [path.stem for path in (self.root / "notebooks").glob(CHAPTERS)]


def _ledger(path: Path) -> pd.DataFrame | None:
    from edgelab import ledger

    return ledger.read(path) if path.is_file() else None


def _percent(row: pd.Series) -> str:
    return f"{100 * row['accuracy']:.2f} ({100 * row['accuracy_low']:.2f}{DASH}{100 * row['accuracy_high']:.2f})"


def _count(value: object) -> str:
    return f"{int(float(str(value))):,}"


def _baseline(frame: pd.DataFrame) -> pd.DataFrame:
    """The course's networks before compression; the classifier of the first chapter is none of them."""
    return frame[(frame["technique"] == "baseline") & (frame["chapter"] == BASELINE)]


def baseline_table(records: Records) -> str:
    """The published baseline rows as a Markdown table, with what they were measured on in a line below it."""
    frame = _ledger(records.published_ledger)
    if frame is None or (rows := _baseline(frame)).empty:
        return "*No baseline has been published yet.*"
    rows = rows.sort_values(["model", "framework", "seed"])
    header = ["Model", "Framework", "Seed", "Accuracy, % (95 % interval)", "Bytes", "Gzipped"]
    cells = [
        [
            f"`{row['model']}`",
            str(row["framework"]),
            _count(row["seed"]),
            _percent(row),
            _count(row["bytes"]),
            _count(row["gzip_bytes"]),
        ]
        for _, row in rows.iterrows()
    ]
    measured = rows[["data", "n_test"]].drop_duplicates()
    on = "; ".join(f"`{row['data']}`, {_count(row['n_test'])} test images" for _, row in measured.iterrows())
    return f"{table(header, cells, {2, 3, 4, 5})}\n\nMeasured on {on}. Bytes are those of the exported file."


def comparison(records: Records) -> Figure | None:
    """Accuracy against bytes of the baselines and what became of them, or None where nothing is published.

    Only files measured on the baselines' data are comparable; the classifier of the first chapter is left out. A file
    that several chapters have measured is shown once, as first measured.
    """
    frame = _ledger(records.published_ledger)
    if frame is None or _baseline(frame).empty:
        return None
    from edgelab import plots

    shown = web_pages.comparable(frame, BASELINE).sort_values("chapter", kind="stable")
    return plots.accuracy_against_size(shown.drop_duplicates(["model", "technique", "framework", "seed"]))


def comparison_figure(records: Records) -> str:
    """The comparison as HTML, with alternative text and the table behind it."""
    figure = comparison(records)
    return web_pages.raw_html(figure._repr_html_()) if figure else web_pages.NOTHING


def _results(path: Path) -> dict[str, str]:
    """What was measured -> accuracy with its interval and the data set; different results stand side by side."""
    frame = _ledger(path)
    found: dict[str, list[str]] = {}
    for _, row in () if frame is None else frame.iterrows():
        name = f"`{row['model']}`, {str(row['technique']).replace('_', ' ')}, {row['framework']}"
        found.setdefault(name, []).append(f"{_percent(row)} `{row['data']}`")
    return {name: "; ".join(dict.fromkeys(values)) for name, values in found.items()}


def status(records: Records) -> str:
    """Timings, versions, machines and results of the published runs, and beside them what this machine has run."""
    runs = records.runs()
    parts = []
    if not runs["Published"]:
        parts.append("*The published run has left no record of its timings.*")
    if not runs["This machine"]:
        parts.append("*This machine has not run the course yet: `edgelab run --profile ci` does.*")
    if any(runs.values()):
        named = sorted({*records.chapters(), *(chapter for run in runs.values() for chapter in run)})
        parts += ["## Run time", timings.run_times(runs, named), timings.aims(runs, named)]
        parts += ["## Made with", timings.made_with(runs), "## Made when", MADE_WHEN, timings.made_when(runs, named)]
    results = _results(records.published_ledger), _results(records.local_ledger)
    if any(results):
        names = dict.fromkeys([*results[0], *results[1]])
        rows = [[name, *(found.get(name, DASH) for found in results)] for name in names]
        parts += ["## Accuracy", "In per cent of the test images, with its 95 % interval."]
        parts.append(table(["Model", "Published", "This machine"], rows, {1, 2}))
    return "\n\n".join(parts)


def _times(records: Records, chapter: str) -> str:
    """Cells of the chapter map: how long `chapter` takes to read, and to run on digits and for the book."""
    runs = records.runs()
    page = records.root / "book" / "executed" / f"{chapter}.ipynb"
    return timings.of_chapter(page, (runs["On digits"], runs["Published"]))


FILLERS: dict[str, Callable[[Records], str]] = {
    "baseline": baseline_table,
    "comparison": comparison_figure,
    "status": status,
    "models-in-browser": lambda records: web_pages.models_in_browser(records.root),
    "models-table": lambda records: web_pages.models_table(records.root),
    "advice": lambda records: overview.advice(_ledger(records.published_ledger)),
    "techniques": lambda records: overview.techniques(_ledger(records.published_ledger)),
    "coverage": lambda records: overview.coverage(_ledger(records.published_ledger)),
    "fronts": lambda records: overview.fronts(_ledger(records.published_ledger)),
    "repeats": lambda records: overview.repeats(_ledger(records.published_ledger)),
    "goals": lambda records: overview.goals(_ledger(records.published_ledger)),
    "claims": lambda records: overview.claims(_ledger(records.published_ledger)),
    "energy-error": lambda records: overview.energy_error(),
    "chart": lambda records: web_pages.chart(_ledger(records.published_ledger), BASELINE),
}


def fill(text: str, root: Path) -> str:
    """`text` with every marker replaced by what the records under `root` say.

    Inside a table `<!-- times: CHAPTER -->` becomes three cells, see `_times`.
    Raises EdgelabError for a marker nobody knows.
    """

    def replacement(match: re.Match[str]) -> str:
        if match[1] not in FILLERS:
            raise EdgelabError(f"unknown marker 'edgelab: {match[1]}': choose one of {', '.join(FILLERS)}")
        return FILLERS[match[1]](Records(root))

    return TIMES.sub(lambda match: _times(Records(root), match[1]), MARKER.sub(replacement, text))


def chapters(root: Path) -> list[str]:
    """The notebooks that _toc.yml lists, in order, without folder and suffix.

    Raises EdgelabError where _toc.yml lists a file that is not there.
    """
    import yaml

    def entries(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [str(node[key]) for key in ("root", "file") if key in node]
            return own + [name for value in node.values() for name in entries(value)]
        return [name for item in node for name in entries(item)] if isinstance(node, list) else []

    listed = entries(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))
    names = [name.removeprefix("notebooks/") for name in listed if name.startswith("notebooks/")]
    wanted = [f"book/executed/{name}.ipynb" for name in names]
    wanted += [f"{name}.md" for name in listed if not name.startswith("notebooks/")]
    for path in wanted:
        if not (root / path).is_file():
            raise EdgelabError(f"_toc.yml lists a page whose file {path} is missing: add it or take it out of _toc.yml")
    return names


def _sources(root: Path) -> dict[str, Path]:
    """Place in the stage -> file it is made from."""
    for name in ("_config.yml", "_toc.yml"):
        if not (root / name).is_file():
            raise EdgelabError(f"no {name} in {root}: expected the root of an edgelab tree")
    sources = {name: root / name for name in ("_config.yml", "_toc.yml")}
    for path in sorted((root / "book").rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and relative.parts[1] not in NOT_PAGES and not path.name.startswith("."):
            sources[relative.as_posix()] = path
    for name in chapters(root):
        sources[f"notebooks/{name}.ipynb"] = root / "book" / "executed" / f"{name}.ipynb"
    return sources | runtime.files(root)


def _digest(root: Path, sources: dict[str, Path]) -> str:
    """SHA-256 over everything the book is made from: files, records, the code that fills markers, the builders."""
    folder = Path(__file__).parent
    own = sorted([*folder.glob("*.py"), *folder.glob("web/*.py"), *folder.glob("overview/*.py")])
    named = [*sources.items(), *((path.name, path) for path in own)]
    named += [(path.relative_to(root).as_posix(), path) for path in Records(root).files()]
    digest = hashlib.sha256()
    for name, path in named:
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for package in BUILDERS:
        digest.update(f"{package} {metadata.version(package)}\n".encode())
    return digest.hexdigest()


def _stage(root: Path, sources: dict[str, Path], stage: Path) -> None:
    shutil.rmtree(stage, ignore_errors=True)
    for place, path in sources.items():
        target = stage / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".md" and "_static" not in target.parts:
            target.write_text(fill(path.read_text(encoding="utf-8"), root), encoding="utf-8")
        else:
            shutil.copyfile(path, target)


def _sphinx(stage: Path, work: Path, log: Path) -> Path:
    """Run jupyter-book on `stage`, warnings as errors, and return the folder with the pages."""
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(stage), "--path-output", str(work)]
    command += ["-W", "-n", "--keep-going", "--all"]
    environment = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    with log.open("w", encoding="utf-8") as stream:
        ended = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**environment, "NO_COLOR": "1"}, check=False
        )
    log.write_text(re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace")), encoding="utf-8")
    pages = work / "_build" / "html"
    if ended.returncode or not (pages / "index.html").is_file():
        raise EdgelabError(_failure(log, ended.returncode, stage))
    return pages


def _failure(log: Path, code: int, stage: Path) -> str:
    """One line about a failed build; the end of its log goes to standard error."""
    text = log.read_text(encoding="utf-8")
    lines = [line.replace(f"{stage}{os.sep}", "") for line in text.splitlines() if line.strip()]
    print("\n".join(lines[-TAIL:]), file=sys.stderr)
    complaints = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
    what = f"{len(complaints)} complaints, the first: {complaints[0]}" if complaints else "".join(lines[-1:])
    return f"the book was not built (jupyter-book ended with {code}; {what}); the whole output is in {log}"


def _swap(pages: Path, output: Path) -> None:
    """Put `pages` where `output` is; a reader of the old book loses it only for the moment between two renames."""
    old = output.with_name(f"{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    pages.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def build(root: Path, output: Path | None = None) -> Path:
    """Build the book of the tree at `root` into the folder `output` (default build/book); returns its index.html.

    Staged files, log and lock lie beside `output`, what npm fetches in build/web/ of the tree; nothing else in the tree
    is written. When nothing has changed since the last build, nothing is done. Two builds at once take turns.
    Raises EdgelabError, with the log's place, when jupyter-book fails or warns; an earlier book is then kept.
    """
    from filelock import FileLock

    root = root.resolve()
    output = (output or root / "build" / "book").resolve()
    if output.exists() and not (output / STAMP).is_file() and any(output.iterdir()):
        raise EdgelabError(f"{output} is not a book built by edgelab: name another folder or empty this one")
    output.parent.mkdir(parents=True, exist_ok=True)
    stage, work, log = (output.with_name(f"{output.name}{end}") for end in (".stage", ".part", ".log"))
    index = output / "index.html"
    with FileLock(output.with_name(f"{output.name}.lock")):
        if problem := runtime.install(root):
            print(f"book: without the runtime of the page in_your_browser: {problem}", flush=True)
        sources = _sources(root)
        digest = _digest(root, sources)
        stamp = output / STAMP
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
            print(f"book: up to date, {index}")
            return index
        print("book: building, about a minute", flush=True)
        shutil.rmtree(work, ignore_errors=True)
        _stage(root, sources, stage)
        pages = _sphinx(stage, work, log)
        (pages / STAMP).write_text(digest, encoding="utf-8")
        _swap(pages, output)
        shutil.rmtree(work, ignore_errors=True)
    print(f"book: {index}")
    return index
