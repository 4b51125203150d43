"""That int8 training in PyTorch keeps zeros, and that teachers take part in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgelab import artifact, data, profiles, zoo
from edgelab.combining import Distilled, Preserving
from edgelab.distillation import Distillation
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table
from edgelab.pytorch import combining, models, pruning, qat, train
from edgelab.qat import Int8

RECIPE = profiles.Recipe(epochs=1, batch=32, peak_rate=0.004, crop=1, flip=False)


@pytest.fixture(scope="module")
def few() -> data.Dataset:
    fewer = data.with_fewer(data.load("digits"), 96)
    return replace(fewer, validation=data.Split(fewer.validation.images[:40], fewer.validation.labels[:40]))


def untrained(name: str, few: data.Dataset, sparsity: float = 0.0) -> zoo.Checkpoint:
    network = pruning.prune(models.build(name, 10), sparsity)
    meta = {"class_names": list(few.class_names), "data_fingerprint": few.fingerprint, "train_seconds": 1.0}
    return zoo.Checkpoint(name, few.name, RECIPE, models.to_arrays(network), [], meta)


def zeros(checkpoint: zoo.Checkpoint) -> float:
    weights = [array for name, array in checkpoint.arrays.items() if array.ndim > 1]
    return sum(int((array == 0).sum()) for array in weights) / sum(array.size for array in weights)


def test_zeros_stay_in_the_checkpoint_and_in_the_file(few: data.Dataset, tmp_path: Path) -> None:
    start = untrained("resnet8", few, 0.5)
    usual = qat.load_or_quantize(start, Int8(), few, RECIPE)
    kept = combining.load_or_quantize(start, Preserving(zeros=True), few, RECIPE)
    assert zeros(usual) < 0.1 < 0.49 < zeros(kept)
    assert kept.origin == zoo.Origin("pqat", "pytorch", start.key)
    module = qat.convert_int8(qat.restore(kept))
    path = artifact.save(module, tmp_path / "x.onnx").path
    table = layer_table(path)
    assert table.nonzero < 0.52 * table.parameters
    assert zeros(combining.load_or_quantize(start, Preserving(zeros=True), few, RECIPE)) == zeros(kept), "found again"


def test_teachers_take_part(few: data.Dataset) -> None:
    """A teacher that always says 3 makes a student that says 3; without it the labels decide."""
    start, teacher = untrained("resnet8", few), untrained("plain_cnn", few)
    teacher.arrays["fc2.weight"][:] = 0
    teacher.arrays["fc2.bias"][:] = 30 * (np.arange(10) == 3)
    plan = Distilled(Distillation(alpha=1.0))
    recipe = replace(RECIPE, epochs=3, batch=16, peak_rate=0.02)
    made = combining.load_or_quantize(start, plan, few, recipe, [teacher])
    assert made.origin.technique == "qat_int8_distillation_t4_alpha1"
    assert made.origin.start == f"{start.key}+{teacher.key}"
    assert made.meta["train_seconds"] == pytest.approx(1 + sum(row["seconds"] for row in made.history))
    answers = train.logits(qat.restore(made), few.test.images[:50]).argmax(1)
    assert (answers == 3).mean() > 0.9


def test_what_does_not_fit_is_said_before_any_work(few: data.Dataset) -> None:
    start = untrained("resnet8", few)
    with pytest.raises(EdgelabError, match=r"^pqat keeps zeros, and no weight is zero: prune the network first$"):
        combining.load_or_quantize(start, Preserving(zeros=True), few, RECIPE)
    with pytest.raises(EdgelabError, match=r"^cqat keeps clusters: PyTorch has no tool for that"):
        combining.load_or_quantize(start, Preserving(clusters=True), few, RECIPE)
    with pytest.raises(EdgelabError, match=r"^no teacher: expected at least one"):
        combining.load_or_quantize(start, Distilled(Distillation()), few, RECIPE)
    broken = replace(start, arrays={**start.arrays, "fc.bias": np.full(10, np.nan, np.float32)})
    with pytest.raises(EdgelabError, match="NaN"):
        combining.load_or_quantize(start, Distilled(Distillation()), few, RECIPE, [broken])


def test_training_resumes(few: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption after the first of two epochs changes nothing."""
    network = pruning.prune(models.build("resnet8", 10), 0.5)
    recipe = replace(RECIPE, epochs=2)
    whole, parts = (qat.prepare_int8(network, few.train.images[:20]) for _ in range(2))
    combining.fine_tune(whole, few, recipe)
    epoch = train._epoch

    def interrupted(*given: object) -> float:
        if given[-1] == 1:
            raise KeyboardInterrupt
        return epoch(*given)

    monkeypatch.setattr(train, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        combining.fine_tune(parts, few, recipe, state_path=tmp_path / "state")
    monkeypatch.undo()
    parts = qat.prepare_int8(network, few.train.images[:20])
    history = combining.fine_tune(parts, few, recipe, state_path=tmp_path / "state")
    assert [row["epoch"] for row in history] == [1, 2]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name


def test_a_mobilenet_is_trained_in_int8_and_its_file_answers_as_it_does(few: data.Dataset, tmp_path: Path) -> None:
    """Hard swish and squeeze-and-excite survive the way into an .onnx file."""
    recipe = replace(RECIPE, epochs=6, batch=16, peak_rate=0.08)
    start = zoo.load_or_train("mobilenet_v3_small_25", few, recipe)
    made = combining.load_or_quantize(start, Distilled(Distillation()), few, RECIPE, [start])
    prepared = qat.restore(made)
    file = artifact.save(qat.convert_int8(prepared), tmp_path / "x.onnx")
    images = few.test.images[:100]
    expected, answers = train.logits(prepared, images), file.predict(images)
    assert expected.std() > 0.1
    assert np.abs(answers - expected).mean() < 0.05 * np.abs(expected).max()
    assert (answers.argmax(1) == expected.argmax(1)).mean() > 0.85
    assert layer_table(file.path).parameters > 200_000
