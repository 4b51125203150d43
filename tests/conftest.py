"""What all tests share: one thread, a quiet TensorFlow, a cache of their own and small data sets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import digits_dataset, tiny_dataset

from edgelab import data

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


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    """`digits_dataset`, once a session."""
    return digits_dataset()


@pytest.fixture(scope="session")
def tiny() -> data.Dataset:
    """`tiny_dataset`, once a session."""
    return tiny_dataset()
