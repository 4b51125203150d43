"""Holding a run against the published one: the same files, measured on the same images, here and there.

Accuracy has come out alike where it lies in the published 95 % Wilson interval. Both machines saw the same images, so
this asks for less than a repetition usually gives; a test for two independent samples would be wrong. Bytes, parameters
and MACs are counts and either equal or not. Latency belongs to a machine and is not compared.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelab import runs
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

Row = Mapping[str, Any]
NAMED = ("model", "technique", "framework", "runtime", "seed")
IMAGES = ("data", "data_fingerprint", "n_test")
COUNTS = ("bytes", "parameters", "macs")
ALIKE, OFF, OTHER_IMAGES, MISSING, NEW = "as published", "off", "not compared", "did not come", "not published"


@dataclass(frozen=True)
class Finding:
    """One row of the run, the published one of the same name, or both; what came of it, and why in one line."""

    outcome: str
    here: Row | None
    published: Row | None
    detail: str = ""

    @property
    def row(self) -> Row:
        """The row of the run, else the published one."""
        return self.here or self.published or {}

    @property
    def name(self) -> str:
        """Such as "resnet8 ptq_int8 tensorflow ai-edge-litert seed 0"."""
        *names, seed = _values(self.row, NAMED)
        return f"{' '.join(map(str, names))} seed {seed}"


def _values(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    """The values in the columns `names`; a runtime is taken without its version."""
    return tuple(str(row[name]).split(" ")[0] if name == "runtime" else row[name] for name in names)


def numbered(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple[Hashable, ...], Row]:
    """Rows by their values in the columns `names`; rows that agree in all of them are told apart by a number."""
    seen: Counter[tuple[Hashable, ...]] = Counter()
    found = {}
    for row in rows:
        key = _values(row, names)
        found[(*key, seen[key])] = row
        seen[key] += 1
    return found


def _difference(here: Row, published: Row) -> str:
    """How `here` is off from `published`, in one line; "" where it is not."""
    found = []
    accuracy, low, high = here["accuracy"], published["accuracy_low"], published["accuracy_high"]
    if not low <= accuracy <= high:
        points = 100 * (accuracy - published["accuracy"])
        side = "below" if points < 0 else "above"
        found.append(
            f"accuracy {100 * accuracy:.2f} %, {abs(points):.2f} points {side} the published "
            f"{100 * published['accuracy']:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f})"
        )
    for name in COUNTS:
        if apart := here[name] - published[name]:
            label = "MACs" if name == "macs" else name
            found.append(f"{here[name]:,} {label}, {abs(apart):,} {'more' if apart > 0 else 'fewer'} than published")
    return "; ".join(found)


def _unlike_images(here: Row, published: Sequence[Row]) -> str:
    """Why a row measured on images no row of the chapter was `published` for cannot be compared, in one line."""
    sets = dict.fromkeys((row["data"], row["n_test"]) for row in published)
    own = (here["data"], here["n_test"])
    if own in sets:
        return f"its {own[0]} has other images than the published one (their fingerprints differ)"
    there = ", ".join(f"{data} ({n:,} test images)" for data, n in sets)
    return f"measured on {own[0]} ({own[1]:,} test images), published on {there}"


def compare(here: Sequence[Row], published: Sequence[Row]) -> list[Finding]:
    """Each row of one chapter's run beside its published one: first those that came, then those that did not.

    Only rows measured on the same images are compared. Where the run has measured on other images than the published
    one, the published rows for which nothing came are left out: they were not asked for.
    """
    mine, theirs = numbered(here, NAMED + IMAGES), numbered(published, NAMED + IMAGES)
    known = {_values(row, IMAGES) for row in published}
    found = []
    for key, row in mine.items():
        if published and _values(row, IMAGES) not in known:
            found.append(Finding(OTHER_IMAGES, row, None, _unlike_images(row, published)))
        elif key not in theirs:
            found.append(Finding(NEW, row, None))
        else:
            off = _difference(row, theirs[key])
            found.append(Finding(OFF if off else ALIKE, row, theirs[key], off))
    shown = {_values(row, IMAGES) for row in here}
    everything = all(finding.outcome != OTHER_IMAGES for finding in found)
    missing = [row for key, row in theirs.items() if key not in mine and (everything or _values(row, IMAGES) in shown)]
    return found + [Finding(MISSING, None, row) for row in missing]


def _rows(number: int) -> str:
    return f"{number} row{'s' * (number != 1)}"


def in_words(chapter: str, findings: Sequence[Finding]) -> list[str]:
    """What `compare` found for `chapter`: one line where all is well, else also the rows that are not, a line each."""
    counts = Counter(one.outcome for one in findings)
    reasons = Counter(one.detail for one in findings if one.outcome == OTHER_IMAGES)
    lines = [f"{chapter}: {_rows(count)} not compared: {why}" for why, count in reasons.items()]
    if not findings:
        return [f"{chapter}: no measurements to compare"]
    if counts[OTHER_IMAGES] == len(findings):
        return lines
    if counts[ALIKE] == len(findings):
        return [f"{chapter}: {_rows(len(findings))}, all within the published interval, sizes and MACs as published"]
    if counts[NEW] == len(findings):
        return [f"{chapter}: {_rows(len(findings))}, of which none has been published"]
    lines.append(f"{chapter}: {counts[ALIKE]} of {_rows(counts[ALIKE] + counts[OFF])} as published")
    named = (one for outcome in (OFF, MISSING, NEW) for one in findings if one.outcome == outcome)
    return lines + [f"  {one.outcome}: {one.name}{': ' * bool(one.detail)}{one.detail}" for one in named]


def _write(path: Path, findings: Mapping[str, Sequence[Finding]]) -> None:
    """Every finding as a CSV row: the numbers of the run, and those published with `published_` before their name."""
    numbers = ("accuracy", *COUNTS)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        there = [f"published_{name}" for name in (*numbers, "accuracy_low", "accuracy_high")]
        writer.writerow(["chapter", *NAMED, *IMAGES, "outcome", "detail", *numbers, *there])
        for chapter, found in findings.items():
            for one in found:
                here, published = one.here or {}, one.published or {}
                cells = [here.get(name, "") for name in numbers]
                cells += [published.get(name, "") for name in (*numbers, "accuracy_low", "accuracy_high")]
                row = [one.row[name] for name in (*NAMED, *IMAGES)]
                writer.writerow([chapter, *row, one.outcome, one.detail, *cells])


def _ledger(path: Path) -> list[Row]:
    from edgelab import ledger

    rows = ledger.read(path).itertuples(index=False) if path.exists() else ()
    return [dict(zip(ledger.COLUMNS, row, strict=True)) for row in rows]


def report(root: Path, output: Path, chapters: Sequence[str]) -> None:
    """Print how the `chapters` in the folder `output` compare with those published in the course at `root`.

    All chapters the folder holds are written to `reproduced.csv` in it. A difference is information and no error, and
    so is a published ledger that cannot be read.
    """
    try:
        here, published = (_ledger(path) for path in (output / "ledger.csv", root / "book" / "results" / "ledger.csv"))
    except EdgelabError as error:
        print(f"not compared with the published results: {error}", flush=True)
        return
    findings = {
        chapter: compare(
            [row for row in here if row["chapter"] == chapter], [row for row in published if row["chapter"] == chapter]
        )
        for chapter in runs.read(output / "run.json")
    }
    _write(output / "reproduced.csv", findings)
    print("beside the published results:")
    for chapter in chapters:
        print("\n".join(in_words(chapter, findings[chapter])))
    print(f"row by row: {output / 'reproduced.csv'}", flush=True)
