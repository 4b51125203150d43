"""Timings of the book: every cell comes from a record, and what is not recorded is said to be so."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from edgelab import timings
from edgelab.errors import EdgelabError

ROOT = Path(__file__).parents[1]
CHAPTERS = ["00_start", "01_baseline"]


def ran(seconds: float, profile: str = "ci", machine: str = "a laptop", versions: str = "numpy 2.4.6") -> dict:
    made = {
        "versions": versions,
        "commit": "b" * 40 + "-dirty",
        "machine": machine,
        "when": "2026-11-21T07:00:00+00:00",
    }
    started = "2026-11-21T07:00:00+00:00"
    return {"started": started, "seconds": seconds, "parameters": {"profile": profile}, "provenance": made}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (200.0, 399.0, "10.0 min for all 2 chapters (a laptop). The aim, under 10 minutes on two cores: reached."),
        (200.0, 400.0, "10.0 min for all 2 chapters (a laptop). The aim, under 10 minutes on two cores: not reached."),
        (
            60.5,
            None,
            "60.5 s for 1 of 2 chapters (a laptop). The aim, under 10 minutes on two cores: open, as 1 of the chapters "
            "are not in it.",
        ),
        (600.0, None, "10.0 min for 1 of 2 chapters (a laptop). The aim, under 10 minutes on two cores: not reached."),
    ],
)
def test_the_whole_course_is_held_against_its_aim(first: float, second: float | None, said: str) -> None:
    run = {"00_start": ran(first), **({"01_baseline": ran(second)} if second else {})}
    assert timings.aims({"On digits": run}, CHAPTERS).replace("\N{NO-BREAK SPACE}", " ").splitlines() == [
        f"- `ci`, on digits: {said}",
        "- `zoo`: not recorded. The aim is under 30 minutes on two cores.",
    ]


def test_chapters_at_work_at_a_time_count_once_within_one_run() -> None:
    def at(minute: int, seconds: float, course: str) -> dict:
        return {**ran(seconds), "started": f"2026-11-21T07:{minute:02}:00+00:00", "course": course}

    run = {
        "00": at(0, 90, "a"),
        "01": at(1, 120, "a"),
        "02": at(2, 10, "a"),
        "03": at(10, 60, "a"),
        "04": at(0, 30, "b"),
    }
    assert timings.run_times({"On digits": run}, []).splitlines()[-1].replace("\N{NO-BREAK SPACE}", " ") == (
        "| Together | 4.5 min |"
    )


def test_profiles_of_one_run_are_added_up_apart() -> None:
    run = {"00_start": ran(60, "full", "a server"), "01_baseline": ran(1700, "zoo")}
    lines = timings.aims({"Published": run}, CHAPTERS).replace("\N{NO-BREAK SPACE}", " ").splitlines()
    assert lines[0] == "- `ci`: not recorded. The aim is under 10 minutes on two cores."
    assert lines[1] == "- `full`, published: 60.0 s for 1 of 2 chapters (a server)."
    assert lines[2].startswith("- `zoo`, published: 28.3 min for 1 of 2 chapters (a laptop). ")
    assert timings.run_times({"Published": run}, CHAPTERS).splitlines()[0] == (
        "| Chapter | Published (`full`, `zoo`) |"
    )


def test_versions_that_differ_name_their_chapters() -> None:
    run = {"00_start": ran(1), "01_baseline": ran(1, versions="numpy 2.5.0; torch 2.13.0")}
    assert timings.made_with({"On digits": run, "Published": {}}).splitlines() == [
        "|  | On digits (`ci`) |",
        "| --- | --- |",
        "| Machine | a laptop |",
        "| numpy | 2.4.6 (00); 2.5.0 (01) |",
        "| torch | 2.13.0 |",
    ]


def test_cells_of_the_map_come_from_the_page_and_the_records(tmp_path: Path) -> None:
    page = tmp_path / "00_start.ipynb"
    source = "# Start\n\n| | |\n|---|---|\n| Time | 20 minutes to read, seconds to run |"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)]), page)
    runs = ({"00_start": ran(25.2)}, {"00_start": ran(444)}, {})
    assert timings.of_chapter(page, runs) == "20 | 1 | 7 | \N{EN DASH}"
    with pytest.raises(
        EdgelabError, match=r"^the times of 07_gone are asked for, but it is not published: no .*ipynb$"
    ):
        timings.of_chapter(tmp_path / "07_gone.ipynb", runs)
    nbformat.write(nbformat.v4.new_notebook(), page)
    with pytest.raises(EdgelabError, match=r"00_start\.ipynb does not say how long it takes: expected a line '\| Time"):
        timings.of_chapter(page, runs)


@pytest.mark.parametrize("name", ["run.json", "run_ci.json"])
def test_the_runs_of_all_chapters_are_recorded(name: str) -> None:
    recorded = timings.read(ROOT / "book" / "results" / name)
    assert sorted(recorded) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    profiles = {record["parameters"]["profile"] for record in recorded.values()}
    assert profiles == {"ci"} if name == "run_ci.json" else "ci" not in profiles
