"""The Pareto front: which measured files are worth having, when accuracy is paid for with something else.

A file dominates another where it is at least as accurate and costs at most as much, and one of the two is strict. Two
files equal in both do not dominate each other. The accuracies are taken as measured: where two intervals overlap, which
of the two files dominates may be chance (`edgelab.comparison` tests that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def _measured(rows: Rows, cost: str) -> list[int]:
    import pandas as pd

    return [index for index, row in enumerate(rows) if not pd.isna(row.get(cost))]


def dominated(rows: Rows, cost: str) -> dict[int, int]:
    """The index of every row that another dominates, with that of one that does and is itself on the front.

    Of several it is the cheapest of the most accurate. Rows hold `accuracy` and `cost`; where `cost` is missing or
    None, a row neither dominates nor is dominated.
    """
    found: dict[int, int] = {}
    best: int | None = None
    for index in sorted(_measured(rows, cost), key=lambda i: (rows[i][cost], -rows[i]["accuracy"])):
        if best is None or rows[index]["accuracy"] > rows[best]["accuracy"]:
            best = index
        elif (rows[index][cost], rows[index]["accuracy"]) != (rows[best][cost], rows[best]["accuracy"]):
            found[index] = best
    return found


def front(rows: Rows, cost: str) -> list[int]:
    """The indexes of the rows that no other dominates, from the cheapest to the most accurate; ties in given order."""
    beaten = dominated(rows, cost)
    return sorted((i for i in _measured(rows, cost) if i not in beaten), key=lambda i: rows[i][cost])
