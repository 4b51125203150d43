"""Distillation without a framework: its loss, its plans, and teachers that cannot teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgelab import data, distillation, zoo
from edgelab.data import Dataset
from edgelab.distillation import AVERAGES, Alone, Distillation
from edgelab.errors import EdgelabError
from edgelab.ledger import TECHNIQUE
from edgelab.profiles import Recipe

RNG = np.random.default_rng(0)
STUDENT, TEACHERS = RNG.normal(size=(6, 4)) * 3, RNG.normal(size=(6, 3, 4)) * 3
LABELS = np.array([0, 1, 2, 3, 0, 1])


@pytest.fixture
def teacher(tiny: Dataset) -> zoo.Checkpoint:
    """A checkpoint that says all that is asked of a teacher."""
    meta = {"data_fingerprint": tiny.fingerprint, "class_names": list(tiny.class_names)}
    return zoo.Checkpoint("resnet8", tiny.name, Recipe(epochs=1), {"w": np.ones(3, np.float32)}, [], meta)


@pytest.mark.parametrize("average", [None, *AVERAGES])
def test_a_student_that_answers_as_its_teachers_do_has_nothing_to_learn(average: str | None) -> None:
    teachers = TEACHERS[:, [0] * (3 if average else 1)]
    assert distillation.divergence(TEACHERS[:, 0], teachers, Distillation(3.0, average=average)) == pytest.approx(0)
    assert distillation.divergence(STUDENT, teachers, Distillation(3.0, average=average)) > 0.1


def test_the_divergence_is_that_of_scipy_and_not_symmetric() -> None:
    from scipy.special import rel_entr, softmax

    p, q = softmax(TEACHERS[:, 0] / 2, -1), softmax(STUDENT / 2, -1)
    plan = Distillation(2.0)
    assert distillation.divergence(STUDENT, TEACHERS[:, :1], plan) == pytest.approx(rel_entr(p, q).sum(1).mean())
    swapped = distillation.divergence(TEACHERS[:, 0], STUDENT[:, None], plan)
    assert abs(swapped - rel_entr(p, q).sum(1).mean()) > 0.01


def test_the_loss_is_the_mixture_with_t_squared() -> None:
    from scipy.special import log_softmax

    hard = -log_softmax(STUDENT, 1)[np.arange(6), LABELS].mean()
    for temperature, alpha in ((1.0, 0.0), (4.0, 0.3), (4.0, 1.0)):
        plan = Distillation(temperature, alpha)
        soft = distillation.divergence(STUDENT, TEACHERS[:, :1], plan)
        expected = alpha * temperature**2 * soft + (1 - alpha) * hard
        assert distillation.loss(STUDENT, TEACHERS[:, :1], LABELS, plan) == pytest.approx(expected)


def test_t_squared_keeps_the_size_of_the_gradient() -> None:
    """Hinton et al. 2015, equation 4: at high temperatures the soft part's gradient falls with 1/T**2 without it."""

    def slope(temperature: float) -> float:
        plan, nudge = Distillation(temperature, 1.0), np.zeros_like(STUDENT)
        nudge[:, 0] = 1e-4
        ends = [distillation.loss(STUDENT + n, TEACHERS[:, :1], LABELS, plan) for n in (nudge, -nudge)]
        return (ends[0] - ends[1]) / 2e-4

    assert slope(100) == pytest.approx(slope(50), rel=0.05)
    assert slope(100) / 100**2 == pytest.approx(slope(50) / 50**2 / 4, rel=0.05)


def test_averages_differ_as_they_should() -> None:
    """Mean divergence = divergence from the mean probabilities + what the teachers disagree by, whoever the student."""
    other = RNG.normal(size=STUDENT.shape)
    by = {
        average: [distillation.divergence(s, TEACHERS, Distillation(2.0, average=average)) for s in (STUDENT, other)]
        for average in AVERAGES
    }
    gaps = [kl - p for kl, p in zip(by["kl"], by["probabilities"], strict=True)]
    assert gaps[0] == pytest.approx(gaps[1]) and gaps[0] > 0.1
    assert abs(by["logits"][0] - by["probabilities"][0]) > 0.01
    assert np.allclose(
        distillation.softened(TEACHERS, Distillation(2.0, average="logits"))[:, 0],
        distillation.softened(TEACHERS.mean(1)[:, None], Distillation(2.0))[:, 0],
    )


def test_log_softmax_does_not_overflow() -> None:
    assert np.isfinite(distillation.log_softmax(np.array([[1e5, -1e5]]), 0.5)).all()


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "4", True])
def test_impossible_temperatures(temperature: object) -> None:
    with pytest.raises(EdgelabError, match="expected a temperature above 0, got"):
        Distillation(temperature)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), None, True])
def test_impossible_alphas(alpha: object) -> None:
    with pytest.raises(EdgelabError, match="expected alpha, the teacher's share of the loss, from 0 to 1, got"):
        Distillation(alpha=alpha)  # type: ignore[arg-type]


def test_unknown_average_and_student() -> None:
    with pytest.raises(EdgelabError, match=r"unknown average 'median': choose one of logits, probabilities, kl"):
        Distillation(average="median")
    with pytest.raises(EdgelabError, match=r"unknown student 'vgg': choose one of plain_cnn, .*mobilenet_v2"):
        distillation.check_student("vgg", ["vgg"])
    with pytest.raises(EdgelabError, match=r"'mobilenet_v2' is built in TensorFlow only"):
        distillation.check_student("mobilenet_v2", ["resnet8"])


@pytest.mark.parametrize(
    ("number", "average", "said"),
    [(0, None, "no teacher"), (2, None, "need an average"), (1, "kl", "nothing to average by kl")],
)
def test_number_of_teachers(number: int, average: str | None, said: str) -> None:
    with pytest.raises(EdgelabError, match=said):
        distillation.check_number(number, Distillation(average=average))


def test_teachers_that_cannot_teach(teacher: zoo.Checkpoint, tiny: Dataset) -> None:
    plan = Distillation()
    distillation.check_teachers([teacher], plan, tiny)
    for classes, said in ((["0", "1", "2"], "knows 3 classes"), (["0", "cat"], "'cat' instead of '1'")):
        wrong = replace(teacher, meta={**teacher.meta, "class_names": classes})
        with pytest.raises(EdgelabError, match=said):
            distillation.check_teachers([wrong], plan, tiny)
    elsewhere = replace(teacher, meta={**teacher.meta, "data_fingerprint": "other"})
    with pytest.raises(EdgelabError, match=f"{teacher.key} was trained on other images than this tiny"):
        distillation.check_teachers([elsewhere], plan, tiny)
    broken = replace(teacher, arrays={"w": np.array([1, np.nan], np.float32)})
    with pytest.raises(EdgelabError, match="1 of 2 values in 'w' are NaN or infinite"):
        distillation.check_teachers([broken], plan, tiny)


def test_answers_that_do_not_fit() -> None:
    distillation.check_answers(TEACHERS[:, 0], 4)
    with pytest.raises(EdgelabError, match="answers with 4, the data have 5 classes"):
        distillation.check_answers(TEACHERS[:, 0], 5)
    with pytest.raises(EdgelabError, match="to 1 of 6 images are NaN or infinite"):
        distillation.check_answers(np.where(np.arange(6)[:, None] == 2, np.nan, TEACHERS[:, 0]), 4)
    with pytest.raises(EdgelabError, match=r"got 6x4 and 6x3x5"):
        distillation.divergence(STUDENT, np.zeros((6, 3, 5)), Distillation(average="kl"))


@pytest.mark.parametrize("plan", [Distillation(), Distillation(0.5, 1, "kl", True), Alone()])
def test_techniques_are_words_of_the_ledger(plan: distillation.Plan) -> None:
    assert TECHNIQUE.fullmatch(plan.technique)


def test_techniques_tell_plans_apart() -> None:
    plans = [Distillation(), Distillation(2), Distillation(alpha=0.5), Distillation(fixed=True), Alone()]
    plans += [Distillation(average=average) for average in AVERAGES]
    assert len({plan.technique for plan in plans}) == len(plans)
    assert Distillation().technique == "distillation_t4_alpha0_9"
    assert Distillation(average="logits").technique == "ensemble_distillation_logits_t4_alpha0_9"


def test_fewer_images_are_a_data_set_of_their_own(digits: Dataset) -> None:
    few = data.with_fewer(digits, 100)
    assert len(few.train) == 100 and few.name == "digits-100" and few.fingerprint != digits.fingerprint
    assert np.bincount(few.train.labels).min() >= 9
    assert few.test is digits.test and few.validation is digits.validation
    assert data.with_fewer(digits, 100).fingerprint == few.fingerprint
