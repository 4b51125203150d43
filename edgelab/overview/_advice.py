"""Which technique should I use? Answers that rest on rows of the published ledger, and must be borne out by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgelab.errors import EdgelabError
from edgelab.micro.targets import BOARDS
from edgelab.overview._rows import (
    BASELINE,
    BUDGET,
    CLUSTERING,
    COMBINING,
    DISTILLATION,
    ENERGY,
    LARGE,
    PRUNING,
    PTQ,
    QAT,
    SLOWER,
    Row,
    Source,
    by_source,
    cited,
    find,
    keras,
    percent,
    torch,
)
from edgelab.web.pages import NOTHING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Advice:
    """An answer to a `question`: `says` makes it from the rows of `sources`, and `holds` must be true of them."""

    question: str
    sources: tuple[Source, ...]
    says: Callable[..., str]
    holds: Callable[..., bool]


def _times(a: Row, b: Row, column: str) -> float:
    return a[column] / b[column]


def _zeros(row: Row) -> float:
    """The share of weights that are zero, 0..1."""
    return 1 - row["nonzero"] / row["parameters"]


def _overlap(a: Row, b: Row) -> bool:
    return max(a["accuracy_low"], b["accuracy_low"]) <= min(a["accuracy_high"], b["accuracy_high"])


ADVICE = (
    Advice(
        "Which of the three networks?",
        (
            keras(BASELINE, "ds_cnn", "baseline"),
            keras(BASELINE, "resnet8", "baseline"),
            keras(BASELINE, "plain_cnn", "baseline"),
        ),
        lambda ds, resnet, plain: (
            f"`ds_cnn`: the most accurate ({percent(ds)}, against {percent(resnet)} and {percent(plain)}) with the "
            f"fewest MACs ({ds['macs'] / 1e6:.1f} million). `plain_cnn` has {_times(plain, ds, 'bytes'):.1f} times its "
            "bytes: choose the architecture before you compress."
        ),
        lambda ds, resnet, plain: (
            ds["accuracy"] > max(resnet["accuracy"], plain["accuracy"])
            and ds["macs"] < min(resnet["macs"], plain["macs"])
            and ds["accuracy_low"] > plain["accuracy_high"]
        ),
    ),
    Advice(
        "How do I gain accuracy at no cost where the network runs?",
        (
            *(
                keras(LARGE, "plain_cnn", name)
                for name in ("baseline", "longer_training", "distillation_from_start_t4_alpha0_9")
            ),
            *(keras(LARGE, "resnet8", name) for name in ("baseline", "longer_training_ema")),
        ),
        lambda usual, longer, taught, eight, average: (
            f"Train longer, before anything clever: after more than twice the epochs `plain_cnn` has {percent(longer)} "
            f"instead of {percent(usual)}, and `resnet8`, with averaged weights, {percent(average)} instead of "
            f"{percent(eight)}. `plain_cnn` for as many epochs as usual, but under a teacher: {percent(taught)}."
        ),
        lambda usual, longer, taught, eight, average: (
            longer["accuracy_low"] > usual["accuracy_high"]
            and longer["accuracy"] > taught["accuracy"] > usual["accuracy"]
            and longer["bytes"] == usual["bytes"]
            and average["accuracy"] > eight["accuracy"] + 0.005
            and average["bytes"] == eight["bytes"]
        ),
    ),
    Advice(
        "What do I try first to make it smaller?",
        (keras(PTQ, "resnet8", "baseline"), keras(PTQ, "resnet8", "ptq_int8")),
        lambda dense, int8: (
            f"Post-training quantization to int8: no training, {_times(dense, int8, 'bytes'):.1f} times fewer bytes, "
            f"{_times(dense, int8, 'ram_bytes'):.0f} times less RAM, and {percent(int8)} instead of {percent(dense)}."
        ),
        lambda dense, int8: _overlap(dense, int8) and int8["bytes"] < 0.35 * dense["bytes"],
    ),
    Advice(
        "Does int8 make it faster?",
        tuple(keras(chapter, "resnet8", name) for chapter in (SLOWER, ENERGY) for name in ("baseline", "ptq_int8")),
        lambda dense, int8, other_dense, other_int8: (
            "Ask the processor. In LiteRT the int8 file of `resnet8` took "
            f"{_times(int8, dense, 'latency_ms'):.2f} times as long as the float32 one ({int8['latency_on']}), and in "
            "another chapter's run "
            f"{_times(other_int8, other_dense, 'latency_ms'):.2f} times ({other_int8['latency_on']}), where VNNI "
            f"multiplies bytes. {percent(int8)} and {percent(other_int8)}: it is the same network. "
            "([Chapter 12](../notebooks/12_slower.ipynb) takes the times apart.)"
        ),
        lambda dense, int8, other_dense, other_int8: (
            _times(int8, dense, "latency_ms") > 1 > 1.2 * _times(other_int8, other_dense, "latency_ms")
            and "no VNNI" in dense["latency_on"]
            and "vnni" in other_dense["latency_on"]
        ),
    ),
    Advice(
        "It must run faster, on any processor.",
        (
            keras(PRUNING, "plain_cnn", "baseline"),
            keras(PRUNING, "plain_cnn", "structured_pruning_2x"),
            keras(PRUNING, "resnet8", "baseline"),
            keras(PRUNING, "resnet8", "structured_pruning_2x"),
            keras(PRUNING, "plain_cnn", "magnitude_pruning_50"),
        ),
        lambda dense, narrow, residual, thin, zeros: (
            f"Remove channels, if there are many. At {_times(dense, narrow, 'macs'):.2f} times fewer MACs `plain_cnn` "
            f"took {_times(narrow, dense, 'latency_ms'):.2f} of the time and has {percent(narrow)} instead of "
            f"{percent(dense)}; `resnet8`, whose layers are thin already, took "
            f"{_times(thin, residual, 'latency_ms'):.2f} of the time and has {percent(thin)} instead of "
            f"{percent(residual)}, each in one run ({narrow['latency_on']}). Single zeros change nothing: with half of "
            f"the weights at zero all {zeros['macs'] / 1e6:.2f} million MACs are done, and times differ by chance."
        ),
        lambda dense, narrow, residual, thin, zeros: (
            narrow["latency_ms"] < 0.8 * dense["latency_ms"] < dense["latency_ms"]
            and narrow["latency_ms"] / dense["latency_ms"] < thin["latency_ms"] / residual["latency_ms"] < 1
            and residual["accuracy"] - thin["accuracy"] > 2 * (dense["accuracy"] - narrow["accuracy"])
            and zeros["macs"] == dense["macs"]
            and narrow["accuracy"] < dense["accuracy"]
        ),
    ),
    Advice(
        "It must fit a microcontroller.",
        (
            keras(PTQ, "resnet8", "baseline"),
            keras(PTQ, "resnet8", "ptq_int8"),
            keras(PTQ, "ds_cnn", "ptq_int8"),
            keras(BUDGET, "resnet8", "ptq_int8"),
            keras(BUDGET, "resnet8", "magnitude_pruning_80_ptq_int8"),
            keras(BUDGET, "plain_cnn", "ptq_int8"),
            keras(BUDGET, "plain_cnn", "structured_pruning_2x_ptq_int8"),
        ),
        lambda dense, int8, other, before, zeros, wide, narrow: (
            f"Quantize to int8: `resnet8` then has a file of {int8['bytes']:,} bytes and {int8['ram_bytes']:,.0f} "
            f"bytes of activations, instead of {dense['bytes']:,} and {dense['ram_bytes']:,.0f}. Zeros save neither: "
            f"with {_zeros(zeros):.0%} of its weights at zero it is a file of "
            f"{zeros['bytes']:,} bytes ({before['bytes']:,} in the same run). Fewer channels save both: `plain_cnn` "
            f"with half of the MACs has {narrow['bytes']:,} bytes and {narrow['ram_bytes']:,.0f} of activations, "
            f"instead of {wide['bytes']:,} and {wide['ram_bytes']:,.0f}. The runtime comes on top: `edgelab micro "
            f"FILE` counts it, and says which of {len(BOARDS)} boards the file fits "
            "([Deployment](../notebooks/08_deployment.ipynb)). `ds_cnn` has as many activations "
            f"({other['ram_bytes']:,.0f} bytes), {percent(other)} instead of {percent(int8)}, and a larger file."
        ),
        lambda dense, int8, other, before, zeros, wide, narrow: (
            int8["ram_bytes"] * 4 == dense["ram_bytes"]
            and other["bytes"] > int8["bytes"]
            and other["ram_bytes"] == int8["ram_bytes"]
            and zeros["bytes"] > 0.99 * before["bytes"]
            and narrow["bytes"] < 0.6 * wide["bytes"]
            and narrow["ram_bytes"] < 0.8 * wide["ram_bytes"]
        ),
    ),
    Advice(
        "The download must be small.",
        (
            keras(COMBINING, "plain_cnn", "ptq_int8"),
            keras(COMBINING, "plain_cnn", "pqat"),
            keras(CLUSTERING, "plain_cnn", "pcqat"),
        ),
        lambda int8, zeros, shared: (
            "Prune before you quantize, and compress the file. With half of the weights at zero an int8 file is "
            f"{_times(int8, zeros, 'gzip_bytes'):.1f} times smaller after gzip at {percent(zeros)}, with 16 values a "
            f"layer on top {_times(int8, shared, 'gzip_bytes'):.1f} times at {percent(shared)} ({percent(int8)} "
            "before). Uncompressed, nothing is smaller."
        ),
        lambda int8, zeros, shared: (
            zeros["gzip_bytes"] < 0.7 * int8["gzip_bytes"]
            and shared["gzip_bytes"] < 0.8 * zeros["gzip_bytes"]
            and zeros["bytes"] > 0.98 * int8["bytes"]
            and _overlap(int8, shared)
        ),
    ),
    Advice(
        "Is quantization-aware training better than quantizing afterwards?",
        (
            torch(QAT, "plain_cnn", "ptq_int8"),
            torch(QAT, "plain_cnn", "qat_int8"),
            torch(QAT, "plain_cnn", "magnitude_pruning_0"),
        ),
        lambda after, aware, control: (
            f"At 8 bits hardly: {percent(aware)} against {percent(after)}, inside each other's intervals, and the "
            f"float network, trained on as long without any quantization, has {percent(control)}. "
            "([Chapter 4](../notebooks/04_quantization_aware_training.ipynb) has the test for pairs.)"
        ),
        lambda after, aware, control: _overlap(after, aware) and control["accuracy"] >= aware["accuracy"],
    ),
    Advice(
        "Eight bits are too many.",
        (
            torch(QAT, "plain_cnn", "ptq_4bit"),
            torch(QAT, "plain_cnn", "qat_lsq_4bit"),
            torch(QAT, "plain_cnn", "ptq_2bit"),
            torch(QAT, "plain_cnn", "qat_lsq_2bit"),
            torch(QAT, "plain_cnn", "baseline"),
        ),
        lambda ptq4, qat4, ptq2, qat2, dense: (
            f"Train for it, with learned step sizes: {percent(qat4)} with 4 bits and {percent(qat2)} with 2 "
            f"({percent(dense)} in float32), where quantization after training leaves {percent(ptq4)} and "
            f"{percent(ptq2)}. The 4-bit file is {_times(dense, qat4, 'bytes'):.1f} times smaller than float32 and "
            f"takes {_times(qat4, dense, 'latency_ms'):.1f} times as long ({qat4['latency_on']}), which has no kernels "
            "for it."
        ),
        lambda ptq4, qat4, ptq2, qat2, dense: (
            _overlap(qat4, dense)
            and qat4["accuracy"] > ptq4["accuracy"]
            and qat2["accuracy_low"] > ptq2["accuracy_high"]
        ),
    ),
    Advice(
        "Does it matter which tool quantizes?",
        (torch(PTQ, "plain_cnn", "ptq_int8"), torch(PTQ, "plain_cnn", "ptq_int8_qnnpack")),
        lambda good, bad: (
            f"Very much: the same network has {percent(good)} through ONNX Runtime's static quantization and "
            f"{percent(bad)} with PyTorch's QNNPACK settings, which use all eight bits of the weights, where sums "
            f"overflow in silence ({bad['latency_on']}). Measure the file you ship, where you ship it."
        ),
        lambda good, bad: good["accuracy_low"] > bad["accuracy_high"],
    ),
    Advice(
        "How do I quantize for ONNX Runtime on a processor with AVX2 and no VNNI?",
        (torch(PTQ, "ds_cnn", "ptq_int8"), torch(PTQ, "ds_cnn", "ptq_int8_full_range")),
        lambda reduced, full: (
            f"Quantize weights to seven bits (`reduce_range`): {percent(reduced)}, against {percent(full)} where all "
            f"eight are used and sums overflow ({full['latency_on']})."
        ),
        lambda reduced, full: reduced["accuracy_low"] > full["accuracy_high"],
    ),
    Advice(
        "Does a teacher help?",
        (
            keras(DISTILLATION, "resnet8", "distillation_without_teacher"),
            keras(DISTILLATION, "resnet8", "ensemble_distillation_logits_t4_alpha0_9"),
            torch(COMBINING, "resnet8", "qat_int8"),
            torch(COMBINING, "resnet8", "qat_int8_distillation_t4_alpha0_9"),
            torch(COMBINING, "resnet8", "qat_int8_distillation_t1_alpha0_5"),
        ),
        lambda alone, taught, aware, hot, cool: (
            f"Where there is much left to learn. After a short training from nothing `resnet8` had {percent(alone)} "
            f"by itself and {percent(taught)} under three teachers. In the quantization-aware training of a network "
            f"that was trained already, {percent(aware)} without a teacher, one at temperature 4 gave {percent(hot)} "
            "(against float32 a loss, by the test for pairs of [chapter 7](../notebooks/07_combining.ipynb)), and one "
            f"at temperature 1 with half of the weight {percent(cool)}, which is no difference."
        ),
        lambda alone, taught, aware, hot, cool: (
            taught["accuracy_low"] > alone["accuracy_high"]
            and hot["accuracy"] < aware["accuracy"]
            and _overlap(aware, cool)
        ),
    ),
    Advice(
        "In which order?",
        (keras(COMBINING, "plain_cnn", "qat_pruned_int8"), keras(COMBINING, "plain_cnn", "pqat")),
        lambda usual, keeping: (
            "Choose an architecture; remove channels if it is too slow, single weights if the download is too large; "
            "train on; quantize last. A step that comes late must not undo an earlier one: training in int8 left "
            f"{_zeros(usual):.0%} of a half-pruned `plain_cnn`'s weights at zero ({percent(usual)}), and "
            f"{_zeros(keeping):.0%} where it was told to keep them ({percent(keeping)}). "
            "[Combining](../notebooks/07_combining.ipynb) shows how to check that in the file."
        ),
        lambda usual, keeping: _zeros(keeping) > 0.49 > _zeros(usual) and _overlap(usual, keeping),
    ),
)


def advice(frame: pd.DataFrame | None) -> str:
    """Question after question, each with an answer that names the rows it rests on.

    Raises EdgelabError where a row is missing or no longer bears the answer out.
    """
    if frame is None:
        return NOTHING
    known, parts = by_source(frame), []
    for each in ADVICE:
        rows = find(known, each.sources, f"advice {each.question!r}")
        if not each.holds(*rows):
            raise EdgelabError(f"advice {each.question!r} no longer holds of the published rows: rewrite it")
        parts.append(f"**{each.question}** {each.says(*rows)} {cited(rows)}")
    return "\n\n".join(parts)
