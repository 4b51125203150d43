"""Pruning in TensorFlow: the twin's zeros, TFMOT's training, and nothing impossible is begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras
from support import assert_drawn_anew, same
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl
from tensorflow_model_optimization.sparsity import keras as sparsity_tools

from edgelab import artifact, layers, measure, zoo
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe
from edgelab.pruning import Channels, Magnitude, TwoOfFour
from edgelab.pytorch import models as pytorch_models
from edgelab.pytorch import pruning as pytorch_pruning
from edgelab.tensorflow import models, pruning, train

RECIPE = Recipe(epochs=2, batch=16, peak_rate=0.02, crop=1)


def pair(name: str) -> tuple[keras.Model, object]:
    """The same weights in both frameworks."""
    other = pytorch_models.build(name)
    return models.from_arrays(models.build(name), pytorch_models.to_arrays(other)), other


def small(seed: int = 0) -> keras.Model:
    """Two layers: quick to trace."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 4, activation="relu", name="conv")(image)
    return keras.Model(image, keras.layers.Dense(2, name="fc")(keras.layers.Flatten()(x)))


@pytest.mark.parametrize("name", models.MODELS)
def test_the_same_weights_go_as_in_pytorch(name: str) -> None:
    """One threshold, and shares by layer; the given model is untouched."""
    model, other = pair(name)
    before = models.to_arrays(model)
    layer = pruning.prunable(model)[1]
    assert pruning.prunable(model) == pytorch_pruning.prunable(other)
    for asked in (0.7, {layer: 0.4}):
        ours, theirs = pruning.prune(model, asked), pytorch_pruning.prune(other, asked)
        arrays = models.to_arrays(ours)
        assert all(np.array_equal(arrays[k], v) for k, v in pytorch_models.to_arrays(theirs).items())
        assert pruning.sparsities(ours) == pytorch_pruning.sparsities(theirs)
    assert same(models.to_arrays(model), before)


def test_two_of_four_as_in_pytorch_and_as_tfmot_does_it() -> None:
    model, other = pair("resnet8")
    ours = pruning.prune_two_of_four(model)
    arrays = models.to_arrays(ours)
    assert all(
        np.array_equal(arrays[k], v)
        for k, v in pytorch_models.to_arrays(pytorch_pruning.prune_two_of_four(other)).items()
    )
    tool = pruning_impl.Pruning(lambda: 1, [], None, (1, 1), "AVG", (2, 4))
    for name in ("stage2/a/conv", "fc"):
        kernel = model.get_layer(name).kernel
        _, mask = tool._maybe_update_block_mask(kernel)
        assert np.array_equal(ours.get_layer(name).kernel, kernel * mask)


@pytest.mark.parametrize("targets", [None, {"fc": 0.9}])
def test_zeros_stay_zero_in_training(targets: dict[str, float] | None, tiny: Dataset) -> None:
    """At once and bit by bit, in few steps; the other weights learn, in the model itself and without wrappers."""
    model = pruning.prune(small(), {"conv": 0.5})
    before = models.to_arrays(model)
    history = pruning.fine_tune(model, tiny, RECIPE, targets)
    after = models.to_arrays(model)
    zeros = before["conv.weight"] == 0
    assert not after["conv.weight"][zeros].any()
    assert (after["conv.weight"] != before["conv.weight"])[~zeros].mean() > 0.9
    expected = dict.fromkeys(pruning.prunable(model), 0.0) | {"conv": 0.5} | (targets or {})
    assert pruning.sparsities(model) == pytest.approx(expected, abs=5e-3)
    assert len(history) == 2
    assert not [layer.name for layer in model.layers if "prune" in layer.name]


def test_an_epoch_before_the_target_is_never_the_best(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense network would win on the validation images; the sparsity asked for is what is returned."""
    scores = iter([0.9, 0.2, 0.1])
    monkeypatch.setattr(train, "accuracy", lambda *_: next(scores))
    model = small()
    pruning.fine_tune(model, tiny, replace(RECIPE, epochs=3), {"fc": 0.5})
    assert pruning.sparsities(model)["fc"] == pytest.approx(0.5, abs=1e-3)


def test_a_gradual_training_resumes(tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within the second of three epochs: bit for bit what an undisturbed run gives."""
    recipe, targets = replace(RECIPE, epochs=3), {"conv": 0.9, "fc": 0.5}
    undisturbed = small()
    pruning.fine_tune(undisturbed, tiny, recipe, targets)
    original = train._Training.on_epoch_begin

    def interrupted(self: object, epoch: int, logs: object = None) -> None:
        original(self, epoch) if epoch < 1 else 1 / 0

    monkeypatch.setattr(train._Training, "on_epoch_begin", interrupted)
    with pytest.raises(ZeroDivisionError):
        pruning.fine_tune(small(), tiny, recipe, targets, tmp_path / "state")
    monkeypatch.setattr(train._Training, "on_epoch_begin", original)
    resumed = small()
    history = pruning.fine_tune(resumed, tiny, recipe, targets, tmp_path / "state")
    assert len(history) == 3
    assert same(models.to_arrays(resumed), models.to_arrays(undisturbed))


@pytest.mark.parametrize("plan", [Magnitude(0.8, gradual=True), TwoOfFour()], ids=lambda plan: plan.technique)
def test_made_once_then_found(plan: Magnitude, tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call trains nothing; PyTorch's checkpoint of the same plan is another one."""
    meta = {"data_fingerprint": tiny.fingerprint, "class_names": ["0", "1"]}
    start = zoo.Checkpoint("plain_cnn", tiny.name, RECIPE, models.to_arrays(models.build("plain_cnn", 2)), [], meta)
    made = pruning.load_or_prune(start, plan, replace(tiny, test=None), replace(RECIPE, epochs=1))
    assert made.origin == zoo.Origin(plan.technique, "tensorflow", start.key)
    assert made.key != zoo.key("plain_cnn", tiny.name, made.recipe, replace(made.origin, framework="pytorch"))
    monkeypatch.setattr(pruning, "fine_tune", None)
    found = pruning.load_or_prune(start, plan, tiny, replace(RECIPE, epochs=1))
    assert same(found.arrays, made.arrays)
    weights = pruning._weights(pruning.restore(found))
    zeros = 1 - sum(np.count_nonzero(w) for w in weights.values()) / sum(w.size for w in weights.values())
    assert zeros == pytest.approx(getattr(plan, "sparsity", 0.4993), abs=1e-3)


def test_a_fresh_network_has_the_shape_and_none_of_the_weights(tiny: Dataset) -> None:
    model = models.build("resnet8", 2, seed=1)
    left, _ = pruning._carry_out(model, Channels(2), tiny, seed=3)
    fresh, _ = pruning._carry_out(model, Channels(2, fresh=True), tiny, seed=3)
    mine, theirs = models.to_arrays(fresh), models.to_arrays(left)
    assert_drawn_anew(mine, theirs)
    assert same(mine, models.to_arrays(models.redrawn(left, 3)))


def test_a_pruned_file_agrees_with_the_network_and_compresses_better(tmp_path: Path, tiny: Dataset) -> None:
    model = models.build("plain_cnn", 2)
    pruned = pruning.prune(model, 0.9)
    files = [artifact.save(m, tmp_path / f"{i}.tflite") for i, m in enumerate((model, pruned))]
    (dense, dense_gzip), (sparse, sparse_gzip) = (measure.sizes(file.path) for file in files)
    assert dense == sparse, "zeros take as many bytes as other values"
    assert sparse_gzip < 0.35 * dense_gzip
    assert layers.layer_table(files[1].path).nonzero < 0.11 * layers.layer_table(files[0].path).nonzero
    images = tiny.test.images[:4]
    assert np.allclose(files[1].predict(images), train.logits(pruned, images), atol=1e-5)


def test_what_the_chapter_says_of_tfmot() -> None:
    """A frozen layer is pruned like any other, no depthwise layer is, and fewer than `frequency` steps do nothing."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 4))
    frozen = keras.layers.Conv2D(8, 3, name="frozen", trainable=False)
    depthwise = keras.layers.DepthwiseConv2D(3, name="depthwise")
    x = keras.layers.Flatten()(depthwise(frozen(image)))
    model = keras.Model(image, keras.layers.Dense(2)(x))
    before = frozen.kernel.numpy()
    zeros = {}
    for frequency in (100, 1):
        schedule = sparsity_tools.PolynomialDecay(0.0, 0.5, 0, 8, frequency=frequency)
        wrapped = sparsity_tools.prune_low_magnitude(model, schedule)
        wrapped.compile("sgd", "mse")
        data = np.ones((80, 8, 8, 4), np.float32), np.ones((80, 2), np.float32)
        wrapped.fit(*data, 10, verbose=0, callbacks=[sparsity_tools.UpdatePruningStep()])
        zeros[frequency] = [float((layer.get_weights()[0] == 0).mean()) for layer in (frozen, depthwise)]
    assert zeros == {100: [0, 0], 1: [0.5, 0]}
    left = frozen.kernel.numpy() != 0
    assert np.array_equal(frozen.kernel.numpy()[left], before[left])


def with_nan() -> keras.Model:
    model = models.build("resnet8")
    kernel = model.get_layer("fc").kernel
    kernel.assign(kernel.numpy() * np.where(np.arange(64) < 2, np.nan, 1)[:, None])
    return model


def quantized() -> keras.Model:
    from tensorflow_model_optimization.quantization.keras import quantize_model

    image = keras.Input((8,))
    return quantize_model(keras.Model(image, keras.layers.Dense(4)(image)))


def around(layer: keras.layers.Layer, shape: tuple[int, ...] = (8, 8, 4)) -> keras.Model:
    """A network of `layer` and a fully connected one that can be pruned."""
    image = keras.Input(shape)
    return keras.Model(image, keras.layers.Dense(2, name="fc")(keras.layers.Flatten()(layer(image))))


def test_layers_of_few_weights_are_left_alone() -> None:
    tools = keras.layers
    depthwise, scale = tools.DepthwiseConv2D(3, depth_multiplier=2), tools.LayerNormalization(axis=(1, 2, 3))
    for layer in (depthwise, scale, tools.PReLU(), tools.BatchNormalization(), tools.Normalization()):
        assert pruning.prunable(around(layer)) == ["fc"], layer.name
    mobile = keras.applications.MobileNetV3Small((32, 32, 3), 0.25, weights=None, classes=2, include_preprocessing=True)
    assert len(pruning.prunable(mobile)) == 43


@pytest.mark.parametrize(
    ("make", "asked", "line"),
    [
        (
            lambda: models.build("resnet8"),
            1.2,
            r"the sparsity as a share from 0 to below 1, got 1.2: write 0.5 for 50 %",
        ),
        (
            lambda: models.build("resnet8"),
            {"fc": -1},
            r"expected the sparsity of 'fc' as a share from 0 to below 1, got -1",
        ),
        (
            lambda: models.build("ds_cnn"),
            {"blocks.0.depthwise.conv": 0.5},
            r"cannot prune 'blocks.0.depthwise.conv': choose",
        ),
        (with_nan, 0.5, r"20 of 640 values in 'fc.weight' are NaN or infinite: train the model again"),
        (quantized, 0.5, r"the model is quantized already: prune the float model first, then quantize it"),
        (lambda: sparsity_tools.prune_low_magnitude(models.build("resnet8")), 0.5, "take them off with strip_pruning"),
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]), 0.5, r"nothing to prune: expected convol"),
        (lambda: Path("model.tflite"), 0.5, r"expected a tf_keras model to prune, got PosixPath: prune before saving"),
        (
            lambda: around(keras.Sequential([keras.layers.Conv2D(4, 3)], name="body")),
            0.5,
            r"^model 'body' stands inside the model: apply its layers one by one instead$",
        ),
        (
            lambda: around(keras.layers.SeparableConv2D(4, 3, name="two")),
            0.5,
            r"^SeparableConv2D 'two' cannot be pruned, only convolutions and fully connected layers: replace it",
        ),
        (lambda: around(keras.layers.Conv2DTranspose(4, 3, name="up")), 0.5, r"^Conv2DTranspose 'up' cannot be pruned"),
        (lambda: around(keras.layers.LSTM(4, name="gates"), (8, 4)), 0.5, r"^LSTM 'gates' cannot be pruned, only conv"),
        (lambda: around(keras.layers.Conv1D(4, 3, name="line"), (8, 4)), 0.5, r"^Conv1D 'line' cannot be pruned, only"),
        (
            lambda: around(keras.layers.TimeDistributed(keras.layers.Dense(4), name="each"), (8, 4)),
            0.5,
            r"^TimeDistributed 'each' cannot be pruned",
        ),
    ],
    ids=[
        "sparsity",
        "layer sparsity",
        "depthwise",
        "NaN",
        "quantized",
        "wrapped",
        "nothing",
        "file",
        "nested",
        "separable",
        "transposed",
        "LSTM",
        "1-D",
        "wrapper",
    ],
)
def test_what_cannot_be_pruned_is_refused_at_once(
    make: Callable[[], keras.Model], asked: object, line: str, monkeypatch: pytest.MonkeyPatch, tiny: Dataset
) -> None:
    """One line, by every function, and before any work."""
    model = make()
    monkeypatch.setattr(pruning, "_copy", None)
    monkeypatch.setattr(train, "train", None)
    calls = [lambda: pruning.prune(model, asked)]
    if isinstance(asked, dict):
        calls.append(lambda: pruning.fine_tune(model, tiny, RECIPE, asked))
    if asked == 0.5:
        calls += [lambda: pruning.fine_tune(model, tiny, RECIPE), lambda: pruning.scan(model, tiny.validation)]
        calls.append(lambda: pruning.prune_two_of_four(model))
    for call in calls:
        with pytest.raises(EdgelabError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)
