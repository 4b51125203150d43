"""run.json: what is known about the run of each chapter (when, how long, with what)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgelab.files import atomic_path


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Chapter -> its record in the run.json at `path`; empty where there is none that can be read."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return records if isinstance(records, dict) else {}


def write(path: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the run.json at `path` in one step; chapters in the order of the course."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n", encoding="utf-8")
