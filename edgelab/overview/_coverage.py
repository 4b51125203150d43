"""Which technique was measured in which framework, and why where it was not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgelab._markdown import table
from edgelab.errors import EdgelabError
from edgelab.overview._rows import BASELINE
from edgelab.web.pages import FRAMEWORKS, NOTHING, comparable

if TYPE_CHECKING:
    import pandas as pd

EIGHT_BITS = "TFMOT and TFLite's converter quantize to eight bits or more"


@dataclass(frozen=True)
class Kind:
    """Techniques told as one, whose names in the ledger match `pattern`; `gaps`: framework -> why it has no file."""

    name: str
    pattern: str
    gaps: dict[str, str] = field(default_factory=dict)


KINDS = (
    Kind("Float32, as trained", "baseline"),
    Kind("Int8 after training", "ptq_int8"),
    Kind("Other formats after training, each of one tool", "ptq_(dynamic|float16|int16x8|int8_(?!distilled).*)"),
    Kind("4, 3 and 2 bits after training", r"ptq_\dbit", {"tensorflow": EIGHT_BITS}),
    Kind("Single weights pruned", r"magnitude_pruning_(?!2_4|0$).*"),
    Kind("Two of four weights pruned", "magnitude_pruning_2_4"),
    Kind("Channels removed", r"structured_pruning_\w+x(_fresh)?"),
    Kind("Int8 in training", "qat_int8"),
    Kind("4, 3 and 2 bits in training (LSQ)", r"qat_lsq_\dbit", {"tensorflow": EIGHT_BITS}),
    Kind("Distillation", "(ensemble_)?distillation(?!_without)(?!.*ptq).*"),
    Kind(
        "Distillation with int8 in training",
        "qat_int8_(ensemble_)?distillation.*",
        {"tensorflow": "not carried out: the combined loss is in the PyTorch track only"},
    ),
    Kind("Int8 in training that keeps zeros (PQAT)", "pqat"),
    Kind(
        "Int8 in training that keeps clusters (CQAT, PCQAT)",
        "p?cqat",
        {"pytorch": "PyTorch has no such tool; clustered weights are quantized after training instead, see below"},
    ),
    Kind("Clustered, then int8 after training", "ptq_pruned_clustered_int8"),
)


def coverage(frame: pd.DataFrame | None) -> str:
    """A table: each kind of technique, and in each framework the networks it was measured on, or why on none.

    Raises EdgelabError for a gap without a reason, and for a reason where there is no gap.
    """
    if frame is None:
        return NOTHING
    rows = comparable(frame, BASELINE)
    lines = [(kind.name, *(_cell(kind, framework, rows) for framework in FRAMEWORKS)) for kind in KINDS]
    return table(("Technique", *FRAMEWORKS.values()), lines)


def _cell(kind: Kind, framework: str, rows: pd.DataFrame) -> str:
    named = rows["technique"].map(lambda name: bool(re.fullmatch(kind.pattern, name)))
    models = sorted(set(rows[named & (rows["framework"] == framework)]["model"]))
    if bool(models) == (framework in kind.gaps):
        was = "has rows and a reason for having none" if models else "has no rows and no reason for that"
        raise EdgelabError(f"{kind.name!r} in {framework} {was}: publish that chapter, or mend edgelab/overview")
    return ", ".join(f"`{name}`" for name in models) or f"*{kind.gaps[framework]}*"
