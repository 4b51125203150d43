"""A device's budget: what a model file may take of flash, RAM and energy, and how often it has to be right.

What is compared with the limits:

- **flash**: the bytes of the file, as they lie in flash. The runtime beside it is not in them (see `edgelab.micro`).
- **RAM**: the smallest tensor arena in which TensorFlow Lite Micro starts, where that was asked; else the activations
  that are alive at once, which is less than any runtime takes.
- **energy**: the estimate of `edgelab.energy` for one image. It compares designs; no board will read this number.
- **accuracy**: the lower end of its 95 % interval. Of a file whose accuracy only just reaches the limit on the images
  at hand one cannot say that it does on others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelab import _budget_page, memory, micro, provenance
from edgelab import report as reporting
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path
from edgelab.ledger import COLUMNS, Record

if TYPE_CHECKING:
    from edgelab.design import Design

Row = Mapping[str, Any]
"""A record, or what is known of one, by the ledger's columns; None or no entry where something was not measured."""
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}
POINT = 100


@dataclass(frozen=True)
class Budget:
    """The limits: bytes of flash and RAM, microjoules an image, and the least accuracy (0..1). None: no limit.

    Raises EdgelabError for limits that cannot be, or none at all.
    """

    flash_bytes: int | None = None
    ram_bytes: int | None = None
    energy_uj: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        limits = asdict(self)
        if all(limit is None for limit in limits.values()):
            raise EdgelabError("a budget needs a limit: give flash, RAM, energy or accuracy")
        for name, limit in limits.items():
            whole = name.endswith("bytes")
            kinds = (int, np.integer) if whole else (int, float, np.number)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, kinds) or not 0 < limit < math.inf:
                kind = "a whole number of bytes" if whole else "a number"
                raise EdgelabError(f"expected {name} as {kind} above 0, got {limit!r}")
        if self.accuracy is not None and self.accuracy > 1:
            raise EdgelabError(f"expected accuracy as a share up to 1, got {self.accuracy!r}: write 0.8 for 80 %")


@dataclass(frozen=True)
class Check:
    """One limit and what was `measured`, both in `unit`; `met` says whether it is kept, `note` what else to know.

    What was not measured is None and keeps no limit. `at_most` is False where the limit is the least.
    """

    name: str
    unit: str
    limit: float
    measured: float | None
    how: str
    at_most: bool = True
    note: str = ""

    @property
    def margin(self) -> float | None:
        """What is to spare, in `unit`; negative where the limit is not kept, None where nothing was measured."""
        if self.measured is None:
            return None
        return (self.limit - self.measured) * (1 if self.at_most else -1)

    @property
    def met(self) -> bool:
        """Whether the limit is kept."""
        return self.margin is not None and self.margin >= 0

    def by_how_much(self) -> str:
        """Such as "52,910 bytes to spare" or "17,608 bytes over the limit"."""
        if self.margin is None:
            return "not measured"
        told = self.told(abs(self.margin)).replace(" %", " points")
        return f"{told} to spare" if self.met else f"{told} {'over' if self.at_most else 'below'} the limit"

    def in_words(self) -> str:
        """One line: what was measured, the limit, and by how much."""
        measured = "not measured" if self.measured is None else self.told(self.measured)
        mark, bound = "met" if self.met else "NOT MET", "at most" if self.at_most else "at least"
        words = (
            f"{self.name:<9}{mark:<8} {measured} ({self.how}), {bound} {self.told(self.limit)}: {self.by_how_much()}"
        )
        return f"{words}; {self.note}" if self.note else words

    def told(self, value: float) -> str:
        """A `value` with the unit of this check."""
        if self.unit == "bytes":
            return f"{value:,.0f} bytes"
        return f"{value:.2f} {self.unit}"


def judge(record: Record | Row, budget: Budget, arena: int | None = None) -> list[Check]:
    """How `record` stands to each limit of `budget`, in the order flash, RAM, energy, accuracy.

    `arena` are the bytes of TensorFlow Lite Micro's arena (`arena_of` the file); without them RAM is judged by the
    activations alone. Accuracy is in percent here.
    """
    row = asdict(record) if isinstance(record, Record) else record
    checks = []
    if budget.flash_bytes is not None:
        checks.append(Check("flash", "bytes", budget.flash_bytes, row.get("bytes"), "the model file, without runtime"))
    if budget.ram_bytes is not None:
        used, how = arena, "the smallest arena TensorFlow Lite Micro starts in"
        if arena is None:
            used, how = row.get("ram_bytes"), "activations alone: a runtime takes more"
        checks.append(Check("RAM", "bytes", budget.ram_bytes, used, how))
    if budget.energy_uj is not None:
        checks.append(Check("energy", "uJ", budget.energy_uj, row.get("energy_uj"), "an estimate for one image"))
    if budget.accuracy is not None:
        checks.append(_accuracy(row, budget.accuracy))
    return checks


def _accuracy(row: Row, limit: float) -> Check:
    low, value = row.get("accuracy_low"), row.get("accuracy")
    note = ""
    if low is not None and value is not None and low < limit <= value:
        point = f"{POINT * value:.2f} % of {row['n_test']:,} images"
        note = f"the point estimate, {point}, would pass, but that alone can be chance"
    measured = None if low is None else POINT * low
    how = "the lower end of the 95 % interval"
    return Check("accuracy", "%", POINT * limit, measured, how, at_most=False, note=note)


def verdict(checks: Sequence[Check]) -> str:
    """One sentence: whether all limits are kept, and if not, which are not and by how much."""
    missed = [check for check in checks if not check.met]
    if not missed:
        return f"Meets the budget: {'all ' if len(checks) > 1 else ''}{_count(len(checks))} kept."
    told = "; ".join(f"{check.name} {check.by_how_much()}" for check in missed)
    return f"Does not meet the budget: {told}."


def _count(limits: int) -> str:
    return f"{limits} limits are" if limits > 1 else "its one limit is"


def arena_of(file: Path | str) -> int | None:
    """Bytes of the smallest arena TensorFlow Lite Micro starts in with the .tflite `file`.

    None for other files, where it does not run this one, or where the package tflite-micro is missing.
    """
    if Path(file).suffix.lower() != ".tflite" or not memory.has_runtime():
        return None
    try:
        return memory.arena(file).smallest
    except EdgelabError:
        return None


def report(
    file: Path | str, record: Record | Row, budget: Budget, output: Path | str, design: Design | None = None
) -> list[Check]:
    """Write the one page on the model `file` to `output`, an .html file, and return the checks that stand in it.

    `record` is the file's, `design` what it was made by, if that is known. The page opens from disk and asks for
    nothing else. Graph and arena are read in child processes. Raises EdgelabError where the output is no .html file or
    the model file cannot be counted; nothing is written then.
    """
    file, output = Path(file), check_output(output)
    row = asdict(record) if isinstance(record, Record) else record
    table = reporting.macs(str(file))
    boards: Sequence[micro.Fit] = ()
    arena, note = None, "only .tflite files run there"
    if file.suffix.lower() == ".tflite":
        try:
            needs = micro.needs(file)
            arena, boards = needs.arena if memory.has_runtime() else None, micro.fits(needs)
        except EdgelabError as error:
            note = str(error)
    checks = judge(row, budget, arena)
    page = _budget_page.Page(file, row, checks, verdict(checks), table, arena, boards, note, design)
    with atomic_path(output) as temporary:
        temporary.write_text(_budget_page.html(page), encoding="utf-8")
    return checks


def check_output(path: Path | str) -> Path:
    """The `path` of a page; raises EdgelabError unless it ends in .html or .htm and is no folder."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise EdgelabError(f"expected a report that ends in .html, got {path.name!r}")
    if path.is_dir():
        raise EdgelabError(f"{path} is a folder: name a file for the report")
    return path


def of_file(
    file: str, budget: Budget, output: Path | None = None, name_or_path: str | None = None, limit: int | None = None
) -> list[Check]:
    """`judge` any model file, measured as `edgelab measure` does, on the data `name_or_path`; `report` to an `output`.

    Raises EdgelabError as `report.measure` and `report` do, and where a limit on accuracy meets no data.
    """
    if output is not None:
        check_output(output)
    found = reporting.measure(file, name_or_path, limit=limit)
    if budget.accuracy is not None and found.accuracy is None:
        raise EdgelabError(f"{file}: no data at hand to judge the accuracy on: give --data NAME or PATH")
    low, high = found.accuracy_ci95 or (None, None)
    row = {name: getattr(found, name, None) for name in COLUMNS} | provenance.collect()
    row |= {"accuracy_low": low, "accuracy_high": high, "nonzero": found.nonzero_parameters, "n_test": found.n_images}
    row |= {"latency_on": found.told.get("latency"), "commit": row["commit"] or "unknown"}
    return judge(row, budget, arena_of(file)) if output is None else report(file, row, budget, output)


def parse_bytes(text: str, option: str) -> int:
    """Bytes from such as "262144", "256k", "1M" or "1G", powers of two; raises EdgelabError naming the `option`."""
    match = re.fullmatch(r"(\d{1,12})([kmg]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise EdgelabError(f"expected {option} in bytes, such as 262144, 256k, 1M or 1G (powers of two), got {text!r}")
    return int(match[1]) * UNITS.get(match[2], 1)
