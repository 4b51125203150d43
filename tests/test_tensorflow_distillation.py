"""Distillation in TensorFlow: the loss is the reference's, teachers stay as they are, and students are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support import eagerly, same

from edgelab import artifact, zoo
from edgelab import distillation as reference
from edgelab.data import Dataset
from edgelab.distillation import AVERAGES, Alone, Distillation
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe
from edgelab.tensorflow import distillation, models, train

RECIPE = Recipe(epochs=2, batch=16, peak_rate=0.05, crop=2)
RNG = np.random.default_rng(0)


@pytest.fixture
def teachers(tiny: Dataset) -> list[zoo.Checkpoint]:
    """Two networks passed off as trained."""
    meta = {"data_fingerprint": tiny.fingerprint, "class_names": ["0", "1"]}
    return [
        zoo.Checkpoint(name, tiny.name, RECIPE, models.to_arrays(models.build(name, 2, seed=5)), [], meta)
        for name in ("plain_cnn", "resnet8")
    ]


@pytest.mark.parametrize("average", [None, *AVERAGES])
def test_the_loss_is_the_references(average: str | None) -> None:
    student, labels = RNG.normal(size=(5, 4)).astype(np.float32) * 2, np.array([3, 0, 1, 2, 2])
    teachers = RNG.normal(size=(5, 3 if average else 1, 4)).astype(np.float32) * 2
    plan = Distillation(3.0, 0.7, average)
    one_hot = tf.one_hot(labels, 4)
    per_image = distillation.distillation_loss(tf.constant(student), tf.constant(teachers), one_hot, plan)
    assert per_image.shape == (5,)
    assert per_image.numpy().mean() == pytest.approx(reference.loss(student, teachers, labels, plan), rel=1e-5)


def test_the_same_loss_in_both_tracks() -> None:
    torch = pytest.importorskip("torch")
    from edgelab.pytorch import distillation as twin

    student, teachers = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 4), (5, 2, 4)))
    labels, plan = np.array([3, 0, 1, 2, 2]), Distillation(2.0, 0.3, "probabilities")
    ours = distillation.distillation_loss(tf.constant(student), tf.constant(teachers), tf.one_hot(labels, 4), plan, 0.1)
    theirs = twin.distillation_loss(*map(torch.tensor, (student, teachers, labels)), plan, 0.1)
    assert np.allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


def test_the_teacher_itself_is_perfect() -> None:
    logits = tf.random.normal((4, 3))
    soft = distillation.distillation_loss(logits, logits[:, None], tf.one_hot([0] * 4, 3), Distillation(alpha=1.0))
    assert np.abs(soft.numpy()).max() < 1e-5


def test_teachers_are_frozen_and_see_what_the_student_sees(tiny: Dataset) -> None:
    teacher = models.build("resnet8", 2, seed=3)
    before = models.to_arrays(teacher)
    taught = distillation.lesson([teacher], Distillation(), tiny, RECIPE)
    seen = []
    spy = replace(
        taught, answers=lambda inputs, chosen: seen.append((inputs, taught.answers(inputs, chosen))) or seen[-1][1]
    )
    train.train(models.build("plain_cnn", 2), tiny, replace(RECIPE, epochs=1), lesson=spy)
    assert same(models.to_arrays(teacher), before)
    inputs, answers = seen[-1]
    assert np.allclose(answers[:, 0], teacher(inputs, training=False).numpy(), atol=1e-5)


def test_the_reported_loss_is_the_lessons(tiny: Dataset) -> None:
    """At learning rate 0: the mean over the images, without the weight decay, batches of different sizes and all."""
    recipe = Recipe(epochs=1, batch=16, peak_rate=0.0, crop=0, flip=False)
    network, teacher = models.build("plain_cnn", 2), models.build("plain_cnn", 2, seed=2)
    plan = Distillation(2.0, 0.6)
    (row,) = distillation.teach(network, [teacher], plan, tiny, recipe)
    outputs, known = (train.logits(model, tiny.train.images) for model in (network, teacher))
    assert row["loss"] == pytest.approx(reference.loss(outputs, known[:, None], tiny.train.labels, plan), abs=1e-5)


def test_fixed_answers_belong_to_their_images(tiny: Dataset) -> None:
    teacher = models.build("resnet8", 2, seed=3)
    known = train.logits(teacher, tiny.train.images)
    for given in (teacher, known):
        taught = distillation.lesson([given], Distillation(fixed=True), tiny, RECIPE)
        assert np.allclose(taught.answers(None, np.array([5, 2]))[:, 0], known[[5, 2]], atol=1e-5)
    with pytest.raises(EdgelabError, match="answers given beforehand are fixed"):
        distillation.lesson([known], Distillation(), tiny, RECIPE)


def test_alpha_0_is_training_alone(tiny: Dataset) -> None:
    """The same order, augmentation, steps and decay: only the loss differs."""
    networks = [models.build("plain_cnn", 2) for _ in range(2)]
    for network, plan in zip(networks, (Distillation(alpha=0.0), Alone()), strict=True):
        distillation.teach(network, [models.build("plain_cnn", 2, seed=3)], plan, tiny, replace(RECIPE, epochs=1))
    first, second = map(models.to_arrays, networks)
    assert all(np.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_students_are_kept_found_and_resumed(
    tiny: Dataset, teachers: list[zoo.Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Distillation(average="probabilities")
    given = ("plain_cnn", teachers, plan, tiny, RECIPE)
    made = distillation.load_or_distill(*given)
    assert made.key.startswith("plain_cnn-ensemble_distillation_probabilities_t4_alpha0_9-tensorflow-tiny-seed0-")
    assert made.history[-1]["loss"] < made.history[0]["loss"]
    monkeypatch.setenv("EDGELAB_CACHE", str(tmp_path / "second"))
    stop = KeyboardInterrupt

    def interrupted(self: train._Training, epoch: int, logs: dict | None = None, *, run=train._Training.on_epoch_end):
        run(self, epoch, logs)
        raise stop

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train._Training, "on_epoch_end", interrupted)
        distillation.load_or_distill(*given)
    assert same(distillation.load_or_distill(*given).arrays, made.arrays)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("mobilenet_v3_small_50", 576_770), ("mobilenet_v2", 2_260_546)],
)
def test_students_of_keras_applications(name: str, parameters: int) -> None:
    """As wide as their name says, with weights under PyTorch's names; BatchNorm learns as fast as in our networks."""
    network = distillation.student(name, 2, seed=1)
    assert network.count_params() == parameters
    assert sum(array.size for array in models.to_arrays(network).values()) == parameters
    assert {layer.momentum for layer in network.layers if hasattr(layer, "momentum")} == {0.9}


def test_a_mobilenet_computes_the_same_in_pytorch(tiny: Dataset) -> None:
    from edgelab.pytorch import models as torch_models
    from edgelab.pytorch import train as torch_train

    name = "mobilenet_v3_small_25"
    network, rng = distillation.student(name, 3), np.random.default_rng(0)
    arrays = {
        key: np.asarray(array + rng.uniform(0, 0.3, array.shape), np.float32)
        for key, array in models.to_arrays(network).items()
    }
    images = tiny.test.images[:20]
    in_keras = train.logits(models.from_arrays(network, arrays), images)
    in_torch = torch_train.logits(torch_models.from_arrays(torch_models.build(name, 3), arrays), images)
    assert in_keras.std(0).min() > 0
    assert np.abs(in_torch - in_keras).max() < 1e-4 * np.abs(in_keras).max()


def test_a_mobilenet_learns_from_a_network_of_the_course(
    tiny: Dataset, teachers: list[zoo.Checkpoint], tmp_path: Path
) -> None:
    """And is drawn from its seed, kept, restored and exported."""
    recipe = replace(RECIPE, epochs=1, batch=32)
    with eagerly():
        made = distillation.load_or_distill("mobilenet_v3_small_25", teachers[:1], Distillation(), tiny, recipe)
    restored = distillation.restore(made)
    assert same(models.to_arrays(restored), made.arrays) and restored.count_params() == 250_978
    file = artifact.save(restored, tmp_path / "student.tflite")
    images = tiny.test.images[:3]
    assert np.allclose(file.predict(images), train.logits(restored, images), atol=1e-3)
    one, other = (models.to_arrays(distillation.student(made.model, 2, seed)) for seed in (0, 1))
    assert not same(one, other)


def test_nothing_is_begun_with_a_wrong_teacher(
    tiny: Dataset, teachers: list[zoo.Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train", None)
    elsewhere = replace(teachers[0], meta={**teachers[0].meta, "data_fingerprint": "other"})
    nan = replace(teachers[0], arrays={**teachers[0].arrays, "conv1.bias": np.full(32, np.nan, np.float32)})
    for wrong, said in ((elsewhere, "trained on other images"), (nan, "'conv1.bias' are NaN")):
        with pytest.raises(EdgelabError, match=said):
            distillation.load_or_distill("resnet8", [wrong], Distillation(), tiny, RECIPE)
    with pytest.raises(EdgelabError, match="unknown student 'vgg'"):
        distillation.load_or_distill("vgg", teachers[:1], Distillation(), tiny, RECIPE)
    with pytest.raises(EdgelabError, match="answers with 3, the data have 2 classes"):
        distillation.lesson([models.build("resnet8", 3)], Distillation(), tiny, RECIPE)
