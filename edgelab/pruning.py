"""Pruning, as far as no framework is needed: what is to go, which weights those are, and how it is shared out.

A layer is named as its weight is, without ".weight"; weights are arrays in PyTorch's layout. Magnitude pruning after
Han et al. 2015, arXiv:1506.02626; the gradual schedule after Zhu and Gupta 2017, arXiv:1710.01878.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgelab.data import Dataset, Split
from edgelab.errors import EdgelabError

Arrays = Mapping[str, np.ndarray]
Sparsity = float | Mapping[str, float]

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
RAMP = 0.5  # share of a gradual training in which the sparsity rises; the rest is recovery
UPDATES = 20  # how often the masks are chosen anew in that time
SCANNED = 2000
ROUND_TO = 4  # channels are removed until a multiple of this is left: odd widths waste lanes of SIMD units


def _number(value: float) -> str:
    return f"{value:g}".replace(".", "_")


@dataclass(frozen=True)
class Magnitude:
    """The `sparsity` (0..1) smallest weights become zero, then the others are trained on.

    One threshold for all layers decides how much each loses; `by_sensitivity` the accuracy that each costs when pruned
    alone. `gradual`: bit by bit during the training instead of all before it. Sparsity 0 is the control: training only.
    """

    sparsity: float
    gradual: bool = False
    by_sensitivity: bool = False

    def __post_init__(self) -> None:
        """Refuse an impossible sparsity at once."""
        check_sparsity(self.sparsity)

    @property
    def technique(self) -> str:
        """The name in the ledger, such as magnitude_pruning_95_gradual."""
        how = ("_sensitivity" if self.by_sensitivity else "") + ("_gradual" if self.gradual else "")
        return f"magnitude_pruning_{_number(100 * self.sparsity)}{how}"


@dataclass(frozen=True)
class TwoOfFour:
    """Of every four weights along the input channels the two smallest become zero, then the others are trained on."""

    technique: str = "magnitude_pruning_2_4"


@dataclass(frozen=True)
class Channels:
    """Whole channels are removed until the MACs have fallen by the factor `speed_up`, then the rest is trained on.

    `fresh`: the narrow network starts from new weights instead of those that are left, the control of Liu et al. 2019
    (arXiv:1810.05270).
    """

    speed_up: float
    fresh: bool = False

    def __post_init__(self) -> None:
        """Refuse an impossible factor at once."""
        check_speed_up(self.speed_up)

    @property
    def technique(self) -> str:
        """The name in the ledger, such as structured_pruning_2x."""
        return f"structured_pruning_{_number(self.speed_up)}x{'_fresh' * self.fresh}"


Plan = Magnitude | TwoOfFour | Channels


def check_sparsity(sparsity: float, of: str = "the sparsity") -> float:
    """`sparsity` as a float; raises EdgelabError unless it is a number from 0 up to, but not including, 1."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | np.number) or not 0 <= sparsity < 1:
        raise EdgelabError(f"expected {of} as a share from 0 to below 1, got {sparsity!r}: write 0.5 for 50 %")
    return float(sparsity)


def check_speed_up(speed_up: float) -> float:
    """`speed_up` as a float; raises EdgelabError unless it is a finite number from 1 up."""
    if isinstance(speed_up, bool) or not isinstance(speed_up, int | float) or not 1 <= speed_up < math.inf:
        raise EdgelabError(f"expected a speed-up from 1 upwards, got {speed_up!r}: write 2 for half the MACs")
    return float(speed_up)


def check_finite(arrays: Arrays) -> None:
    """Raise EdgelabError, naming the first array, where a weight is NaN or infinite."""
    for name, array in arrays.items():
        if wrong := int((~np.isfinite(array)).sum()):
            raise EdgelabError(f"{wrong} of {array.size} values in {name!r} are NaN or infinite: train the model again")


def check_spared(weights: Iterable[tuple[str, str, Sequence[int]]]) -> None:
    """Raise EdgelabError, naming the layer, where one of the `weights` that would not be pruned is no row of values.

    Each is given as its layer's name and kind, and its shape. Dimensions of 1 count for nothing.
    """
    for name, kind, shape in weights:
        if sum(size > 1 for size in shape) > 1:
            only = "only convolutions and fully connected layers"
            raise EdgelabError(f"{kind} {name!r} cannot be pruned, {only}: replace it or leave it out")


def check_request(layers: Sequence[str], sparsity: Sparsity) -> None:
    """Raise EdgelabError unless there are `layers` to prune and `sparsity` is possible and names only such layers."""
    if not layers:
        raise EdgelabError("nothing to prune: expected convolutions (not depthwise) or fully connected layers")
    if not isinstance(sparsity, Mapping):
        check_sparsity(sparsity)
        return
    for name, share in sparsity.items():
        if name not in layers:
            raise EdgelabError(f"cannot prune {name!r}: choose among the layers {', '.join(layers)}")
        check_sparsity(share, f"the sparsity of {name!r}")


def magnitude_masks(weights: Arrays, sparsity: Sparsity) -> dict[str, np.ndarray]:
    """True for every weight that stays, for `weights` by layer.

    A single `sparsity` zeroes that share of all weights together, whichever layer they are in; a mapping gives layers
    their own shares, and leaves the others as they are.
    """
    if isinstance(sparsity, Mapping):
        return {name: magnitude_masks({name: array}, sparsity.get(name, 0.0))[name] for name, array in weights.items()}
    magnitudes = np.concatenate([np.abs(array).ravel() for array in weights.values()])
    gone = round(sparsity * magnitudes.size)
    stays = np.ones(magnitudes.size, bool)
    stays[np.argpartition(magnitudes, gone)[:gone]] = False
    parts = np.split(stays, np.cumsum([array.size for array in weights.values()])[:-1])
    return {name: part.reshape(array.shape) for (name, array), part in zip(weights.items(), parts, strict=True)}


def two_of_four(weight: np.ndarray, axis: int) -> np.ndarray:
    """True for the two of every four neighbours along `axis` that are largest; all True where four do not divide it."""
    if weight.shape[axis] % 4:
        return np.ones(weight.shape, bool)
    along = np.moveaxis(np.abs(weight), axis, -1)
    fours = along.reshape(*along.shape[:-1], -1, 4)
    rank = np.argsort(np.argsort(-fours, axis=-1, kind="stable"), axis=-1)
    return np.moveaxis((rank < 2).reshape(along.shape), -1, axis)


def shares(weights: Arrays, masks: Arrays) -> dict[str, float]:
    """The share of every layer's weights that its mask (or the weights themselves) zeroes, 0..1."""
    return {name: 1 - int(np.count_nonzero(masks[name])) / array.size for name, array in weights.items()}


def polynomial(progress: float, initial: float, final: float) -> float:
    """The sparsity at `progress` 0..1 of the ramp: it rises fast while much is left to choose from, then slower."""
    return final + (initial - final) * (1 - min(max(progress, 0.0), 1.0)) ** 3


def scanned(dataset: Dataset) -> Split:
    """The images on which sensitivity is measured: the first SCANNED validation images."""
    return Split(dataset.validation.images[:SCANNED], dataset.validation.labels[:SCANNED])


def scan(
    weights: Arrays, levels: Sequence[float], accuracy_with: Callable[[Arrays], float]
) -> list[dict[str, str | float]]:
    """How sensitive every layer is: a row (layer, sparsity, accuracy 0..1) for each layer pruned alone to each level.

    `accuracy_with` measures the network as it is, but for the weights it is given. The first row of each layer is the
    network with none replaced.
    """
    dense = accuracy_with({})
    rows: list[dict[str, str | float]] = []
    for name, array in weights.items():
        rows.append({"layer": name, "sparsity": 0.0, "accuracy": dense})
        for level in levels:
            pruned = array * magnitude_masks({name: array}, check_sparsity(level))[name]
            rows.append({"layer": name, "sparsity": level, "accuracy": accuracy_with({name: pruned})})
    return rows


def allocate(rows: Sequence[Mapping[str, str | float]], sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """Every layer's sparsity so that together they reach `sparsity`, each costing the same accuracy when pruned alone.

    `rows` are those of `scan`, joined by straight lines; `sizes` the layers' numbers of weights.
    Raises EdgelabError where even the highest sparsities that were scanned do not reach that far.
    """
    check_sparsity(sparsity)
    curves = {}
    for name in sizes:
        own = sorted((float(row["sparsity"]), float(row["accuracy"])) for row in rows if row["layer"] == name)
        levels, scores = (np.array(values) for values in zip(*own, strict=True))
        curves[name] = levels, np.minimum.accumulate(scores) - 1e-6 * levels
    total = sum(sizes.values())

    def at(tolerated: float) -> dict[str, float]:
        return {name: float(np.interp(-tolerated, -scores, levels)) for name, (levels, scores) in curves.items()}

    def reached(allocation: Mapping[str, float]) -> float:
        return sum(share * sizes[name] for name, share in allocation.items()) / total

    low, high = -1.0, 2.0
    if (most := reached(at(low))) < sparsity - 1e-9:
        raise EdgelabError(f"the scan reaches {most:.1%} at most, {sparsity:.1%} was asked for: scan higher levels")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(at(middle)) >= sparsity else (low, middle)
    return at(low)


def kept_channels(channels: int, percent: int) -> int:
    """How many of `channels` stay when about `percent` of them go: the nearest multiple of ROUND_TO, and never none."""
    return min(channels, max(ROUND_TO, round(channels * (100 - percent) / (100 * ROUND_TO)) * ROUND_TO))


def smallest_cut(macs_after: Callable[[int], int], dense: int, speed_up: float) -> int:
    """The least percentage of channels to remove after which `dense` MACs have fallen by the factor `speed_up`.

    Raises EdgelabError where that cannot be reached.
    """
    low, high = -1, 99
    if (least := macs_after(high)) * speed_up > dense:
        raise EdgelabError(
            f"a speed-up of {speed_up:g} is out of reach: with {ROUND_TO} channels left in every layer the MACs "
            f"are {dense / least:.1f} times fewer"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if macs_after(middle) * speed_up <= dense else (middle, high)
    return high
