"""The ledger keeps every row that was appended and names every one that is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from edgelab import ledger
from edgelab.errors import EdgelabError

COLUMNS = [
    "chapter",
    "technique",
    "framework",
    "runtime",
    "model",
    "data",
    "data_fingerprint",
    "seed",
    "n_test",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "bytes",
    "gzip_bytes",
    "parameters",
    "nonzero",
    "macs",
    "effective_macs",
    "relative_energy",
    "energy_uj",
    "ram_bytes",
    "latency_ms",
    "latency_on",
    "versions",
    "commit",
    "machine",
    "wall_s",
    "when",
]
VALUES = {
    "chapter": "01_baseline",
    "technique": "baseline",
    "framework": "pytorch",
    "runtime": "onnxruntime 1.31.1",
    "model": "plain_cnn",
    "data": "digits",
    "data_fingerprint": "ab" * 32,
    "seed": 0,
    "n_test": 360,
    "accuracy": 0.95,
    "accuracy_low": 0.922,
    "accuracy_high": 0.968,
    "bytes": 2_484_000,
    "gzip_bytes": 2_300_000,
    "parameters": 620_362,
    "nonzero": 620_362,
    "macs": 10_848_768,
    "effective_macs": 10_848_768,
    "relative_energy": 43.395072,
    "versions": "numpy 2.4.6; torch 2.13.0",
    "commit": "0123abc",
    "machine": "A processor, 2 cores, avx2, Linux",
    "wall_s": 12.5,
    "when": "2026-11-21T07:30:00+00:00",
}
WRITER = """
import sys
from pathlib import Path
from edgelab.ledger import Record, append
values, path, seeds = eval(sys.argv[1]), Path(sys.argv[2]), range(int(sys.argv[3]), int(sys.argv[4]))
for seed in seeds:
    append(Record(**{**values, "seed": seed}), path)
    print(seed, flush=True)
"""


def record(**changes: object) -> ledger.Record:
    return ledger.Record(**{**VALUES, **changes})


def writer(path: Path, first: int, last: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, repr(VALUES), str(path), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def test_the_columns_are_the_agreed_ones_in_order() -> None:
    assert [field.name for field in fields(ledger.Record)] == COLUMNS


def test_what_is_appended_is_read_back_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "results" / "ledger.csv"
    ledger.append(record(), path)
    ledger.append(record(seed=1, accuracy=0.1 + 0.85, latency_ms=0.42, ram_bytes=55_984, latency_on='a, "b"'), path)
    frame = ledger.read(path)
    assert list(frame.columns) == COLUMNS
    assert frame.seed.tolist() == [0, 1] and frame.seed.dtype == "int64"
    assert frame.accuracy[1] == 0.1 + 0.85
    assert frame.ram_bytes.isna().tolist() == [True, False] and frame.ram_bytes[1] == 55_984
    assert frame.latency_on[1] == 'a, "b"'
    assert str(frame.ram_bytes.dtype) == "Int64" and str(frame.versions.dtype) == "string"
    assert "None" not in path.read_text()
    measured = [name for name in COLUMNS if name in VALUES]
    assert {name: frame[name][0] for name in measured} == VALUES


def test_an_empty_ledger_still_has_its_types(tmp_path: Path) -> None:
    path = ledger.append(record(), tmp_path / "ledger.csv")
    ledger.drop_chapter(path, "01_baseline")
    frame = ledger.read(path)
    assert len(frame) == 0 and frame.accuracy.dtype == "float64"


@pytest.mark.parametrize(
    "technique",
    [
        "baseline",
        "magnitude_pruning",
        "structured_pruning",
        "ptq_int8",
        "qat_4",
        "distillation",
        "pcqat",
        "longer_training_ema_ptq_int8",
    ],
)
def test_the_vocabulary_of_techniques(technique: str) -> None:
    assert record(technique=technique).technique == technique


@pytest.mark.parametrize("technique", ["basline", "ptq", "qat", "ptq_", "PTQ_int8", "pruning", "distilation_qat"])
def test_a_misspelt_technique_is_refused(technique: str) -> None:
    with pytest.raises(EdgelabError, match=f"technique: expected baseline, .* got '{technique}'"):
        record(technique=technique)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"framework": "keras"}, "framework: expected tensorflow or pytorch, got 'keras'"),
        ({"chapter": "baseline"}, "chapter: expected a chapter such as 01_baseline"),
        ({"accuracy": 81.2}, "accuracy: expected a share from 0 to 1, got 81.2"),
        ({"accuracy": float("nan")}, "accuracy: expected a number from 0 up, got nan"),
        ({"accuracy_low": 0.96}, r"accuracy_low: expected at most accuracy \(0.95\), got 0.96"),
        ({"accuracy_high": 0.94}, r"accuracy: expected at most accuracy_high \(0.94\), got 0.95"),
        ({"nonzero": 620_363}, r"nonzero: expected at most parameters \(620362\)"),
        ({"effective_macs": 10_848_769}, r"effective_macs: expected at most macs \(10848768\)"),
        ({"n_test": 0}, "n_test: expected at least 1, got 0"),
        ({"bytes": 12.5}, "bytes: expected a whole number from 0 up, got 12.5"),
        ({"macs": None}, "macs: expected a whole number from 0 up, got None"),
        ({"data_fingerprint": "abc"}, "data_fingerprint: expected 64 hexadecimal digits"),
        ({"versions": ""}, "versions: expected one line of text, got ''"),
        ({"machine": "a\nb"}, "machine: expected one line of text"),
        ({"when": "yesterday"}, "when: expected a date and time with its zone"),
        ({"when": "2026-11-21T07:30:00"}, "when: expected a date and time with its zone"),
    ],
)
def test_a_record_that_cannot_be_right_is_refused(change: dict, message: str) -> None:
    with pytest.raises(EdgelabError, match=message) as caught:
        record(**change)
    assert "\n" not in str(caught.value)


def test_check_names_every_bad_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    for seed in range(4):
        ledger.append(record(seed=seed), path)
    assert ledger.check(path) == []
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace("pytorch", "torch").replace("43.395072", "much")
    lines[4] = lines[4][:40]
    path.write_text("\n".join(lines))
    problems = ledger.check(path)
    assert [problem.split(":")[0] for problem in problems] == ["row 3, framework", "row 3, relative_energy", "row 5"]
    assert "expected 28 cells" in problems[2]
    with pytest.raises(EdgelabError, match=r"damaged at row 3, framework: .*\(and 2 more\)"):
        ledger.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a ledger"),
        (b"a,b\n1,2\n", "is not a ledger"),
        (b"\xff\xfe\x00", "cannot be read as a ledger"),
        (",".join(reversed(COLUMNS)).encode(), "their order"),
    ],
)
def test_another_file_is_neither_read_nor_overwritten(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "ledger.csv"
    path.write_bytes(content)
    with pytest.raises(EdgelabError, match=message):
        ledger.append(record(), path)
    with pytest.raises(EdgelabError, match=message):
        ledger.read(path)
    assert message in ledger.check(path)[0]
    assert path.read_bytes() == content


def test_a_missing_ledger_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"there is no ledger at .*none\.csv"):
        ledger.read(tmp_path / "none.csv")


def test_a_chapter_is_dropped_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    for chapter in ("01_baseline", "02_pruning", "01_baseline"):
        ledger.append(record(chapter=chapter), path)
    assert ledger.drop_chapter(path, "01_baseline") == 2
    assert ledger.read(path).chapter.tolist() == ["02_pruning"]
    assert ledger.drop_chapter(path, "01_baseline") == 0
    assert ledger.drop_chapter(tmp_path / "none.csv", "01_baseline") == 0


def test_the_path_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELAB_LEDGER", str(tmp_path / "mine.csv"))
    assert ledger.append(record()) == (tmp_path / "mine.csv").resolve()
    assert len(ledger.read()) == 1


def test_several_processes_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    processes = [writer(path, 30 * i, 30 * (i + 1)) for i in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert sorted(ledger.read(path).seed) == list(range(120))


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")
def test_a_killed_writer_leaves_a_valid_file_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    for attempt in range(5):
        first = 100_000 * attempt
        process = writer(path, first, first + 100_000)
        assert process.stdout is not None
        reported = [int(process.stdout.readline()) for _ in range(3)]
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        reported += [int(line) for line in process.stdout.read().split()]
        process.stdout.close()
        assert ledger.check(path) == []
        assert set(reported) <= set(ledger.read(path).seed)
    before = len(ledger.read(path))
    ledger.append(record(), path)
    assert len(ledger.read(path)) == before + 1
