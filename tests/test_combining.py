"""That later steps keep what earlier ones gained, in memory, in the checkpoint and in the exported file."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras
from support import eagerly, same

from edgelab import artifact, combining, data, inside, profiles, zoo
from edgelab.combining import Clustering, Preserving
from edgelab.errors import EdgelabError
from edgelab.tensorflow import combining as keras_combining
from edgelab.tensorflow import models, qat, train
from edgelab.tensorflow import pruning as keras_pruning

RECIPE = profiles.Recipe(epochs=1, batch=32, peak_rate=0.004, crop=1, flip=False)


@pytest.fixture(scope="module")
def few() -> data.Dataset:
    digits = data.load("digits")
    return replace(digits, train=data.Split(digits.train.images[:64], digits.train.labels[:64]))


@pytest.fixture(scope="module")
def start(few: data.Dataset) -> zoo.Checkpoint:
    """An untrained plain_cnn with half of its weights at zero."""
    model = keras_pruning.prune(models.build("plain_cnn", 10), 0.5)
    meta = {"class_names": list(few.class_names), "data_fingerprint": few.fingerprint, "train_seconds": 1.0}
    return zoo.Checkpoint("plain_cnn", few.name, RECIPE, models.to_arrays(model), [], meta)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("EDGELAB_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def clustered(start: zoo.Checkpoint, few: data.Dataset) -> zoo.Checkpoint:
    with eagerly():
        return keras_combining.load_or_cluster(start, Clustering(8), few, RECIPE)


def small(sparsity: float = 0.0, values: int = 0) -> keras.Model:
    """Two layers, quick to trace, with so many zeros and at most so many values a layer."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, 4, activation="relu", name="conv")(image)
    flat = keras.layers.Flatten(name="flatten")(x)
    model = keras.Model(image, keras.layers.Dense(10, name="fc")(flat))
    for layer in (model.get_layer("conv"), model.get_layer("fc")) if values else ():
        kernel = layer.kernel.numpy()
        edges = np.quantile(kernel, np.linspace(0, 1, values + 1)[1:-1])
        layer.kernel.assign(np.linspace(kernel.min(), kernel.max(), values)[np.digitize(kernel, edges)])
    return keras_pruning.prune(model, sparsity) if sparsity else model


def shares(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float((array == 0).mean()) for name, array in arrays.items()}


def in_file(path: Path, image: np.ndarray) -> list[np.ndarray]:
    """The integers of each convolution and fully connected layer: (output channels, weights)."""
    found = [op for op in inside.operators(artifact.load(path), image) if op.kind in ("CONV_2D", "FULLY_CONNECTED")]
    return [op.inputs[1].values.reshape(len(op.inputs[1].values), -1) for op in found]


def test_clustering_shares_values_and_keeps_zeros(start: zoo.Checkpoint, clustered: zoo.Checkpoint) -> None:
    before, after = (keras_combining.values(keras_pruning.restore(c)) for c in (start, clustered))
    assert max(len(np.unique(array)) for array in after.values()) <= 8
    assert shares(before) == pytest.approx(shares(after), abs=0.03)
    assert min(shares(after).values()) > 0
    trained = [np.unique(after[name])[-1] != np.unique(before[name])[-1] for name in after]
    assert all(trained)
    assert clustered.origin.technique == "clustering_8"
    assert clustered.arrays.keys() == start.arrays.keys()


def check_file(network: keras.Model, plan: Preserving, images: np.ndarray, path: Path, layers: int) -> None:
    """The int8 file of `network` holds what the plan keeps and answers as the network does."""
    file = artifact.save(network, path, scheme="int8")
    weights = in_file(path, images[:1])
    assert len(weights) == layers
    zero = np.concatenate([w.ravel() for w in weights]) == 0
    values = max(len(np.unique(channel)) for w in weights for channel in w)
    assert (zero.mean() > 0.49) == plan.zeros
    assert (values <= 8) == plan.clusters
    computed = file.predict(images)
    step = np.diff(np.unique(computed)).min()
    assert np.abs(computed - train.logits(network, images)).max() < 1.01 * step, "one rounding apart at most"


def test_what_a_plan_keeps_is_in_the_exported_file(
    clustered: zoo.Checkpoint, few: data.Dataset, tmp_path: Path
) -> None:
    """By way of the checkpoint; all five layers."""
    plan = Preserving(zeros=True, clusters=True)
    with eagerly():
        made = keras_combining.load_or_quantize(clustered, plan, few, RECIPE)
    assert made.origin.technique == plan.technique
    check_file(keras_combining.restore(made), plan, few.test.images[:100], tmp_path / "x.tflite", 5)


@pytest.mark.parametrize("plan", [Preserving(zeros=True), Preserving(clusters=True)], ids=lambda plan: plan.technique)
def test_a_plan_keeps_in_training_what_it_says(plan: Preserving, few: data.Dataset, tmp_path: Path) -> None:
    """And no more, at a rate at which training as usual would lose it; what is kept computes as what was trained."""
    model = small(0.5 * plan.zeros, 8 * plan.clusters)
    prepared = keras_combining.prepare(model, plan)
    train.train(prepared, few, replace(RECIPE, peak_rate=0.02))
    kept = qat.from_arrays(qat.prepare_int8(model), keras_combining.plain(prepared, model))
    images = few.test.images[:50]
    assert np.array_equal(train.logits(kept, images), train.logits(prepared, images))
    check_file(kept, plan, images, tmp_path / "x.tflite", 2)


@pytest.mark.parametrize(
    ("plan", "given"),
    [
        (Clustering(8), (0.5, 0)),
        (Preserving(zeros=True), (0.5, 0)),
        (Preserving(zeros=True, clusters=True), (0.5, 8)),
    ],
    ids=lambda value: getattr(value, "technique", ""),
)
def test_training_resumes(
    plan: Clustering | Preserving,
    given: tuple[float, int],
    start: zoo.Checkpoint,
    few: data.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted after the first of two epochs, the second call trains one more and gives what one run gives."""
    monkeypatch.setattr(keras_pruning, "restore", lambda _: small(*given))
    ways = {Clustering: keras_combining.load_or_cluster, Preserving: keras_combining.load_or_quantize}
    begun, interrupts, begin = [], iter([1]), train._Training.on_epoch_begin

    def watched(self: object, epoch: int, logs: dict | None = None) -> None:
        if epoch and next(interrupts, None):
            raise KeyboardInterrupt
        begun.append(epoch)
        begin(self, epoch, logs)

    def made() -> zoo.Checkpoint:
        begun.clear()
        with eagerly():
            return ways[type(plan)](start, plan, few, replace(RECIPE, epochs=2))

    monkeypatch.setattr(train._Training, "on_epoch_begin", watched)
    with pytest.raises(KeyboardInterrupt):
        made()
    parts = made()
    assert begun == [1] and len(parts.history) == 2
    monkeypatch.setenv("EDGELAB_CACHE", str(tmp_path / "another"))
    whole = made()
    assert begun == [0, 1]
    assert same(parts.arrays, whole.arrays)
    assert [row["loss"] for row in parts.history] == [row["loss"] for row in whole.history]


def test_quantization_aware_training_as_usual_loses_the_zeros(few: data.Dataset) -> None:
    """The reason for PQAT. Small integers still round to zero, so some come back."""
    prepared = qat.prepare_int8(small(0.5))
    qat.fine_tune(prepared, few, RECIPE)
    kernels = [array for name, array in qat.to_arrays(prepared).items() if name.endswith("kernel")]
    assert len(kernels) == 2 and np.mean([(kernel == 0).mean() for kernel in kernels]) < 0.1


def test_gentle_divides_by_the_weights_that_share_a_value() -> None:
    weights = {"few": np.arange(10.0), "many": np.repeat(np.arange(4.0), 25)}
    assert combining.gentle(RECIPE, weights) == replace(RECIPE, peak_rate=RECIPE.peak_rate / 25, weight_decay=0.0)


def test_names_and_impossible_plans() -> None:
    plans = [Preserving(True), Preserving(clusters=True), Preserving(True, True)]
    assert [plan.technique for plan in plans] == ["pqat", "cqat", "pcqat"]
    with pytest.raises(EdgelabError, match=r"^nothing to preserve: choose zeros, clusters or both"):
        Preserving()
    for wrong in (1, 257, 2.5, True, "16"):
        with pytest.raises(EdgelabError, match=f"^expected from 2 to 256 clusters, got {wrong!r}"):
            Clustering(wrong)


def test_nothing_to_keep_is_said_before_any_work() -> None:
    model = models.build("plain_cnn", 10)
    with pytest.raises(EdgelabError, match=r"^pqat keeps zeros, and no weight is zero: prune the network first$"):
        keras_combining.prepare(model, Preserving(zeros=True))
    with pytest.raises(EdgelabError, match=r"^cqat keeps clusters, and the weights of 'conv1' have 864 values"):
        keras_combining.prepare(model, Preserving(clusters=True))
    with pytest.raises(EdgelabError, match="already"):
        keras_combining.prepare(qat.prepare_int8(model), Preserving(zeros=True))


def test_too_many_clusters_and_wrong_models_are_refused() -> None:
    small = keras.Sequential([keras.layers.Dense(3, input_shape=(4,), name="dense")])
    with pytest.raises(EdgelabError, match=r"^'dense' has 12 weights for 16 clusters: choose fewer$"):
        keras_combining.cluster(small, Clustering(16))
    small.set_weights([np.full((4, 3), np.nan), np.zeros(3)])
    with pytest.raises(EdgelabError, match=r"are NaN or infinite"):
        keras_combining.cluster(small, Clustering(2))
    with pytest.raises(EdgelabError, match=r"^expected a tf_keras model"):
        keras_combining.cluster("model.tflite", Clustering(2))


@pytest.mark.parametrize("track", ["pytorch", "tensorflow"])
@pytest.mark.parametrize("function", ["pruning.fine_tune", "qat.fine_tune", "combining.load_or_quantize"])
def test_what_masks_and_quantizes_refuses_to_average(track: str, function: str) -> None:
    module, name = function.split(".")
    work = getattr(importlib.import_module(f"edgelab.{track}.{module}"), name)
    given = (None, None) if name == "load_or_quantize" else (None,)
    with pytest.raises(EdgelabError, match=r"ema 0\.9: weights are not averaged while .* leave ema out"):
        work(*given, None, profiles.Recipe(epochs=1, ema=0.9))
