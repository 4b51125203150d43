"""Trained networks, found again by what made them: model, data and recipe, and the technique applied to another one.

A checkpoint is one `.safetensors` file: weights under PyTorch's names, and in its header recipe, history and
provenance. It is looked for among those that come with edgelab, then in the cache; else it is trained and kept there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgelab import provenance, weights
from edgelab.data import Dataset, cache_folder
from edgelab.errors import EdgelabError
from edgelab.files import exclusive
from edgelab.profiles import Recipe

KEPT = Path(__file__).parent / "checkpoints"
LOG = logging.getLogger(__name__)
Made = tuple[dict[str, np.ndarray], list[dict[str, float]]]
"""Weights and the history of the training that made them."""


@dataclass(frozen=True)
class Origin:
    """How a network was made from trained ones: the `technique` as the ledger calls it, the `framework` it was applied
    in, and the key of the checkpoint at the `start`, or the keys of its teachers, joined by "+".
    """

    technique: str
    framework: str
    start: str


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    `arrays` are the weights of the epoch that did best on the validation images; `history` has one row an epoch;
    `meta` holds class_names, data_fingerprint, train_seconds and the provenance (versions, commit, machine, when).
    `origin` is None for a network trained from scratch. Others are kept compactly, see `weights.save`.
    """

    model: str
    data: str
    recipe: Recipe
    arrays: dict[str, np.ndarray]
    history: list[dict[str, float]]
    meta: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None

    @property
    def key(self) -> str:
        """What the checkpoint is found by, see the function of that name."""
        return key(self.model, self.data, self.recipe, self.origin)


def key(model: str, data: str, recipe: Recipe, origin: Origin | None = None) -> str:
    """The checkpoint's file name without suffix: model, technique, data, seed and a hash over all that identifies it.

    A network trained from scratch has no `origin`.
    """
    parts = [model, data, recipe.fields(), *([asdict(origin)] if origin else [])]
    identity = json.dumps(parts, sort_keys=True)
    made = f"{model}-{origin.technique}-{origin.framework}" if origin else model
    readable = re.sub(r"[^\w.-]+", "_", f"{made}-{data}-seed{recipe.seed}")
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def keep(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write `checkpoint` into `folder` under its key and return the file; a half-written file is never seen."""
    path = folder / f"{checkpoint.key}.safetensors"
    about = {name: getattr(checkpoint, name) for name in ("model", "data", "history", "meta")}
    about["recipe"] = checkpoint.recipe.fields()
    if checkpoint.origin:
        about["origin"] = asdict(checkpoint.origin)
    weights.save(path, checkpoint.arrays, about, compact=checkpoint.origin is not None)
    return path


def load(path: Path) -> Checkpoint:
    """The checkpoint in the file `path`, checked against its SHA-256.

    Raises EdgelabError where the file is missing, damaged, changed, or not a checkpoint.
    """
    arrays, about = weights.load(path)
    try:
        about["meta"]["data_fingerprint"]
        about["recipe"] = Recipe(**about["recipe"])
        about["origin"] = Origin(**about["origin"]) if "origin" in about else None
        return Checkpoint(**about, arrays=arrays)
    except (KeyError, TypeError) as problem:
        raise EdgelabError(f"{path} is not a checkpoint this version of edgelab reads ({problem})") from None


def path_of(checkpoint: Checkpoint) -> Path | None:
    """The file of `checkpoint`, among edgelab's own or in the cache; None where it has not been kept."""
    folders = (KEPT, cache_folder() / "checkpoints")
    paths = [folder / f"{checkpoint.key}.safetensors" for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def _fitting(path: Path, dataset: Dataset) -> Checkpoint | None:
    """The checkpoint at `path` if there is one and it was trained on these very images."""
    if not path.exists():
        return None
    checkpoint = load(path)
    if checkpoint.key != path.stem:
        raise EdgelabError(f"{path} holds {checkpoint.key}, not what its name says: give it that name or delete it")
    if checkpoint.meta["data_fingerprint"] == dataset.fingerprint:
        return checkpoint
    LOG.warning("%s was trained on other images than this %s: it is not used", path, dataset.name)
    return None


def _cached(path: Path, dataset: Dataset) -> Checkpoint | None:
    """As `_fitting`, but a damaged file counts as none: what the cache held can be trained again."""
    try:
        return _fitting(path, dataset)
    except EdgelabError as problem:
        LOG.warning("not used: %s", problem)
        return None


def find(model: str, dataset: Dataset, recipe: Recipe, *, kept: bool = True) -> Checkpoint | None:
    """The checkpoint of `model` trained on `dataset` with `recipe`, from edgelab's own (if `kept`) or the cache.

    One trained on other images is not used, and neither is a damaged one in the cache: a line on the log says so.
    Raises EdgelabError where a damaged checkpoint came with edgelab.
    """
    name = f"{key(model, dataset.name, recipe)}.safetensors"
    shipped = _fitting(KEPT / name, dataset) if kept else None
    return shipped or _cached(cache_folder() / "checkpoints" / name, dataset)


def _meta(dataset: Dataset, history: list[dict[str, float]], earlier: float = 0.0) -> dict[str, Any]:
    """What is to be known about a training; `earlier` seconds were spent on the checkpoint it started from."""
    return {
        "class_names": list(dataset.class_names),
        "data_fingerprint": dataset.fingerprint,
        "train_seconds": earlier + sum(row["seconds"] for row in history),
        **provenance.collect(),
    }


def _train(model: str, dataset: Dataset, recipe: Recipe, state_path: Path) -> Checkpoint:
    from edgelab.pytorch import models, train

    if dataset.train.images.shape[1:] != (32, 32, 3):
        size = "x".join(map(str, dataset.train.images.shape[1:]))
        raise EdgelabError(f"the networks take 32x32x3 images, got {size}: load the data with image_size=32")
    network = models.build(model, len(dataset.class_names), recipe.seed)
    history = train.train(network, dataset, recipe, state_path)
    return Checkpoint(model, dataset.name, recipe, models.to_arrays(network), history, _meta(dataset, history))


def _load_or_make(name: str, dataset: Dataset, kept: bool, make: Callable[[Path], Checkpoint]) -> Checkpoint:
    """The checkpoint called `name`, else what `make` returns, which is given a file for its training's state."""
    if kept and (shipped := _fitting(KEPT / f"{name}.safetensors", dataset)):
        return shipped
    state_path = cache_folder() / "training" / f"{name}.state"
    with exclusive(
        state_path.with_suffix(".lock"), lambda: LOG.warning("another process trains %s: waiting for it", name)
    ):
        if trained := _cached(cache_folder() / "checkpoints" / f"{name}.safetensors", dataset):
            return trained
        checkpoint = make(state_path)
        keep(checkpoint, cache_folder() / "checkpoints")
        state_path.unlink(missing_ok=True)
    return checkpoint


def load_or_train(model: str, dataset: Dataset, recipe: Recipe, *, kept: bool = True) -> Checkpoint:
    """`find` the checkpoint, else train it in PyTorch and keep it in the cache.

    Training that was interrupted continues after its last finished epoch. Of several processes that ask for the same
    checkpoint one trains and the others wait. Raises EdgelabError for an unknown model and as `find` does.
    """
    name = key(model, dataset.name, recipe)
    return _load_or_make(name, dataset, kept, lambda state_path: _train(model, dataset, recipe, state_path))


def load_or_derive(
    model: str,
    origin: Origin,
    dataset: Dataset,
    recipe: Recipe,
    make: Callable[[Path], Made],
    *,
    kept: bool = True,
    earlier: float = 0.0,
) -> Checkpoint:
    """The checkpoint of `model` that has this `origin`, kept and found like a trained network.

    Where there is none yet, `make` is called with a file for the training's state and returns arrays and history. The
    arrays come back as they are kept (see `weights.coarse`), the first time too; `earlier` seconds, spent on
    what it started from, are added to `train_seconds`. Raises EdgelabError as `find` does.
    """

    def made(state_path: Path) -> Checkpoint:
        arrays, history = make(state_path)
        meta = _meta(dataset, history, earlier)
        return Checkpoint(model, dataset.name, recipe, weights.coarse(arrays), history, meta, origin)

    return _load_or_make(key(model, dataset.name, recipe, origin), dataset, kept, made)


def load_or_make(
    start: Checkpoint,
    technique: str,
    framework: str,
    dataset: Dataset,
    recipe: Recipe,
    make: Callable[[Path], Made],
    *,
    kept: bool = True,
) -> Checkpoint:
    """What the `technique` makes of the checkpoint `start` in `framework`, as by `load_or_derive`.

    `train_seconds` includes those of `start`. Raises EdgelabError where `start` was trained on other images, and as
    `find` does.
    """
    _check_data(start, dataset)
    origin = Origin(technique, framework, start.key)
    spent = start.meta.get("train_seconds", 0.0)
    return load_or_derive(start.model, origin, dataset, recipe, make, kept=kept, earlier=spent)


def load_or_teach(
    model: str,
    teachers: Sequence[Checkpoint],
    technique: str,
    framework: str,
    dataset: Dataset,
    recipe: Recipe,
    make: Callable[[Path], Made],
    *,
    kept: bool = True,
    earlier: float = 0.0,
) -> Checkpoint:
    """A `model` trained with the help of `teachers`, as by `load_or_derive`.

    Its origin starts at the teachers' keys, in their order; `train_seconds` leave theirs out, since teachers are
    trained once for many students. Raises EdgelabError where a teacher was trained on other images, and as `find` does.
    """
    for teacher in teachers:
        _check_data(teacher, dataset)
    origin = Origin(technique, framework, "+".join(teacher.key for teacher in teachers))
    return load_or_derive(model, origin, dataset, recipe, make, kept=kept, earlier=earlier)


def _check_data(given: Checkpoint, dataset: Dataset) -> None:
    if given.meta["data_fingerprint"] != dataset.fingerprint:
        raise EdgelabError(f"{given.key} was trained on other images than this {dataset.name}: load those")
