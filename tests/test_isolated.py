"""Whatever a function does in the child, the parent gets a result or one line, and no process stays behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mean_files import endless_file
from support import workers

from edgelab import isolated
from edgelab.errors import EdgelabError

TESTS = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def child_finds_these_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", TESTS)


@pytest.fixture
def worker() -> Iterator[isolated.Worker]:
    with isolated.Worker() as worker:
        yield worker
    assert workers() == []


def message_of(worker: isolated.Worker, *call: object) -> str:
    with pytest.raises(EdgelabError) as caught:
        worker.call(*call)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_result_comes_back_and_the_child_serves_on(worker: isolated.Worker) -> None:
    assert worker.call("mean_files:sleep", "m.onnx", 0, []) == "awake"
    (first,) = workers()
    assert "-m edgelab.isolated" in " ".join(first.cmdline())
    assert worker.call("mean_files:echo", "m.onnx", {"a": [1, None, "é"]}) == ["m.onnx", {"a": [1, None, "é"]}]
    assert workers() == [first]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_is_one_line_that_names_file_and_signal(worker: isolated.Worker, name: str) -> None:
    line = message_of(worker, "mean_files:crash", "odd/m.tflite", int(getattr(signal, name)))
    assert line == (
        f"odd/m.tflite: the runtime crashed on it ({name}): the file is damaged, or that runtime cannot run it"
    )
    assert worker.call("mean_files:sleep", "m.onnx", 0, []) == "awake", "the next call gets a new child"


def test_a_library_that_ends_the_process(worker: isolated.Worker) -> None:
    line = message_of(worker, "mean_files:leave", "m.onnx", 3)
    assert line.startswith("m.onnx: the runtime ended on it (exit status 3): ")


def test_errors_are_one_line(worker: isolated.Worker) -> None:
    assert message_of(worker, "mean_files:fail", "m.onnx", "edgelab") == "expected this"
    assert message_of(worker, "mean_files:fail", "m.onnx", "os") == "nowhere: No such file or directory"
    assert message_of(worker, "mean_files:fail", "m.onnx", "other") == (
        "m.onnx: unexpected ZeroDivisionError (division by zero): please report it"
    )


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (
            int(signal.SIGSEGV),
            ": the runtime crashed on it (SIGSEGV): the file is damaged, or that runtime cannot run it",
        ),
        ("other", ": unexpected ZeroDivisionError (division by zero): please report it"),
        ("memory", ": it asks for more memory than there is: the file is damaged or too large to run here"),
        ("endless", ": not one inference has ended after 2 s: the file is damaged or too large here"),
    ],
)
def test_what_goes_wrong_is_said_of_the_file_it_is_about(how: str | int, line: str) -> None:
    with isolated.Worker(2.0) as worker:
        assert message_of(worker, "mean_files:fail_about", "m.onnx", ["a.onnx", "b.onnx"], how) == f"b.onnx{line}"
        assert message_of(worker, "mean_files:fail", "m.onnx", "other").startswith("m.onnx: "), "the next call is anew"


def test_an_absurd_allocation_is_an_error_until_the_limits_are_lifted(worker: isolated.Worker) -> None:
    line = message_of(worker, "mean_files:allocate", "m.onnx", 2 * isolated.MEMORY, False)
    assert line.startswith("m.onnx: it asks for more memory than there is")
    assert worker.call("mean_files:allocate", "m.onnx", 2 * isolated.MEMORY, True) == 2 * isolated.MEMORY
    line = message_of(worker, "mean_files:allocate", "m.onnx", 2 * isolated.MEMORY, False)
    assert line.startswith("m.onnx: it asks for more memory"), "the next call starts with limits"


def test_time_is_limited_until_the_function_says_otherwise() -> None:
    with isolated.Worker(seconds=2.0) as worker:
        worker.call("mean_files:sleep", "m.onnx", 0, [])
        worker.seconds = 0.4
        start = time.monotonic()
        line = message_of(worker, "mean_files:sleep", "m.onnx", 60, [])
        assert line.startswith("m.onnx: not one inference has ended after 0.4 s: ")
        assert time.monotonic() - start < 5
        assert workers() == []
        worker.seconds = 5
        assert worker.call("mean_files:sleep", "m.onnx", 0, []) == "awake"
        worker.seconds = 0.4
        assert worker.call("mean_files:sleep", "m.onnx", 1, [False]) == "awake"
        line = message_of(worker, "mean_files:sleep", "m.onnx", 60, [False, True])
        assert line.startswith("m.onnx: not one inference has ended after 0.4 s: ")


def test_an_endless_loop_in_the_runtime_is_ended(tmp_path: Path) -> None:
    path = endless_file(tmp_path / "m.onnx")
    with isolated.Worker(seconds=3.0) as worker:
        line = message_of(worker, "edgelab.report:gather", path, None, None, 1, "auto", False)
        assert line.startswith(f"{path}: not one inference has ended after 3 s: ")


def test_noise_is_held_back_and_notices_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with isolated.Worker() as worker:
        worker.call("mean_files:shout", "m.onnx")
    assert capfd.readouterr() == ("", "a notice\n")


def test_limits_mean_nothing_in_the_parent() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    isolated.limit(True)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


PARENT = """
from edgelab import isolated
with isolated.Worker() as worker:
    worker.call("mean_files:sleep", "m.onnx", 0, [])
    print("ready", flush=True)
    worker.call("mean_files:spin", "m.onnx")
"""


def started(source: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A parent in its own process group, and its child, which is at work."""
    parent = subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(TESTS).parent,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    (child,) = psutil.Process(parent.pid).children()
    return parent, child


def gone(process: psutil.Process) -> bool:
    try:
        process.wait(timeout=10)
    except psutil.TimeoutExpired:
        process.kill()
        return False
    return True


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_at_work_ends_when_its_parent_is_gone(stop: signal.Signals) -> None:
    parent, child = started(PARENT)
    parent.send_signal(stop)
    parent.wait(timeout=10)
    assert gone(child)
    assert parent.communicate()[1] == ""


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ctrl_c_ends_the_child_and_reaches_only_the_parent() -> None:
    parent, child = started(PARENT)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to all of the group
    _, error = parent.communicate(timeout=10)
    assert gone(child)
    assert error.count("KeyboardInterrupt") == 1 and "mean_files" not in error


def test_a_call_that_fails_in_the_parent_leaves_no_child(
    worker: isolated.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.call("mean_files:sleep", "m.onnx", 0, [])

    def fail(*_: object) -> Callable:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_reply", fail)
    with pytest.raises(KeyboardInterrupt):
        worker.call("mean_files:spin", "m.onnx")
    assert workers() == []
