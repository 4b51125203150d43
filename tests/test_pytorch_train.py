"""Training in PyTorch: it learns, repeats itself bit for bit, and survives interruption."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import crops_of, same

from edgelab.data import Dataset
from edgelab.profiles import Recipe, get
from edgelab.pytorch import models, train

RECIPE = Recipe(epochs=3, batch=16, peak_rate=0.05, label_smoothing=0.1, crop=2)


def trained(dataset: Dataset, recipe: Recipe = RECIPE, state_path: Path | None = None) -> dict[str, np.ndarray]:
    """Weights of a resnet8 trained from seed 0, and the loss of every epoch: the best epoch may be an early one."""
    network = models.build("resnet8", len(dataset.class_names))
    history = train.train(network, dataset, recipe, state_path)
    return {**models.to_arrays(network), "losses": np.array([row["loss"] for row in history])}


def test_learns_digits_in_seconds(digits: Dataset) -> None:
    """The ci recipe is worth running; plain_cnn's is tried in TensorFlow."""
    network = models.build("resnet8")
    history = train.train(network, digits, get("ci").recipes["resnet8"])
    assert list(history[0]) == ["epoch", "loss", "validation_accuracy", "seconds"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert train.accuracy(network, digits.validation) == max(row["validation_accuracy"] for row in history)
    assert train.accuracy(network, digits.test) > 0.8


def test_same_seed_same_weights_and_no_test_images(tiny: Dataset) -> None:
    """Bit-identical twice, other weights from another seed; the test split is not needed."""
    blind = replace(tiny, test=None)
    first = trained(blind)
    assert same(first, trained(blind))
    assert not same(first, trained(blind, replace(RECIPE, seed=1)))


def test_an_epoch_of_fewer_images_draws_others_each_time(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten images in steps of four: 4, 4 and 2 images, none twice in an epoch, and the loss is their mean."""
    seen, cut = [], train.augmented
    monkeypatch.setattr(
        train, "augmented", lambda padded, chosen, *rest: seen.append(chosen) or cut(padded, chosen, *rest)
    )
    trained(tiny, replace(RECIPE, epochs=2, batch=4, images=10))
    assert [len(chosen) for chosen in seen] == [4, 4, 2] * 2
    epochs = [set(torch.cat(seen[start : start + 3]).tolist()) for start in (0, 3)]
    assert [len(drawn) for drawn in epochs] == [10, 10] and epochs[0] != epochs[1]


def test_continues_after_a_kill(tiny: Dataset, tmp_path: Path, start_python: Callable[[str], subprocess.Popen]) -> None:
    """SIGKILL within the third epoch: two finished epochs are kept and the result is that of an undisturbed run."""
    path = tmp_path / "resnet8.state"
    killed = start_python(f"""
import os, signal
from pathlib import Path
from support import tiny_dataset
from test_pytorch_train import train, trained
calls = []
def accuracy(model, split, original=train.accuracy):
    calls.append(split)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(model, split)
train.accuracy = accuracy
trained(tiny_dataset(), state_path=Path({str(path)!r}))
""")
    _, errors = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, errors
    assert len(torch.load(path, weights_only=True)["history"]) == 2
    assert same(trained(tiny, state_path=path), trained(tiny))


def test_finished_training_is_not_repeated(tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call once more only reads its state."""
    first = trained(tiny, state_path=tmp_path / "state")
    monkeypatch.setattr(train, "_epoch", None)
    assert same(first, trained(tiny, state_path=tmp_path / "state"))


def test_best_epoch_by_validation_is_returned(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With scripted scores the weights are those after the second epoch, and the first of equals wins."""
    scores, seen = iter([0.2, 0.9, 0.9]), []

    def accuracy(model: torch.nn.Module, _: object) -> float:
        seen.append(models.to_arrays(model))
        return next(scores)

    monkeypatch.setattr(train, "accuracy", accuracy)
    final = trained(tiny)
    assert len(final.pop("losses")) == 3
    assert same(final, seen[1])
    assert not same(final, seen[2])


def test_the_average_of_all_weights_is_validated_and_kept(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step's weights are taken as they are, then the average is worked out by hand: BatchNorm's as well."""
    network, steps, validated, scores = models.build("resnet8", 2), [], [], iter([0.25, 0.5])
    monkeypatch.setattr(train, "accuracy", lambda model, _: validated.append(models.to_arrays(model)) or next(scores))
    recipe = replace(RECIPE, epochs=1, ema=0.7)
    (row,) = train.train(network, tiny, recipe, after_step=lambda _: steps.append(models.to_arrays(network)))
    assert len(steps) == 4
    expected = steps[0]
    for weights in steps[1:]:
        expected = {name: 0.7 * average + 0.3 * weights[name] for name, average in expected.items()}
    unaveraged, averaged = validated
    assert same(unaveraged, steps[-1]) and same(averaged, models.to_arrays(network))
    assert [name for name, array in expected.items() if not np.allclose(averaged[name], array, atol=1e-6)] == []
    assert list(row) == ["epoch", "loss", "unaveraged_accuracy", "validation_accuracy", "seconds"]
    assert (row["unaveraged_accuracy"], row["validation_accuracy"]) == (0.25, 0.5)


def test_an_averaging_training_resumes(tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within the second epoch, the better one: bit for bit the same; without the average the same steps."""
    recipe, scores, epoch = replace(RECIPE, epochs=2, ema=0.7), itertools.count(), train._epoch
    monkeypatch.setattr(train, "accuracy", lambda *_: float(next(scores)))
    undisturbed = trained(tiny, recipe)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_epoch", lambda *given: epoch(*given) if given[-1] == 0 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained(tiny, recipe, tmp_path / "state")
        patch.setattr(train, "_epoch", lambda *given: epoch(*given) if given[-1] == 1 else 1 / 0)
        assert same(trained(tiny, recipe, tmp_path / "state"), undisturbed)
    assert np.array_equal(trained(tiny, replace(recipe, ema=None))["losses"], undisturbed["losses"])


def test_loss_is_smoothed_cross_entropy(tiny: Dataset) -> None:
    """At learning rate 0 the reported loss is the mean over the training images, worked out by hand."""
    network = models.build("plain_cnn", 2)
    recipe = Recipe(epochs=1, batch=16, peak_rate=0.0, label_smoothing=0.3, crop=0, flip=False)
    (row,) = train.train(network, tiny, recipe)
    outputs = train.logits(network, tiny.train.images).astype(np.float64)
    log_p = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    targets = 0.7 * np.eye(2)[tiny.train.labels] + 0.15
    assert row["loss"] == pytest.approx(-(targets * log_p).sum(1).mean(), abs=1e-6)


@pytest.mark.parametrize("flip", [True, False])
def test_augmented_cuts_and_mirrors(flip: bool) -> None:
    """Each result is exactly one crop of its own image, and every shift comes up, mirrored only if allowed."""
    size, crop = 5, 1
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    padded = np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode="reflect")
    recipe = Recipe(epochs=1, crop=crop, flip=flip)
    chosen = torch.arange(400) % 2
    results = train.augmented(
        torch.from_numpy(padded), chosen, (size, size), recipe, torch.Generator().manual_seed(0)
    ).numpy()
    references = [crops_of(image, size, crop) for image in padded]
    seen = [
        [kind for kind, cut in references[i].items() if np.array_equal(cut, result)]
        for i, result in zip(chosen, results, strict=True)
    ]
    assert all(len(kinds) == 1 for kinds in seen)
    assert {kinds[0] for kinds in seen} == {kind for kind in references[0] if flip or not kind[2]}


def test_logits_do_not_depend_on_the_batch(tiny: Dataset) -> None:
    """Evaluation mode, any batch size, read-only images, and the model's documented input."""
    network = models.build("resnet8", 2).train()
    images = tiny.train.images[:9].copy()
    images.setflags(write=False)
    outputs = train.logits(network, images)
    assert outputs.shape == (9, 2)
    assert np.allclose(outputs, train.logits(network, images, batch=4), atol=1e-5)
    inputs = torch.from_numpy((images.astype(np.float32) - 128) / 128).permute(0, 3, 1, 2)
    assert np.allclose(outputs, network(inputs).detach().numpy(), atol=1e-6)


class Evil:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        """What an unpickler would call."""
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped", "evil"])
def test_damaged_state_is_reported_and_not_used(
    damage: str, tiny: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Training starts afresh, one line says so, and nothing foreign is executed."""
    path, trap, recipe = tmp_path / "state", tmp_path / "trap", replace(RECIPE, epochs=1)
    first = trained(tiny, recipe, path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "evil":
        torch.save({"recipe": Evil(trap)}, path)
    else:
        rest = {"garbage": b"garbage", "truncated": b"", "flipped": bytes(64) + whole[middle + 64 :]}[damage]
        path.write_bytes(whole[:middle] * (damage != "garbage") + rest)
    assert same(trained(tiny, recipe, path), first)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is not a training state that can be read: training starts afresh"
    ]
    assert not trap.exists()


def test_state_of_other_training_is_not_used(tiny: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another recipe, other images or another network: the line says which."""
    path, recipe = tmp_path / "state", replace(RECIPE, epochs=1)
    other = replace(tiny, fingerprint="another")
    for dataset, used, expected in (
        (other, recipe, []),
        (tiny, recipe, [f"{path} belongs to training with another data: training starts afresh"]),
        (tiny, replace(recipe, seed=4), [f"{path} belongs to training with another recipe: training starts afresh"]),
    ):
        caplog.clear()
        trained(dataset, used, path)
        assert [record.getMessage() for record in caplog.records] == expected
    train.train(models.build("plain_cnn", 2), tiny, replace(recipe, seed=4), path)
    assert caplog.records[-1].getMessage() == f"{path} belongs to training with another model: training starts afresh"
