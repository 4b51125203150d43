"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgelab import cli, course
from edgelab.errors import EdgelabError

FRAMEWORKS = {"torch", "tensorflow", "keras", "tf_keras", "onnxruntime", "ai_edge_litert"}
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
    assert "run " in out
    assert "book " in out


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
    ]
    assert main(monkeypatch, *said) == 0
    assert calls == [(["00", "01"], "zoo", {"epochs": "3", "note": "a=b"}, Path("x"), True)]


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


def test_a_misspelt_command_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(monkeypatch, "bok") == 2
    assert "No such command 'bok'" in capsys.readouterr().err
