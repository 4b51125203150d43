"""Knowledge distillation in PyTorch: frozen teachers look at what the student sees, and their answers join its loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgelab import zoo
from edgelab.data import Dataset
from edgelab.distillation import (
    PROBED,
    Alone,
    Distillation,
    Lesson,
    Plan,
    asked,
    check_answers,
    check_given,
    check_number,
    check_shapes,
    check_student,
)
from edgelab.profiles import Recipe
from edgelab.pytorch import models, train
from edgelab.pytorch import teachers as transfer
from edgelab.teachers import answers, is_transferred
from edgelab.zoo import Checkpoint


def distillation_loss(
    logits: Tensor, teachers: Tensor, targets: Tensor, plan: Distillation, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of every image (n,): the plan's mixture of KL(teacher || student) and cross-entropy with the labels.

    `logits` (n, classes) are the student's, `teachers` (n, teachers, classes) those of its teachers, `targets` class
    numbers (n,). Raises EdgelabError where the shapes do not fit.
    """
    check_shapes(logits.shape, teachers.shape)
    check_number(teachers.shape[1], plan)
    temperature = plan.temperature
    if plan.average == "logits":
        teachers = teachers.mean(1, keepdim=True)
    log_p = F.log_softmax(teachers / temperature, -1)
    if plan.average == "probabilities":
        log_p = torch.logsumexp(log_p, 1, keepdim=True) - math.log(log_p.shape[1])
    log_q = F.log_softmax(logits / temperature, -1)[:, None].expand_as(log_p)
    soft = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean(1)
    hard = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    return plan.alpha * temperature**2 * soft + (1 - plan.alpha) * hard


def frozen(teacher: nn.Module) -> nn.Module:
    """A copy of `teacher` that cannot learn: no gradients, and evaluation mode, so that BatchNorm stays as it is."""
    return copy.deepcopy(teacher).eval().requires_grad_(False)


Teacher = nn.Module | np.ndarray
"""A network, or its answers, logits (n, classes), to the training images in their order."""


def lesson(teachers: Sequence[Teacher], plan: Distillation, dataset: Dataset, recipe: Recipe) -> Lesson:
    """What makes any training, `train.train(..., lesson=...)`, one under `teachers`, which stay as they are.

    Raises EdgelabError where their number does not fit the plan, or their answers the classes, or are not finite.
    """
    check_given([len(t) for t in teachers if isinstance(t, np.ndarray)], plan, len(dataset.train))
    check_number(len(teachers), plan)
    images = dataset.train.images if plan.fixed else dataset.train.images[:PROBED]
    still = [frozen(teacher).to(train._device()) for teacher in teachers if isinstance(teacher, nn.Module)]
    looked = iter(still)
    known: list[np.ndarray] = [t if isinstance(t, np.ndarray) else train.logits(next(looked), images) for t in teachers]
    for given in known:
        check_answers(given, len(dataset.class_names))
    table = torch.from_numpy(np.stack(known, 1)).to(train._device())

    @torch.no_grad()
    def look(inputs: Tensor, chosen: Tensor) -> Tensor:
        return torch.stack([teacher(inputs) for teacher in still], 1)

    def recall(inputs: Tensor, chosen: Tensor) -> Tensor:
        return table[chosen.to(table.device)]

    def loss(logits: Tensor, targets: Tensor, answers: Tensor) -> Tensor:
        return distillation_loss(logits, answers, targets, plan, recipe.label_smoothing)

    return Lesson(recall if plan.fixed else look, loss)


def student(name: str, classes: int = 10, seed: int = 0) -> nn.Module:
    """An untrained student, one of edgelab.distillation.STUDENTS, with weights drawn from `seed`.

    Raises EdgelabError for an unknown name, and for a network that only the TensorFlow track builds.
    """
    check_student(name, (*models.MODELS, *models.OTHERS))
    return models.build(name, classes, seed)


def teach(
    model: nn.Module,
    teachers: Sequence[Teacher],
    plan: Plan,
    dataset: Dataset,
    recipe: Recipe,
    state_path: Path | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place under `teachers`, or alone if that is the plan. Returns the history as `train.train` does.

    Training resumes from `state_path`. Raises EdgelabError where `lesson` does.
    """
    taught = None if isinstance(plan, Alone) else lesson(teachers, plan, dataset, recipe)
    return train.train(model, dataset, recipe, state_path, lesson=taught)


def restore(checkpoint: Checkpoint) -> nn.Module:
    """The network of a teacher's or a student's checkpoint.

    Raises EdgelabError where the weights are not those of the checkpoint's model.
    """
    if is_transferred(checkpoint):
        return transfer.restore(checkpoint)
    network = student(checkpoint.model, len(checkpoint.meta["class_names"]))
    return models.from_arrays(network, checkpoint.arrays)


def _teacher(checkpoint: Checkpoint, plan: Plan, dataset: Dataset) -> Teacher:
    """The network, or where it answers once and from a frozen base, what it makes of the features kept for that."""
    if isinstance(plan, Distillation) and plan.fixed and is_transferred(checkpoint):
        return answers(checkpoint, transfer.base(checkpoint), dataset)
    return restore(checkpoint)


def load_or_distill(
    name: str,
    teachers: Sequence[Checkpoint],
    plan: Plan,
    dataset: Dataset,
    recipe: Recipe,
    *,
    kept: bool = True,
) -> Checkpoint:
    """The student `name`, trained from nothing with `recipe` under `teachers`: kept and found again as `zoo` does it.

    With the plan `Alone` the teachers are not asked. Only training and validation images are looked at. Raises
    EdgelabError, before any work, where the teachers do not fit the plan or the data.
    """
    check_student(name, (*models.MODELS, *models.OTHERS))
    known = asked(teachers, plan, dataset)

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        network: Any = student(name, len(dataset.class_names), recipe.seed)
        history = teach(
            network, [_teacher(teacher, plan, dataset) for teacher in known], plan, dataset, recipe, state_path
        )
        return models.to_arrays(network), history

    return zoo.load_or_teach(name, known, plan.technique, "pytorch", dataset, recipe, make, kept=kept)
