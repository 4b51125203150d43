"""The pages that compute in the browser: their runtime from npm, their models, their data."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edgelab import artifact, book, data, labels, ledger, measure, pareto
from edgelab.errors import EdgelabError
from edgelab.web import models, pages, runtime
from edgelab.web.pixels import to_pixels

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "book" / "results" / "ledger.csv"
LISTED = models.read(ROOT)["models"]
MANY = (20, 31, 32, 33, 64, 97)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_hand(square: np.ndarray, row: int, column: int, channel: int) -> int:
    """One new pixel of a square picture, from the areas of its old ones as fractions."""
    size = len(square)
    total = Fraction(0)
    for y in range(size):
        for x in range(size):
            down = min(Fraction((row + 1) * size, 32), y + 1) - max(Fraction(row * size, 32), y)
            across = min(Fraction((column + 1) * size, 32), x + 1) - max(Fraction(column * size, 32), x)
            total += max(down, 0) * max(across, 0) * int(square[y, x, channel])
    return int(total / Fraction(size, 32) ** 2 + Fraction(1, 2))


# From pictures to pixels.


@pytest.mark.parametrize("size", MANY)
def test_every_new_pixel_is_the_mean_of_the_area_it_covers(size: int):
    picture = noise(size, size)
    pixels = to_pixels(picture)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    for place in ((0, 0, 0), (31, 31, 2), (13, 7, 1), (5, 30, 0)):
        assert pixels[place] == by_hand(picture, *place)


def test_a_picture_of_the_right_size_stays_as_it_is_and_a_half_is_rounded_up():
    assert np.array_equal(to_pixels(noise(32, 32)), noise(32, 32))
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[::2, ::2] = 2
    assert (to_pixels(halves) == 1).all()


def test_the_square_is_cut_out_of_the_middle():
    wide, tall = noise(32, 75), noise(51, 32)
    assert np.array_equal(to_pixels(wide), wide[:, 21:53])
    assert np.array_equal(to_pixels(tall), tall[9:41])


@pytest.mark.parametrize("wrong", [np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_rgb_picture_is_refused(wrong: np.ndarray):
    with pytest.raises(EdgelabError, match=r"^expected uint8 \(height, width, 3\), got .*: convert it to RGB$"):
        to_pixels(wrong)


# The runtime.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that asks for a runtime and has none."""
    root = tmp_path / "tree"
    (root / "book" / "web").mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        (root / "book" / "web" / name).write_bytes((ROOT / "book" / "web" / name).read_bytes())
    return root


def pretend_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> Path:
    """An npm that does what `script` says and counts how often it is called."""
    npm, calls = tmp_path / "npm", tmp_path / "calls"
    npm.write_text(f"#!/bin/sh\necho called >> {calls}\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: str(npm))
    return calls


def test_without_npm_the_book_is_built_without_the_runtime(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    assert runtime.install(tree) == "there is no npm: install Node.js, which brings it, and build again"
    assert runtime.files(tree) == {}


def test_a_failing_npm_is_told_of_in_a_line(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pretend_npm(monkeypatch, tmp_path, "echo npm warn old >&2; echo 'npm error code ENOTFOUND' >&2; exit 1")
    assert runtime.install(tree) == "npm failed (npm error code ENOTFOUND): build again with a network"
    assert runtime.files(tree) == {}
    assert [path.name for path in (tree / "build" / "web").iterdir()] == ["web.lock"], "nothing half done is left"


def test_a_package_without_what_is_wanted_is_told_of(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pretend_npm(monkeypatch, tmp_path, "mkdir -p node_modules/onnxruntime-web")
    assert runtime.install(tree).startswith("onnxruntime-web has no dist/ort.wasm.bundle.min.mjs: name a version")


def test_npm_is_asked_once_and_again_when_the_pin_changes(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = "mkdir -p node_modules/onnxruntime-web/dist; cd node_modules/onnxruntime-web; "
    calls = pretend_npm(
        monkeypatch, tmp_path, made + " ".join(f"; echo {name} > {name}" for name in runtime.WANTED)[2:]
    )
    assert runtime.install(tree) == runtime.install(tree) == ""
    assert calls.read_text().count("called") == 1
    found = runtime.files(tree)
    assert set(found) == {f"book/_static/ort/{name}" for name in runtime.WANTED.values()}
    assert found["book/_static/ort/ort.wasm.bundle.min.js"].read_text() == "dist/ort.wasm.bundle.min.mjs\n"
    lock = tree / "book" / "web" / "package-lock.json"
    lock.write_text(lock.read_text() + "\n")
    assert runtime.files(tree) == {}
    assert runtime.install(tree) == "" and calls.read_text().count("called") == 2


def test_a_tree_that_asks_for_no_runtime_gets_none(tmp_path: Path):
    assert runtime.install(tmp_path) == "" and runtime.files(tmp_path) == {}


def test_the_pin_is_exact_and_the_lock_file_says_the_same_and_names_no_host():
    pinned = json.loads((ROOT / "book" / "web" / "package.json").read_text())["dependencies"]
    text = (ROOT / "book" / "web" / "package-lock.json").read_text()
    locked = json.loads(text)["packages"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", pinned[runtime.PACKAGE])
    assert locked[""]["dependencies"] == pinned
    assert locked[f"node_modules/{runtime.PACKAGE}"]["version"] == pinned[runtime.PACKAGE]
    assert all("integrity" in package for name, package in locked.items() if name)
    assert "http" not in re.sub(r'"url": "[^"]*"', "", text)


# The models.


@pytest.mark.parametrize("shipped", LISTED, ids=lambda each: each.file)
def test_every_file_knows_its_classes_and_runs(shipped: models.Shipped):
    path = ROOT / models.PLACE / shipped.file
    assert list(labels.read(path) or ()) == models.read(ROOT)["classes"]
    assert measure.sizes(path) == (shipped.bytes, shipped.gzip_bytes)
    assert artifact.load(path).predict(noise(32, 32)[None]).shape == (1, 10)


@pytest.mark.parametrize("shipped", LISTED, ids=lambda each: each.file)
def test_every_accuracy_has_its_interval_and_the_row_it_names(shipped: models.Shipped):
    correct = round(shipped.accuracy * shipped.n_test)
    assert (shipped.accuracy_low, shipped.accuracy_high) == pytest.approx(measure.wilson(correct, shipped.n_test))
    frame = ledger.read(LEDGER)
    if shipped.measured.startswith("in chapter "):
        rows = frame[(frame["chapter"] == shipped.measured[11:]) & (frame["technique"] == shipped.technique)]
        rows = rows[(rows["model"] == shipped.model) & (rows["framework"] == "pytorch")]
        assert shipped.accuracy in rows["accuracy"].tolist()
        assert 0 < shipped.bytes - rows["bytes"].iloc[0] < 500, "the class names and nothing else"
    else:
        assert re.fullmatch(r"when it was made, with onnxruntime [\d.]+", shipped.measured)


def test_the_files_are_small_and_all_listed():
    files = sorted(path for path in (ROOT / models.PLACE).iterdir() if path.name != models.LIST)
    assert sorted(each.file for each in LISTED) == [path.name for path in files]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert LISTED[0].technique == "baseline", "the ratios of the page are to the first"


def test_a_changed_file_is_noticed(tmp_path: Path):
    folder = tmp_path / models.PLACE
    folder.mkdir(parents=True)
    for path in (ROOT / models.PLACE).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert models.read(tmp_path)["models"] == LISTED
    (folder / LISTED[0].file).write_bytes(b"other")
    with pytest.raises(EdgelabError, match=r"fp32\.onnx is missing or not the file that models\.json tells of: make"):
        models.read(tmp_path)
    (folder / models.LIST).write_text("{}")
    with pytest.raises(EdgelabError, match=r"models\.json is not the list of the page's models .*: make them again"):
        models.read(tmp_path)


def test_making_the_files_again(tmp_path: Path, digits: data.Dataset):
    from edgelab.profiles import Recipe
    from edgelab.pytorch import models as networks
    from edgelab.zoo import Checkpoint

    test = data.Split(digits.test.images[:20], digits.test.labels[:20])
    small = data.Dataset(digits.name, digits.train, digits.validation, test, digits.class_names, digits.fingerprint)
    about = {"class_names": list(digits.class_names), "data_fingerprint": digits.fingerprint}
    made = Checkpoint("plain_cnn", "digits", Recipe(1), networks.to_arrays(networks.build("plain_cnn")), [], about)
    wanted = (models.Wanted("a-int8", "int8", "small", "ptq_int8", lambda data: (made, data.train.images[:20])),)
    (shipped,) = models.make(tmp_path, small, wanted)
    assert models.read(tmp_path) == {"classes": list(digits.class_names), "models": [shipped]}
    assert shipped.file == "a-int8.onnx" and shipped.bytes < 1.1 * sum(array.size for array in made.arrays.values())
    assert shipped.checkpoint == made.key and shipped.checkpoint_sha256 == ""
    found = artifact.load(tmp_path / models.PLACE / shipped.file).predict(test.images).argmax(1)
    assert shipped.accuracy == (found == test.labels).mean() and shipped.n_test == 20
    assert shipped.measured.startswith("when it was made, with onnxruntime")


# What is put into the pages.


def test_the_page_says_how_to_get_a_missing_runtime(tree: Path):
    folder = tree / models.PLACE
    folder.mkdir(parents=True)
    for path in (ROOT / models.PLACE).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    text = book.fill("<!-- edgelab: models-in-browser -->", tree)
    assert "The runtime is missing" in text and "Node.js" in text and "make book" in text
    assert "<script" not in text
    assert "resnet8-int8.onnx" in book.fill("<!-- edgelab: models-table -->", tree)


def test_the_page_s_sources_are_part_of_what_the_book_is_made_from(tree: Path):
    assert not any("package" in place for place in book._sources(ROOT) if not place.startswith(runtime.PLACE))
    assert {"book/_static/web/models.js", "book/_static/models/models.json"} <= book._sources(ROOT).keys()


@pytest.mark.parametrize(
    ("technique", "said"),
    [
        ("baseline", "not compressed"),
        ("ptq_int8", "post-training quantization"),
        ("magnitude_pruning_95_gradual", "single weights pruned"),
        ("structured_pruning_2x", "channels pruned"),
        ("ensemble_distillation_2", "distillation"),
        ("pqat_8", "techniques combined"),
        ("some_new_one", "some new one"),
    ],
)
def test_techniques_are_filtered_by_family(technique: str, said: str):
    assert pages.family(technique) == said


def test_a_file_measured_twice_is_shown_once_with_the_first_value_there_is():
    frame = ledger.read(LEDGER)
    twice = frame[(frame["model"] == "resnet8") & (frame["technique"] == "baseline")]
    twice = twice[twice["framework"] == "pytorch"]
    assert len(twice) >= 3, "chapters 1, 6 and 12"
    shown = pages.measured_files(frame, "01_baseline")
    found = shown[
        (shown["model"] == "resnet8") & (shown["technique"] == "baseline") & (shown["framework"] == "pytorch")
    ]
    assert len(found) == 1
    assert found["chapter"].item() == "01_baseline"
    assert found["latency_ms"].item() == twice["latency_ms"].dropna().iloc[0]
    assert "nearest_mean" not in set(shown["model"])


def test_the_table_below_the_chart_has_every_file_and_its_numbers():
    shown = pages.measured_files(ledger.read(LEDGER), "01_baseline").to_dict("records")
    text = book.fill("<!-- edgelab: chart -->", ROOT)
    lines = re.findall(r'<tr id="file-\d+" data-row="(\d+)">(.*?)</tr>', text)
    assert [int(number) for number, _ in lines] == list(range(len(shown)))
    beaten = pareto.dominated(shown, "bytes")
    for (number, line), row in zip(lines, shown, strict=True):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)
        share = [f"{100 * row[name]:.2f}" for name in ("accuracy", "accuracy_low", "accuracy_high")]
        assert cells[1:3] == [row["model"], row["technique"]]
        assert cells[4:7] == [f"{share[0]} ({share[1]} to {share[2]})", f"{row['bytes']:,}", f"{row['gzip_bytes']:,}"]
        winner = beaten.get(int(number))
        assert cells[-1] == ("" if winner is None else str(winner + 1))
    assert any("magnitude_pruning" in line for _, line in lines)


def test_no_text_of_the_ledger_ends_the_element_that_carries_it():
    row = {**ledger.read(LEDGER).iloc[-1].to_dict(), "model": "</script><b>", "chapter": "01_baseline"}
    text = pages.chart(pd.DataFrame([row]), "01_baseline")
    assert "</script><b>" not in text and "&lt;/script&gt;" in text
    found = re.search(r'<script type="application/json" id="edgelab-chart-data">(.*?)</script>', text)
    assert found and json.loads(found[1])["rows"][0]["model"] == "</script><b>"


def test_without_measurements_the_chart_says_so(tmp_path: Path):
    assert book.fill("<!-- edgelab: chart -->", tmp_path) == "*No measurement has been published yet.*"
