"""A measurement says what a file does, how sure that is, and what it was made from."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from support import brightest, coloured

from edgelab import energy, ledger, measure
from edgelab.data import Dataset, Split, fingerprint
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [  # Newcombe 1998, Stat. Med. 17:857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(correct: int, n: int, low: float, high: float) -> None:
    assert measure.wilson(correct, n) == pytest.approx((low, high), abs=5e-5)
    assert measure.wilson(n - correct, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_covers_what_it_promises() -> None:
    shares = RNG.binomial(200, 0.9, 4000)
    covered = np.mean([low <= 0.9 <= high for low, high in (measure.wilson(int(x), 200) for x in shares)])
    assert 0.935 < covered < 0.965


@pytest.mark.parametrize(("correct", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_what_is_no_count(correct: int, n: int) -> None:
    with pytest.raises(EdgelabError, match=f"got correct={correct} and n={n}"):
        measure.wilson(correct, n)


def test_accuracy_counts_the_right_answers(tmp_path: Path) -> None:
    score = measure.accuracy(brightest(tmp_path / "m.onnx"), coloured(40, wrong=6))
    assert (score.correct, score.n, score.value) == (34, 40, 0.85)
    assert (score.low, score.high) == measure.wilson(34, 40)
    assert str(score) == "85.00 % (95 % interval 70.93 to 92.94), 34 of 40"


def test_accuracy_does_not_depend_on_the_files_batch(tmp_path: Path) -> None:
    split = coloured(40, wrong=6)
    fixed = measure.accuracy(brightest(tmp_path / "fixed.onnx", [7, 3, 32, 32]), split)
    assert fixed == measure.accuracy(brightest(tmp_path / "any.onnx"), split)


@pytest.mark.parametrize("shape", [[1, 3, 32, 32], [7, 3, 32, 32]])
@pytest.mark.parametrize("cores", [1, 3])
def test_pieces_that_several_cores_take_come_back_in_order(
    shape: list[int], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    split = coloured(2 * measure.PIECE + 31, wrong=100)
    file = brightest(tmp_path / "m.onnx", shape)
    found = measure._run(file, split)
    assert np.array_equal(found, file.predict(split.images).argmax(1))
    assert (found == split.labels).sum() == len(split) - 100


def test_the_same_question_is_run_once_and_another_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, run = [], measure._run
    monkeypatch.setattr(measure, "_run", lambda *asked: runs.append(asked) or run(*asked))
    file, split = brightest(tmp_path / "m.onnx"), coloured(11, wrong=2)
    first = measure.predictions(file, split)
    first[:] = -1
    again = measure.predictions(file, split)
    assert len(runs) == 1 and (again >= 0).all()
    turned = Split(split.images[::-1], split.labels)
    assert np.array_equal(measure.predictions(file, turned), again[::-1])
    assert np.array_equal(measure.predictions(replace(file, pixels="unit"), split), again)
    brightest(file.path, [11, 3, 32, 32])  # another file in its place
    assert np.array_equal(measure.predictions(file, split), again)
    assert len(runs) == 4


def test_images_the_file_cannot_know_are_named(tmp_path: Path) -> None:
    file, split = brightest(tmp_path / "m.onnx"), coloured(9, wrong=0)
    with pytest.raises(EdgelabError, match=r"m\.onnx knows 3 classes, the images have 8"):
        measure.accuracy(file, Split(split.images, split.labels + 5))
    with pytest.raises(EdgelabError, match=r"no images to measure m\.onnx on"):
        measure.accuracy(file, Split(split.images[:0], split.labels[:0]))


def test_sizes_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(b"edge" * 1000)
    on_disk, compressed = measure.sizes(path)
    assert on_disk == 4000
    assert compressed < 100 and (on_disk, compressed) == measure.sizes(path)


def test_a_measurement_fills_a_record_that_the_ledger_takes(tmp_path: Path) -> None:
    train, test = coloured(9, wrong=0), coloured(40, wrong=6)
    names = ("red", "green", "blue")
    dataset = Dataset("colours", train, train, test, names, fingerprint(train, test, names))
    file = brightest(tmp_path / "m.onnx")
    record = measure.measure(
        file, dataset, chapter="01_baseline", technique="baseline", model="brightest", seed=3, train_seconds=1.23456
    )
    ledger.append(record, tmp_path / "ledger.csv")
    assert ledger.check(tmp_path / "ledger.csv") == []
    row = asdict(record)
    assert (row["framework"], row["runtime"].split()[0]) == ("pytorch", "onnxruntime")
    assert (row["data"], row["data_fingerprint"], row["n_test"]) == ("colours", dataset.fingerprint, 40)
    assert (row["accuracy"], row["seed"], row["wall_s"]) == (0.85, 3, 1.235)
    assert row["bytes"] == file.path.stat().st_size
    assert (row["parameters"], row["nonzero"]) == (9, 3)
    assert (row["macs"], row["effective_macs"]) == (9 * 1024, 3 * 1024)
    assert row["relative_energy"] == pytest.approx(3 * 1024 / 1e6 * 4)
    assert "onnxruntime" in row["versions"]
    table = layer_table(file.path, (3, 32, 32))
    assert row["energy_uj"] == pytest.approx(energy.estimate(table).total_uj, abs=1e-6)
    assert row["ram_bytes"] == 2 * 3 * 32 * 32 * 4, "input and output of the convolution, float32"
    assert 0 < row["latency_ms"] < 1000
    assert row["latency_on"].startswith(f"onnxruntime {version('onnxruntime')}, 1 thread, batch 1, ")
    assert None not in row.values(), "every column is filled"


@pytest.mark.parametrize(("weight", "activation", "expected"), [(32, 32, 43.40), (8, 8, 10.85), (8, 32, 27.12)])
def test_relative_energy_of_the_plain_network(weight: int, activation: int, expected: float) -> None:
    from edgelab.layers import Layer, LayerTable

    macs = (884_736, 4_718_592, 4_718_592, 524_288, 2_560)
    rows = tuple(
        Layer("", "", (), (), macs=m, effective_macs=m, weight_bits=weight, activation_bits=activation) for m in macs
    )
    other = Layer("relu", "ReLU", (), (), activation_bits=32)
    assert round(measure.operand_energy(LayerTable((*rows, other), {})), 2) == expected


@pytest.mark.parametrize(("images", "seconds"), [(498, 0.1), (501, None)])
def test_few_test_images_are_worth_a_short_timing(
    images: int, seconds: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, timed = [], measure.measure_latency
    monkeypatch.setattr(measure, "measure_latency", lambda file, image, s: asked.append(s) or timed(file, image, 0.01))
    test, names = coloured(images, wrong=0), ("red", "green", "blue")
    dataset = Dataset("colours", test, test, test, names, fingerprint(test, test, names))
    about = {"chapter": "01_baseline", "technique": "baseline", "model": "brightest", "seed": 0, "train_seconds": 1}
    measure.measure(brightest(tmp_path / "m.onnx"), dataset, **about)
    assert asked == [seconds]
