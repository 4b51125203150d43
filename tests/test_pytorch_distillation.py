"""Distillation in PyTorch: the loss is the reference's, teachers stay as they are, and students are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import same

from edgelab import distillation as reference
from edgelab import zoo
from edgelab.data import Dataset
from edgelab.distillation import AVERAGES, Alone, Distillation
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe
from edgelab.pytorch import distillation, models, train

RECIPE = Recipe(epochs=2, batch=16, peak_rate=0.05, crop=2)
RNG = np.random.default_rng(0)


@pytest.fixture
def teachers(tiny: Dataset) -> list[zoo.Checkpoint]:
    """Three networks passed off as trained."""
    meta = {"data_fingerprint": tiny.fingerprint, "class_names": ["0", "1"]}
    return [
        zoo.Checkpoint(name, tiny.name, RECIPE, models.to_arrays(models.build(name, 2, seed=5)), [], meta)
        for name in ("plain_cnn", "resnet8", "ds_cnn")
    ]


@pytest.mark.parametrize("average", [None, *AVERAGES])
def test_the_loss_is_the_references(average: str | None) -> None:
    student, labels = RNG.normal(size=(5, 4)) * 2, np.array([3, 0, 1, 2, 2])
    teachers = RNG.normal(size=(5, 3 if average else 1, 4)) * 2
    plan = Distillation(3.0, 0.7, average)
    tensors = [torch.tensor(a) for a in (student, teachers, labels)]
    per_image = distillation.distillation_loss(*tensors, plan)
    assert per_image.shape == (5,)
    assert per_image.mean().item() == pytest.approx(reference.loss(student, teachers, labels, plan))


def test_the_teacher_itself_is_perfect() -> None:
    logits = torch.randn(4, 3)
    soft = distillation.distillation_loss(logits, logits[:, None], torch.zeros(4).long(), Distillation(alpha=1.0))
    assert soft.abs().max() < 1e-5


def test_gradients_reach_the_student_only_and_point_to_the_teacher() -> None:
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.tensor([[[3.0, 0.0]]], requires_grad=False)
    distillation.distillation_loss(student, teacher, torch.tensor([1]), Distillation(alpha=1.0)).sum().backward()
    assert student.grad is not None
    assert student.grad[0, 0] < 0 < student.grad[0, 1]


def test_mean_of_divergences_and_mean_of_probabilities_teach_the_same() -> None:
    logits, teachers = torch.randn(4, 3), torch.randn(4, 2, 3)
    slopes = []
    for average in AVERAGES:
        student = logits.clone().requires_grad_()
        plan = Distillation(2.0, 1.0, average)
        distillation.distillation_loss(student, teachers, torch.zeros(4).long(), plan).sum().backward()
        slopes.append(student.grad)
    assert torch.allclose(slopes[1], slopes[2], atol=1e-6)
    assert not torch.allclose(slopes[0], slopes[1], atol=1e-3)


def test_label_smoothing_is_for_the_labels() -> None:
    logits, targets = torch.randn(3, 4), torch.tensor([0, 1, 2])
    plan = Distillation(alpha=0.0)
    smooth = distillation.distillation_loss(logits, torch.randn(3, 1, 4), targets, plan, 0.2)
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.2, reduction="none")
    assert torch.allclose(smooth, expected)


def test_teachers_are_frozen_and_stay_as_they_are(tiny: Dataset) -> None:
    """Given in training mode: answers in evaluation mode, of what the student sees; no weight or statistic moves."""
    teacher = models.build("resnet8", 2, seed=3).train()
    before = models.to_arrays(teacher)
    taught = distillation.lesson([teacher], Distillation(), tiny, RECIPE)
    seen = []
    spy = replace(
        taught, answers=lambda inputs, chosen: seen.append((inputs, taught.answers(inputs, chosen))) or seen[-1][1]
    )
    train.train(models.build("resnet8", 2), tiny, RECIPE, lesson=spy)
    assert same(models.to_arrays(teacher), before)
    inputs, answers = seen[-1]
    assert not answers.requires_grad
    assert torch.allclose(answers[:, 0], teacher.eval()(inputs), atol=1e-6)


def test_fixed_answers_belong_to_their_images(tiny: Dataset) -> None:
    teacher = models.build("resnet8", 2, seed=3)
    known = train.logits(teacher, tiny.train.images)
    for given in (teacher, known):
        taught = distillation.lesson([given], Distillation(fixed=True), tiny, RECIPE)
        chosen = torch.tensor([5, 2])
        assert np.allclose(taught.answers(None, chosen)[:, 0].numpy(), known[[5, 2]], atol=1e-6)
    with pytest.raises(EdgelabError, match="answers given beforehand are fixed"):
        distillation.lesson([known], Distillation(), tiny, RECIPE)


def test_alpha_0_is_training_alone(tiny: Dataset) -> None:
    """The same order, augmentation and steps: only the loss differs."""
    teacher = models.build("resnet8", 2, seed=3)
    networks = [models.build("plain_cnn", 2) for _ in range(2)]
    for network, plan in zip(networks, (Distillation(alpha=0.0), Alone()), strict=True):
        distillation.teach(network, [teacher], plan, tiny, RECIPE)
    first, second = map(models.to_arrays, networks)
    assert all(np.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_the_loss_falls_towards_the_teacher(tiny: Dataset) -> None:
    """A teacher that has learnt, and a student that begins elsewhere."""
    recipe = Recipe(epochs=4, batch=16, peak_rate=0.05, crop=1, flip=False)
    teacher = models.build("resnet8", 2)
    train.train(teacher, tiny, recipe)
    history = distillation.teach(models.build("resnet8", 2, seed=1), [teacher], Distillation(), tiny, recipe)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


def test_students_are_kept_and_told_apart(tiny: Dataset, teachers: list[zoo.Checkpoint]) -> None:
    plan = Distillation(average="logits")
    made = distillation.load_or_distill("resnet8", teachers, plan, tiny, RECIPE)
    again = distillation.load_or_distill("resnet8", teachers, plan, tiny, RECIPE)
    assert same(made.arrays, again.arrays) and made.key == again.key
    assert made.key.startswith("resnet8-ensemble_distillation_logits_t4_alpha0_9-pytorch-tiny-seed0-")
    assert made.origin == zoo.Origin(plan.technique, "pytorch", "+".join(t.key for t in teachers))
    assert made.meta["train_seconds"] == pytest.approx(sum(row["seconds"] for row in made.history))
    restored = distillation.restore(made)
    assert train.accuracy(restored, tiny.validation) >= 0
    alone = distillation.load_or_distill("resnet8", teachers, Alone(), tiny, RECIPE)
    other = distillation.load_or_distill("resnet8", teachers[::-1], plan, tiny, RECIPE)
    assert len({made.key, alone.key, other.key}) == 3
    assert alone.origin == zoo.Origin("distillation_without_teacher", "pytorch", "")


def test_continues_after_an_interruption(
    tiny: Dataset, teachers: list[zoo.Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, recipe = Distillation(), replace(RECIPE, epochs=3)
    given = ("resnet8", teachers[:1], plan, tiny, recipe)
    undisturbed = distillation.load_or_distill(*given).arrays
    monkeypatch.setenv("EDGELAB_CACHE", str(tmp_path / "second"))
    epochs, run = [], train._epoch

    def stops_in_the_third(*arguments: object) -> float:
        epochs.append(arguments[-1])
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(train, "_epoch", stops_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        distillation.load_or_distill(*given)
    assert same(distillation.load_or_distill(*given).arrays, undisturbed)
    assert epochs == [0, 1, 2, 2]


def test_nothing_is_begun_with_a_wrong_teacher(
    tiny: Dataset, teachers: list[zoo.Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train", None)
    elsewhere = replace(teachers[0], meta={**teachers[0].meta, "data_fingerprint": "other"})
    nan = replace(teachers[0], arrays={**teachers[0].arrays, "conv1.bias": np.full(32, np.nan, np.float32)})
    for wrong, said in ((elsewhere, "trained on other images"), (nan, "'conv1.bias' are NaN")):
        with pytest.raises(EdgelabError, match=said):
            distillation.load_or_distill("resnet8", [wrong], Distillation(), tiny, RECIPE)
    with pytest.raises(EdgelabError, match="built in TensorFlow only"):
        distillation.load_or_distill("mobilenet_v2", teachers[:1], Distillation(), tiny, RECIPE)
    with pytest.raises(EdgelabError, match="answers with 3, the data have 2 classes"):
        distillation.lesson([models.build("resnet8", 3)], Distillation(), tiny, RECIPE)
    exploded = models.build("resnet8", 2)
    exploded.fc.weight.data *= np.inf
    with pytest.raises(EdgelabError, match=r"to \d+ of \d+ images are NaN or infinite"):
        distillation.lesson([exploded], Distillation(), tiny, RECIPE)
