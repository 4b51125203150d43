"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mean_files import endless_file, onnx_file, picture_folder, tflite_file

from edgelab import cli, course, labels, report
from edgelab.errors import EdgelabError

FRAMEWORKS = {"torch", "tensorflow", "keras", "tf_keras", "onnxruntime", "ai_edge_litert"}
ROOT = Path(__file__).parents[1]
HEAVY = FRAMEWORKS | {"matplotlib", "pandas", "sklearn", "papermill"}


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgelab", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def seconds(source: str) -> float:
    """The best of five runs of `source` in a fresh interpreter, less what an empty one takes."""

    def once(text: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", text], check=True, capture_output=True)
        return time.perf_counter() - start

    return min(once(source) for _ in range(5)) - min(once("pass") for _ in range(5))


def heavy_modules_by_importer() -> dict[str, list[str]]:
    """Each module outside edgelab/tensorflow and edgelab/pytorch -> the heavy packages that importing it has loaded."""
    package = Path(cli.__file__).parent
    places = [path.relative_to(package.parent).with_suffix("").parts for path in sorted(package.rglob("*.py"))]
    names = [".".join(parts).removesuffix(".__init__") for parts in places if not {*parts} & {"tensorflow", "pytorch"}]
    source = f"""import importlib, json, sys
loaded = {{}}
for name in {names}:
    before = set(sys.modules)
    importlib.import_module(name)
    loaded[name] = sorted({HEAVY} & (set(sys.modules) - before))
print(json.dumps(loaded))"""
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_importing_edgelab_is_quick_and_loads_no_framework() -> None:
    assert seconds("import edgelab") < 0.3
    loaded = heavy_modules_by_importer()
    assert {"edgelab", "edgelab.cli", "edgelab.plots", "edgelab.boards", "edgelab.layers.onnx_file"} <= loaded.keys()
    assert {module: heavy for module, heavy in loaded.items() if heavy} == {}


def test_help_is_quick() -> None:
    assert seconds("from edgelab.cli import main; import sys; sys.argv = ['edgelab', '--help']; main()") < 0.5


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(monkeypatch, option) == 0
    out = capsys.readouterr().out
    assert all(
        f"\n  {command} " in out
        for command in ("run", "book", "measure", "macs", "predict", "export", "micro", "budget")
    )
    assert "..." not in out.partition("Commands:")[2], "every command's line fits"


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(monkeypatch, "--version") == 0
    name, number = capsys.readouterr().out.split()
    assert name == "edgelab"
    assert number[0].isdigit()


def test_run_passes_on_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr(course, "run", lambda *arguments: calls.append(arguments))
    said = [
        "run",
        "00",
        "01",
        "--profile",
        "zoo",
        "-p",
        "epochs",
        "3",
        "--parameter",
        "note=a=b",
        "-o",
        "x",
        "--publish",
        "-j",
        "3",
    ]
    assert main(monkeypatch, *said) == 0
    assert calls == [(["00", "01"], "zoo", {"epochs": "3", "note": "a=b"}, Path("x"), True, 3)]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (EdgelabError("expected this, got that"), 1, "edgelab: expected this, got that\n"),
        (PermissionError(13, "Permission denied", "build"), 1, "edgelab: build: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "edgelab: the system: No space left on device\n"),
        (KeyboardInterrupt(), 130, "edgelab: interrupted: the same command goes on with what is not finished\n"),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    line: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(course, "run", fail)
    assert main(monkeypatch, "run") == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line)


def edgelab(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-c", "from edgelab.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("data") / "colours", 12)


def test_measure_prints_one_json_object_and_nothing_else(tmp_path: Path, folder: Path, command: Any) -> None:
    path = tflite_file(tmp_path / "m.tflite", "int8")
    large = picture_folder(tmp_path / "large", 6, (16, 16))
    done = command("measure", path, "--data", large, "--limit", 3, "--threads", 1, "--json")
    found = json.loads(done.stdout)
    assert tuple(found) == report.KEYS
    assert (done.returncode, found["n_images"], found["macs"], found["data"]) == (0, 3, 576, "large")
    low, high = found["accuracy_ci95"]
    assert low < found["accuracy"] < high
    told, *notes = done.stderr.splitlines()
    assert "taken for the folders in alphabetical order, blue, green, red" in notes.pop()
    assert [told, *notes] == [
        "edgelab: pixels -1..1 (centred), for the int8 input has scale 0.0078125 and zero point 0",
        "edgelab: images resized to 8x8 (squeezed, not cropped), which the file takes",
    ]


def test_measure_explains_when_asked(tmp_path: Path, folder: Path, command: Any) -> None:
    path = tflite_file(tmp_path / "m.tflite", "int8")
    found = json.loads(command("measure", path, "--data", folder, "--explain", "--json").stdout)
    assert tuple(found) == (*report.KEYS, "explain")
    assert set(found["explain"]) == {"int8", "sparsity", "operators"}
    assert all("m.tflite" in found["explain"][name] for name in ("int8", "sparsity"))
    (convolution,) = (row for row in found["explain"]["operators"] if row["kind"] == "CONV_2D")
    assert convolution["macs"] == 576 and convolution["ms"] is not None and 0 <= convolution["share"] <= 1


def test_measure_in_words(tmp_path: Path, folder: Path, command: Any) -> None:
    done = command("measure", tflite_file(tmp_path / "m.tflite", "int8"), "--data", folder)
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.splitlines()
    assert words[2].startswith("accuracy    33.33 % (95 % interval ")
    assert (
        any(line.endswith(" bytes: arena of TensorFlow Lite Micro") for line in words)
        or find_spec("tflite_micro") is None
    )


def locked(path: Path) -> Path:
    """A zip archive whose member needs a password, under the name of a model."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model", b"x" * 5000)
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    return path


BAD_FILES = {
    "empty": b"",
    "text": b"no model at all",
    "random": np.random.default_rng(0).bytes(5000),
    "zeros": bytes(4096),
}


@pytest.mark.parametrize(("command", "suffix"), [("measure", "tflite"), ("macs", "onnx")])
def test_a_file_that_is_no_model_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, suffix: str, command: str
) -> None:
    whole = (tflite_file if suffix == "tflite" else onnx_file)(tmp_path / f"whole.{suffix}").read_bytes()
    files = [locked(tmp_path / f"locked.{suffix}")]
    for name, content in {**BAD_FILES, "cut": whole[: len(whole) // 2]}.items():
        files.append(tmp_path / f"{name}.{suffix}")
        files[-1].write_bytes(content)
    for path in files:
        assert main(monkeypatch, command, str(path), "--json") == 2
        out, err = capfd.readouterr()
        assert out == "" and re.fullmatch(rf"edgelab: .*{path.name} is no {suffix} model .*\n", err), err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["measure", "none.onnx"], "there is no model file at none.onnx: check the path or make the file first"),
        (["macs", "none.onnx"], "there is no model file at none.onnx: check the path or make the file first"),
        (["measure", "m.pt"], "expected a model file ending in .tflite or .onnx, got 'm.pt'"),
        (["macs", "m"], "expected a .tflite or .onnx file or one of plain_cnn, resnet8, ds_cnn, got 'm'"),
        (["macs", "m.onnx", "--input", "32x32"], "expected --input HEIGHTxWIDTHxCHANNELS such as 32x32x3, got '32x32'"),
        (["macs", "m.onnx", "--input", "0x1x3"], "expected --input HEIGHTxWIDTHxCHANNELS such as 32x32x3, got '0x1x3'"),
        (["measure", "m.onnx", "--limit", "0"], "expected a limit of one image or more, got 0"),
        (["measure", "m.onnx", "--data", "nowhere"], "there is no data set 'nowhere': expected digits, cifar10, .*"),
        (
            ["measure", "m.onnx", "--data", "digits"],
            "m.onnx has 3 outputs and no class names, digits has 10 classes: .*",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx_file(tmp_path / "m.onnx")
    assert main(monkeypatch, *arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(f"edgelab: {line}\n", err), err


def test_no_runtime_for_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('no onnxruntime here')")
    done = edgelab("measure", onnx_file(tmp_path / "m.onnx"), env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"edgelab: .*m\.onnx needs onnxruntime, .*\(no onnxruntime here\): pip install onnxruntime\n", done.stderr
    )


@pytest.mark.parametrize(("name", "images"), [("measure", []), ("predict", ["a.png"])])
def test_ctrl_c_ends_a_command_and_its_child(tmp_path: Path, name: str, images: list[str]) -> None:
    path = endless_file(tmp_path / "m.onnx")
    command = [sys.executable, "-c", "from edgelab.cli import main; main()", name, str(path), *images]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    parent = psutil.Process(process.pid)
    while not (children := parent.children()):
        time.sleep(0.05)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "edgelab: interrupted\n")
    assert process.returncode == 130
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_predict_in_words(tmp_path: Path, folder: Path, command: Any) -> None:
    path = tflite_file(tmp_path / "m.tflite", "int8")
    labels.write(path, ("red", "green", "blue"))
    image = next(folder.glob("red/*.png"))
    done = command("predict", path, image, "--top", 2)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"m\.tflite: int8 input 8x8x3, run by ai-edge-litert [\d.]+", lines[0])
    assert re.fullmatch(rf"{image}  red \d\d\.\d %  \w+ \d\d\.\d %", lines[2])
    assert [line.split()[0] for line in lines[4:] if line[0] != " "] == ["pixels", "latency", "speed"]


def test_predict_from_standard_input_with_json(folder: Path) -> None:
    content = next(folder.glob("red/*.png")).read_bytes()
    command = [sys.executable, "-c", "from edgelab.cli import main; main()", "predict", "-", "--json"]
    done = subprocess.run(command, input=content, capture_output=True, timeout=60)
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr, found["images"][0]["image"]) == (0, b"", "-")
    assert len(found["labels"]) == 10 and len(found["images"][0]["classes"]) == 3


def test_one_bad_picture_is_one_line_and_the_others_answers(tmp_path: Path, folder: Path, command: Any) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    done = command("predict", tmp_path / "bad.png", folder, "--json")
    assert done.returncode == 2
    line = r"edgelab: cannot read the image .*bad\.png \(.*\): mend or remove it\nedgelab: 1 of 13 images failed\n"
    assert re.fullmatch(line, done.stderr)
    images = json.loads(done.stdout)["images"]
    assert len(images) == 13 and "error" in images[0] and all("classes" in image for image in images[1:])
    done = command("predict", tmp_path / "bad.png")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["predict", "m.tflite"], "expected an image, a folder of images or - after m.tflite, got nothing"),
        (["predict", "none.png"], "there is no image at none.png: check the path"),
        (["predict", "none.tflite", "a.png"], "there is no model file at none.tflite: .*"),
        (["export", "nothing", "-o", "m.onnx"], "there is no checkpoint 'nothing': expected a .safetensors file or .*"),
        (
            ["export", "a.safetensors", "-o", "m.onnx"],
            "no weights at a.safetensors: expected a .safetensors file there",
        ),
        (["export", "ds_cnn", "-o", "m.pt"], "expected a model file ending in .tflite or .onnx, got 'm.pt'"),
        (["export", "ds_cnn", "-o", "m.onnx", "--to", "tflite"], "expected a file that ends in .tflite, got 'm.onnx'"),
        (["export", "ds_cnn", "-o", "m.onnx", "--int8"], "int8 needs training images of cifar10-jpeg .*"),
    ],
)
def test_what_predict_and_export_cannot_do_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGELAB_DATA", raising=False)
    tflite_file(tmp_path / "m.tflite")
    assert main(monkeypatch, *arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(f"edgelab: {line}\n", err), err
    assert not (tmp_path / "m.onnx").exists()


def test_export_writes_a_checked_file(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("EDGELAB_DATA", raising=False)
    path = tmp_path / "m.onnx"
    assert main(monkeypatch, "export", "resnet8", "--to", "onnx", "-o", str(path)) == 0
    out, err = capfd.readouterr()
    assert (
        out.startswith(f"{path}: {path.stat().st_size:,} bytes, float32 in and float32 out, opset 18, ") and err == ""
    )
    assert len(labels.read(path) or ()) == 10


def test_macs_of_a_file(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tflite_file(tmp_path / "m.tflite", "int8")
    assert main(monkeypatch, "macs", str(path), "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert list(found) == ["macs", "parameters", "layers", "uncounted"]
    assert (found["macs"], found["parameters"]) == (576, 12)
    assert found["uncounted"] == {"AVERAGE_POOL_2D": 1, "RESHAPE": 1}
    assert [row["kind"] for row in found["layers"]] == ["convolution", "AVERAGE_POOL_2D", "RESHAPE"]
    assert found["layers"][0]["input_shape"] == [8, 8, 3] and found["layers"][0]["macs"] == 576
    assert main(monkeypatch, "macs", str(path)) == 0
    assert capfd.readouterr().out.splitlines()[4].split() == ["total", "12", "576"]


def test_macs_of_an_open_size(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(onnx_file(tmp_path / "m.onnx", sizes=("n", "h", "w", 3)))
    assert main(monkeypatch, "macs", path, "--input", "10X20x3", "--json") == 0
    assert json.loads(capfd.readouterr().out)["macs"] == 1800
    assert main(monkeypatch, "macs", path) == 2
    assert capfd.readouterr().err.endswith("give --input HEIGHTxWIDTHxCHANNELS\n")


@pytest.mark.parametrize(("model", "macs"), [("plain_cnn", 10_848_768), ("resnet8", 12_501_632), ("ds_cnn", 8_926_464)])
def test_macs_of_the_courses_networks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], model: str, macs: int
) -> None:
    assert main(monkeypatch, "macs", model, "--json") == 0
    assert json.loads(capfd.readouterr().out)["macs"] == macs


def test_macs_of_a_tflite_file_load_no_framework_anywhere(tmp_path: Path) -> None:
    path = tflite_file(tmp_path / "m.tflite")
    source = f"""import sys
from edgelab import report
report.macs({str(path)!r})
report.count({str(path)!r}, None)
print(*sorted({FRAMEWORKS - {"ai_edge_litert"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("page", ["README.md", "book/how_to.md"])
def test_the_pages_show_commands_and_options_that_exist(page: str) -> None:
    from typer.main import get_command

    commands = get_command(cli.app).commands
    known = {name: {o for p in c.params for o in p.opts} for name, c in commands.items()}
    lines = re.findall(r"^.*\.venv/bin/edgelab ([a-z].*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    shown = [line.partition("#")[0].split() for line in lines]
    assert {"run", "measure", "macs", "predict", "export"} <= {words[0] for words in shown} <= set(known)
    unknown = [(w[0], o) for w in shown for o in w if o.startswith("-") and o not in known[w[0]]]
    assert unknown == []


def test_a_misspelt_command_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(monkeypatch, "bok") == 2
    assert "No such command 'bok'" in capsys.readouterr().err
