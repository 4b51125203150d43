"""Techniques one after the other in PyTorch: int8 training that keeps zeros, and int8 training under teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgelab import zoo
from edgelab.combining import Distilled, Preserving, check_preservable
from edgelab.data import Dataset
from edgelab.distillation import Lesson, check_teachers
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe, check_unaveraged
from edgelab.pytorch import distillation, models, pruning, qat, train
from edgelab.zoo import Checkpoint

Plan = Preserving | Distilled


def fine_tune(
    prepared: nn.Module, dataset: Dataset, recipe: Recipe, lesson: Lesson | None = None, state_path: Path | None = None
) -> list[dict[str, float]]:
    """Train a model of `qat.prepare_int8` in place; weights that are zero stay zero. The history, as `train.train`.

    With a `lesson` its loss takes the place of the cross-entropy. Training resumes from `state_path`.
    """
    stays = [(weight, weight.detach() != 0) for weight in prepared.parameters() if weight.ndim > 1]

    @torch.no_grad()
    def hold(_: float) -> None:
        for weight, mask in stays:
            weight.mul_(mask.to(weight.device))

    return train.train(prepared, dataset, recipe, state_path, after_step=hold, lesson=lesson)


def load_or_quantize(
    start: Checkpoint,
    plan: Plan,
    dataset: Dataset,
    recipe: Recipe,
    teachers: Sequence[Checkpoint] = (),
    *,
    kept: bool = True,
) -> Checkpoint:
    """The network of `start`, trained on while quantized to int8 by `plan`: kept and found again as `zoo` does it.

    Zeros stay zero whatever the plan; one that is `Distilled` needs `teachers`. `qat.restore` gives the network back.
    Raises EdgelabError, before any work, where there is nothing to keep, clusters are to be kept (TensorFlow only), or
    the teachers do not fit.
    """
    check_unaveraged(recipe)
    network = pruning.restore(start)
    if isinstance(plan, Distilled):
        check_teachers(teachers, plan.lesson, dataset)
    elif plan.clusters:
        raise EdgelabError(f"{plan.technique} keeps clusters: PyTorch has no tool for that, use edgelab.tensorflow")
    else:
        check_preservable({name: a for name, a in models.to_arrays(network).items() if a.ndim > 1}, plan)

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        prepared = qat.prepare_int8(network, qat.spread(dataset.train.images))
        lesson = None
        if isinstance(plan, Distilled):
            asked = [distillation.restore(teacher) for teacher in teachers]
            lesson = distillation.lesson(asked, plan.lesson, dataset, recipe)
        history = fine_tune(prepared, dataset, recipe, lesson, state_path)
        return qat.to_arrays(prepared), history

    if isinstance(plan, Preserving):
        return zoo.load_or_make(start, plan.technique, "pytorch", dataset, recipe, make, kept=kept)
    from_all, spent = [start, *teachers], start.meta.get("train_seconds", 0.0)
    about = (start.model, from_all, plan.technique, "pytorch", dataset, recipe)
    return zoo.load_or_teach(*about, make, kept=kept, earlier=spent)
