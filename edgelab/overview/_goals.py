"""What this course set out to reach, and what of it has been reached, from the rows of the published ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgelab._markdown import DASH, table
from edgelab.overview._rows import (
    BASELINE,
    COMBINING,
    PRUNING,
    PTQ,
    QAT,
    SWEEP,
    Row,
    Source,
    by_source,
    cited,
    find,
    keras,
    torch,
)
from edgelab.profiles import MODELS
from edgelab.web.pages import NOTHING

if TYPE_CHECKING:
    import pandas as pd

REACHED = "reached"


@dataclass(frozen=True)
class Goal:
    """The files of `sources` are to be no worse than those of `against`, each than its own, by more than `within`
    points; or, without these, to have at least `accuracy` percent. `onward` says what a missed goal would take.
    """

    text: str
    sources: tuple[Source, ...]
    against: tuple[Source, ...] = ()
    within: float = 0.0
    accuracy: float = 0.0
    onward: str = ""


GOALS = (
    Goal(
        "Full int8 within 0.5 points of float32: three networks, LiteRT and ONNX Runtime",
        tuple(track(PTQ, name, "ptq_int8") for name in MODELS for track in (keras, torch)),
        tuple(track(BASELINE, name, "baseline") for name in MODELS for track in (keras, torch)),
        within=0.5,
    ),
    Goal(
        "`plain_cnn` with half of its weights at zero, at or above dense, in both frameworks",
        tuple(track(PRUNING, "plain_cnn", "magnitude_pruning_50") for track in (keras, torch)),
        tuple(track(PRUNING, "plain_cnn", "baseline") for track in (keras, torch)),
    ),
    Goal(
        "`plain_cnn` with half of the MACs (channels removed) within 1 point",
        (keras(PRUNING, "plain_cnn", "structured_pruning_2x"),),
        (keras(PRUNING, "plain_cnn", "baseline"),),
        within=1,
    ),
    Goal(
        "`resnet8` with half of the MACs within 1 point",
        (keras(PRUNING, "resnet8", "structured_pruning_2x"),),
        (keras(PRUNING, "resnet8", "baseline"),),
        within=1,
        onward="A network this small has few channels to spare: longer training after the cut, or a deeper network.",
    ),
    Goal(
        "A ResNet-20 or ResNet-56 with 2.5 times fewer MACs at or above dense",
        (),
        onward="No such network is in the course. Its training takes a GPU, or many hours on two cores.",
    ),
    Goal(
        "Four-bit training (LSQ) within 1 point of float32: `plain_cnn`, `resnet8`",
        tuple(torch(QAT, name, "qat_lsq_4bit") for name in MODELS[:2]),
        tuple(torch(QAT, name, "baseline") for name in MODELS[:2]),
        within=1,
    ),
    Goal(
        "Int8 training that keeps half of `plain_cnn` at zero, within 1 point of dense float32",
        (keras(COMBINING, "plain_cnn", "pqat"), torch(COMBINING, "plain_cnn", "pqat")),
        (keras(COMBINING, "plain_cnn", "baseline"),) * 2,
        within=1,
    ),
    Goal(
        "Distillation with quantization-aware training: int8 within 0.5 points of the float32 student",
        (torch(COMBINING, "resnet8", "qat_int8_distillation_t1_alpha0_5"),),
        (keras(COMBINING, "resnet8", "baseline"),),
        within=0.5,
    ),
    Goal(
        "`plain_cnn` at 84 % or more",
        (torch(QAT, "plain_cnn", "magnitude_pruning_0"),),
        accuracy=84,
        onward="Nearest is the network trained on with nothing pruned: longer training, averaged weights.",
    ),
    Goal(
        "A file of eight bits or fewer, at most 100 kB and 12.5 million MACs, at 88 % or more",
        (torch(SWEEP, "ds_cnn", "qat_lsq_4bit"),),
        accuracy=88,
        onward="Few bits cost next to nothing; the float32 network has to be better: hundreds of epochs on a GPU.",
    ),
)


def goals(frame: pd.DataFrame | None) -> str:
    """A table: each goal, what the best files for it have reached, and what a missed one would take."""
    if frame is None:
        return NOTHING
    known, rows = by_source(frame), []
    for goal in GOALS:
        found, against = (find(known, sources, goal.text) for sources in (goal.sources, goal.against))
        values = _values(found, against)
        verdict = _verdict(goal, values)
        rows.append((goal.text, _told(goal, found, values), verdict, DASH if verdict == REACHED else goal.onward))
    return table(("Goal", "Here", "", "What it would take"), rows)


def _values(found: list[Row], against: list[Row]) -> list[float]:
    """By how many points each file is better than the one it is held against; accuracies in percent without these."""
    if not against:
        return [100 * row["accuracy"] for row in found]
    return [100 * (row["accuracy"] - other["accuracy"]) for row, other in zip(found, against, strict=True)]


def _verdict(goal: Goal, values: list[float]) -> str:
    """The worst of the files decides."""
    if not values:
        return "not tried"
    missing = round((-goal.within if goal.against else goal.accuracy) - min(values), 2)
    return f"missed by {missing:.2f} points" if missing > 0 else REACHED


def _told(goal: Goal, found: list[Row], values: list[float]) -> str:
    if not values:
        return DASH
    form = "{:+.2f}" if goal.against else "{:.2f}"
    span = " to ".join(form.format(value) for value in dict.fromkeys((min(values), max(values))))
    return f"{span} {'points' if goal.against else '%'} {cited(found)}"
