"""A run beside the published one: what is compared, what is not, and what is said of either."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from edgelab import ledger, reproduce, runs

PHOTOGRAPHS = {"data": "cifar10-jpeg", "data_fingerprint": "a" * 64, "n_test": 10_000}
OFFICIAL = {"data": "cifar10", "data_fingerprint": "b" * 64, "n_test": 10_000}
WELL = "02_pruning: {} within the published interval, sizes and MACs as published"


def row(**changes: object) -> dict[str, object]:
    """A measurement of `resnet8`: 86 % of the test images, between 85 and 87 %."""
    values = {name: 1 for name, kind in ledger.KINDS.items() if kind != "str" and name not in ledger.OPTIONAL}
    values |= {name: "text" for name, kind in ledger.KINDS.items() if kind == "str" and name not in ledger.OPTIONAL}
    values |= {"chapter": "02_pruning", "technique": "baseline", "framework": "pytorch", "model": "resnet8"}
    values |= {"runtime": "onnxruntime 1.31.1", "seed": 0, "bytes": 5000, "parameters": 70, "macs": 4000, **PHOTOGRAPHS}
    accuracy = {"accuracy": 0.86, "accuracy_low": 0.85, "accuracy_high": 0.87}
    return {**values, **accuracy, "when": "2026-01-01T00:00:00+00:00", **changes}


def told(here: list[dict[str, object]], published: list[dict[str, object]]) -> list[str]:
    return reproduce.in_words("02_pruning", reproduce.compare(here, published))


def test_all_well_is_one_line_whatever_the_machine_its_times_and_versions() -> None:
    here = [
        row(runtime="onnxruntime 2.0", machine="another", latency_ms=9.0, accuracy=0.85),
        row(seed=1, accuracy=0.87),
    ]
    assert told(here, [row(seed=1), row(latency_ms=1.0)]) == [WELL.format("2 rows, all")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"accuracy": 0.8499},
            "accuracy 84.99 %, 1.01 points below the published 86.00 % (95 % interval 85.00 to 87.00)",
        ),
        (
            {"accuracy": 0.8701},
            "accuracy 87.01 %, 1.01 points above the published 86.00 % (95 % interval 85.00 to 87.00)",
        ),
        ({"bytes": 6200}, "6,200 bytes, 1,200 more than published"),
        ({"macs": 3999, "parameters": 71}, "71 parameters, 1 more than published; 3,999 MACs, 1 fewer than published"),
    ],
)
def test_a_row_that_is_off_says_by_how_much(changes: dict[str, object], said: str) -> None:
    assert told([row(**changes), row(seed=1)], [row(), row(seed=1)]) == [
        "02_pruning: 1 of 2 rows as published",
        f"  off: resnet8 baseline pytorch onnxruntime seed 0: {said}",
    ]


@pytest.mark.parametrize("name", ["model", "technique", "framework", "runtime", "seed"])
def test_rows_without_a_partner_are_named(name: str) -> None:
    other = {"model": "ds_cnn", "technique": "pqat", "framework": "tensorflow", "runtime": "litert 2", "seed": 3}
    published = row(**{name: other[name]})
    lost = " ".join(str(published[part]).split(" ")[0] for part in ("model", "technique", "framework", "runtime"))
    assert told([row(), row(seed=8)], [row(seed=8), published]) == [
        "02_pruning: 1 of 1 row as published",
        f"  did not come: {lost} seed {published['seed']}",
        "  not published: resnet8 baseline pytorch onnxruntime seed 0",
    ]


def test_rows_of_the_same_name_are_paired_in_their_order() -> None:
    pair = [row(bytes=5000), row(bytes=6000)]
    assert told(pair, pair) == [WELL.format("2 rows, all")]
    assert told(pair[::-1], pair)[0] == "02_pruning: 0 of 2 rows as published"
    name = "resnet8 baseline pytorch onnxruntime seed 0"
    assert told(pair[:1], pair)[1:] == [f"  did not come: {name}"]
    assert told(pair, pair[:1])[1:] == [f"  not published: {name}"]


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (OFFICIAL, "measured on cifar10 (10,000 test images), published on cifar10-jpeg (10,000 test images)"),
        ({"n_test": 500}, "measured on cifar10-jpeg (500 test images), published on cifar10-jpeg (10,000 test images)"),
        (
            {"data_fingerprint": "c" * 64},
            "its cifar10-jpeg has other images than the published one (their fingerprints differ)",
        ),
    ],
)
def test_other_images_are_not_compared_and_not_called_off(images: dict[str, object], why: str) -> None:
    here = [row(accuracy=0.1, bytes=1, **images), row(seed=1, accuracy=0.2, **images)]
    assert told(here, [row(), row(seed=1), row(seed=2)]) == [f"02_pruning: 2 rows not compared: {why}"]
    assert told([*here, row(seed=2)], [row(), row(seed=1), row(seed=2)]) == [
        f"02_pruning: 2 rows not compared: {why}",
        "02_pruning: 1 of 1 row as published",
        "  did not come: resnet8 baseline pytorch onnxruntime seed 0",
        "  did not come: resnet8 baseline pytorch onnxruntime seed 1",
    ]


def test_nothing_measured_and_nothing_published() -> None:
    assert told([], []) == ["02_pruning: no measurements to compare"]
    assert told([row()], []) == ["02_pruning: 1 row, of which none has been published"]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """The results of a run of two chapters, one of which measures nothing; its course is in the folder above."""
    folder = tmp_path / "zoo"
    ledger.append(ledger.Record(**row(accuracy=0.5, accuracy_low=0.4)), folder / "ledger.csv")
    runs.write(folder / "run.json", {"02_pruning": {}, "11_counters": {}})
    published = tmp_path / "book" / "results" / "ledger.csv"
    ledger.append(ledger.Record(**row()), published)
    ledger.append(ledger.Record(**row(chapter="03_other")), published)
    return folder


def test_the_chosen_chapters_are_told_and_all_are_written(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce.report(build.parent, build, ["11_counters"])
    assert capsys.readouterr().out.splitlines() == [
        "beside the published results:",
        "11_counters: no measurements to compare",
        f"row by row: {build / 'reproduced.csv'}",
    ]
    with (build / "reproduced.csv").open(newline="") as file:
        (only,) = csv.DictReader(file)
    assert (only["chapter"], only["outcome"], only["data"], only["seed"]) == ("02_pruning", "off", "cifar10-jpeg", "0")
    assert (only["accuracy"], only["published_accuracy"], only["published_accuracy_low"]) == ("0.5", "0.86", "0.85")
    assert only["detail"].startswith("accuracy 50.00 %, 36.00 points below")
    assert not list(build.glob("*.part"))


def test_a_published_ledger_that_cannot_be_read_is_a_line(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (build.parent / "book" / "results" / "ledger.csv").write_text("nonsense\n")
    reproduce.report(build.parent, build, ["02_pruning"])
    assert capsys.readouterr().out.startswith("not compared with the published results: ")
    assert not (build / "reproduced.csv").exists()
