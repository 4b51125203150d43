"""The ledger: one CSV row a measurement, from which every published number is read.

A row is written whole or not at all, also when two processes append at once or one is killed while it writes.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

TECHNIQUE = re.compile(
    r"baseline|longer_training(_ema)?(_ptq_int8)?|clustering|ptq(_[a-z0-9]+)+|qat(_[a-z0-9]+)+|(p|c|pc)qat(_[a-z0-9]+)*"
    r"|(magnitude_pruning|structured_pruning|(ensemble_)?distillation|linear_head)(_[a-z0-9]+)*"
)
PATTERNS = {
    "chapter": (re.compile(r"\d\d_[a-z0-9_]+"), "a chapter such as 01_baseline"),
    "technique": (
        TECHNIQUE,
        "baseline, magnitude_pruning, structured_pruning, ptq_<kind>, qat_<bits>, distillation, pqat",
    ),
    "framework": (re.compile("tensorflow|pytorch"), "tensorflow or pytorch"),
    "data_fingerprint": (re.compile("[0-9a-f]{64}"), "64 hexadecimal digits"),
}
LOCK_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement of one model file; the fields are the ledger's columns in order.

    `accuracy` and its 95 % Wilson interval are shares of the `n_test` images, 0..1; `bytes` is the file on disk;
    `nonzero` and `effective_macs` count non-zero weights only; `wall_s` is how long making the model took (training
    included), in seconds; `when` is ISO 8601 with its time zone. A value that was not measured is None, an empty cell.
    Raises EdgelabError naming every field that cannot be right.
    """

    chapter: str
    technique: str
    framework: str
    runtime: str
    model: str
    data: str
    data_fingerprint: str
    seed: int
    n_test: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    bytes: int
    gzip_bytes: int
    parameters: int
    nonzero: int
    macs: int
    effective_macs: int
    relative_energy: float
    energy_uj: float | None = None
    ram_bytes: int | None = None
    latency_ms: float | None = None
    latency_on: str | None = None
    versions: str
    commit: str
    machine: str
    wall_s: float
    when: str

    def __post_init__(self) -> None:
        """Refuse a record that cannot be right."""
        if problems := _problems(asdict(self)):
            raise EdgelabError(f"not a ledger record: {'; '.join(problems)}")


COLUMNS = tuple(field.name for field in fields(Record))
KINDS = {field.name: str(field.type).removesuffix(" | None") for field in fields(Record)}
OPTIONAL = frozenset(field.name for field in fields(Record) if field.default is None)
ORDERED = (
    ("accuracy_low", "accuracy"),
    ("accuracy", "accuracy_high"),
    ("nonzero", "parameters"),
    ("effective_macs", "macs"),
)


def _text_problem(name: str, value: object) -> str | None:
    if not isinstance(value, str) or not value.strip() or len(value.splitlines()) > 1:
        return f"{name}: expected one line of text, got {value!r}"
    if name in PATTERNS and not PATTERNS[name][0].fullmatch(value):
        return f"{name}: expected {PATTERNS[name][1]}, got {value!r}"
    if name == "when":
        try:
            zone = datetime.fromisoformat(value).tzinfo
        except ValueError:
            zone = None
        return None if zone else f"when: expected a date and time with its zone (ISO 8601), got {value!r}"
    return None


def _number_problem(name: str, value: object) -> str | None:
    numeric = Integral if KINDS[name] == "int" else Real
    if isinstance(value, bool) or not isinstance(value, numeric) or not math.isfinite(value) or value < 0:
        return f"{name}: expected {'a whole number' if numeric is Integral else 'a number'} from 0 up, got {value!r}"
    if name.startswith("accuracy") and value > 1:  # type: ignore[operator]
        return f"{name}: expected a share from 0 to 1, got {value!r}"
    if name in ("n_test", "bytes", "gzip_bytes") and value == 0:
        return f"{name}: expected at least 1, got 0"
    return None


def _problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with the values of a record, by column; empty where all is well."""
    found = {}
    for name in COLUMNS:
        if row[name] is None and name in OPTIONAL:
            continue
        problem = (_text_problem if KINDS[name] == "str" else _number_problem)(name, row[name])
        if problem:
            found[name] = problem
    crossed = [
        f"{low}: expected at most {high} ({row[high]}), got {row[low]}"
        for low, high in ORDERED
        if low not in found and high not in found and row[low] > row[high]
    ]
    return [*found.values(), *crossed]


def default_path() -> Path:
    """`EDGELAB_LEDGER` where it is set, else `ledger.csv` in the cache folder."""
    if chosen := os.environ.get("EDGELAB_LEDGER"):
        return Path(chosen)
    from edgelab.data import cache_folder

    return cache_folder() / "ledger.csv"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing `path`; the system drops the lock of a process that is killed."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise EdgelabError(f"another process has held the ledger {path} for {LOCK_SECONDS} s: wait or end it") from None


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows(path: Path) -> list[list[str]]:
    """The cells of every row below the header. Raises EdgelabError where `path` is not a ledger."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
    except FileNotFoundError:
        raise EdgelabError(f"there is no ledger at {path}: run a chapter that measures something first") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EdgelabError(f"{path} cannot be read as a ledger ({error}): restore it or move it away") from None
    if tuple(header) != COLUMNS:
        odd = sorted(set(header) ^ set(COLUMNS)) or ["their order"]
        raise EdgelabError(
            f"{path} is not a ledger: its columns differ in {', '.join(odd)[:200]!r}; restore it or move it away"
        )
    return rows


def append(record: Record, path: Path | None = None) -> Path:
    """Add `record` to the ledger at `path` (default: `default_path()`), made if need be, and return the path.

    Atomic and safe from several processes: the new file replaces the old one in one step, under a lock.
    Raises EdgelabError where `path` holds something else than a ledger.
    """
    path = (path or default_path()).resolve()
    new = ["" if value is None else str(value) for value in asdict(record).values()]
    with _locked(path):
        rows = _rows(path) if path.exists() else []
        _replace(path, [*rows, new])
    return path


def _replace(path: Path, rows: list[list[str]]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(_csv([list(COLUMNS), *rows]), encoding="utf-8", newline="\n")


def _parsed(name: str, cell: str) -> object:
    """The value in a cell; a cell that is no number stays text, for `_problems` to name."""
    if cell == "" and name in OPTIONAL:
        return None
    try:
        return {"int": int, "float": float, "str": str}[KINDS[name]](cell)
    except ValueError:
        return cell


def check(path: Path | None = None) -> list[str]:
    """Everything wrong with the ledger at `path`, one line a problem naming row and column; empty where all is well."""
    path = path or default_path()
    try:
        rows = _rows(path)
    except EdgelabError as error:
        return [str(error)]
    found = []
    for number, cells in enumerate(rows, 2):
        if len(cells) != len(COLUMNS):
            found.append(f"row {number}: expected {len(COLUMNS)} cells, got {len(cells)}")
            continue
        values = {name: _parsed(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)}
        found += [f"row {number}, {problem}" for problem in _problems(values)]
    return found


def read(path: Path | None = None) -> pd.DataFrame:
    """The ledger as a table: whole numbers, floats and text as in `Record`, missing values where nothing was measured.

    Raises EdgelabError, naming the first fault, where the file is missing or damaged.
    """
    import pandas as pd

    path = path or default_path()
    rows = _rows(path)
    if problems := check(path):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise EdgelabError(f"the ledger {path} is damaged at {problems[0]}{more}: repair or remove the row")
    dtypes = {"int": "int64", "float": "float64", "str": "string"}
    values = [[_parsed(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)] for cells in rows]
    frame = pd.DataFrame(values, columns=list(COLUMNS), dtype=object)
    kinds = {name: "Int64" if kind == "int" and name in OPTIONAL else dtypes[kind] for name, kind in KINDS.items()}
    return frame.astype(kinds)


def drop_chapter(path: Path, chapter: str) -> int:
    """Remove the rows of `chapter` from the ledger at `path`, so that it can be run again; returns their number."""
    return _replace_chapter(path, chapter, []) if path.exists() else 0


def replace_chapter(path: Path, chapter: str, source: Path) -> None:
    """Put the rows of the ledger `source` in place of those of `chapter` at `path`, which is made if need be.

    Rows then stand in the order of the chapters. Where there is neither `source` nor `path`, nothing is made.
    Raises EdgelabError where either is something else than a ledger.
    """
    if source.exists() or path.exists():
        _replace_chapter(path, chapter, _rows(source) if source.exists() else [])


def _replace_chapter(path: Path, chapter: str, new: list[list[str]]) -> int:
    """Returns the number of rows that were removed."""
    path = path.resolve()
    with _locked(path):
        rows = _rows(path) if path.exists() else []
        kept = [cells for cells in rows if cells[:1] != [chapter]]
        if new or len(kept) < len(rows):
            _replace(path, sorted([*kept, *new], key=lambda cells: cells[:1]))
    return len(rows) - len(kept)
