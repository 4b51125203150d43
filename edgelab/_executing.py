"""Executing notebooks, one after the other or several at once, and putting their results in place.

A chapter's results appear each in one step: its ledger rows, its notebook and at last its record in run.json. So a run
that is killed, at any moment, later repeats the chapters it was in and nothing that was finished.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

from edgelab import runs
from edgelab.artifact import first_line
from edgelab.errors import EdgelabError

QUIET_KERNEL = ["--log-level=50"]  # its log is about its own sockets; what cells print is not part of it
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


@dataclass(frozen=True)
class Job:
    """One chapter to be run: its notebook, the parameters it gets, and the SHA-256 that says when to run it again."""

    notebook: Path
    parameters: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """The chapter's name, such as 01_baseline."""
        return self.notebook.stem


@dataclass(frozen=True)
class _Run:
    """A chapter at work, under its `title` "[2/16] 01_baseline": what it makes lies in a folder of its own, `folder`.

    `started` is when, `course` when the run of all chapters was: those that agree in it were run by one command.

    A kernel that outlives a killed run for a moment can so touch no result, and rows of a chapter that fails later are
    never seen.
    """

    title: str
    job: Job
    folder: Path
    course: str
    started: str

    @property
    def output(self) -> Path:
        """Where the results are to go."""
        return self.folder.parent

    @property
    def executed(self) -> Path:
        """The notebook with its outputs."""
        return self.folder / self.job.notebook.name

    @property
    def rows(self) -> Path:
        """The ledger of this chapter alone."""
        return self.folder / "ledger.csv"

    @property
    def log(self) -> Path:
        """What the chapter's processes say outside its cells, where several chapters would mix on one screen."""
        return self.folder / "stderr.txt"


def run_jobs(jobs: Sequence[Job], output: Path, at_once: int = 1) -> None:
    """Run those of the `jobs` that are not up to date, so many `at_once`; their results go to the folder `output`.

    Raises EdgelabError when a chapter fails. Those at work beside it are then finished, later ones are not begun.
    """
    for left in output.glob(".running-*"):
        shutil.rmtree(left, ignore_errors=True)
    before, todo, course = runs.read(output / "run.json"), {}, datetime.now(UTC).isoformat()
    for number, job in enumerate(jobs, 1):
        title, done = f"[{number}/{len(jobs)}] {job.name}", output / job.notebook.name
        if before.get(job.name, {}).get("hash") == job.digest and done.exists():
            print(f"{title}: up to date, {done}", flush=True)
        else:
            todo[title] = job
    if at_once > 1:
        _run_together(todo, output, course, at_once)
    else:
        for title, job in todo.items():
            run = _begin(title, job, output, course)
            _put_in_place(run, _execute(run))


def _begin(title: str, job: Job, output: Path, course: str) -> _Run:
    print(f"{title}: running", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=".running-", dir=output))
    return _Run(title, job, folder, course, datetime.now(UTC).isoformat(timespec="seconds"))


def _execute(run: _Run, threads: int | None = None) -> float:
    """Run the chapter; returns the seconds it took. With `threads`, no bar is shown: others are at work too."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from papermill.exceptions import PapermillExecutionError

    job, clock = run.job, time.perf_counter()
    kernel = {"kernel_name": "python3", "language": "python", "extra_arguments": QUIET_KERNEL}
    kernel |= {"shutdown_kernel": "immediate"}  # all is written: with TensorFlow a farewell takes three seconds
    try:
        with _kernel_environment(run.rows, threads):
            where: dict[str, Any] = {"cwd": job.notebook.parent, "progress_bar": threads is None}
            papermill.execute_notebook(job.notebook, run.executed, job.parameters, **where, **kernel)
    except NoSuchKernel as error:
        raise EdgelabError(
            "Jupyter has no kernel named python3 to run chapters in: pip install ipykernel, then run again"
        ) from error
    except (PapermillExecutionError, RuntimeError) as error:  # a kernel that dies raises RuntimeError
        raise _keep_failure(run, error) from error
    return round(time.perf_counter() - clock, 1)


@contextmanager
def _kernel_environment(ledger: Path, threads: int | None = None) -> Iterator[None]:
    """The environment kernels inherit: `ledger` to write to, and paths that hold in the notebook's folder too."""
    before = dict(os.environ)
    os.environ["EDGELAB_LEDGER"] = str(ledger)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TensorFlow then starts in two seconds less, without Keras 3
    for name in ("EDGELAB_DATA", "EDGELAB_CACHE"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    for name in THREADS if threads else ():
        os.environ.setdefault(name, str(threads))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _keep_failure(run: _Run, error: Exception) -> EdgelabError:
    """Put the half-executed notebook where the reader can open it; returns the line that says so."""
    from papermill.exceptions import PapermillExecutionError

    failed = run.output / f"{run.job.name}.failed.ipynb"
    if run.executed.exists():
        os.replace(run.executed, failed)
    if isinstance(error, PapermillExecutionError):
        message = (str(error.evalue).splitlines() or [""])[0]
        what = f"in cell [{error.exec_count}] ({error.ename}: {message})"
    else:
        what = f"({(str(error).splitlines() or [type(error).__name__])[0]})"
    return EdgelabError(f"{run.job.name} failed {what}: its output and traceback are in {failed}")


def _put_in_place(run: _Run, seconds: float) -> None:
    """Put the chapter's ledger rows, its notebook and its record in place, in this order."""
    from edgelab import ledger, provenance

    job, output = run.job, run.output
    results, merged = output / "ledger.csv", run.folder / "merged.csv"
    if results.exists():
        shutil.copyfile(results, merged)
    ledger.replace_chapter(merged, job.name, run.rows)
    if merged.exists():
        os.replace(merged, results)
    os.replace(run.executed, output / run.executed.name)
    times = {"course": run.course, "started": run.started, "seconds": seconds}
    record = {"hash": job.digest, "parameters": job.parameters, **times}
    finished = runs.read(output / "run.json")
    runs.write(output / "run.json", {**finished, job.name: {**record, "provenance": provenance.collect()}})
    (output / f"{job.name}.failed.ipynb").unlink(missing_ok=True)
    shutil.rmtree(run.folder, ignore_errors=True)
    print(f"{run.title}: done, {output / run.executed.name}", flush=True)


@dataclass(frozen=True)
class _Worker:
    """A process that executes one chapter, and the pipe it answers through."""

    run: _Run
    process: BaseProcess
    answer: Connection

    def result(self) -> float | EdgelabError:
        """The seconds the chapter took, or why it failed; waits for the process to end."""
        try:
            result = self.answer.recv()
        except EOFError:  # ended by the system, for want of memory perhaps
            result = EdgelabError(f"{self.run.job.name} failed (its process was ended): try again with fewer --jobs")
        self.process.join()
        return result


def _run_together(todo: Mapping[str, Job], output: Path, course: str, at_once: int) -> None:
    """Run each chapter in a process of its own, `at_once` at a time; this process alone puts results in place."""
    threads = max(1, (os.cpu_count() or 1) // at_once)
    waiting, working, failures = deque(todo.items()), list[_Worker](), list[EdgelabError]()
    try:
        while working or (waiting and not failures):
            while waiting and not failures and len(working) < at_once:
                run = _begin(*waiting.popleft(), output, course)
                working.append(_start(run, threads))
            answered = wait([worker.answer for worker in working])
            for worker in [worker for worker in working if worker.answer in answered]:
                result = worker.result()
                working.remove(worker)
                if isinstance(result, EdgelabError):
                    failures.append(result)
                else:
                    _put_in_place(worker.run, result)
    finally:
        for worker in working:
            worker.process.terminate()
    if failures:
        raise failures[0]


def _start(run: _Run, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    answer, own = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(run, threads, own))
    process.start()
    own.close()
    return _Worker(run, process, answer)


def _work(run: _Run, threads: int, answer: Connection) -> None:
    """In a process of its own: run the chapter and answer with its seconds, or with why it failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for this one ends it
    Thread(target=_end_with_parent, daemon=True).start()
    with run.log.open("wb") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        answer.send(_execute(run, threads))
    except EdgelabError as error:
        answer.send(error)
    except Exception as error:
        answer.send(EdgelabError(f"{run.job.name} failed ({type(error).__name__}: {first_line(error)})"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
