"""Training in TensorFlow: the twin of `edgelab.pytorch.train`, on Keras `fit`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from edgelab import weights
from edgelab.data import Dataset, Split, normalise
from edgelab.distillation import Lesson
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe, is_best, one_cycle

LOG = logging.getLogger(__name__)


def to_input(images: np.ndarray) -> np.ndarray:
    """uint8 NHWC to the networks' input: float32 NHWC in [-1, 1)."""
    return normalise(images)


def augmented(
    padded: np.ndarray, chosen: np.ndarray, size: tuple[int, int], recipe: Recipe, generator: np.random.Generator
) -> np.ndarray:
    """The `chosen` images of `padded` (uint8 NHWC, wider by `crop` on each side), shifted and mirrored at random."""
    n, (height, width) = len(chosen), size
    shift = generator.integers(0, 2 * recipe.crop + 1, (2, n, 1))
    columns = np.tile(np.arange(width), (n, 1))
    if recipe.flip:
        columns = np.where(generator.random((n, 1)) < 0.5, width - 1 - columns, columns)
    rows = np.arange(height) + shift[0]
    return padded[chosen[:, None, None], rows[:, :, None], (columns + shift[1])[:, None, :]]


def logits(model: keras.Model, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """Logits (n, classes) of `model`, in evaluation mode, for uint8 NHWC `images`."""
    parts = [model(to_input(images[i : i + batch]), training=False) for i in range(0, len(images), batch)]
    return np.concatenate([part.numpy() for part in parts])


def accuracy(model: keras.Model, split: Split) -> float:
    """Share of `split` that `model` classifies correctly, 0..1."""
    return float((logits(model, split.images).argmax(1) == split.labels).mean())


class _Batches:
    """Augmented batches of one epoch after the other; their order and content follow from (seed, epoch) alone.

    With a `lesson` the teachers' answers travel with the targets, in one row an image: first the labels, one-hot, then
    the logits of one teacher after the other.
    """

    def __init__(self, split: Split, classes: int, recipe: Recipe, lesson: Lesson | None) -> None:
        margins = ((0, 0), (recipe.crop, recipe.crop), (recipe.crop, recipe.crop), (0, 0))
        self.padded = np.pad(split.images, margins, mode="reflect")
        self.size = split.images.shape[1:3]
        self.targets = np.eye(classes, dtype=np.float32)[split.labels]
        self.recipe, self.lesson = recipe, lesson
        self.epoch, self.steps = 0, recipe.steps(len(self.targets))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those of the epoch that `epoch` says when the first of them is asked for: Keras calls `iter` before that."""
        seed, batch = (self.recipe.seed, self.epoch), self.recipe.batch
        order = np.random.default_rng(seed).permutation(len(self.targets))[: self.recipe.images]
        for step in range(self.steps):
            yield self._batch(order[step * batch : (step + 1) * batch], np.random.default_rng((*seed, step)))

    def _batch(self, chosen: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = to_input(augmented(self.padded, chosen, self.size, self.recipe, generator))
        targets = self.targets[chosen]
        if self.lesson:
            answers = self.lesson.answers(inputs, chosen)
            targets = np.concatenate([targets, answers.reshape(len(targets), -1)], axis=1)
        return inputs, targets

    def to_dataset(self) -> tf.data.Dataset:
        """What `fit` takes, which starts an epoch by iterating anew.

        Without autotuning: on one thread each epoch would end with seconds of waiting for tf.data's tuner.
        """
        images, targets = (None, *self.size, self.padded.shape[-1]), (None, None)
        signature = tuple(tf.TensorSpec(shape, tf.float32) for shape in (images, targets))
        batches = tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)
        options = tf.data.Options()
        options.autotune.enabled = False
        counted = tf.data.experimental.assert_cardinality(self.steps)
        return batches.apply(counted).prefetch(1).with_options(options)


def _compile(model: keras.Model, recipe: Recipe, lesson: Lesson | None) -> None:
    """SGD as in PyTorch: the decay is part of the gradient and spares biases and BatchNorm."""
    smoothing = {"from_logits": True, "label_smoothing": recipe.label_smoothing}
    undecayed = _taught(lesson) if lesson else keras.losses.CategoricalCrossentropy(**smoothing)
    decayed = [v for v in model.trainable_variables if len(v.shape) > 1]

    def loss(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        squares = sum(tf.reduce_sum(tf.square(v)) for v in decayed)
        return undecayed(targets, outputs) + recipe.weight_decay / 2 * squares

    optimizer = keras.optimizers.SGD(recipe.peak_rate, momentum=recipe.momentum, nesterov=True)
    optimizer.build(model.trainable_variables)
    if lesson:
        metric = keras.metrics.MeanMetricWrapper(_taught(lesson), "undecayed")
    else:
        metric = keras.metrics.CategoricalCrossentropy("undecayed", **smoothing)
    model.compile(optimizer, loss, metrics=[metric])


def _taught(lesson: Lesson) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The lesson's loss on targets that carry the teachers' answers, in rows: Keras squeezes what has more axes."""

    def loss(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        carried = tf.reshape(targets, (tf.shape(outputs)[0], -1, outputs.shape[-1]))
        return lesson.loss(outputs, carried[:, 0], carried[:, 1:])

    return loss


def _named(kinds: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """All arrays under the name of their kind and a number, so that they sort as they stand."""
    return {f"{kind}/{i:04}": array for kind, values in kinds.items() for i, array in enumerate(values)}


def _arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights and the optimizer's variables, under names that sort as they stand in the model."""
    return _named({"model": model.get_weights(), "optimizer": [v.numpy() for v in model.optimizer.variables]})


def _part(arrays: weights.Arrays, kind: str) -> list[np.ndarray]:
    return [array for name, array in sorted(arrays.items()) if name.startswith(f"{kind}/")]


def _load_state(path: Path, model: keras.Model, about: dict) -> tuple[dict, list] | None:
    """The saved arrays and history; None, with a line on the log, where damaged or from other training."""
    if not path.exists():
        return None
    try:
        arrays, known = weights.load(path)
        weights.check_fit(_arrays(model), {k: v for k, v in arrays.items() if not k.startswith(("best/", "averaged/"))})
    except EdgelabError as problem:
        LOG.warning("%s; training starts afresh", problem)
        return None
    if others := ", ".join(part for part, value in about.items() if known.get(part) != value):
        LOG.warning("%s belongs to training with another %s: training starts afresh", path, others)
        return None
    return arrays, known["history"]


def _averaged(average: list[np.ndarray], current: list[np.ndarray], ema: float) -> list[np.ndarray]:
    """The moving average one step on: the weights themselves where there is none yet, as with torch's AveragedModel.

    Keras' optimizers average only what is trained, not BatchNorm's statistics. Counts are taken over as they are.
    """
    pairs = zip(average or current, current, strict=True)
    return [old + (1 - ema) * (new - old) if new.dtype.kind == "f" else new for old, new in pairs]


class _Training(keras.callbacks.Callback):
    """Sets the learning rate at each step; after each epoch keeps the best weights, the history and the state file.

    `kept` holds the "best" weights and, where the recipe asks for an average, the "averaged" ones: none at first.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: _Batches,
        history: list,
        kept: dict[str, list[np.ndarray]],
        save: Callable[[], None],
        after_step: Callable[[float], None] | None,
        counts_from: float,
    ) -> None:
        super().__init__()
        self.dataset, self.batches, self.history, self.kept, self.save = dataset, batches, history, kept, save
        self.recipe, self.after_step, self.counts_from = batches.recipe, after_step, counts_from
        self.bar = tqdm(total=self.recipe.epochs, desc="training", initial=len(history), unit="epoch")

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.batches.epoch, self.start = epoch, time.perf_counter()

    def _progress(self, batch: int) -> float:
        return (self.batches.epoch + (batch + 1) / self.batches.steps) / self.recipe.epochs

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.model.optimizer.learning_rate = self.recipe.peak_rate * one_cycle(self._progress(batch))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.after_step:
            self.after_step(self._progress(batch))
        if self.recipe.ema is not None:
            self.kept["averaged"] = _averaged(self.kept["averaged"], self.model.get_weights(), self.recipe.ema)

    def _average_validated(self) -> float:
        """Accuracy of the averaged weights on the validation images; training goes on from the others."""
        current = self.model.get_weights()
        self.model.set_weights(self.kept["averaged"])
        score = accuracy(self.model, self.dataset.validation)
        self.model.set_weights(current)
        return score

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        score, loss = accuracy(self.model, self.dataset.validation), float((logs or {})["undecayed"])
        row = {"epoch": epoch + 1, "loss": loss}
        if averaged := self.kept["averaged"]:
            row["unaveraged_accuracy"], score = score, self._average_validated()
        if is_best(score, self.history, self.recipe, self.counts_from):
            self.kept["best"] = averaged or self.model.get_weights()
        self.history.append({**row, "validation_accuracy": score, "seconds": time.perf_counter() - self.start})
        self.save()
        self.bar.set_postfix(loss=f"{loss:.3f}", validation=f"{score:.1%}", refresh=False)
        self.bar.update()

    def on_train_end(self, logs: dict | None = None) -> None:
        self.bar.close()


def train(
    model: keras.Model,
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
    _compile(model, recipe, lesson)
    about = {"recipe": recipe.fields(), "data_fingerprint": dataset.fingerprint}
    history: list[dict[str, float]] = []
    kept: dict[str, list[np.ndarray]] = {"best": model.get_weights(), "averaged": []}
    if state_path and (state := _load_state(state_path, model, about)):
        arrays, history = state
        model.set_weights(_part(arrays, "model"))
        for variable, array in zip(model.optimizer.variables, _part(arrays, "optimizer"), strict=True):
            variable.assign(array)
        kept = {kind: _part(arrays, kind) for kind in kept}

    def save() -> None:
        if state_path:
            weights.save(state_path, {**_arrays(model), **_named(kept)}, {**about, "history": history})

    batches = _Batches(dataset.train, model.output_shape[-1], recipe, lesson)
    training = _Training(dataset, batches, history, kept, save, after_step, counts_from)
    epochs = {"initial_epoch": len(history), "epochs": recipe.epochs}
    model.fit(batches.to_dataset(), **epochs, verbose=0, callbacks=[training])
    batches.padded = batches.padded[:0]  # TensorFlow keeps every generator as long as the process lives
    model.set_weights(kept["best"])
    return history
