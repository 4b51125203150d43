"""How long the chapters took, when and with what: tables for the book, from the records of runs alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edgelab._markdown import DASH, table
from edgelab.errors import EdgelabError

AIMS = {"ci": 10, "zoo": 30}
"""Profile -> minutes in which the whole course is to run on two cores."""
READING = re.compile(r"^\| Time \| (\d+) minutes to read", re.MULTILINE)
SPACE = "\N{NO-BREAK SPACE}"
Run = Mapping[str, Mapping[str, Any]]


def read(path: Path) -> Run:
    """Chapter -> its record in a run.json, {} where there is no file. Raises EdgelabError where it cannot be used."""
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        for record in run.values():
            float(record["seconds"]), record["parameters"]["profile"], _interval(record)
            datetime.fromisoformat(record["provenance"]["when"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EdgelabError(
            f"{path} is not the record of a run ({type(error).__name__}: {error}): remove it and run the chapters again"
        ) from error
    return run


def _duration(seconds: float) -> str:
    return f"{seconds:.1f}{SPACE}s" if seconds < 120 else f"{seconds / 60:.1f}{SPACE}min"


def _interval(record: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds, counted from some moment, at which a chapter began and ended."""
    began = datetime.fromisoformat(record["started"]).timestamp()
    return began, began + record["seconds"]


def _together(records: Iterable[Mapping[str, Any]]) -> float:
    """Seconds that chapters took; those in which two of one run were at work at a time count once."""
    courses: dict[str, list[tuple[float, float]]] = {}
    for number, record in enumerate(records):
        courses.setdefault(record.get("course", str(number)), []).append(_interval(record))
    seconds = 0.0
    for intervals in courses.values():
        until = -math.inf
        for began, ended in sorted(intervals):
            seconds += max(0.0, ended - max(began, until))
            until = max(until, ended)
    return seconds


def _took(run: Run, chapter: str) -> str:
    return _duration(run[chapter]["seconds"]) if chapter in run else DASH


def _minutes(run: Run, chapter: str) -> str:
    return str(max(1, round(run[chapter]["seconds"] / 60))) if chapter in run else DASH


def _made(run: Run, chapter: str) -> str:
    """Day and commit of a chapter's run."""
    if chapter not in run:
        return DASH
    made = run[chapter]["provenance"]
    day = datetime.fromisoformat(made["when"]).strftime("%d %b %Y").lstrip("0").replace(" ", SPACE)
    code = re.sub(r"^([0-9a-f]{8})[0-9a-f]+", r"\1", made.get("commit", ""))
    return f"{day} `{code}`" if code else day


def _words(chapter: str) -> str:
    return chapter.replace("_", " ")


def _profiles(run: Run) -> list[str]:
    return sorted({record["parameters"]["profile"] for record in run.values()})


def _headed(runs: Mapping[str, Run]) -> dict[str, Run]:
    """The runs that there are, under headings that name their profiles."""
    return {f"{heading} (`{'`, `'.join(_profiles(run))}`)": run for heading, run in runs.items() if run}


def run_times(runs: Mapping[str, Run], chapters: Sequence[str]) -> str:
    """A table of every chapter's run time in each of the `runs`, and how long they took together."""
    named = _headed(runs)
    rows = [[_words(chapter), *(_took(run, chapter) for run in named.values())] for chapter in chapters]
    rows.append(["Together", *(_duration(_together(run.values())) for run in named.values())])
    return table(["Chapter", *named], rows, range(1, len(named) + 1))


def made_when(runs: Mapping[str, Run], chapters: Sequence[str]) -> str:
    """A table of the day of every chapter's run in each of the `runs`, and of the commit of the code it ran."""
    named = _headed(runs)
    rows = [[_words(chapter), *(_made(run, chapter) for run in named.values())] for chapter in chapters]
    return table(["Chapter", *named], rows)


def _verdict(seconds: float, missing: int, aim: int) -> str:
    if seconds >= 60 * aim:
        return "not reached"
    return f"open, as {missing} of the chapters are not in it" if missing else "reached"


def _whole(profile: str, heading: str, run: Run, chapters: int) -> str:
    """What all chapters that `run` has run in `profile` took together, and whether that is within the aim."""
    own = [record for record in run.values() if record["parameters"]["profile"] == profile]
    seconds, missing = _together(own), chapters - len(own)
    which = f"{len(own)} of {chapters} chapters" if missing else f"all {chapters} chapters"
    where = "; ".join(dict.fromkeys(record["provenance"].get("machine", "") for record in own))
    took = f"- `{profile}`, {heading.lower()}: {_duration(seconds)} for {which} ({where})"
    if profile not in AIMS:
        return f"{took}."
    aim = AIMS[profile]
    return f"{took}. The aim, under {aim} minutes on two cores: {_verdict(seconds, missing, aim)}."


def aims(runs: Mapping[str, Run], chapters: Sequence[str]) -> str:
    """A list that holds the time of the whole course in each of the `runs` against the aim for its profile."""
    pairs = [(profile, heading) for heading, run in runs.items() for profile in _profiles(run)]
    lines = [_whole(profile, heading, runs[heading], len(chapters)) for profile, heading in pairs]
    for profile in AIMS.keys() - {profile for profile, _ in pairs}:
        lines.append(f"- `{profile}`: not recorded. The aim is under {AIMS[profile]} minutes on two cores.")
    return "\n".join(sorted(lines))


def _entries(run: Run) -> dict[str, str]:
    """Machine and versions of a run: name -> value; where chapters differ, each value with their numbers."""
    found: dict[str, dict[str, list[str]]] = {}
    for chapter, record in run.items():
        made = record["provenance"]
        packages = (package.partition(" ") for package in made.get("versions", "").split("; "))
        for name, value in {"Machine": made.get("machine", ""), **{name: text for name, _, text in packages}}.items():
            if value:
                found.setdefault(name, {}).setdefault(value, []).append(chapter[:2])
    several = {name: [f"{value} ({', '.join(own)})" for value, own in values.items()] for name, values in found.items()}
    return {name: "; ".join(several[name] if len(values) > 1 else values) for name, values in found.items()}


def made_with(runs: Mapping[str, Run]) -> str:
    """A table of the machine and the versions of each of the `runs`."""
    entries = {heading: _entries(run) for heading, run in _headed(runs).items()}
    names = dict.fromkeys(name for values in entries.values() for name in values)
    return table(["", *entries], [[name, *(values.get(name, DASH) for values in entries.values())] for name in names])


def of_chapter(page: Path, runs: Sequence[Run]) -> str:
    """Cells for the map of the course, in minutes: how long `page`, a notebook, says it takes to read, and its `runs`.

    A run of less than a minute counts as one.
    Raises EdgelabError where there is no such page or it does not say how long it takes.
    """
    import nbformat

    try:
        cells = nbformat.read(page, as_version=4).cells
    except OSError:
        raise EdgelabError(f"the times of {page.stem} are asked for, but it is not published: no {page}") from None
    said = READING.search("\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    if not said:
        raise EdgelabError(f"{page} does not say how long it takes: expected a line '| Time | 45 minutes to read'")
    return " | ".join([said[1], *(_minutes(run, page.stem) for run in runs)])
