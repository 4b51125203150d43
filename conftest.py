"""How `pytest --nbval notebooks` compares: progress on standard error is not, and what is measured is thrown away."""

from __future__ import annotations

import os

import pytest


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Tell nbval's notebooks, and nothing else, to ignore standard error."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


@pytest.fixture(scope="session", autouse=True)
def _throw_away_ledger(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["EDGELAB_LEDGER"] = str(tmp_path_factory.mktemp("ledger") / "ledger.csv")
