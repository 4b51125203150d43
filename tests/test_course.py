"""Running chapters as a user does: in processes of their own, on small notebooks, killed and started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager

from edgelab import _executing, course, provenance
from edgelab.errors import EdgelabError

PARAMETERS = 'profile = "ci"\nepochs = 3\nrate = 0.5\nflip = True\nnote = "plain"\nlimit = None'
KNOWN = "epochs, flip, limit, note, profile, rate"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
RECORD = """import os
from edgelab import ledger
values = {name: 1 for name, kind in ledger.KINDS.items() if kind != "str" and name not in ledger.OPTIONAL}
texts = {name: "text" for name, kind in ledger.KINDS.items() if kind == "str" and name not in ledger.OPTIONAL}
texts |= {"technique": "baseline", "framework": "pytorch", "data_fingerprint": "0" * 64}
texts |= {"when": "2026-01-01T00:00:00+00:00"}
"""
APPEND = 'ledger.append(ledger.Record(**values, **{{**texts, "chapter": "{}"}}))'


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [first, *(nbformat.v4.new_code_cell(source) for source in sources)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), path)
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of two quick chapters; the current folder is inside it."""
    folder = tmp_path / "course"
    write_notebook(folder / "notebooks" / "00_start.ipynb", "print(profile, epochs)")
    write_notebook(folder / "notebooks" / "01_next.ipynb", "print(40 + 2)")
    monkeypatch.chdir(folder / "notebooks")
    return folder


def edgelab(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from edgelab.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(*arguments: str) -> tuple[int, str, str]:
    process = edgelab(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def test_finds_the_course_above_the_current_folder(root: Path) -> None:
    assert course.find_root() == root
    assert course.find_root(root / "notebooks") == root


def test_no_course_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "PACKAGE", tmp_path / "installed" / "edgelab")
    with pytest.raises(EdgelabError, match=r"^no course here: expected notebooks/00_start.ipynb in .* to a clone$"):
        course.find_root(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ((), ["00_start", "01_next"]),
        (("01",), ["01_next"]),
        (("1",), ["01_next"]),
        (("0", "1"), ["00_start", "01_next"]),
        (("01_next", "00"), ["00_start", "01_next"]),
        (("01", "01_next"), ["01_next"]),
    ],
)
def test_selects_by_number_or_name_in_the_order_of_the_course(root: Path, wanted: tuple, names: list) -> None:
    assert [path.stem for path in course.select(root, wanted)] == names


@pytest.mark.parametrize("wanted", ["2", "01_nxt", "next", "02", "001", ""])
def test_unknown_chapter_is_refused(root: Path, wanted: str) -> None:
    with pytest.raises(EdgelabError, match=f"^unknown chapter '{wanted}': choose from 00_start, 01_next$"):
        course.select(root, [wanted])


@pytest.mark.parametrize("wanted", ["9", "09"])
def test_the_comparison_is_no_notebook(root: Path, wanted: str) -> None:
    with pytest.raises(EdgelabError, match=r"^chapter 9 is a page of the book, .*: edgelab book$"):
        course.select(root, [wanted])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "7", 7),
        ("rate", "0.1", 0.1),
        ("rate", "1", 1.0),
        ("flip", "false", False),
        ("flip", "True", True),
        ("note", "12", "12"),
        ("limit", "500", 500),
        ("limit", "half", "half"),
    ],
)
def test_a_parameter_takes_the_type_of_its_default(root: Path, name: str, text: str, value: object) -> None:
    values = course.check_parameters(root / "notebooks" / "00_start.ipynb", "zoo", {name: text})
    assert values == {"profile": "zoo", name: value}
    assert type(values[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("epoch", "3", f"00_start has no parameter 'epoch': it has {KNOWN}"),
        ("epochs", "many", r"parameter 'epochs' of 00_start is a whole number \(by default 3\), not 'many'"),
        ("epochs", "2.5", r"parameter 'epochs' of 00_start is a whole number \(by default 3\), not '2.5'"),
        ("epochs", "True", r"parameter 'epochs' of 00_start is a whole number \(by default 3\), not 'True'"),
        ("flip", "1", r"parameter 'flip' of 00_start is true or false \(by default True\), not '1'"),
        ("rate", "fast", r"parameter 'rate' of 00_start is a number \(by default 0.5\), not 'fast'"),
        ("profile", "full", "the profile is not given with -p: write --profile full"),
    ],
)
def test_a_wrong_parameter_is_refused(root: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(EdgelabError, match=f"^{message}$"):
        course.check_parameters(root / "notebooks" / "00_start.ipynb", "ci", {name: text})


def test_a_folder_holds_from_where_the_command_is_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = write_notebook(root / "notebooks" / "02_own.ipynb", parameters='profile = "ci"\nfolder = ""')
    monkeypatch.chdir(root)
    assert course.check_parameters(notebook, "ci", {"folder": "my/rice"})["folder"] == str(root / "my" / "rice")
    assert course.check_parameters(notebook, "ci", {"folder": "~/x"})["folder"] == str(Path.home() / "x")
    assert course.check_parameters(notebook, "ci", {"folder": ""})["folder"] == ""


def test_a_notebook_without_parameters_and_a_broken_one_are_refused(root: Path) -> None:
    bare = root / "notebooks" / "02_bare.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")], metadata=METADATA), bare)
    with pytest.raises(EdgelabError, match=r"^02_bare has no parameter 'profile': it has none at all"):
        course.check_parameters(bare, "ci", {})
    bare.write_text('{"cells": [')
    with pytest.raises(EdgelabError, match=r"02_bare\.ipynb cannot be read as a notebook .* restore it from git$"):
        course.check_parameters(bare, "ci", {})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--profile", "fast"], "edgelab: unknown profile 'fast': choose one of ci, zoo, full"),
        (["00", "07"], "edgelab: unknown chapter '07': choose from 00_start, 01_next"),
        (
            ["00", "-p", "sed", "1"],
            f"edgelab: 00_start has no parameter 'sed': it has {KNOWN}",
        ),
        (["-p", "epochs"], "edgelab: expected -p NAME VALUE, got 'epochs' alone"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_runs(root: Path, arguments: list[str], line: str) -> None:
    status, out, err = outcome("run", *arguments)
    assert (status, out, err) == (1, "", line + "\n")
    assert not (root / "build").exists()


def test_runs_once_and_again_only_what_changed(root: Path) -> None:
    status, out, err = outcome("run", "-p", "epochs", "5")
    assert status == 0, err
    build = root / "build" / "ci"
    assert printed(build / "00_start.ipynb") == "ci 5\n"
    assert printed(build / "01_next.ipynb") == "42\n"
    records = json.loads((build / "run.json").read_text())
    assert list(records) == ["00_start", "01_next"]
    assert records["00_start"]["parameters"] == {"profile": "ci", "epochs": 5}
    assert records["00_start"]["seconds"] > 0
    assert {"versions", "commit", "machine", "when"} <= set(records["00_start"]["provenance"])
    assert sorted(path.name for path in build.iterdir()) == [".lock", "00_start.ipynb", "01_next.ipynb", "run.json"]

    saved_anew = nbformat.read(root / "notebooks" / "00_start.ipynb", as_version=4)
    saved_anew.cells[1].outputs = [nbformat.v4.new_output("stream", text="ci 5\n")]
    nbformat.write(saved_anew, root / "notebooks" / "00_start.ipynb")
    write_notebook(root / "notebooks" / "01_next.ipynb", "print(6 * 9)")
    status, out, _ = outcome("run", "-p", "epochs", "5")
    assert [line.split(": ")[1].split(",")[0] for line in out.splitlines()] == ["up to date", "running", "done"]
    assert printed(build / "01_next.ipynb") == "54\n"


def test_other_parameters_data_or_a_missing_output_make_a_chapter_run_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def execute(notebook: Path, executed: Path, *_: object, **__: object) -> None:
        ran.append(notebook.stem)
        executed.touch()

    monkeypatch.setattr("papermill.execute_notebook", execute)
    for change in (
        lambda: None,
        lambda: None,
        lambda: monkeypatch.setenv("EDGELAB_DATA", "/elsewhere"),
        lambda: (root / "build" / "ci" / "00_start.ipynb").unlink(),
        lambda: (root / "build" / "ci" / "run.json").write_text("half"),
    ):
        change()
        course.run(["00"])
        ran.append("|")
    course.run(["00"], parameters={"epochs": "9"})
    assert " ".join(ran) == "00_start | | 00_start | 00_start | 00_start | 00_start"


@pytest.mark.parametrize("profile", ["ci", "zoo"])
def test_only_what_is_published_is_compared_with_the_published_results(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    monkeypatch.setattr("papermill.execute_notebook", lambda _, executed, *__, **___: executed.touch())
    build = course.run(["00"], profile)
    compared = "00_start: no measurements to compare" in capsys.readouterr().out.splitlines()
    assert compared == (build / "reproduced.csv").exists() == (profile == "zoo")


def test_the_code_of_edgelab_counts(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "edgelab"
    (package / "checkpoints").mkdir(parents=True)
    (package / "a.py").write_text("1")
    monkeypatch.setattr(course, "PACKAGE", package)
    notebook = root / "notebooks" / "00_start.ipynb"
    chosen, never_kept = course.profiles.get("zoo"), course.profiles.get("full")
    first = [course._digest(notebook, profile, {}) for profile in (chosen, never_kept)]
    (package / "checkpoints" / "a.safetensors").write_bytes(b"weights")
    second = [course._digest(notebook, profile, {}) for profile in (chosen, never_kept)]
    (package / "a.py").write_text("2")
    third = [course._digest(notebook, profile, {}) for profile in (chosen, never_kept)]
    assert first[0] != second[0] != third[0]
    assert first[1] == second[1] != third[1]
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_bytes(b"code")
    assert [course._digest(notebook, profile, {}) for profile in (chosen, never_kept)] == third
    (package / "boards").mkdir()
    (package / "boards" / "networks.csv").write_text("board")
    fourth = [course._digest(notebook, profile, {}) for profile in (chosen, never_kept)]
    assert third[0] != fourth[0] and third[1] != fourth[1]


def test_the_versions_of_installed_packages_count(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, profile = root / "notebooks" / "00_start.ipynb", course.profiles.get("full")
    before = course._digest(notebook, profile, {})
    assert course._digest(notebook, profile, {}) == before
    monkeypatch.setattr(provenance, "versions", lambda: "numpy 0.1")
    assert course._digest(notebook, profile, {}) != before


def test_a_failing_chapter_keeps_output_and_traceback_and_stops_the_run(root: Path) -> None:
    write_notebook(root / "notebooks" / "00_start.ipynb", "print('so far')", "values = []\nvalues[3]")
    status, out, err = outcome("run")
    failed = root / "build" / "ci" / "00_start.failed.ipynb"
    line = err.splitlines()[-1]
    assert status == 1
    assert line == (
        "edgelab: 00_start failed in cell [4] (IndexError: list index out of range): "
        f"its output and traceback are in {failed}"
    )
    assert "Traceback (most recent call last)" not in err
    assert "so far" in printed(failed)
    outputs = [output for cell in nbformat.read(failed, as_version=4).cells for output in cell.get("outputs", [])]
    traceback = "\n".join(line for output in outputs for line in output.get("traceback", []))
    assert "values[3]" in re.sub("\x1b\\[[0-9;]*m", "", traceback)
    assert "01_next" not in out
    assert not (root / "build" / "ci" / "run.json").exists()

    write_notebook(root / "notebooks" / "00_start.ipynb", "print('mended')")
    assert outcome("run", "00")[0] == 0
    assert not failed.exists()


def test_a_missing_kernel_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelSpecManager, "_find_spec_directory", lambda *_: None)
    monkeypatch.setattr(KernelSpecManager, "ensure_native_kernel", False)
    with pytest.raises(EdgelabError, match=r"^Jupyter has no kernel named python3 .*: pip install ipykernel, then run"):
        course.run(["00"])


def test_a_kernel_that_dies_is_one_line(root: Path) -> None:
    write_notebook(root / "notebooks" / "00_start.ipynb", "print('so far', flush=True)", "import os\nos._exit(9)")
    status, _, err = outcome("run", "00")
    assert status == 1
    assert err.splitlines()[-1].startswith("edgelab: 00_start failed (Kernel died)")
    assert "so far" in printed(root / "build" / "ci" / "00_start.failed.ipynb")


def test_rows_appear_when_their_chapter_has_finished_and_replace_its_old_ones(root: Path) -> None:
    row = RECORD + APPEND.format("00_start")
    write_notebook(root / "notebooks" / "00_start.ipynb", row)
    write_notebook(root / "notebooks" / "01_next.ipynb", RECORD + APPEND.format("01_next"), "1 / 0")
    assert outcome("run")[0] == 1
    ledger = root / "build" / "ci" / "ledger.csv"
    assert [line.split(",")[0] for line in ledger.read_text().splitlines()[1:]] == ["00_start"]
    write_notebook(root / "notebooks" / "00_start.ipynb", row, "'again'")
    write_notebook(root / "notebooks" / "01_next.ipynb", RECORD + APPEND.format("01_next"))
    assert outcome("run")[0] == 0
    assert [line.split(",")[0] for line in ledger.read_text().splitlines()[1:]] == ["00_start", "01_next"]


MEET = """import pathlib, time
folder = pathlib.Path('{}')
(folder / '{}').touch()
while not (folder / '{}').exists():
    time.sleep(0.05)"""


def test_two_at_once_meet_and_leave_what_one_after_the_other_does(root: Path) -> None:
    """The first chapter ends after the second: rows stand in the order of the course all the same."""
    late = f"while not pathlib.Path('{root}/build/ci/01_next.ipynb').exists():\n    time.sleep(0.05)"
    rows = [RECORD + APPEND.format(name) for name in ("00_start", "01_next")]
    threads = "import os\nprint(os.environ['OMP_NUM_THREADS'])"
    write_notebook(root / "notebooks" / "00_start.ipynb", MEET.format(root, "a", "b"), late, rows[0])
    write_notebook(root / "notebooks" / "01_next.ipynb", MEET.format(root, "b", "a"), rows[1], threads)
    status, out, err = outcome("run", "--jobs", "2")
    assert (status, err) == (0, "")
    assert [line.split(" ", 1)[1].split(",")[0] for line in out.splitlines()] == [
        "00_start: running",
        "01_next: running",
        "01_next: done",
        "00_start: done",
    ]
    build = root / "build" / "ci"
    assert [line.split(",")[0] for line in (build / "ledger.csv").read_text().splitlines()[1:]] == [
        "00_start",
        "01_next",
    ]
    assert list(json.loads((build / "run.json").read_text())) == ["00_start", "01_next"]
    assert printed(build / "01_next.ipynb") == f"{max(1, os.cpu_count() // 2)}\n"
    names = [".lock", "00_start.ipynb", "01_next.ipynb", "ledger.csv", "run.json"]
    assert sorted(path.name for path in build.iterdir()) == names


def test_what_is_at_work_beside_a_failure_is_finished_and_nothing_else_begun(root: Path) -> None:
    failed = root / "build" / "ci" / "00_start.failed.ipynb"
    slow = f"while not pathlib.Path('{failed}').exists():\n    time.sleep(0.05)"
    write_notebook(root / "notebooks" / "00_start.ipynb", MEET.format(root, "a", "b"), "1 / 0")
    write_notebook(root / "notebooks" / "01_next.ipynb", MEET.format(root, "b", "a"), slow, "print(42)")
    write_notebook(root / "notebooks" / "02_last.ipynb", "print(43)")
    status, out, err = outcome("run", "--jobs", "2")
    assert status == 1 and "02_last" not in out
    what = "edgelab: 00_start failed in cell [4] (ZeroDivisionError: division by zero)"
    assert err.splitlines() == [f"{what}: its output and traceback are in {failed}"]
    assert printed(root / "build" / "ci" / "01_next.ipynb") == "42\n"


def test_a_process_that_is_ended_is_one_line(root: Path) -> None:
    write_notebook(root / "notebooks" / "00_start.ipynb", "import os\nos.kill(os.getppid(), 9)", "1 / 0")
    status, _, err = outcome("run", "00", "--jobs", "2")
    assert status == 1
    assert err.splitlines()[-1] == "edgelab: 00_start failed (its process was ended): try again with fewer --jobs"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_nothing_at_work(root: Path, how: signal.Signals) -> None:
    process, kernel = start_and_stop_in_second_chapter(root, how, "--jobs", "2")
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    wait_for(lambda: not is_running(kernel), "the kernel to end", 30)
    assert (root / "build" / "ci" / "00_start.ipynb").exists()


def test_published_times_are_measured_alone(root: Path) -> None:
    status, out, err = outcome("run", "--profile", "zoo", "--publish", "--jobs", "2")
    assert (status, out) == (1, "")
    assert err == "edgelab: published times are measured with one chapter at work: leave out --jobs or --publish\n"


def start_and_stop_in_second_chapter(
    root: Path, how: signal.Signals, *options: str
) -> tuple[subprocess.Popen[str], int]:
    """A run that got `how` while its second chapter was at work; and the process id of that chapter's kernel."""
    write_notebook(root / "notebooks" / "00_start.ipynb", RECORD + APPEND.format("00_start"))
    slow = "import os, time, pathlib\npathlib.Path('{}').write_text(str(os.getpid()))"
    wait = "while not pathlib.Path('{}').exists():\n    time.sleep(0.05)"
    write_notebook(
        root / "notebooks" / "01_next.ipynb", slow.format(root / "pid"), wait.format(root / "go"), "print(42)"
    )
    process = edgelab("run", *options)
    pid, first = root / "pid", root / "build" / "ci" / "run.json"
    wait_for(
        lambda: (pid.exists() and pid.read_text() and first.exists()) or process.poll() is not None,
        "the second chapter",
    )
    assert process.poll() is None, process.stderr.read()
    process.send_signal(how)
    process.wait(60)
    return process, int(pid.read_text())


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_kill_9_loses_nothing_that_was_finished(root: Path) -> None:
    process, kernel = start_and_stop_in_second_chapter(root, signal.SIGKILL)
    build = root / "build" / "ci"
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in build.iterdir() if not path.name.startswith(".")) == [
        "00_start.ipynb",
        "ledger.csv",
        "run.json",
    ]
    first = {name: (build / name).read_bytes() for name in ("00_start.ipynb", "ledger.csv")}
    nbformat.validate(nbformat.read(build / "00_start.ipynb", as_version=4))
    assert list(json.loads((build / "run.json").read_text())) == ["00_start"]
    wait_for(lambda: not is_running(kernel), "the orphaned kernel to end", 30)

    (root / "go").touch()
    status, out, err = outcome("run")
    assert status == 0, err
    assert [line.split(" ", 1)[1].split(",")[0] for line in out.splitlines()] == [
        "00_start: up to date",
        "01_next: running",
        "01_next: done",
    ]
    assert {name: (build / name).read_bytes() for name in first} == first
    assert printed(build / "01_next.ipynb") == "42\n"
    names = [".lock", "00_start.ipynb", "01_next.ipynb", "ledger.csv", "run.json"]
    assert sorted(path.name for path in build.iterdir()) == names


def test_control_c_is_one_line_and_ends_the_kernel(root: Path) -> None:
    process, kernel = start_and_stop_in_second_chapter(root, signal.SIGINT)
    err = process.stderr.read()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "edgelab: interrupted: the same command goes on with what is not finished"
    assert "Traceback" not in err, err
    wait_for(lambda: not is_running(kernel), "the kernel to end", 30)


def test_a_second_run_waits_and_finds_all_done(root: Path) -> None:
    pause = f"import pathlib, time\nwhile not pathlib.Path('{root / 'go'}').exists():\n    time.sleep(0.05)"
    write_notebook(root / "notebooks" / "00_start.ipynb", pause)
    first = edgelab("run", "00")
    assert "running" in first.stdout.readline()
    second = edgelab("run", "00")
    assert second.stdout.readline().startswith(f"another run is at work in {root / 'build' / 'ci'}: waiting")
    (root / "go").touch()
    assert first.wait(60) == 0
    rest = second.communicate(timeout=60)[0]
    assert second.returncode == 0
    assert "up to date" in rest
    assert "running" not in rest


def test_kernels_see_absolute_paths_and_then_all_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELAB_DATA", "images")
    before = dict(os.environ)
    with _executing._kernel_environment(tmp_path / "ledger.csv"):
        assert os.environ["EDGELAB_DATA"] == str(tmp_path / "images")
        assert os.environ["EDGELAB_LEDGER"] == str(tmp_path / "ledger.csv")
    assert dict(os.environ) == before


@pytest.mark.parametrize("fatal", [1, 2, 3, 4])
def test_stopped_between_any_two_steps_a_chapter_is_done_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """The steps that put results in place are renames; the run ends at the one numbered `fatal`, then starts again."""
    rename, count = os.replace, 0

    def execute(source: Path, target: Path, *_: object, **__: object) -> None:
        shutil.copyfile(source, target)
        exec(RECORD + APPEND.format(target.stem), {})

    def replace(source: object, target: object) -> None:
        nonlocal count
        count += "build" in str(target) and ".running" not in str(target)
        if count == fatal:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr("papermill.execute_notebook", execute)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        course.run()
    fatal = 0
    build = course.run()
    rows = (build / "ledger.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["00_start", "01_next"]
    assert sorted(json.loads((build / "run.json").read_text())) == ["00_start", "01_next"]
