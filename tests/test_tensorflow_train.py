"""Training in TensorFlow: the twin of PyTorch's, step for step where that can be said."""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras
from support import crops_of, same

from edgelab import weights
from edgelab.data import Dataset, with_fewer
from edgelab.profiles import Recipe, get
from edgelab.pytorch import models as pytorch_models
from edgelab.pytorch import train as pytorch_train
from edgelab.tensorflow import models, train

RECIPE = Recipe(epochs=3, batch=16, peak_rate=0.05, label_smoothing=0.1, crop=2)


def trained(
    dataset: Dataset, recipe: Recipe = RECIPE, state_path: Path | None = None, name: str = "plain_cnn"
) -> dict[str, np.ndarray]:
    """Weights of a network trained from seed 0, and the loss of every epoch: the best epoch may be an early one.

    resnet8 has BatchNorm, plain_cnn is traced faster.
    """
    network = models.build(name, len(dataset.class_names))
    history = train.train(network, dataset, recipe, state_path)
    return {**models.to_arrays(network), "losses": np.array([row["loss"] for row in history])}


def small() -> keras.Model:
    """Three layers with weights, BatchNorm one of them: quick to trace."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, 4)(image))
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def test_learns_digits_in_seconds(digits: Dataset) -> None:
    """The ci recipe serves both tracks, and the rows are the same."""
    network = models.build("plain_cnn")
    history = train.train(network, with_fewer(digits, 640), replace(get("ci").recipes["plain_cnn"], epochs=2))
    assert list(history[0]) == ["epoch", "loss", "validation_accuracy", "seconds"]
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[-1]["loss"] < history[0]["loss"]
    assert train.accuracy(network, digits.validation) == max(row["validation_accuracy"] for row in history)
    assert train.accuracy(network, digits.test) > 0.7


def test_same_seed_same_weights_and_no_test_images(tiny: Dataset) -> None:
    """Bit-identical twice, other weights from another seed; the test split is not needed."""
    blind, recipe = replace(tiny, test=None), replace(RECIPE, epochs=1)
    first = trained(blind, recipe)
    assert same(first, trained(blind, recipe))
    assert not same(first, trained(blind, replace(recipe, seed=1)))


def test_each_epoch_has_its_own_order_also_after_a_pause(tiny: Dataset, tmp_path: Path) -> None:
    """What is drawn follows from the epoch's number, and no batch is drawn twice."""
    seen, draw = [], train._Batches._batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Batches, "_batch", lambda own, *given: seen.append(own.epoch) or draw(own, *given))
        trained(tiny, replace(RECIPE, epochs=2), tmp_path / "state")
        steps = -(-len(tiny.train) // RECIPE.batch)
        assert seen == steps * [0] + steps * [1]


def test_an_epoch_of_fewer_images_draws_others_each_time(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, draw = [], train._Batches._batch
    monkeypatch.setattr(
        train._Batches, "_batch", lambda self, chosen, how: seen.append(chosen) or draw(self, chosen, how)
    )
    trained(tiny, replace(RECIPE, epochs=2, batch=4, images=10))
    assert [len(chosen) for chosen in seen] == [4, 4, 2] * 2
    epochs = [set(np.concatenate(seen[start : start + 3]).tolist()) for start in (0, 3)]
    assert [len(drawn) for drawn in epochs] == [10, 10] and epochs[0] != epochs[1]


def test_continues_after_a_kill(tiny: Dataset, tmp_path: Path, start_python: Callable[[str], subprocess.Popen]) -> None:
    """SIGKILL within the third epoch: two finished epochs are kept and the result is that of an undisturbed run."""
    path = tmp_path / "resnet8.state"
    killed = start_python(f"""
import os, signal
from pathlib import Path
from support import tiny_dataset
from test_tensorflow_train import train, trained
calls = []
def accuracy(model, split, original=train.accuracy):
    calls.append(split)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(model, split)
train.accuracy = accuracy
trained(tiny_dataset(), state_path=Path({str(path)!r}), name="resnet8")
""")
    _, errors = killed.communicate(timeout=240)
    assert killed.returncode == -signal.SIGKILL, errors
    assert len(weights.load(path)[1]["history"]) == 2
    assert same(trained(tiny, state_path=path, name="resnet8"), trained(tiny, name="resnet8"))


def test_best_epoch_by_validation_is_returned(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With scripted scores the weights are those after the second epoch, and the first of equals wins."""
    scores, seen = iter([0.2, 0.9, 0.9]), []

    def accuracy(model: keras.Model, _: object) -> float:
        seen.append(models.to_arrays(model))
        return next(scores)

    monkeypatch.setattr(train, "accuracy", accuracy)
    final = trained(tiny)
    assert len(final.pop("losses")) == 3
    assert same(final, seen[1])
    assert not same(final, seen[2])


def test_the_average_of_all_weights_is_validated_and_kept(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step's weights are taken as they are, then the average is worked out by hand: BatchNorm's as well."""
    network, steps, validated, scores = small(), [], [], iter([0.25, 0.5])
    monkeypatch.setattr(train, "accuracy", lambda model, _: validated.append(model.get_weights()) or next(scores))
    recipe = replace(RECIPE, epochs=1, ema=0.7)
    (row,) = train.train(network, tiny, recipe, after_step=lambda _: steps.append(network.get_weights()))
    assert len(steps) == 4 and len(steps[0]) == 8
    expected = steps[0]
    for arrays in steps[1:]:
        expected = [0.7 * average + 0.3 * array for average, array in zip(expected, arrays, strict=True)]
    unaveraged, averaged = (dict(enumerate(arrays)) for arrays in validated)
    assert same(unaveraged, dict(enumerate(steps[-1]))) and same(averaged, dict(enumerate(network.get_weights())))
    assert [i for i, array in enumerate(expected) if not np.allclose(averaged[i], array, atol=1e-6)] == []
    assert list(row) == ["epoch", "loss", "unaveraged_accuracy", "validation_accuracy", "seconds"]
    assert (row["unaveraged_accuracy"], row["validation_accuracy"]) == (0.25, 0.5)


def test_an_averaging_training_resumes(tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within the second epoch, the better one: bit for bit the same; without the average the same steps."""
    recipe, scores, begin = replace(RECIPE, epochs=2, ema=0.7), itertools.count(), train._Training.on_epoch_begin
    monkeypatch.setattr(train, "accuracy", lambda *_: float(next(scores)))

    def run(recipe: Recipe, state_path: Path | None = None) -> tuple[dict[int, np.ndarray], list[float]]:
        network = small()
        history = train.train(network, tiny, recipe, state_path)
        return dict(enumerate(network.get_weights())), [row["loss"] for row in history]

    undisturbed, losses = run(recipe)
    with monkeypatch.context() as patch:
        patch.setattr(train._Training, "on_epoch_begin", lambda own, i, _: begin(own, i) if i == 0 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(recipe, tmp_path / "state")
        patch.setattr(train._Training, "on_epoch_begin", lambda own, i, _: begin(own, i) if i == 1 else 1 / 0)
        resumed, resumed_losses = run(recipe, tmp_path / "state")
    assert same(resumed, undisturbed) and resumed_losses == losses
    assert run(replace(recipe, ema=None))[1] == losses


def test_one_step_is_pytorchs_step(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images in one step: same loss, same learning rate, momentum and weight decay, biases and BatchNorm spared."""
    recipe = Recipe(
        epochs=2, batch=len(tiny.train), peak_rate=0.1, weight_decay=0.5, label_smoothing=0.1, crop=0, flip=False
    )
    start = pytorch_models.to_arrays(pytorch_models.build("resnet8", 2))
    after = []
    for bridge, trainer in ((pytorch_models, pytorch_train), (models, train)):
        scores = iter([1.0, 0.0])
        monkeypatch.setattr(trainer, "accuracy", lambda *_, scores=scores: next(scores))
        network = bridge.from_arrays(bridge.build("resnet8", 2), start)
        history = trainer.train(network, tiny, recipe)
        after.append((bridge.to_arrays(network), history[0]["loss"]))
    (first, first_loss), (second, second_loss) = after
    assert first_loss == pytest.approx(second_loss, abs=1e-5)
    for name, array in first.items():
        moved = np.abs(array - start[name]).max()
        assert moved > 1e-5, name
        assert np.abs(array - second[name]).max() < 0.01 * moved + 1e-6 or name.endswith("running_var"), name


@pytest.mark.parametrize("flip", [True, False])
def test_augmented_cuts_and_mirrors(flip: bool) -> None:
    """Each result is exactly one crop of its own image, and every shift comes up, mirrored only if allowed."""
    size, crop = 5, 1
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    padded = np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode="reflect")
    chosen = np.arange(400) % 2
    recipe = Recipe(epochs=1, crop=crop, flip=flip)
    results = train.augmented(padded, chosen, (size, size), recipe, np.random.default_rng(0))
    references = [crops_of(image, size, crop) for image in padded]
    seen = [
        [kind for kind, cut in references[i].items() if np.array_equal(cut, result)]
        for i, result in zip(chosen, results, strict=True)
    ]
    assert all(len(kinds) == 1 for kinds in seen)
    assert {kinds[0] for kinds in seen} == {kind for kind in references[0] if flip or not kind[2]}


def test_logits_do_not_depend_on_the_batch(tiny: Dataset) -> None:
    """Evaluation mode, any batch size."""
    network = models.build("resnet8", 2)
    outputs = train.logits(network, tiny.train.images[:9])
    assert outputs.shape == (9, 2)
    assert np.allclose(outputs, train.logits(network, tiny.train.images[:9], batch=4), atol=1e-5)


def test_a_state_that_cannot_be_used_is_reported(
    tiny: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged, of other training, or of another network: one line each, then training starts afresh."""
    path, recipe = tmp_path / "state", replace(RECIPE, epochs=1)

    def lines(dataset: Dataset, recipe: Recipe, name: str = "plain_cnn") -> list[str]:
        caplog.clear()
        train.train(models.build(name, 2), dataset, recipe, path)
        return [record.getMessage() for record in caplog.records if record.name.startswith("edgelab")]

    assert lines(tiny, recipe) == []
    assert lines(tiny, recipe) == []
    other = "belongs to training with another"
    assert lines(tiny, replace(recipe, seed=4)) == [f"{path} {other} recipe: training starts afresh"]
    (line,) = lines(replace(tiny, fingerprint="another"), replace(recipe, seed=4))
    assert line == f"{path} {other} data_fingerprint: training starts afresh"
    (line,) = lines(tiny, recipe, "ds_cnn")
    assert "the weights do not fit the model" in line
    path.write_bytes(path.read_bytes()[:1000])
    (line,) = lines(tiny, recipe)
    assert line.startswith(f"{path} is damaged (")
    assert line.endswith("training starts afresh")
