"""Teachers by transfer learning: a network trained on ImageNet, frozen, and a new last layer for the classes at hand.

What the frozen network makes of an image never changes, so its features are computed once and kept; the last layer is
fitted to them in seconds, in NumPy.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edgelab import zoo
from edgelab.data import Dataset, cache_folder
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path, exclusive
from edgelab.profiles import Recipe, is_best, one_cycle
from edgelab.zoo import Checkpoint, Origin

LOG = logging.getLogger(__name__)
HEAD = Recipe(epochs=20, batch=256, peak_rate=0.03, weight_decay=2e-3, crop=0, flip=False)
"""How the last layer is fitted to standardised features."""
UNTRAINED = "untrained"
TECHNIQUE = "linear_head"
CHUNK = 500


@dataclass(frozen=True)
class Backbone:
    """A frozen network without its last layer.

    `network` takes images as all networks of the course do, in [-1, 1), enlarges them to `size` x `size` pixels and
    gives features; `compute` does the same for uint8 NHWC images: float32 (n, width). `weights` says where they come
    from: imagenet, the path of a file, or untrained. `identity` is the SHA-256 over them.
    """

    name: str
    size: int
    framework: str
    weights: str
    identity: str
    network: Any
    compute: Callable[[np.ndarray], np.ndarray]

    @property
    def model(self) -> str:
        """The name in the ledger, such as efficientnet_lite0_96."""
        return f"{self.name}_{self.size}"


def identity(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and values of all `arrays`."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array, np.float32).data)
    return digest.hexdigest()


def check_backbone(name: str, size: int, built: Mapping[str, Any]) -> None:
    """Raise EdgelabError unless `name` is among those `built` and `size` a multiple of 32 pixels up to 512."""
    if name not in built:
        raise EdgelabError(f"unknown backbone {name!r}: choose one of {', '.join(built)}")
    if isinstance(size, bool) or not isinstance(size, int) or size % 32 or not 32 <= size <= 512:
        raise EdgelabError(f"expected a size in pixels that is a multiple of 32 from 32 to 512, got {size!r}")


def say_untrained(name: str, why: str) -> None:
    """One line on the log: the weights of `name` are random, and why."""
    LOG.warning("%s is UNTRAINED (%s): what it teaches is worth nothing, the code only runs", name, why)


def features(backbone: Backbone, dataset: Dataset, split: str = "train") -> np.ndarray:
    """What `backbone` makes of the images of the `split` (train, validation or test): float16 (n, width), kept on disk.

    Found again by the weights, the size and the images; written in one step, and by one process while others wait.
    """
    images = getattr(dataset, split).images
    mark = f"{backbone.framework}-{backbone.identity[:16]}-{dataset.fingerprint[:16]}"
    path = cache_folder() / "features" / f"{backbone.model}-{mark}-{split}.npy"
    waiting = f"another process computes {path.name}: waiting for it"
    with exclusive(path.with_suffix(".lock"), lambda: LOG.warning(waiting)):
        known = _opened(path, len(images))
        return _computed(path, backbone, images) if known is None else known


def _opened(path: Path, n: int) -> np.ndarray | None:
    """The features of `n` images at `path`; None where there are none or they are damaged."""
    try:
        known = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return known if known.dtype == np.float16 and len(known) == n and np.isfinite(known).all() else None


def _computed(path: Path, backbone: Backbone, images: np.ndarray) -> np.ndarray:
    starts = tqdm(range(0, len(images), CHUNK), f"features of {backbone.model}", delay=1)
    parts = [backbone.compute(images[i : i + CHUNK]) for i in starts]
    made = np.concatenate(parts).astype(np.float16)
    if not np.isfinite(made).all():
        raise EdgelabError(f"{backbone.model} gives features that are NaN or infinite: its weights are damaged")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, made)
    return made


def fit_head(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray], classes: int, recipe: Recipe
) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """A linear layer from features (n, width) to `classes`, fitted to `train`: its arrays, fc.weight and fc.bias.

    Both arguments are features and labels. Softmax regression by SGD as the `recipe` says, on standardised features;
    the scales are folded into the weights. The history has a row an epoch, and the best on `validation` counts.
    """
    values, labels = train[0].astype(np.float32), train[1]
    mean, scale = values.mean(0), values.std(0) + 1e-3
    values = (values - mean) / scale
    weight, bias = np.zeros((classes, values.shape[1]), np.float32), np.zeros(classes, np.float32)
    speed = [np.zeros_like(weight), np.zeros_like(bias)]
    history: list[dict[str, float]] = []
    best: dict[str, np.ndarray] = {}
    for epoch in range(recipe.epochs):
        start = time.perf_counter()
        loss = _fit_epoch(values, labels, (weight, bias), speed, recipe, epoch)
        folded = {"fc.weight": weight / scale, "fc.bias": bias - (weight / scale) @ mean}
        score = float((apply_head(folded, validation[0]).argmax(1) == validation[1]).mean())
        if is_best(score, history, recipe):
            best = folded
        row = {"epoch": epoch + 1, "loss": loss, "validation_accuracy": score}
        history.append({**row, "seconds": time.perf_counter() - start})
    return best, history


def _fit_epoch(
    values: np.ndarray,
    labels: np.ndarray,
    layer: tuple[np.ndarray, np.ndarray],
    speed: list[np.ndarray],
    recipe: Recipe,
    epoch: int,
) -> float:
    """One pass over the features, which changes `layer` (weight, bias) and its `speed`; returns the mean loss."""
    order = np.random.default_rng((recipe.seed, epoch)).permutation(len(labels))
    total, targets = 0.0, np.eye(len(layer[1]), dtype=np.float32)
    for at in range(0, len(order), recipe.batch):
        chosen = order[at : at + recipe.batch]
        rate = recipe.peak_rate * one_cycle((epoch + (at + len(chosen)) / len(order)) / recipe.epochs)
        logits = values[chosen] @ layer[0].T + layer[1]
        logits -= logits.max(1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(1, keepdims=True)
        total -= float(np.log(p[np.arange(len(chosen)), labels[chosen]] + 1e-12).sum())
        slope = (p - targets[labels[chosen]]) / len(chosen)
        slopes = (slope.T @ values[chosen] + recipe.weight_decay * layer[0], slope.sum(0))
        for part, moving, gradient in zip(layer, speed, slopes, strict=True):
            moving *= recipe.momentum
            moving -= rate * gradient
            part += moving
    return total / len(labels)


def apply_head(arrays: Mapping[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    """The logits float32 (n, classes) that the last layer makes of features (n, width)."""
    return values.astype(np.float32) @ arrays["fc.weight"].T + arrays["fc.bias"]


def load_or_transfer(backbone: Backbone, dataset: Dataset, recipe: Recipe = HEAD, *, kept: bool = True) -> Checkpoint:
    """A teacher: `backbone`, frozen, with a last layer for the data set's classes, kept and found again as `zoo` does.

    Its arrays are those of that layer only. Training images are seen as they are, without augmentation.
    """

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        start = time.perf_counter()
        train = features(backbone, dataset), dataset.train.labels
        validation = features(backbone, dataset, "validation"), dataset.validation.labels
        spent = time.perf_counter() - start
        arrays, history = fit_head(train, validation, len(dataset.class_names), recipe)
        history[0]["seconds"] += spent
        return arrays, history

    source = f"{backbone.weights}@{backbone.identity[:16]}"
    origin = Origin(TECHNIQUE, backbone.framework, source)
    return zoo.load_or_derive(backbone.model, origin, dataset, recipe, make, kept=kept)


def is_transferred(checkpoint: Checkpoint) -> bool:
    """Whether `checkpoint` holds the last layer of a frozen network."""
    return checkpoint.origin is not None and checkpoint.origin.technique == TECHNIQUE


def parts(checkpoint: Checkpoint) -> tuple[str, int, str | None, str]:
    """Name, size, weights (None: untrained) and the start of the identity of the backbone behind `checkpoint`."""
    assert checkpoint.origin is not None
    name, size = checkpoint.model.rsplit("_", 1)
    weights, mark = checkpoint.origin.start.rsplit("@", 1)
    return name, int(size), None if weights == UNTRAINED else weights, mark


def check_same(backbone: Backbone, checkpoint: Checkpoint) -> Backbone:
    """`backbone`, if its weights are those `checkpoint`'s last layer was fitted to; raises EdgelabError if not."""
    *_, weights, mark = parts(checkpoint)
    if not backbone.identity.startswith(mark):
        raise EdgelabError(
            f"{checkpoint.key} was fitted to other weights of {backbone.name} than those found now "
            f"({backbone.weights} instead of {weights or UNTRAINED}): fit it again"
        )
    return backbone


def answers(checkpoint: Checkpoint, backbone: Backbone, dataset: Dataset, split: str = "train") -> np.ndarray:
    """The logits (n, classes) of a teacher on the images of a split as they are, from the features that are kept."""
    return apply_head(checkpoint.arrays, features(check_same(backbone, checkpoint), dataset, split))
