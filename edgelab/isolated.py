"""Work in a child process: a runtime that crashes, hangs or asks for absurd memory takes only the child with it.

`Worker` starts a fresh interpreter (never a fork, which runtimes with threads do not survive), sends it the name of a
function with its arguments, and gets the result back, all as JSON. What C++ prints is held back; what Python writes to
standard error, progress bars and notices, passes through. Time and memory are limited from the start until the function
says otherwise with `limit`. A child that was killed or died is replaced at the next call, and none is left behind: it
ends by itself when its parent is gone.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from edgelab.errors import EdgelabError

SECONDS = 60.0
MEMORY = 8 * 2**30
_replies: IO[str] | None = None
_subject = ""


class Worker:
    """A child process that runs functions one after the other. Use it in a `with` statement, which ends the child."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """`seconds` is the time limit, while there is one; the child itself starts with the first call."""
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Worker:
        """The worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child."""
        self.close()

    def call(self, function: str, path: Path | str, *arguments: Any) -> Any:
        """What `function`, such as "edgelab.report:gather", returns for the model file `path` and the `arguments`.

        Everything is JSON. Raises EdgelabError, one line that names the file, or the one that it is `about` by then,
        where the function raises anything, comes to no end in time, or takes the child down.
        """
        request = json.dumps({"function": function, "arguments": [str(path), *arguments]})
        try:
            process = self._started()
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.write(request + "\n")
                process.stdin.flush()
            reply = self._reply(path)
        except BaseException:
            self.close()
            raise
        if "error" in reply:
            raise EdgelabError(reply["error"])
        return reply["value"]

    def close(self) -> None:
        """End the child, whatever it is doing."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                assert stream is not None
                stream.close()
        self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        above = str(Path(__file__).parents[1])
        known = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": f"{above}{os.pathsep}{known}" if known else above}
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")  # each of its threads reserves some of the memory allowed
        if not sys.stderr.isatty():
            environment["TQDM_DISABLE"] = "1"
        with _deaf_to_interrupts():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edgelab.isolated"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                encoding="utf-8",
            )
        self._lines = queue.Queue()
        threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True).start()
        return self._process

    def _reply(self, path: Path | str) -> dict[str, Any]:
        """The child's answer, or what became of it; its changes of the time limit are followed meanwhile."""
        deadline: float | None = time.monotonic() + self.seconds
        while True:
            try:
                line = self._lines.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise EdgelabError(
                    f"{path}: not one inference has ended after {self.seconds:g} s: "
                    "the file is damaged or too large here"
                ) from None
            if line is None:
                raise EdgelabError(f"{path}: {self._ending()}: the file is damaged, or that runtime cannot run it")
            reply = json.loads(line)
            if "about" in reply:
                path = reply["about"]
            elif "limited" in reply:
                deadline = time.monotonic() + self.seconds if reply["limited"] else None
            else:
                return reply

    def _ending(self) -> str:
        assert self._process is not None
        status = self._process.wait()
        try:
            return f"the runtime crashed on it ({signal.Signals(-status).name})"
        except ValueError:
            return f"the runtime ended on it (exit status {status})"


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with suppress(ValueError):  # the stream is closed by `Worker.close`
        for line in stream:
            lines.put(line)
    lines.put(None)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started here never sees Ctrl-C, which goes to every process of the terminal: its parent ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def limit(is_limited: bool) -> None:
    """Called by a function in the child: from now on it has no limits, or the worker's seconds, anew, and `MEMORY`."""
    if _replies is not None:
        _limit_memory(is_limited)
        _answer({"limited": is_limited})


def about(path: Path | str) -> None:
    """Called by a function in the child: from now on, what goes wrong is said of the model file at `path`."""
    global _subject
    if _replies is not None:
        _subject = str(path)
        _answer({"about": _subject})


def _answer(reply: dict[str, Any]) -> None:
    assert _replies is not None
    _replies.write(json.dumps(reply) + "\n")
    _replies.flush()


def _limit_memory(is_limited: bool) -> None:
    """Bound the address space where the system can: a larger allocation then fails instead of filling the machine."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = most if most != resource.RLIM_INFINITY and most < MEMORY else MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (wanted if is_limited else most, most))


def _serve() -> None:
    """What the child does: answer the requests on standard input, one a line, and end when there can be no more."""
    global _replies
    _replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    notices = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.stdout, sys.stderr = os.fdopen(nowhere, "w", encoding="utf-8"), notices
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        _answer(_result(json.loads(requests.get())))


def _listen(requests: queue.Queue[str]) -> None:
    """Pass requests on; when the parent is gone, end, whatever the main thread is doing."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _result(request: dict[str, Any]) -> dict[str, Any]:
    global _subject
    module, _, name = request["function"].partition(":")
    _subject = request["arguments"][0]
    _limit_memory(True)
    try:
        return {"value": getattr(import_module(module), name)(*request["arguments"])}
    except EdgelabError as error:
        return {"error": str(error)}
    except MemoryError:
        return {
            "error": f"{_subject}: it asks for more memory than there is: the file is damaged or too large to run here"
        }
    except OSError as error:
        return {"error": f"{error.filename or _subject}: {error.strerror or error}"}
    except Exception as error:
        from edgelab.artifact import first_line

        return {"error": f"{_subject}: unexpected {type(error).__name__} ({first_line(error)}): please report it"}


if __name__ == "__main__":
    from edgelab import isolated

    isolated._serve()
