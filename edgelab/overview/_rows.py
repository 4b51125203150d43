"""Rows of the published ledger by what they are, and links to them on the page of every measured file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgelab.errors import EdgelabError
from edgelab.web.pages import IDENTITY, comparable, measured_files

if TYPE_CHECKING:
    import pandas as pd

BASELINE, PRUNING, PTQ = "01_baseline", "02_pruning", "03_post_training_quantization"
QAT, DISTILLATION, COMBINING = "04_quantization_aware_training", "05_distillation", "07_combining"
ENERGY, SLOWER = "06_mac_energy", "12_slower"
OWN_DATA, IMAGENET, BUDGET = "10_own_data", "13_imagenet", "14_device_budget"
SEEDS, CLUSTERING, LARGE = "16_seeds", "17_clustering", "18_large_then_cut"
Row = Mapping[str, Any]
Rows = Sequence[Row]


class Source(NamedTuple):
    """Which row of the ledger is meant."""

    chapter: str
    model: str
    technique: str
    framework: str


def keras(chapter: str, model: str, technique: str) -> Source:
    """A row measured in the TensorFlow track."""
    return Source(chapter, model, technique, "tensorflow")


def torch(chapter: str, model: str, technique: str) -> Source:
    """A row measured in the PyTorch track."""
    return Source(chapter, model, technique, "pytorch")


def by_source(frame: pd.DataFrame) -> dict[Source, dict[str, Any]]:
    """The rows measured on the baselines' data with seed 0, with their numbers on the page of every measured file."""
    shown = measured_files(frame, BASELINE)[IDENTITY].reset_index(drop=True)
    numbers = {tuple(values): number + 1 for number, values in enumerate(shown.itertuples(index=False, name=None))}
    rows = comparable(frame, BASELINE)
    records: list[Any] = rows[rows["seed"] == 0].to_dict("records")
    known = {}
    for row in records:
        row["number"] = numbers[tuple(row[name] for name in IDENTITY)]
        known[Source(*(row[name] for name in Source._fields))] = row
    return known


def every_source(frame: pd.DataFrame) -> dict[Source, dict[str, Any]]:
    """As `by_source`, and before these the rows of seed 0 measured on other data, which have no number."""
    first: list[Any] = frame[frame["seed"] == 0].to_dict("records")
    return {Source(*(row[name] for name in Source._fields)): row for row in first} | by_source(frame)


def over_seeds(frame: pd.DataFrame) -> dict[Source, dict[str, Any]]:
    """As `by_source`, with the mean accuracy over the `seeds` that there are in place of that of seed 0."""
    known = by_source(frame)
    own = comparable(frame, BASELINE).groupby(list(Source._fields))["accuracy"].agg(["mean", "size"])
    for names, average, seeds in own.itertuples(name=None):
        source = Source(*names)
        known[source] = {**known[source], "accuracy": average, "seeds": seeds}
    return known


def find(known: Mapping[Source, Row], sources: Sequence[Source], where: str) -> list[Row]:
    """The rows of `sources`. Raises EdgelabError, naming `where` they are wanted, for one that is not there."""
    missing = [" ".join(source) for source in sources if source not in known]
    if missing:
        raise EdgelabError(
            f"{where}: the ledger has no row {missing[0]}: publish that chapter, or mend edgelab/overview"
        )
    return [known[source] for source in sources]


def cited(rows: Rows) -> str:
    """Links to the rows on the page of every measured file."""
    links = (f'<a href="every_file.html#file-{row["number"]}">No. {row["number"]}</a>' for row in rows)
    return f"({', '.join(links)})"


def percent(row: Row) -> str:
    """Accuracy, such as 83.04 %."""
    return f"{100 * row['accuracy']:.2f} %"
