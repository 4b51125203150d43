"""A file beside another of its network: the same images, in turns, each run once, and whatever is wrong names it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_files
from mean_files import darkness, endless_file, onnx_file, picture_folder, shade_folder, tflite_file

from edgelab import _fitting, artifact, cli, comparison, explain, isolated, latency, measure, report
from edgelab.errors import EdgelabError

NAMED = {"labels": "red, green, blue"}
SHORT = {"limit": None, "threads": 1, "pixels": "auto", "explain": False, "against": None}
NOTHING = dict.fromkeys(
    ["difference", "difference_ci95", "agreement", "p_value", "latency_ratio", "latency_ratio_ci95"]
)
SWAPPED = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a few runs only; no CIFAR-10 is at hand."""
    monkeypatch.setattr(latency, "SECONDS", 0.001)
    monkeypatch.setattr(latency, "REPETITIONS", 3)
    monkeypatch.delenv("EDGELAB_DATA", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("pictures") / "colours", 12)


def gathered(path: Path, name: Path | None, against: Path, **options: object) -> report.Report:
    """The report, in this process."""
    chosen = {**SHORT, "against": str(against), **options}
    return report.Report(**report.gather(str(path), None if name is None else str(name), **chosen))


def ratio(value: float, *names: str, low: float | None = None, high: float | None = None) -> latency.Ratio:
    one, other = (latency.Latency(ms, ms, ms, ms, 9, "this machine") for ms in (value, 1.0))
    return latency.Ratio(value, low or value - 0.1, high or value + 0.1, one, other, names)


def row(text: str, name: str) -> str:
    """A row of the report in words on one line; "" where there is none."""
    found = re.search(rf"^{name} .*(\n {{12}}.*)*", text, re.MULTILINE)
    return "" if found is None else " ".join(found[0].split())


# Answers


def test_answers_are_compared_on_the_same_images(tmp_path: Path, folder: Path) -> None:
    path, other = onnx_file(tmp_path / "m.onnx", properties=NAMED), onnx_file(tmp_path / "o.onnx", gain=SWAPPED)
    found = gathered(path, folder, other, limit=9)
    assert (found.accuracy, found.n_images) == (1.0, 9)
    labels = np.repeat([0, 1, 2], 3)
    expected = comparison.compare(np.array([1, 0, 2])[labels], labels, labels)
    assert found.as_json()["against"] == {
        "file": str(other),
        "difference": pytest.approx(2 / 3),
        "difference_ci95": (expected.low, expected.high),
        "agreement": pytest.approx(1 / 3),
        "p_value": expected.p_value,
        "latency_ratio": found.against["latency_ratio"],
        "latency_ratio_ci95": found.against["latency_ratio_ci95"],
    }
    said = expected.sentence("o.onnx", "m.onnx")
    assert said.startswith("m.onnx is 66.67 points above o.onnx") and "it lost 0 and gained 6" in said
    assert row(report.in_words(found), "compared") == f"compared {said}"


def test_a_drop_has_its_sign(tmp_path: Path, folder: Path) -> None:
    path, other = onnx_file(tmp_path / "m.onnx", gain=SWAPPED, properties=NAMED), onnx_file(tmp_path / "o.onnx")
    found = gathered(path, folder, other)
    assert found.against["difference"] == pytest.approx(-2 / 3) and found.accuracy == pytest.approx(1 / 3)
    assert found.told["compared"].startswith("m.onnx is 66.67 points below o.onnx")


def test_each_file_is_run_on_each_image_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[str, int] = {}
    opened = artifact.Artifact.opened

    def counted(file: artifact.Artifact) -> artifact.Opened:
        once = opened(file)

        def answer(images: np.ndarray) -> np.ndarray:
            ran[file.path.name] = ran.get(file.path.name, 0) + len(images)
            return once.answer(images)

        return once._replace(answer=answer)

    monkeypatch.setattr(artifact.Artifact, "opened", counted)
    monkeypatch.setattr(measure, "_ANSWERED", {})
    gathered(tflite_file(tmp_path / "m.tflite", "int8"), folder, tflite_file(tmp_path / "o.tflite", "uint8"))
    # A first inference, the one image that `_fitting.given` tries, and the twelve.
    assert ran == {"m.tflite": 14, "o.tflite": 13}


@pytest.mark.parametrize("pixels", ["auto", "unit"])
def test_the_other_file_may_take_other_pixels(tmp_path: Path, pixels: str) -> None:
    path, other = darkness(tmp_path / "m.onnx", 0.75), darkness(tmp_path / "o.onnx", 128.0)
    found = gathered(path, shade_folder(tmp_path / "shades"), other, pixels=pixels)
    assert found.accuracy == 1.0 and found.told["pixels"].startswith("0..1 (unit), ")
    if pixels == "auto":
        assert found.told["other_pixels"].startswith("o.onnx: 0..255 (raw), found by trying 36 training images: right")
        assert found.against["difference"] == 0 and found.against["agreement"] == 1
    else:
        assert found.told["other_pixels"] == "o.onnx: 0..1 (unit), as asked"
        assert found.against["difference"] == 0.5
    lines = report.in_words(found).splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("pixels "))
    assert any(line.startswith(" " * 12 + "o.onnx: 0..") for line in lines[place : place + 3])


def test_without_data_only_the_speed_is_compared(tmp_path: Path) -> None:
    other = tflite_file(tmp_path / "o.tflite")
    found = gathered(tflite_file(tmp_path / "m.tflite", "int8"), None, other)
    measured = {key: found.against[key] for key in ("latency_ratio", "latency_ratio_ci95")}
    assert found.against == {"file": str(other), **NOTHING, **measured} and None not in measured.values()
    assert row(report.in_words(found), "compared") == "" and row(report.in_words(found), "speed")


def test_files_of_one_name_are_told_apart(tmp_path: Path, folder: Path) -> None:
    paths = [tmp_path / part / "m.onnx" for part in "ab"]
    for path in paths:
        path.parent.mkdir()
        onnx_file(path)
    told = gathered(paths[0], folder, paths[1]).told
    assert told["compared"].startswith(f"{paths[0]} is level with {paths[1]} (")
    assert told["speed"].startswith(f"{paths[0]} takes ") and f" as long as {paths[1]}" in told["speed"]


# Speed


def test_the_speed_is_that_of_the_two_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def timed(a: artifact.Artifact, b: artifact.Artifact, image: np.ndarray) -> latency.Ratio:
        asked.append((a.path.name, b.path.name, a.threads, b.threads, image.shape))
        return ratio(1.23456789, a.path.name, b.path.name)

    monkeypatch.setattr(latency, "compare_latency", timed)
    path, other = tflite_file(tmp_path / "m.tflite", "int8"), onnx_file(tmp_path / "o.onnx", layout="NHWC")
    found = gathered(path, None, other, threads=2)
    assert asked == [("m.tflite", "o.onnx", 2, 2, (1, 8, 8, 3))]
    assert (found.against["latency_ratio"], found.against["latency_ratio_ci95"]) == (1.234568, (1.134568, 1.334568))
    said = ratio(1.23456789, "m.tflite", "o.onnx").sentence()
    assert said.startswith("m.tflite takes 1.23 times as long as o.onnx (")
    assert row(report.in_words(found), "speed") == f"speed {said}"


def test_speeds_of_other_batches_are_a_note(tmp_path: Path, folder: Path) -> None:
    path, other = onnx_file(tmp_path / "m.onnx"), onnx_file(tmp_path / "o.onnx", sizes=(4, 8, 8, 3))
    found = gathered(path, folder, other)
    assert found.against["latency_ratio"] is None and found.against["agreement"] == 1
    assert found.notes[-1] == "expected two files of the same batch to compare, got m.onnx of 1 and o.onnx of 4"
    assert row(report.in_words(found), "speed") == ""


# Explanations


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of one network by their names."""
    tmp_path = tmp_path_factory.mktemp("small")
    tflite, onnx = small_files.tflite_file, small_files.onnx_file
    return {
        path.name: path
        for path in (
            tflite(tmp_path / "int8.tflite", True),
            tflite(tmp_path / "float.tflite", False),
            tflite(tmp_path / "pruned_int8.tflite", True, True),
            tflite(tmp_path / "pruned.tflite", False, True),
            onnx(tmp_path / "float.onnx", False),
        )
    }


@pytest.mark.parametrize(
    ("name", "other", "is_float", "is_dense"),
    [
        ("int8.tflite", "float.tflite", True, False),
        ("pruned_int8.tflite", "float.tflite", True, False),
        ("pruned_int8.tflite", "int8.tflite", False, True),
        ("pruned.tflite", "float.tflite", True, True),
        ("pruned_int8.tflite", "pruned.tflite", True, False),
        ("pruned.tflite", "pruned_int8.tflite", False, False),
        ("pruned.tflite", "pruned.tflite", True, False),
        ("int8.tflite", "float.onnx", False, False),
    ],
)
def test_an_explanation_takes_the_other_file_where_it_serves(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, other: str, is_float: bool, is_dense: bool
) -> None:
    asked: dict[str, Path | None] = {}

    def answer(kind: str) -> Callable[..., SimpleNamespace]:
        def explained(path: Path, given: Path | None, image: np.ndarray, threads: int) -> SimpleNamespace:
            asked[kind] = given
            value = 3.0 if kind == "sparsity" else 2.0 if "int8" in path.name else None
            return SimpleNamespace(verdict=kind, ratio=value and ratio(value, name, other), int8=None)

        return explained

    timed = []
    monkeypatch.setattr(latency, "compare_latency", lambda a, b, image: timed.append(1) or ratio(4.0, name, other))
    for kind in ("int8", "sparsity"):
        monkeypatch.setattr(explain, kind, answer(kind))
    found = gathered(files[name], None, files[other], explain=True)
    assert asked == {"int8": files[other] if is_float else None, "sparsity": files[other] if is_dense else None}
    expected = 2.0 if is_float and "int8" in name else 3.0 if is_dense else 4.0
    assert (found.against["latency_ratio"], bool(timed)) == (expected, expected == 4.0)
    assert found.explain == {"int8": "int8", "sparsity": "sparsity"}


def test_what_the_explanation_says_is_not_said_twice(files: dict[str, Path]) -> None:
    found = gathered(files["int8.tflite"], None, files["float.tflite"], explain=True)
    text = report.in_words(found)
    assert found.explain["int8"].startswith(found.told["speed"]) and "as long as float.tflite" in found.told["speed"]
    assert row(text, "speed") == "" and " ".join(text.split()).count(" as long as float.tflite") == 1


def test_layers_that_cannot_be_counted_leave_the_explanation_as_it_was(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: artifact.Artifact, image: np.ndarray) -> bool:
        raise EdgelabError("o.tflite has a layer of no kind")

    asked = []

    def explained(path: Path, given: None, **_: object) -> SimpleNamespace:
        asked.append(given)
        return SimpleNamespace(verdict="because", ratio=ratio(2.0), int8=None)

    monkeypatch.setattr(explain, "is_quantized", refuse)
    for kind in ("int8", "sparsity"):
        monkeypatch.setattr(explain, kind, explained)
    found = gathered(files["int8.tflite"], None, files["float.tflite"], explain=True)
    assert "o.tflite has a layer of no kind" in found.notes
    assert asked == [None, None] and found.told["speed"].startswith("int8.tflite takes ")


# What is no match


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"sizes": ("n", 16, 8, 3)}, "takes images of 16x8x3, here they are 8x8x3"),
        ({"sizes": ("n", 8, 8, 1)}, "takes images of 8x8x1, here they are 8x8x3"),
        ({"gain": np.ones((4, 3))}, "has 4 outputs, m.onnx has 3"),
        ({"properties": {"labels": "green, red, blue"}}, "names other classes than m.onnx"),
    ],
)
def test_a_file_of_another_network_is_refused_before_anything_is_measured(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, other: dict, line: str
) -> None:
    monkeypatch.setattr(_fitting, "find", None)
    path, refused = onnx_file(tmp_path / "m.onnx", properties=NAMED), onnx_file(tmp_path / "o.onnx", **other)
    with pytest.raises(EdgelabError, match=f"^{refused} {line}: expected another file of the same network$"):
        gathered(path, folder, refused)


def test_names_in_other_case_or_in_one_file_and_an_open_size_are_a_match(tmp_path: Path, folder: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", sizes=("n", "h", "w", 3), properties=NAMED)
    other = onnx_file(tmp_path / "o.onnx", properties={"labels": "RED,Green,_blue"})
    bare = onnx_file(tmp_path / "bare.onnx")
    for first, second in ((path, other), (other, path), (path, bare), (bare, path)):
        assert gathered(first, folder, second).against["agreement"] == 1


def test_a_file_that_takes_no_images_has_nothing_to_compare(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 40]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "flat", ports[:1], ports[1:])
    flat, other = tmp_path / "flat.onnx", onnx_file(tmp_path / "o.onnx")
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), flat)
    for path, against in ((flat, other), (other, flat)):
        with pytest.raises(EdgelabError, match=r"^flat\.onnx takes inputs of 40: expected images, four axes$"):
            gathered(path, None, against)


# In a child process, and from the command line


def test_a_file_that_never_ends_is_named(tmp_path: Path) -> None:
    path, other = onnx_file(tmp_path / "m.onnx"), endless_file(tmp_path / "o.onnx")
    with isolated.Worker(seconds=2.0) as worker, pytest.raises(EdgelabError) as caught:
        worker.call("edgelab.report:gather", path, None, None, 1, "auto", False, str(other))
    assert str(caught.value).startswith(f"{other}: not one inference has ended after 2 s: ")


def test_every_file_is_named_while_it_runs_and_limited_until_it_has(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = onnx_file(tmp_path / "m.onnx"), onnx_file(tmp_path / "o.onnx")
    events: list[object] = []
    predictions, predict = measure.predictions, artifact.Artifact.predict
    monkeypatch.setattr(isolated, "about", lambda path: events.append(Path(path).name))
    monkeypatch.setattr(isolated, "limit", events.append)
    monkeypatch.setattr(artifact.Artifact, "predict", lambda *a: events.append(f"{a[0].path.stem}!") or predict(*a))
    for module in (measure, comparison):
        monkeypatch.setattr(module, "predictions", lambda *a: events.append(f"{a[0].path.stem} all") or predictions(*a))
    gathered(path, folder, other)
    first = ["m!", "o.onnx", True, "o!", "m.onnx", False]
    assert events == [*first, "m!", "m all", "o.onnx", "o all", "m.onnx"]


def main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["edgelab", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_what_is_wrong_with_the_other_file_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, whole = tflite_file(tmp_path / "m.tflite", "int8"), onnx_file(tmp_path / "whole.onnx")
    (tmp_path / "empty.tflite").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "text.onnx").write_text("no model")
    no_model = r"is no (onnx|tflite) model .*"
    lines = {"none.onnx": "check the path.*", "m.pt": "", "empty.tflite": no_model, "cut.onnx": no_model}
    for name, end in {**lines, "text.onnx": no_model}.items():
        assert main(monkeypatch, "measure", path, "--against", tmp_path / name) == 2
        out, err = capfd.readouterr()
        assert out == "" and re.fullmatch(rf"edgelab: .*{name}\W.*{end}\n", err), err


def test_a_missing_file_needs_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "Worker", None)
    with pytest.raises(EdgelabError, match=rf"^there is no model file at {tmp_path / 'none.onnx'}: check the path"):
        report.measure(onnx_file(tmp_path / "m.onnx"), against=tmp_path / "none.onnx")


def test_the_json_has_one_more_key(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> None:
    def call(worker: isolated.Worker, function: str, path: str, *arguments: object) -> dict:
        assert function == "edgelab.report:gather"
        return json.loads(json.dumps(report.gather(path, *arguments)))

    monkeypatch.setattr(isolated.Worker, "call", call)
    path, other = onnx_file(tmp_path / "m.onnx", properties=NAMED), onnx_file(tmp_path / "o.onnx")
    assert main(monkeypatch, "measure", path, "--data", folder, "--against", other, "--json") == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert tuple(found) == (*report.KEYS, "against")
    assert list(found["against"]) == ["file", *NOTHING] and found["against"]["file"] == str(other)
    assert found["against"]["agreement"] == 1 and found["against"]["latency_ratio"] > 0
    low, high = found["against"]["latency_ratio_ci95"]
    assert 0 < low <= found["against"]["latency_ratio"] <= high
    assert "\nedgelab: pixels o.onnx: -1..1 (centred), found by trying 12 " in err
