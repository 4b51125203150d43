"""Knowledge distillation in TensorFlow: frozen teachers look at what the student sees and answer into its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

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
from edgelab.teachers import answers, is_transferred
from edgelab.tensorflow import models, train
from edgelab.tensorflow import teachers as transfer
from edgelab.zoo import Checkpoint


def distillation_loss(
    logits: tf.Tensor, teachers: tf.Tensor, targets: tf.Tensor, plan: Distillation, label_smoothing: float = 0.0
) -> tf.Tensor:
    """The loss of every image (n,): the plan's mixture of KL(teacher || student) and cross-entropy with the labels.

    `logits` (n, classes) are the student's, `teachers` (n, teachers, classes) those of its teachers, `targets` one-hot
    (n, classes). Raises EdgelabError where the shapes do not fit.
    """
    check_shapes(logits.shape, teachers.shape)
    if teachers.shape[1] is not None:
        check_number(teachers.shape[1], plan)
    temperature = plan.temperature
    if plan.average == "logits":
        teachers = tf.reduce_mean(teachers, 1, keepdims=True)
    log_p = tf.nn.log_softmax(teachers / temperature)
    if plan.average == "probabilities":
        log_p = tf.reduce_logsumexp(log_p, 1, keepdims=True) - np.log(teachers.shape[1]).astype(np.float32)
    log_q = tf.nn.log_softmax(logits / temperature)[:, None]
    soft = tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), -1), 1)
    hard = keras.losses.categorical_crossentropy(targets, logits, from_logits=True, label_smoothing=label_smoothing)
    return plan.alpha * temperature**2 * soft + (1 - plan.alpha) * hard


def frozen(teacher: keras.Model) -> keras.Model:
    """A copy of `teacher` that cannot learn: not trainable, so that BatchNorm keeps its statistics too."""
    copied = keras.models.clone_model(teacher)
    copied.set_weights(teacher.get_weights())
    copied.trainable = False
    return copied


Teacher: TypeAlias = keras.Model | np.ndarray
"""A network, or its answers, logits (n, classes), to the training images in their order."""


def lesson(teachers: Sequence[Teacher], plan: Distillation, dataset: Dataset, recipe: Recipe) -> Lesson:
    """What makes any training, `train.train(..., lesson=...)`, one under `teachers`, which stay as they are.

    Raises EdgelabError where their number does not fit the plan, or their answers the classes, or are not finite.
    """
    check_given([len(t) for t in teachers if isinstance(t, np.ndarray)], plan, len(dataset.train))
    check_number(len(teachers), plan)
    images = dataset.train.images if plan.fixed else dataset.train.images[:PROBED]
    still = [frozen(teacher) for teacher in teachers if isinstance(teacher, keras.Model)]
    looked = iter(still)
    known: list[np.ndarray] = [t if isinstance(t, np.ndarray) else train.logits(next(looked), images) for t in teachers]
    for given in known:
        check_answers(given, len(dataset.class_names))
    table = np.stack(known, 1)

    @tf.function(input_signature=[tf.TensorSpec((None, *images.shape[1:]))])
    def answered(inputs: tf.Tensor) -> tf.Tensor:
        return tf.stack([teacher(inputs, training=False) for teacher in still], 1)

    def look(inputs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return answered(tf.convert_to_tensor(inputs)).numpy()

    def recall(inputs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return table[chosen]

    def loss(logits: tf.Tensor, targets: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
        shaped = tf.ensure_shape(answers, (None, len(known), len(dataset.class_names)))
        return distillation_loss(logits, shaped, targets, plan, recipe.label_smoothing)

    return Lesson(recall if plan.fixed else look, loss)


def _mobilenet_v3_small(width: float, classes: int) -> keras.Model:
    """After Howard et al. 2019, arXiv:1905.02244."""
    return keras.applications.MobileNetV3Small(
        models.INPUT_SHAPE,
        alpha=width,
        weights=None,
        classes=classes,
        classifier_activation=None,
        dropout_rate=0,
        include_preprocessing=False,
    )


def _mobilenet_v2(classes: int) -> keras.Model:
    """After Sandler et al. 2018, arXiv:1801.04381."""
    return keras.applications.MobileNetV2(models.INPUT_SHAPE, weights=None, classes=classes, classifier_activation=None)


APPLICATIONS: dict[str, Callable[[int], keras.Model]] = {
    "mobilenet_v3_small_25": partial(_mobilenet_v3_small, 0.25),
    "mobilenet_v3_small_50": partial(_mobilenet_v3_small, 0.5),
    "mobilenet_v2": _mobilenet_v2,
}


def student(name: str, classes: int = 10, seed: int = 0) -> keras.Model:
    """An untrained student, one of edgelab.distillation.STUDENTS, with weights drawn from `seed`.

    Those of Keras applications forget BatchNorm's statistics at the pace of the course's networks: at their own, 0.999,
    a short training would end before the statistics are there. Raises EdgelabError for an unknown name.
    """
    check_student(name, (*models.MODELS, *models.OTHERS, *APPLICATIONS))
    if name not in APPLICATIONS:
        return models.build(name, classes, seed)
    model = APPLICATIONS[name](classes)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    return models._drawn(model, seed)


def teach(
    model: keras.Model,
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


def restore(checkpoint: Checkpoint) -> keras.Model:
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
    check_student(name, (*models.MODELS, *models.OTHERS, *APPLICATIONS))
    known = asked(teachers, plan, dataset)

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        network = student(name, len(dataset.class_names), recipe.seed)
        history = teach(
            network, [_teacher(teacher, plan, dataset) for teacher in known], plan, dataset, recipe, state_path
        )
        return models.to_arrays(network), history

    return zoo.load_or_teach(name, known, plan.technique, "tensorflow", dataset, recipe, make, kept=kept)
