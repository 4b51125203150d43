"""Training in PyTorch: the course's heavy runs happen here, on a GPU where there is one."""

from __future__ import annotations

import copy
import logging
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from edgelab.data import Dataset, Split
from edgelab.distillation import Lesson
from edgelab.files import atomic_path
from edgelab.profiles import Recipe, is_best, one_cycle

LOG = logging.getLogger(__name__)
DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def _device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_input(images: Tensor) -> Tensor:
    """uint8 NHWC to the networks' input: float32 NCHW in [-1, 1), channels_last in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32) / 128 - 1


def augmented(
    padded: Tensor, chosen: Tensor, size: tuple[int, int], recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """The `chosen` images of `padded` (uint8 NHWC, wider by `crop` on each side), shifted and mirrored at random."""
    n, (height, width) = len(chosen), size
    shift = torch.randint(0, 2 * recipe.crop + 1, (2, n, 1), generator=generator)
    columns = torch.arange(width).repeat(n, 1)
    if recipe.flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows = (torch.arange(height) + shift[0]).to(padded.device)
    columns = (columns + shift[1]).to(padded.device)
    return padded[chosen.to(padded.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


@torch.no_grad()
def logits(model: nn.Module, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """Logits (n, classes) of `model`, in evaluation mode, for uint8 NHWC `images`."""
    where = next(model.parameters()).device
    model.eval()
    parts = [model(to_input(torch.tensor(images[i : i + batch]).to(where))).cpu() for i in range(0, len(images), batch)]
    return torch.cat(parts).numpy()


def accuracy(model: nn.Module, split: Split) -> float:
    """Share of `split` that `model` classifies correctly, 0..1."""
    return float((logits(model, split.images).argmax(1) == split.labels).mean())


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    spared = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.peak_rate, momentum=recipe.momentum, nesterov=True)


def _epoch(
    model: nn.Module,
    padded: Tensor,
    split: Split,
    recipe: Recipe,
    optimizer: torch.optim.SGD,
    after_step: Callable[[float], None] | None,
    averaged: AveragedModel | None,
    lesson: Lesson | None,
    epoch: int,
) -> float:
    """One pass over `split`; the order and the augmentation follow from (seed, epoch) alone. Returns the mean loss."""
    generator = torch.Generator().manual_seed(recipe.seed * 10_000 + epoch)
    labels = torch.tensor(split.labels, device=padded.device)
    order = torch.randperm(len(split), generator=generator)[: recipe.images]
    steps = recipe.steps(len(split))
    total = 0.0
    model.train()
    for step in range(steps):
        progress = (epoch + (step + 1) / steps) / recipe.epochs
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak_rate * one_cycle(progress)
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        inputs = to_input(augmented(padded, chosen, split.images.shape[1:3], recipe, generator))
        targets = labels[chosen.to(labels.device)]
        if lesson:
            loss = lesson.loss(model(inputs), targets, lesson.answers(inputs, chosen)).mean()
        else:
            loss = F.cross_entropy(model(inputs), targets, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after_step:
            after_step(progress)
        if averaged:
            averaged.update_parameters(model)
        total += loss.item() * len(chosen)
    return total / len(order)


def _save_state(path: Path, recipe: Recipe, dataset: Dataset, state: dict) -> None:
    with atomic_path(path) as temporary:
        torch.save({"recipe": recipe.fields(), "data_fingerprint": dataset.fingerprint, **state}, temporary)


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _load_state(path: Path, model: nn.Module, recipe: Recipe, dataset: Dataset) -> dict | None:
    """The saved state; None, with a line on the log, where it is damaged or belongs to other training."""
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise OSError(f"wrong checksum of {broken}")
        state = torch.load(path, weights_only=True, map_location="cpu")
        fits = {
            "recipe": state["recipe"] == recipe.fields(),
            "data": state["data_fingerprint"] == dataset.fingerprint,
            "model": _shapes(state["model"]) == _shapes(model.state_dict()),
        }
    except FileNotFoundError:
        return None
    except DAMAGE:
        LOG.warning("%s is not a training state that can be read: training starts afresh", path)
        return None
    if others := ", ".join(part for part, same in fits.items() if not same):
        LOG.warning("%s belongs to training with another %s: training starts afresh", path, others)
        return None
    return state


def _averaged(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """The moving average of the weights and of BatchNorm's statistics, where the recipe asks for one."""
    if recipe.ema is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)


def _padded(images: np.ndarray, margin: int) -> Tensor:
    """Images (n, h, w, 3) with `margin` mirrored pixels on every side, on the device."""
    margins = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return torch.from_numpy(np.pad(images, margins, mode="reflect")).to(_device())


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    state_path: Path | None = None,
    *,
    after_step: Callable[[float], None] | None = None,
    counts_from: float = 0.0,
    lesson: Lesson | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place and leave it with the weights of the epoch that did best on the *validation* images.

    Returns one row an epoch: epoch, loss, validation_accuracy, seconds. After each epoch the whole state is kept in
    `state_path`; the same call continues from there after an interruption and gives the same weights, since order and
    augmentation depend on the seed and the epoch alone. The test images are never looked at. Where the recipe averages
    weights, the rows have unaveraged_accuracy as well, that of the weights themselves on the validation images.

    `after_step` is called after every step with the progress of the training, 0..1. Epochs that end before
    `counts_from` of it cannot be the best: a network that is being pruned bit by bit is not yet what it is to become.
    With a `lesson` its loss takes the place of the cross-entropy with the labels.
    """
    torch.backends.cudnn.deterministic = True
    model.to(_device())
    optimizer = _optimizer(model, recipe)
    history: list[dict[str, float]] = []
    best = copy.deepcopy(model.state_dict())
    averaged = _averaged(model, recipe)
    if state_path and (state := _load_state(state_path, model, recipe, dataset)):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history, best = state["history"], state["best"]
        if averaged:
            averaged.load_state_dict(state["averaged"])
    padded = _padded(dataset.train.images, recipe.crop)
    bar = tqdm(range(len(history), recipe.epochs), "training", recipe.epochs, initial=len(history), unit="epoch")
    for epoch in bar:
        start = time.perf_counter()
        loss = _epoch(model, padded, dataset.train, recipe, optimizer, after_step, averaged, lesson, epoch)
        row = {"epoch": epoch + 1, "loss": loss}
        if averaged:
            row["unaveraged_accuracy"] = accuracy(model, dataset.validation)
        candidate = averaged.module if averaged else model
        score = accuracy(candidate, dataset.validation)
        if is_best(score, history, recipe, counts_from):
            best = copy.deepcopy(candidate.state_dict())
        history.append({**row, "validation_accuracy": score, "seconds": time.perf_counter() - start})
        bar.set_postfix(loss=f"{loss:.3f}", validation=f"{score:.1%}")
        if state_path:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history, "best": best}
            state |= {"averaged": averaged.state_dict()} if averaged else {}
            _save_state(state_path, recipe, dataset, state)
    model.load_state_dict(best)
    model.to("cpu").eval()
    return history
