"""What this course set out to reach, and what of it has been reached, from the rows of the published ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgelab._markdown import DASH, table
from edgelab.overview._rows import (
    BASELINE,
    COMBINING,
    LARGE,
    PRUNING,
    PTQ,
    QAT,
    SEEDS,
    Row,
    Source,
    cited,
    find,
    keras,
    over_seeds,
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
    points; or, without these, to have at least `accuracy` percent; on average, where there are several seeds. `onward`
    says what a missed goal would take.
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
        (torch(SEEDS, "plain_cnn", "magnitude_pruning_50"), keras(SEEDS, "plain_cnn", "magnitude_pruning_50_gradual")),
        (torch(SEEDS, "plain_cnn", "baseline"), keras(SEEDS, "plain_cnn", "baseline")),
    ),
    Goal(
        "`plain_cnn` with half of the MACs (channels removed) within 1 point",
        tuple(track(SEEDS, "plain_cnn", "structured_pruning_2x") for track in (keras, torch)),
        tuple(track(SEEDS, "plain_cnn", "baseline") for track in (keras, torch)),
        within=1,
    ),
    Goal(
        "`resnet8` with half of the MACs within 1 point",
        (keras(PRUNING, "resnet8", "structured_pruning_2x"),),
        (keras(PRUNING, "resnet8", "baseline"),),
        within=1,
        onward="A network this small has few channels to spare: cut a deeper one, as in the next line.",
    ),
    Goal(
        "A ResNet-20 or ResNet-56 with 2.5 times fewer MACs at or above dense",
        tuple(track(LARGE, "resnet20", "structured_pruning_2_5x") for track in (keras, torch)),
        tuple(track(LARGE, "resnet20", "baseline") for track in (keras, torch)),
        onward="Longer training of what is left, under the dense network as its teacher.",
    ),
    Goal(
        "Four-bit training (LSQ) within 1 point of float32: `plain_cnn`, `resnet8`",
        (torch(SEEDS, "plain_cnn", "qat_lsq_4bit"), torch(QAT, "resnet8", "qat_lsq_4bit")),
        (torch(SEEDS, "plain_cnn", "baseline"), torch(QAT, "resnet8", "baseline")),
        within=1,
    ),
    Goal(
        "Int8 training that keeps half of `plain_cnn` at zero, within 1 point of dense float32",
        tuple(track(SEEDS, "plain_cnn", "pqat") for track in (keras, torch)),
        tuple(track(SEEDS, "plain_cnn", "baseline") for track in (keras, torch)),
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
        tuple(track(LARGE, "plain_cnn", "longer_training") for track in (keras, torch)),
        accuracy=84,
        onward="More epochs still, averaged weights.",
    ),
    Goal(
        "A file of eight bits or fewer, at most 100 kB and 12.5 million MACs, at 88 % or more",
        (keras(LARGE, "resnet8", "longer_training_ema_ptq_int8"),),
        accuracy=88,
        onward="Eight bits cost next to nothing; the float32 network has to be better. More than twice the epochs gave "
        "it about a point: hundreds of epochs on a GPU, or another network for the same budget.",
    ),
)


def goals(frame: pd.DataFrame | None) -> str:
    """A table: each goal, what the best files for it have reached, and what a missed one would take."""
    if frame is None:
        return NOTHING
    known, rows = over_seeds(frame), []
    for goal in GOALS:
        found, against = (find(known, sources, goal.text) for sources in (goal.sources, goal.against))
        values = _values(found, against)
        verdict = _verdict(goal, values)
        seeds = " or ".join(str(count) for count in sorted({row["seeds"] for row in found}))
        onward = DASH if verdict == REACHED else goal.onward
        rows.append((goal.text, _told(goal, found, values), seeds or DASH, verdict, onward))
    return table(("Goal", "Here", "Seeds", "", "What it would take"), rows)


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
