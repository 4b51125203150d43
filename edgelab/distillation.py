"""Knowledge distillation, as far as no framework is needed: what the student is to learn, and from which teachers.

A teacher's logits are softened by a temperature T and matched by the Kullback-Leibler divergence
KL(teacher || student), times T**2 so that the gradients keep their size whatever T is, beside the cross-entropy with
the labels. After Hinton, Vinyals and Dean 2015, arXiv:1503.02531.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.pruning import check_finite
from edgelab.zoo import Checkpoint

STUDENTS = (
    "plain_cnn",
    "resnet8",
    "ds_cnn",
    "resnet20",
    "mobilenet_v3_small_25",
    "mobilenet_v3_small_50",
    "mobilenet_v2",
)
"""Networks that can be taught: the course's own, ResNet-20, MobileNetV3-Small at two widths, and MobileNetV2."""
PROBED = 64  # training images on which a teacher is tried before any work
AVERAGES = ("logits", "probabilities", "kl")
"""How several teachers become one: their logits are averaged, or what softmax makes of them, or the divergences."""


def _number(value: float) -> str:
    return f"{value:g}".replace(".", "_")


@dataclass(frozen=True)
class Distillation:
    """The loss is `alpha` parts of the teacher's to 1 - `alpha` of the labels', softened by `temperature`.

    Several teachers need an `average`, one of AVERAGES. They look at what the student sees, augmented as it is; with
    `fixed` they have looked at each training image once, as it is, which costs no time while the student trains.
    """

    temperature: float = 4.0
    alpha: float = 0.9
    average: str | None = None
    fixed: bool = False

    def __post_init__(self) -> None:
        """Refuse an impossible temperature, share or average at once."""
        check_temperature(self.temperature)
        check_alpha(self.alpha)
        if self.average not in (None, *AVERAGES):
            raise EdgelabError(f"unknown average {self.average!r}: choose one of {', '.join(AVERAGES)}")

    @property
    def technique(self) -> str:
        """The name in the ledger, such as distillation_t4_alpha0_9 or ensemble_distillation_logits_t4_alpha0_9."""
        of = f"ensemble_distillation_{self.average}" if self.average else "distillation"
        fixed = "_fixed" if self.fixed else ""
        return f"{of}_t{_number(self.temperature)}_alpha{_number(self.alpha)}{fixed}"


@dataclass(frozen=True)
class Alone:
    """The control: the same student, recipe and seed, and no teacher."""

    technique: str = "distillation_without_teacher"


Plan = Distillation | Alone


@dataclass(frozen=True)
class Lesson:
    """What teachers add to a training.

    `answers` gives the teachers' logits (n, teachers, classes) on a batch, for the augmented inputs and the numbers of
    the training images they were made of. `loss` makes a value for each image (n,) of the student's logits
    (n, classes), the track's targets (class numbers in PyTorch, one-hot in TensorFlow) and these answers.
    """

    answers: Callable[[Any, Any], Any]
    loss: Callable[[Any, Any, Any], Any]


def check_temperature(temperature: float) -> float:
    """`temperature` as a float; raises EdgelabError unless it is a finite number above 0."""
    if (
        isinstance(temperature, bool)
        or not isinstance(temperature, int | float | np.number)
        or not 0 < temperature < math.inf
    ):
        raise EdgelabError(f"expected a temperature above 0, got {temperature!r}: 2 to 8 are usual, 1 changes nothing")
    return float(temperature)


def check_alpha(alpha: float) -> float:
    """`alpha` as a float; raises EdgelabError unless it is a number from 0 (labels only) to 1 (teacher only)."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.number) or not 0 <= alpha <= 1:
        raise EdgelabError(f"expected alpha, the teacher's share of the loss, from 0 to 1, got {alpha!r}")
    return float(alpha)


def check_student(name: str, built: Collection[str]) -> None:
    """Raise EdgelabError unless `name` is one of STUDENTS and among those `built` in this track."""
    if name not in STUDENTS:
        raise EdgelabError(f"unknown student {name!r}: choose one of {', '.join(STUDENTS)}")
    if name not in built:
        raise EdgelabError(f"student {name!r} is built in TensorFlow only: see edgelab.tensorflow.distillation")


def check_number(teachers: int, plan: Distillation) -> None:
    """Raise EdgelabError unless there are `teachers`, and an average in the plan if, and only if, they are several."""
    if not teachers:
        raise EdgelabError("no teacher: expected at least one trained network to learn from")
    if teachers > 1 and plan.average is None:
        raise EdgelabError(f"{teachers} teachers need an average: choose one of {', '.join(AVERAGES)}")
    if teachers == 1 and plan.average is not None:
        raise EdgelabError(f"one teacher leaves nothing to average by {plan.average}: leave the average out")


def check_teachers(teachers: Sequence[Checkpoint], plan: Distillation, dataset: Dataset) -> None:
    """Raise EdgelabError unless each of the `teachers` knows the data set's classes, from its images, and is finite."""
    check_number(len(teachers), plan)
    for teacher in teachers:
        known, wanted = list(teacher.meta["class_names"]), list(dataset.class_names)
        if known != wanted:
            odd = next((f"{a!r} instead of {b!r}" for a, b in zip(known, wanted, strict=False) if a != b), "no others")
            raise EdgelabError(
                f"teacher {teacher.key} knows {len(known)} classes ({odd}), {dataset.name} has {len(wanted)}: "
                "take a teacher trained for these classes"
            )
        if teacher.meta["data_fingerprint"] != dataset.fingerprint:
            raise EdgelabError(
                f"teacher {teacher.key} was trained on other images than this {dataset.name}: what is a test image "
                "here may have been a training image there"
            )
        check_finite(teacher.arrays)


def asked(teachers: Sequence[Checkpoint], plan: Plan, dataset: Dataset) -> list[Checkpoint]:
    """Those of the `teachers` that the `plan` asks, none with `Alone`. Raises EdgelabError as `check_teachers` does."""
    if isinstance(plan, Alone):
        return []
    check_teachers(teachers, plan, dataset)
    return list(teachers)


def check_answers(answers: np.ndarray, classes: int) -> None:
    """Raise EdgelabError unless `answers`, a teacher's logits (n, classes), are finite and for so many `classes`."""
    if answers.ndim != 2 or answers.shape[1] != classes:
        got = "x".join(map(str, answers.shape[1:])) or "one value"
        raise EdgelabError(
            f"the teacher answers with {got}, the data have {classes} classes: expected a logit for each"
        )
    if wrong := int((~np.isfinite(answers)).any(1).sum()):
        raise EdgelabError(f"the teacher's answers to {wrong} of {len(answers)} images are NaN or infinite")


def check_given(numbers: Sequence[int], plan: Distillation, images: int) -> None:
    """Raise EdgelabError unless teachers given as so many answers have one for each training image, in a fixed plan."""
    if numbers and not (plan.fixed and set(numbers) == {images}):
        raise EdgelabError(
            f"answers given beforehand are fixed: expected a plan with fixed=True and answers to all {images} training "
            f"images, got {', '.join(map(str, numbers))}"
        )


def check_shapes(student: Sequence[int | None], teachers: Sequence[int | None]) -> None:
    """Raise EdgelabError unless logits of shape `student` (n, classes) fit answers (n, teachers, classes)."""
    if len(student) != 2 or len(teachers) != 3 or student[1] != teachers[2]:
        shapes = " and ".join("x".join(map(str, shape)) for shape in (student, teachers))
        raise EdgelabError(
            f"expected logits (n, classes) of the student and (n, teachers, classes) of its teachers, got {shapes}"
        )


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The logarithms of the probabilities that `logits` (..., classes) give, softened by `temperature`."""
    scaled = np.asarray(logits, np.float64) / check_temperature(temperature)
    scaled -= scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def softened(teachers: np.ndarray, plan: Distillation) -> np.ndarray:
    """The probabilities (n, t, classes) a student is to match, for the logits (n, teachers, classes) of its `teachers`.

    t is 1, but for the average `kl`: there each teacher is matched by itself, and the divergences are averaged.
    """
    if plan.average == "logits":
        teachers = np.asarray(teachers).mean(1, keepdims=True)
    probabilities = np.exp(log_softmax(teachers, plan.temperature))
    return probabilities.mean(1, keepdims=True) if plan.average == "probabilities" else probabilities


def divergence(student: np.ndarray, teachers: np.ndarray, plan: Distillation) -> float:
    """KL(teacher || student) in nats, the mean over images, of softened logits: 0 where both say the same.

    `student` is (n, classes), `teachers` (n, teachers, classes). Raises EdgelabError where they do not fit.
    """
    check_shapes(np.shape(student), np.shape(teachers))
    check_number(np.shape(teachers)[1], plan)
    p, log_q = softened(teachers, plan), log_softmax(student, plan.temperature)[:, None]
    log_p = np.log(np.maximum(p, np.finfo(np.float64).tiny))
    return float((p * (log_p - log_q)).sum(-1).mean())


def loss(student: np.ndarray, teachers: np.ndarray, labels: np.ndarray, plan: Distillation) -> float:
    """The distillation loss in NumPy: the reference both tracks are held against.

    `labels` are int (n,); the rest is as for `divergence`.
    """
    soft = plan.temperature**2 * divergence(student, teachers, plan)
    hard = -log_softmax(student)[np.arange(len(labels)), labels].mean()
    return float(plan.alpha * soft + (1 - plan.alpha) * hard)
