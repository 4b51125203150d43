"""How `pytest --nbval notebooks` compares: progress on standard error is not, and what is measured is thrown away."""

from __future__ import annotations

import os
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let the kernels write to a ledger of their own."""
    folder = tempfile.TemporaryDirectory(prefix="edgelab-pytest-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ["EDGELAB_LEDGER"] = os.path.join(folder.name, "ledger.csv")


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Tell nbval's notebooks, and nothing else, to ignore standard error."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
