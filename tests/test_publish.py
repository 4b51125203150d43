"""What `--publish` keeps, and where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from edgelab import ledger, profiles, publish, runs

ROOT = Path(__file__).parents[1]
VALUES = {name: 1 for name, kind in ledger.KINDS.items() if kind != "str" and name not in ledger.OPTIONAL}
TEXTS = {name: "text" for name, kind in ledger.KINDS.items() if kind == "str" and name not in ledger.OPTIONAL}
TEXTS |= {"technique": "baseline", "framework": "pytorch", "data_fingerprint": "0" * 64}
TEXTS |= {"when": "2026-01-01T00:00:00+00:00"}


def record(chapter: str, **changes: object) -> ledger.Record:
    return ledger.Record(**{**VALUES, **TEXTS, "chapter": chapter, **changes})


def executed_notebook() -> nbformat.NotebookNode:
    """As papermill leaves one: an injected cell, run metadata, progress on standard error, a result."""
    v4 = nbformat.v4
    outputs = [
        v4.new_output("stream", name="stderr", text="training: 100%"),
        v4.new_output("stream", name="stdout", text="0.81\n"),
    ]
    cells = [
        v4.new_markdown_cell("# A chapter", metadata={"papermill": {"duration": 1}}),
        v4.new_code_cell('profile = "ci"', metadata={"tags": ["parameters"]}),
        v4.new_code_cell('profile = "zoo"', metadata={"tags": ["injected-parameters"]}),
        v4.new_code_cell(
            "print(0.81)", outputs=outputs, execution_count=3, metadata={"papermill": {}, "execution": {"iopub": "now"}}
        ),
    ]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python", "version": "3.11.7"},
        "papermill": {"output_path": "/home/someone/build/x.ipynb"},
    }
    return v4.new_notebook(cells=cells, metadata=metadata)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course whose chapter 01_next has just run in the profiles ci and zoo."""
    for profile in ("ci", "zoo"):
        build = tmp_path / "build" / profile
        build.mkdir(parents=True)
        for chapter in ("01_next", "02_other"):
            nbformat.write(executed_notebook(), build / f"{chapter}.ipynb")
        runs.write(build / "run.json", {"01_next": {"seconds": 2.0}, "02_other": {"seconds": 9.0}})
        for chapter, accuracy in (("01_next", 0.75), ("02_other", 0.5)):
            ledger.append(record(chapter, accuracy=accuracy, accuracy_low=0.25), build / "ledger.csv")
    return tmp_path


def test_keeps_outputs_and_hides_what_only_the_run_needed(root: Path) -> None:
    publish.publish_chapters(root, ["01_next"], profiles.get("zoo"), root / "build" / "zoo")
    text = (root / "book" / "executed" / "01_next.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert "papermill" not in text
    assert "iopub" not in text
    assert "/home" not in text
    assert [output.name for output in notebook.cells[3].outputs] == ["stdout"]
    assert notebook.cells[3].execution_count == 3
    assert notebook.cells[2].metadata.tags == ["injected-parameters"]
    assert text.endswith("}\n")


def test_ci_outputs_go_back_into_the_notebooks_without_the_injected_cell(root: Path) -> None:
    publish.publish_chapters(root, ["01_next"], profiles.get("ci"), root / "build" / "ci")
    notebook = nbformat.read(root / "notebooks" / "01_next.ipynb", as_version=4)
    assert [cell.source for cell in notebook.cells] == ["# A chapter", 'profile = "ci"', "print(0.81)"]
    assert notebook.cells[2].outputs[0].text == "0.81\n"
    kept = [path.relative_to(root).as_posix() for path in root.rglob("book/**/*") if path.is_file()]
    assert kept == ["book/results/run_ci.json"]
    assert json.loads((root / kept[0]).read_text()) == {"01_next": {"seconds": 2.0}}


def test_replaces_the_rows_and_records_of_its_chapters_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = root / "book" / "results"
    for chapter in ("00_start", "01_next"):
        ledger.append(record(chapter, accuracy=0.5, accuracy_low=0.25, runtime="text 1.0"), results / "ledger.csv")
    runs.write(results / "run.json", {"00_start": {"seconds": 1.0}, "01_next": {"seconds": 1.0}})
    publish.publish_chapters(root, ["01_next"], profiles.get("zoo"), root / "build" / "zoo")
    rows = ledger.read(results / "ledger.csv")
    assert list(zip(rows["chapter"], rows["accuracy"], strict=True)) == [("00_start", 0.5), ("01_next", 0.75)]
    seals = publish.seal(root, "01_next")
    kept = {"00_start": {"seconds": 1.0}, "01_next": {"seconds": 2.0, "sha256": seals}}
    assert json.loads((results / "run.json").read_text()) == kept
    assert (
        "01_next baseline pytorch text text text seed 1: accuracy 0.5 -> 0.75" in capsys.readouterr().out.splitlines()
    )
    assert not list(results.glob("*.part"))


def test_a_number_changed_by_hand_does_not_fit_the_seal(root: Path) -> None:
    publish.publish_chapters(root, ["01_next", "02_other"], profiles.get("zoo"), root / "build" / "zoo")
    results = root / "book" / "results"
    page, rows = root / "book" / "executed" / "01_next.ipynb", results / "ledger.csv"
    (sealed,) = (record["sha256"] for name, record in runs.read(results / "run.json").items() if name == "01_next")
    lines = rows.read_text().splitlines()
    page.write_text(page.read_text().replace("# A chapter", "# A reworded chapter"))
    rows.write_text("\n".join([lines[0], *(line.replace("0.5", "0.6") for line in lines[:0:-1])]))
    assert publish.seal(root, "01_next") == sealed, "wording, the order of rows and other chapters do not count"
    page.write_text(page.read_text().replace('"0.81\\n"', '"0.82\\n"'))
    assert publish.seal(root, "01_next")["outputs"] != sealed["outputs"]
    rows.write_text(rows.read_text().replace("0.75", "0.76"))
    assert publish.seal(root, "01_next")["rows"] != sealed["rows"]


@pytest.mark.parametrize("chapter", sorted(path.stem for path in (ROOT / "book" / "executed").glob("*.ipynb")))
def test_the_published_numbers_are_those_of_the_recorded_run(chapter: str) -> None:
    record = runs.read(ROOT / "book" / "results" / "run.json")[chapter]
    assert record.get("sha256") == publish.seal(ROOT, chapter), "publish the chapter again: make publish"


def test_differences_name_new_gone_and_unchanged_rows() -> None:
    def row(**changes: str) -> dict[str, str]:
        known = {"chapter": "01", "technique": "baseline", "framework": "pytorch", "runtime": "onnx 1", "model": "m"}
        return {**known, "data": "digits", "seed": "0", "accuracy": "0.5", "bytes": "9", "wall_s": "1", **changes}

    old = [row(), row(model="gone"), row(model="same")]
    new = [row(accuracy="0.6", bytes="8", runtime="onnx 2"), row(model="new"), row(model="same", wall_s="7")]
    own = [row(data="my cats"), row(data="my dogs", accuracy="0.25")]
    twice = [row(), row(bytes="8")]
    assert publish.differences(twice, twice) == ["01 baseline pytorch onnx m digits seed 0: unchanged"] * 2
    assert publish.differences(own, own) == [
        "01 baseline pytorch onnx m my cats seed 0: unchanged",
        "01 baseline pytorch onnx m my dogs seed 0: unchanged",
    ]
    assert publish.differences(old, new) == [
        "01 baseline pytorch onnx gone digits seed 0: gone",
        "01 baseline pytorch onnx m digits seed 0: accuracy 0.5 -> 0.6, bytes 9 -> 8",
        "01 baseline pytorch onnx new digits seed 0: new, accuracy 0.5, bytes 9",
        "01 baseline pytorch onnx same digits seed 0: unchanged",
    ]


def test_keeps_the_checkpoints_of_the_models_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: object
) -> None:
    from edgelab import data, zoo

    monkeypatch.setattr(zoo, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(data, "load", lambda name: tiny, raising=False)
    full = profiles.get("full")
    meta = {"data_fingerprint": tiny.fingerprint}
    checkpoint = zoo.Checkpoint("resnet8", tiny.name, full.recipes["resnet8"], {}, [], meta)
    zoo.keep(checkpoint, data.cache_folder() / "checkpoints")
    earlier = zoo.Checkpoint("resnet8", tiny.name, replace(full.recipes["resnet8"], epochs=1), {}, [], meta)
    other = zoo.keep(replace(earlier, model="ds_cnn"), zoo.KEPT)
    zoo.keep(earlier, zoo.KEPT)
    publish._keep_checkpoints({"resnet8", "ds_cnn", "another"}, full)
    (kept,) = set((tmp_path / "kept").iterdir()) - {other}
    assert zoo.load(kept).model == "resnet8"
    assert capsys.readouterr().out == f"kept {kept}\n"


def test_draws_the_picture_of_the_readme_from_the_published_ledger(tmp_path: Path) -> None:
    results = tmp_path / "book" / "results" / "ledger.csv"
    publish._keep_picture(tmp_path)
    picture = tmp_path / "book" / "_static" / "comparison.svg"
    assert not picture.exists()
    values = {"accuracy": 0.75, "accuracy_low": 0.25, "accuracy_high": 1.0}
    ledger.append(record("01_baseline", model="a_network", **values), results)
    publish._keep_picture(tmp_path)
    drawn = picture.read_bytes()
    assert drawn.startswith(b"<?xml") and b"a_network" in drawn
    ledger.append(record("02_pruning", model="b_network", **values), results)
    publish._keep_picture(tmp_path)
    assert picture.read_bytes() != drawn
