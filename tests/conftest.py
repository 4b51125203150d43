"""What all tests share: one thread, a quiet TensorFlow, a cache of their own, small data sets, the built book."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import BROWSERS, SWITCHES, browser_program, digits_dataset, tiny_dataset

from edgelab import book, cli, data

ROOT = Path(__file__).parents[1]
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[variable] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache or ledger."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGELAB_CACHE", str(folder))
    monkeypatch.delenv("EDGELAB_LEDGER", raising=False)
    return folder


@pytest.fixture
def start_python() -> Callable[[str], subprocess.Popen]:
    """Starts a Python process that runs the given source; it can import edgelab and the tests' modules."""

    def start(source: str) -> subprocess.Popen:
        folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        command = [sys.executable, "-P", "-c", source]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )

    return start


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`edgelab` in this process: its status and all that it, its children and the libraries print."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["edgelab", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return subprocess.CompletedProcess(sys.argv, end.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    """`digits_dataset`, once a session."""
    return digits_dataset()


@pytest.fixture(scope="session")
def tiny() -> data.Dataset:
    """`tiny_dataset`, once a session."""
    return tiny_dataset()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and writes no log."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; without one, skipped with the reason, or failed where EDGELAB_REQUIRE_BROWSER is 1."""
    if not browser_program():
        reason = f"no browser: none of {', '.join(BROWSERS)} is installed"
        if os.environ.get("EDGELAB_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser_program(), args=[*SWITCHES])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pages(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the book, built once for all workers; after `browser`, so that nothing is built without one."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return book.build(ROOT, folder / "built-book" / "html").parent


@pytest.fixture(scope="session")
def address(pages: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=pages))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
