"""Profiles (which data, which recipes, which seeds) and the training recipe both tracks understand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgelab.errors import EdgelabError


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: SGD with Nesterov momentum on a one-cycle learning rate.

    `peak_rate` is the highest learning rate; `weight_decay` spares biases and BatchNorm; `crop` is the number of pixels
    an image may be shifted by; `flip` allows left-right mirroring (off where it changes the meaning, as for digits).
    An epoch looks at every training image once, or at so many `images` drawn anew for each. `ema` keeps an exponential
    moving average of all weights beside them, each step's with the factor 1 - `ema`, and the average is what is
    validated and kept (Polyak and Juditsky 1992; the factor as in Tarvainen and Valpola 2017, arXiv:1703.01780).
    """

    epochs: int
    seed: int = 0
    batch: int = 128
    peak_rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    crop: int = 4
    flip: bool = True
    images: int | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        """Refuse an average that cannot be, before any work."""
        number = isinstance(self.ema, int | float) and not isinstance(self.ema, bool)
        if self.ema is not None and not (number and 0 <= self.ema < 1):
            raise EdgelabError(f"expected ema, what a step leaves of the average, from 0 to below 1, got {self.ema!r}")

    def steps(self, available: int) -> int:
        """How many batches an epoch has where there are so many training images, the last one perhaps smaller."""
        return math.ceil(min(available, self.images or available) / self.batch)

    def fields(self) -> dict[str, Any]:
        """Name -> value of all that is set: what names and records a training."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def one_cycle(progress: float, warm_up: float = 0.2) -> float:
    """Factor on the peak learning rate at `progress` in 0..1: a linear rise, then half a cosine down to zero.

    After Smith and Topin 2017, arXiv:1708.07120.
    """
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def check_unaveraged(recipe: Recipe) -> None:
    """Raise EdgelabError where weights are averaged: masks, clusters and fake quantization would not survive that."""
    if recipe.ema is not None:
        raise EdgelabError(
            f"ema {recipe.ema}: weights are not averaged while a network is pruned, clustered or quantized: "
            "leave ema out of the recipe"
        )


def fitted(recipe: Recipe, images: int, seen: int, batch: int, flip: bool) -> Recipe:
    """`recipe` for a data set of another size: so many epochs that about `seen` images are looked at, one at least.

    The rate goes with the `batch`, so that an epoch moves the weights as far (Goyal et al. 2017, arXiv:1706.02677).
    """
    epochs, rate = max(1, round(seen / images)), recipe.peak_rate * batch / recipe.batch
    return replace(recipe, epochs=epochs, batch=batch, peak_rate=rate, flip=flip, images=None)


def is_best(score: float, history: Sequence[Mapping[str, float]], recipe: Recipe, counts_from: float = 0.0) -> bool:
    """Whether the epoch after those in `history` is the best so far with a validation accuracy of `score`.

    Epochs that end before the share `counts_from` of the training do not count.
    """
    first = math.ceil(counts_from * recipe.epochs)
    counting = history[max(first - 1, 0) :]
    return len(history) + 1 >= first and score > max((row["validation_accuracy"] for row in counting), default=-1.0)


@dataclass(frozen=True)
class Profile:
    """How much work a run does: on `data` (a name `edgelab.data.load` knows), one recipe a model.

    `fine_tuning` holds the recipes for training on after single weights have been changed, `retraining` those after
    whole channels have been removed, `distillation` those of students that start from nothing, `others` those of
    networks beside the course's three, for retraining them after a cut too. `uses_kept` says whether
    the checkpoints that come with edgelab may stand in for training; what this machine has trained itself is used in
    any case.
    """

    name: str
    data: str
    recipes: Mapping[str, Recipe]
    fine_tuning: Mapping[str, Recipe]
    retraining: Mapping[str, Recipe]
    distillation: Mapping[str, Recipe]
    others: Mapping[str, Recipe]
    uses_kept: bool

    def seeded(self, seed: int) -> Profile:
        """The same work with this `seed` in every recipe: other first weights, another order, other augmentation."""

        def again(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
            return {name: replace(recipe, seed=seed) for name, recipe in recipes.items()}

        return replace(
            self,
            recipes=again(self.recipes),
            fine_tuning=again(self.fine_tuning),
            retraining=again(self.retraining),
            distillation=again(self.distillation),
            others=again(self.others),
        )


_DIGITS = {
    "plain_cnn": Recipe(epochs=3, batch=16, peak_rate=0.02, crop=2, flip=False),
    "resnet8": Recipe(epochs=2, batch=16, peak_rate=0.06, crop=2, flip=False),
    "ds_cnn": Recipe(epochs=2, batch=8, peak_rate=0.02, crop=2, flip=False),
}
_CIFAR10 = {
    "plain_cnn": Recipe(epochs=20, peak_rate=0.05, weight_decay=5e-4, label_smoothing=0.05, crop=4),
    "resnet8": Recipe(epochs=40, peak_rate=0.2, weight_decay=2e-4, crop=2),
    "ds_cnn": Recipe(epochs=30, peak_rate=0.2, weight_decay=2e-4, label_smoothing=0.05, crop=2),
}
MODELS = tuple(_CIFAR10)
"""The networks of the course, in the order in which they are shown."""
_DIGITS_TUNING = {
    name: replace(recipe, epochs=1, batch=16, peak_rate=rate, images=480)
    for (name, recipe), rate in zip(_DIGITS.items(), (0.02, 0.04, 0.02), strict=True)
}
_CIFAR10_TUNING = {
    name: replace(recipe, epochs=4, peak_rate=rate)
    for (name, recipe), rate in zip(_CIFAR10.items(), (0.02, 0.1, 0.1), strict=True)
}
_CIFAR10_RETRAINING = {
    name: replace(recipe, epochs=10, peak_rate=rate)
    for (name, recipe), rate in zip(_CIFAR10.items(), (0.05, 0.1, 0.1), strict=True)
}
_DIGITS_DISTILLATION = {name: replace(recipe, epochs=1, images=960) for name, recipe in _DIGITS.items()}
_CIFAR10_DISTILLATION = {name: replace(recipe, epochs=4, label_smoothing=0.0) for name, recipe in _CIFAR10.items()}
_DIGITS_OTHERS = {"resnet20": Recipe(epochs=1, batch=16, peak_rate=0.06, crop=2, flip=False)}
_CIFAR10_OTHERS = {"resnet20": Recipe(epochs=20, peak_rate=0.2, weight_decay=5e-4, crop=2)}
_ON_DIGITS = (_DIGITS, _DIGITS_TUNING, _DIGITS_TUNING, _DIGITS_DISTILLATION, _DIGITS_OTHERS)
_ON_CIFAR10 = (_CIFAR10, _CIFAR10_TUNING, _CIFAR10_RETRAINING, _CIFAR10_DISTILLATION, _CIFAR10_OTHERS)
PROFILES: dict[str, Profile] = {
    "ci": Profile("ci", "digits", *_ON_DIGITS, True),
    "zoo": Profile("zoo", "cifar10", *_ON_CIFAR10, True),
    "full": Profile("full", "cifar10", *_ON_CIFAR10, False),
}


def get(name: str) -> Profile:
    """The profile called `name`: ci (digits, seconds), zoo (kept CIFAR-10 checkpoints), full (everything trained).

    Raises EdgelabError for an unknown name.
    """
    if name not in PROFILES:
        raise EdgelabError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
