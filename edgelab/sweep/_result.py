"""Carrying a sweep out with real networks, and what comes of it: a table, a figure, ledger rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgelab import design as designs
from edgelab import ledger, measure
from edgelab._columns import aligned
from edgelab.artifact import Artifact
from edgelab.data import Dataset
from edgelab.design import Design
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path, check_folder, exclusive
from edgelab.layers import layer_table
from edgelab.ledger import Record
from edgelab.profiles import Profile
from edgelab.sweep._config import FIELDS, Config
from edgelab.sweep._study import INTERRUPTED, NOT_MINE, NOTE, Outcome, Step, design_of, front, search
from edgelab.zoo import Checkpoint

if TYPE_CHECKING:
    import pandas as pd
    from optuna import Study

CHAPTER = "15_sweep"
IMAGE = (3, 32, 32)
ENDS = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "refused", "RUNNING": "running"}


@dataclass(frozen=True)
class Found:
    """What a sweep has found: the designs on the front with their outcomes on validation images, the record of each on
    the test images, all `trials` as a table, and the folder with the files.
    """

    front: list[tuple[Design, Outcome]]
    records: list[Record]
    trials: pd.DataFrame
    folder: Path


@dataclass
class _Bench:
    """Where designs are tried: builds each file once."""

    dataset: Dataset
    settings: Profile
    folder: Path
    built: dict[Design, Artifact] = field(default_factory=dict)

    def __call__(self, design: Design, watch: Callable[[Step], None]) -> Outcome:
        """Build the file and judge it by the validation images."""
        file = self.file(design, lambda network: watch(_step(design, network)))
        validation = self.dataset.validation
        accuracy, shape = measure.accuracy(file, validation).value, measure.image_shape(file, validation)
        return Outcome(accuracy, file.path.stat().st_size, layer_table(file.path, shape).macs)

    def file(self, design: Design, watch: designs.Watch | None = None) -> Artifact:
        if design not in self.built:
            path = self.folder / f"{design.model}-{design.technique}{design.suffix}"
            self.built[design] = designs.build(design, self.dataset, self.settings, path, watch)
        return self.built[design]


def _step(design: Design, network: Checkpoint) -> Step:
    from edgelab.pytorch import pruning

    table = layer_table(pruning.restore(network), IMAGE)
    weights = sum(row.weights for row in table.layers if row.macs)
    accuracy = max(row["validation_accuracy"] for row in network.history)
    return Step(accuracy, weights * design.bits / 8, table.macs)


def run(config: Config, folder: Path | str, storage: str | None = None) -> Found:
    """Search the designs of `config`, measure those on the front on the test images, and put the results into `folder`.

    These are trials.csv, front.svg, ledger.csv, and the model files that were made here. `storage` goes before that of
    `config`; without any, the trials are kept in study.sqlite3 in the folder. A design on the front that another
    machine has tried is made again here, unless the machines share their cache.
    Raises EdgelabError as `search`, `data.load` and `measure.measure` do, and where no trial has finished.
    """
    from sqlalchemy.engine import URL

    folder = Path(folder).resolve()
    check_folder(folder, "results")
    folder.mkdir(parents=True, exist_ok=True)
    own = URL.create("sqlite", database=str(folder / "study.sqlite3")).render_as_string()
    bench = _Bench(config.dataset(), config.settings(), folder / "models")
    study = search(config, bench, storage or config.storage or own, bench.dataset.fingerprint)
    best, trials = front(study), table(study)
    if not best:
        notes = [note for note in trials[NOTE] if note]
        raise EdgelabError(
            f"none of the {len(trials)} trials has finished ({notes[0] if notes else 'all were lost'}): mend that, "
            "and give the study another name"
        )
    with exclusive(folder / ".lock", lambda: print("edgelab: another process measures the front", file=sys.stderr)):
        about = bench.dataset, bench.settings, CHAPTER
        records = [designs.measure(one, bench.file(one), *about) for one, _ in best]
        _write(folder, trials, records)
    return Found(best, records, trials, folder)


def table(study: Study) -> pd.DataFrame:
    """All trials but those that were another's already: how each ended, its design, what was measured, seconds."""
    import pandas as pd

    rows = []
    for trial in study.get_trials(deepcopy=False):
        design, note = design_of(trial), trial.user_attrs.get(NOTE, "")
        if design is None or note == NOT_MINE:
            continue
        outcome = Outcome(*trial.values)._asdict() if trial.values else {}
        seconds = round(trial.duration.total_seconds(), 1) if trial.duration else None
        ended = "lost" if trial.state.name == "FAIL" and note in ("", INTERRUPTED) else ENDS[trial.state.name]
        about = {"trial": trial.number, "ended": ended, **asdict(design)}
        rows.append({**about, **outcome, "seconds": seconds, NOTE: note})
    frame = pd.DataFrame(rows, columns=["trial", "ended", *FIELDS, *Outcome._fields, "seconds", NOTE])
    whole = {name: frame[name].astype(float).round().astype("Int64") for name in ("bytes", "macs")}
    return frame.assign(**whole)


def _write(folder: Path, trials: pd.DataFrame, records: Sequence[Record]) -> None:
    """Put the files of a sweep into `folder`, each in one step."""
    import pandas as pd

    from edgelab import plots

    figure = plots.pareto(pd.DataFrame([asdict(record) for record in records]), "bytes", "macs")
    with atomic_path(folder / "trials.csv") as temporary:
        trials.to_csv(temporary, index=False, lineterminator="\n")
    with atomic_path(folder / "front.svg") as temporary:
        temporary.write_bytes(figure.svg)
    ledger.drop_chapter(folder / "ledger.csv", CHAPTER)
    for record in records:
        ledger.append(record, folder / "ledger.csv")


def in_words(found: Found) -> str:
    """The front as a table for a terminal, and where the rest is."""
    rows = [("design", "validation", "test", "95 % interval", "bytes", "MACs")]
    for (design, outcome), record in zip(found.front, found.records, strict=True):
        interval = f"{100 * record.accuracy_low:.1f} to {100 * record.accuracy_high:.1f}"
        shares = f"{outcome.accuracy:.1%}", f"{record.accuracy:.1%}", interval
        rows.append((design.in_words(), *shares, f"{record.bytes:,}", f"{record.macs:,}"))
    counts = ", ".join(f"{number} {end}" for end, number in found.trials["ended"].value_counts().items())
    designs = "design" if len(found.front) == 1 else "designs"
    told = f"{len(found.front)} {designs} on the front of {len(found.trials)} trials ({counts})"
    files = f"{found.folder}: ledger.csv, front.svg, trials.csv, models"
    return "\n".join([*aligned(rows, right=(1, 2, 4, 5)), "", told, files])
