"""Techniques one after the other, as far as no framework is needed: which of the earlier gains the next step keeps.

Quantization-aware training moves every weight, zeros and shared values too, unless it is told to keep them: PQAT keeps
the zeros of a pruned network, CQAT the few values of a clustered one, PCQAT both. Weight clustering after Han, Mao and
Dally 2015, arXiv:1510.00149.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgelab.distillation import Distillation
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe

Arrays = Mapping[str, np.ndarray]
MOST = 256


@dataclass(frozen=True)
class Clustering:
    """Every layer's weights share so many values, `clusters`; what is zero stays zero."""

    clusters: int = 16

    def __post_init__(self) -> None:
        """Refuse an impossible number at once."""
        check_clusters(self.clusters)

    @property
    def technique(self) -> str:
        """The name in the ledger, such as clustering_16."""
        return f"clustering_{self.clusters}"


@dataclass(frozen=True)
class Preserving:
    """Quantization-aware training to int8 that keeps `zeros`, or `clusters` of weights with one value, or both."""

    zeros: bool = False
    clusters: bool = False

    def __post_init__(self) -> None:
        """Refuse to keep nothing at once."""
        if not (self.zeros or self.clusters):
            raise EdgelabError("nothing to preserve: choose zeros, clusters or both, or edgelab.qat.Int8")

    @property
    def technique(self) -> str:
        """The name in the ledger: pqat, cqat or pcqat."""
        return "p" * self.zeros + "c" * self.clusters + "qat"


@dataclass(frozen=True)
class Distilled:
    """Quantization-aware training to int8 under teachers: the loss is that of the `lesson`."""

    lesson: Distillation

    @property
    def technique(self) -> str:
        """The name in the ledger, such as qat_int8_distillation_t4_alpha0_9."""
        return f"qat_int8_{self.lesson.technique}"


def check_clusters(clusters: int) -> int:
    """`clusters`; raises EdgelabError unless it is a whole number from 2 to MOST."""
    if isinstance(clusters, bool) or not isinstance(clusters, int | np.integer) or not 2 <= clusters <= MOST:
        raise EdgelabError(f"expected from 2 to {MOST} clusters, got {clusters!r}: 16 values take 4 bits a weight")
    return int(clusters)


def check_preservable(weights: Arrays, plan: Preserving) -> None:
    """Raise EdgelabError unless the `weights` (by layer) have the zeros and the shared values that `plan` keeps."""
    if plan.zeros and not any((array == 0).any() for array in weights.values()):
        raise EdgelabError(f"{plan.technique} keeps zeros, and no weight is zero: prune the network first")
    for name, array in weights.items():
        if plan.clusters and (values := len(np.unique(array))) > MOST:
            raise EdgelabError(
                f"{plan.technique} keeps clusters, and the weights of {name!r} have {values} values: cluster them first"
            )


def gentle(recipe: Recipe, weights: Arrays) -> Recipe:
    """`recipe` with its rate divided by the number of weights that share a value, in the layer where most do.

    A shared value gets the sum of its weights' gradients: with the usual rate it would leap away. Weight decay, which
    would pull at single weights of a cluster, is off.
    """
    shared = max(array.size / len(np.unique(array)) for array in weights.values())
    return replace(recipe, peak_rate=recipe.peak_rate / shared, weight_decay=0.0)
