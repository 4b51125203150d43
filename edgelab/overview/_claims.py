"""What the projects this course grew from report, beside the rows of the published ledger that come nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgelab._markdown import DASH, table
from edgelab.overview._rows import (
    BASELINE,
    COMBINING,
    IMAGENET,
    OWN_DATA,
    PRUNING,
    PTQ,
    Row,
    Source,
    cited,
    every_source,
    find,
    keras,
    percent,
    torch,
)
from edgelab.web.pages import NOTHING

if TYPE_CHECKING:
    import pandas as pd


LITE0 = "efficientnet_lite0_96"
TAUGHT = "ensemble_distillation_logits_t4_alpha0_9_fixed"


@dataclass(frozen=True)
class Claim:
    """What a project reports, `figures` of its `network`, and the rows here that come nearest; `note` says how near."""

    project: str
    network: str
    figures: str
    sources: tuple[Source, ...]
    note: str


CLAIMS = (
    Claim(
        "depthwise-separable CNN, int8 in TFLite",
        "a depthwise-separable CNN of unknown size",
        "about 4 times smaller, about 3 times faster, under 5 ms on a CPU",
        (keras(PTQ, "ds_cnn", "baseline"), keras(PTQ, "ds_cnn", "ptq_int8")),
        "`ds_cnn` has 20 layers of few weights: what int8 does not shrink, tables and names, weighs more in a small "
        "file",
    ),
    Claim(
        "MACs and energy in PyTorch",
        "plain CNN, 620,362 parameters (`plain_cnn`)",
        "78.73 %, 2.37 MB, 10.85 M MACs, energy 43.40",
        (torch(BASELINE, "plain_cnn", "baseline"),),
        "the same network and the same rule for energy; the images here are a JPEG copy",
    ),
    Claim(
        "MACs and energy in PyTorch",
        "the same, int8 (QNNPACK)",
        "78.49 %, 0.64 MB, 10.85 M MACs, energy 10.85",
        (torch(PTQ, "plain_cnn", "ptq_int8"), torch(PTQ, "plain_cnn", "ptq_int8_qnnpack")),
        "non-zero weights are counted here: some int8 weights are zero, and the energy by the rule falls below 10.85",
    ),
    Claim(
        "MACs and energy in PyTorch",
        "the same, half of the weights at zero, trained on",
        "80.74 %, 1.19 MB, 5.42 M MACs, energy 21.70",
        (torch(PRUNING, "plain_cnn", "magnitude_pruning_50"),),
        "a file of half the size exists only after compression; and the largest layer loses most weights but has few "
        "MACs",
    ),
    Claim(
        "a frozen MobileNetV2, quantized and pruned",
        "MobileNetV2 at 160 pixels with a new last layer, CIFAR-10",
        "81.47 %, quantized 79.44 %, pruned with retraining 53.81 %",
        (torch(IMAGENET, LITE0, "linear_head"), torch(IMAGENET, LITE0, "ptq_int8")),
        "another network from ImageNet, frozen as well, at 96 pixels; [chapter 13](../notebooks/13_imagenet.ipynb) "
        "makes the collapse again, step by step",
    ),
    Claim(
        "ResNet50, pruned and quantized, as a teacher",
        "ResNet50 with a new last layer, and MobileNetV2 as its student",
        "about 245 MB, int8 about 23 MB, the student about 26 MB, about 2 times as fast",
        (),
        "its ImageNet weights were not at hand; [chapter 13](../notebooks/13_imagenet.ipynb) has its sizes, and "
        "[chapter 5](../notebooks/05_distillation.ipynb) what the student's say",
    ),
    Claim(
        "ensemble distillation and QAT",
        "MobileNetV3-Small, a quarter as wide, on pictures of rice, int8 ONNX",
        "0.45 to 0.31 MB, 99.66 to 98.07 %, 1.4 times as fast",
        tuple(torch(OWN_DATA, "mobilenet_v3_small_25", name) for name in (TAUGHT, f"qat_int8_{TAUGHT}")),
        "the same network under an ensemble, on photographs of four classes: only the direction can be compared",
    ),
    Claim(
        "ensemble distillation and QAT",
        "MobileNetV3-Small, half as wide, the same",
        "3.32 to 1.10 MB, 97.29 to 91.25 %, 3.0 times as fast, 178.8 to 529.5 images a second",
        tuple(torch(OWN_DATA, "mobilenet_v3_small_50", name) for name in (TAUGHT, f"qat_int8_{TAUGHT}")),
        "as above; [chapter 10](../notebooks/10_own_data.ipynb) says how to put the pictures of rice in their place",
    ),
    Claim(
        "ensemble distillation and QAT",
        "the same way, on the images of this course",
        DASH,
        (keras(COMBINING, "resnet8", "baseline"), torch(COMBINING, "resnet8", "qat_int8_distillation_t4_alpha0_9")),
        "another network and one teacher: `resnet8` under `ds_cnn`",
    ),
)


def claims(frame: pd.DataFrame | None) -> str:
    """A table: what the projects report, the rows here that come nearest, and how far that can be compared."""
    if frame is None:
        return NOTHING
    known = every_source(frame)
    lines = []
    for claim in CLAIMS:
        found = find(known, claim.sources, claim.project)
        ours = "; ".join(map(_told, found)) or "no accuracy was measured"
        lines.append((f"**{claim.project}**: {claim.network}", claim.figures, ours, claim.note))
    return table(("Project and network", "Reported", "Here", "How near"), lines)


def _told(row: Row) -> str:
    where = cited([row]) if "number" in row else "([chapter 10](../notebooks/10_own_data.ipynb))"
    return (
        f"`{row['model']}`, `{row['technique']}`: {percent(row)} on `{row['data']}`, {row['bytes'] / 1e6:.3g} MB, "
        f"{row['effective_macs'] / 1e6:.2f} M MACs on non-zero weights, energy {row['relative_energy']:.2f}, "
        f"{row['latency_ms']:.2f} ms {where}"
    )
