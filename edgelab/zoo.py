"""Trained networks, found again by what made them: model, data and recipe.

A checkpoint is one `.safetensors` file: weights under PyTorch's names, and in its header recipe, history and
provenance. It is looked for among those that come with edgelab, then in the cache; else it is trained and kept there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
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


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    `arrays` are the weights of the epoch that did best on the validation images; `history` has one row an epoch;
    `meta` holds class_names, data_fingerprint, train_seconds and the provenance (versions, commit, machine, when).
    """

    model: str
    data: str
    recipe: Recipe
    arrays: dict[str, np.ndarray]
    history: list[dict[str, float]]
    meta: dict[str, Any] = field(default_factory=dict)


def key(model: str, data: str, recipe: Recipe) -> str:
    """The checkpoint's file name without suffix: model, data, seed and a hash over all that identifies it."""
    identity = json.dumps([model, data, asdict(recipe)], sort_keys=True)
    readable = re.sub(r"[^\w.-]+", "_", f"{model}-{data}-seed{recipe.seed}")
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def keep(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write `checkpoint` into `folder` under its key and return the file; a half-written file is never seen."""
    path = folder / f"{key(checkpoint.model, checkpoint.data, checkpoint.recipe)}.safetensors"
    about = {name: getattr(checkpoint, name) for name in ("model", "data", "history", "meta")}
    weights.save(path, checkpoint.arrays, {**about, "recipe": asdict(checkpoint.recipe)})
    return path


def load(path: Path) -> Checkpoint:
    """The checkpoint in the file `path`, checked against its SHA-256.

    Raises EdgelabError where the file is missing, damaged, changed, or not a checkpoint.
    """
    arrays, about = weights.load(path)
    try:
        about["meta"]["data_fingerprint"]
        return Checkpoint(**{**about, "recipe": Recipe(**about["recipe"])}, arrays=arrays)
    except (KeyError, TypeError) as problem:
        raise EdgelabError(f"{path} is not a checkpoint this version of edgelab reads ({problem})") from None


def _fitting(path: Path, dataset: Dataset) -> Checkpoint | None:
    """The checkpoint at `path` if there is one and it was trained on these very images."""
    if not path.exists():
        return None
    checkpoint = load(path)
    if (identity := key(checkpoint.model, checkpoint.data, checkpoint.recipe)) != path.stem:
        raise EdgelabError(f"{path} holds {identity}, not what its name says: give it that name or delete it")
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


def _train(model: str, dataset: Dataset, recipe: Recipe, state_path: Path) -> Checkpoint:
    from edgelab.pytorch import models, train

    if dataset.train.images.shape[1:] != (32, 32, 3):
        size = "x".join(map(str, dataset.train.images.shape[1:]))
        raise EdgelabError(f"the networks take 32x32x3 images, got {size}: load the data with image_size=32")
    network = models.build(model, len(dataset.class_names), recipe.seed)
    history = train.train(network, dataset, recipe, state_path)
    meta = {
        "class_names": list(dataset.class_names),
        "data_fingerprint": dataset.fingerprint,
        "train_seconds": sum(row["seconds"] for row in history),
        **provenance.collect(),
    }
    return Checkpoint(model, dataset.name, recipe, models.to_arrays(network), history, meta)


def load_or_train(model: str, dataset: Dataset, recipe: Recipe, *, kept: bool = True) -> Checkpoint:
    """`find` the checkpoint, else train it in PyTorch and keep it in the cache.

    Training that was interrupted continues after its last finished epoch. Of several processes that ask for the same
    checkpoint one trains and the others wait. Raises EdgelabError for an unknown model and as `find` does.
    """
    name = key(model, dataset.name, recipe)
    if kept and (shipped := _fitting(KEPT / f"{name}.safetensors", dataset)):
        return shipped
    state_path = cache_folder() / "training" / f"{name}.state"
    with exclusive(
        state_path.with_suffix(".lock"), lambda: LOG.warning("another process trains %s: waiting for it", name)
    ):
        if trained := _cached(cache_folder() / "checkpoints" / f"{name}.safetensors", dataset):
            return trained
        checkpoint = _train(model, dataset, recipe, state_path)
        keep(checkpoint, cache_folder() / "checkpoints")
        state_path.unlink(missing_ok=True)
    return checkpoint
