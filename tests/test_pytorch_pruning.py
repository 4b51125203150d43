"""Pruning in PyTorch: the zeros are really there, stay there in training, and nothing impossible is begun."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import assert_drawn_anew, same
from torch import nn
from torch.nn.utils import prune as masking

from edgelab import layers, zoo
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe
from edgelab.pruning import Channels, Magnitude, TwoOfFour, magnitude_masks
from edgelab.pytorch import models, pruning, teachers, train

RECIPE = Recipe(epochs=2, batch=16, peak_rate=0.02, crop=1)
PLANS = (Magnitude(0.5), Magnitude(0.8, gradual=True), Magnitude(0.6, by_sensitivity=True), TwoOfFour(), Channels(2))


def total(model: nn.Module) -> float:
    """The share of zeros among all weights that can be pruned."""
    weights = pruning._weights(model)
    return 1 - sum(np.count_nonzero(w) for w in weights.values()) / sum(w.size for w in weights.values())


@pytest.fixture
def start(tiny: Dataset) -> zoo.Checkpoint:
    """An untrained network passed off as trained."""
    arrays = models.to_arrays(models.build("resnet8", 2))
    meta = {"data_fingerprint": tiny.fingerprint, "class_names": ["0", "1"], "train_seconds": 100.0}
    return zoo.Checkpoint("resnet8", tiny.name, replace(RECIPE, seed=7), arrays, [], meta)


@pytest.mark.parametrize("name", models.MODELS)
def test_one_threshold_by_hand_and_by_torch(name: str) -> None:
    """A new network with the same zeros as a few lines of NumPy make; the old one is untouched."""
    model = models.build(name)
    before = models.to_arrays(model)
    pruned = pruning.prune(model, 0.7)
    weights = pruning._weights(model)
    masks = magnitude_masks(weights, 0.7)
    after = models.to_arrays(pruned)
    expected = {**before, **{f"{layer}.weight": weights[layer] * masks[layer] for layer in weights}}
    assert all(np.array_equal(after[key], expected[key]) for key in expected)
    assert same(models.to_arrays(model), before)
    assert total(pruned) == pytest.approx(0.7, abs=1e-5)
    assert not [key for key in pruned.state_dict() if key.endswith(("_orig", "_mask"))], "made permanent"


def test_depthwise_layers_stay_dense() -> None:
    names = pruning.prunable(models.build("ds_cnn"))
    assert "blocks.0.pointwise.conv" in names and not [name for name in names if "depthwise" in name]
    table = layers.layer_table(pruning.prune(models.build("ds_cnn"), 0.9), (3, 32, 32))
    depthwise = [row for row in table.layers if row.kind == "depthwise convolution"]
    assert depthwise and all(row.macs == row.effective_macs for row in depthwise)


def test_layers_of_few_weights_are_left_alone() -> None:
    """Whatever their shapes: norms, slopes, factors a channel, depthwise convolutions; masks are no obstacle."""
    few = [nn.BatchNorm2d(8), nn.LayerNorm((8, 4, 4)), nn.PReLU(8), nn.ConvTranspose2d(8, 8, 3, groups=8)]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *few, nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1))
    model.register_parameter("factors", nn.Parameter(torch.ones(4, 1, 1)))
    masking.l1_unstructured(model[0], "weight", 0.5)
    assert pruning.prunable(model) == ["0", "6"]
    assert len(pruning.prunable(models.build("mobilenet_v3_small_25"))) == 43
    assert len(pruning.prunable(teachers.BACKBONES["efficientnet_lite0"](32))) == 33


def test_shares_by_layer() -> None:
    pruned = pruning.prune(models.build("plain_cnn"), {"fc1": 0.9, "conv2": 0.25})
    assert pruning.sparsities(pruned) == pytest.approx(
        {"conv1": 0, "conv2": 0.25, "conv3": 0, "fc1": 0.9, "fc2": 0}, abs=1e-4
    )


def test_two_of_four_in_every_layer_but_the_first() -> None:
    pruned = pruning.prune_two_of_four(models.build("resnet8"))
    shares = pruning.sparsities(pruned)
    assert shares.pop("stem.conv") == 0
    assert set(shares.values()) == {0.5}


@pytest.mark.parametrize("targets", [None, {"fc1": 0.9, "conv3": 0.5}])
def test_zeros_stay_zero_in_training(targets: dict[str, float] | None, tiny: Dataset) -> None:
    """At once and bit by bit; the other weights learn."""
    model = pruning.prune(models.build("plain_cnn", 2), {"conv2": 0.5})
    before = models.to_arrays(model)
    history = pruning.fine_tune(model, tiny, RECIPE, targets)
    after = models.to_arrays(model)
    zeros = before["conv2.weight"] == 0
    assert not after["conv2.weight"][zeros].any()
    assert (after["conv2.weight"] != before["conv2.weight"])[~zeros].mean() > 0.99
    assert pruning.sparsities(model) == pytest.approx(
        {"conv1": 0, "conv2": 0.5, "conv3": 0, "fc1": 0, "fc2": 0} | (targets or {}), abs=1e-4
    )
    assert len(history) == 2
    assert not [key for key in model.state_dict() if key.endswith(("_orig", "_mask"))]


def test_an_epoch_before_the_target_is_never_the_best(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense network would win on the validation images; the sparsity asked for is what is returned."""
    scores = iter([0.9, 0.2, 0.1])
    monkeypatch.setattr(train, "accuracy", lambda *_: next(scores))
    model = models.build("resnet8", 2)
    pruning.fine_tune(model, tiny, replace(RECIPE, epochs=3), {"fc": 0.5})
    assert pruning.sparsities(model)["fc"] == 0.5


def test_a_gradual_training_resumes(tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within the second of three epochs: bit for bit what an undisturbed run gives."""
    recipe, targets = replace(RECIPE, epochs=3), {"stage3.b.conv": 0.9, "fc": 0.5}
    undisturbed = models.build("resnet8", 2)
    pruning.fine_tune(undisturbed, tiny, recipe, targets)
    original = train._epoch
    monkeypatch.setattr(train, "_epoch", lambda *given: original(*given) if given[-1] < 1 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pruning.fine_tune(models.build("resnet8", 2), tiny, recipe, targets, tmp_path / "state")
    monkeypatch.setattr(train, "_epoch", original)
    resumed = models.build("resnet8", 2)
    history = pruning.fine_tune(resumed, tiny, recipe, targets, tmp_path / "state")
    assert len(history) == 3
    assert same(models.to_arrays(resumed), models.to_arrays(undisturbed))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.technique)
def test_made_once_then_found(
    plan: Magnitude, start: zoo.Checkpoint, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call trains nothing and returns the same weights; no test image is needed."""
    made = pruning.load_or_prune(start, plan, replace(tiny, test=None), RECIPE)
    assert made.origin == zoo.Origin(plan.technique, "pytorch", start.key)
    assert made.meta["train_seconds"] > 100
    monkeypatch.setattr(pruning, "fine_tune", None)
    found = pruning.load_or_prune(start, plan, tiny, RECIPE)
    assert same(found.arrays, made.arrays) and found.history == made.history and len(found.history) == 2
    network = pruning.restore(found)
    expected = {"magnitude_pruning_2_4": 0.497}.get(plan.technique, getattr(plan, "sparsity", 0))
    assert total(network) == pytest.approx(expected, abs=1e-3)
    macs = [layers.layer_table(m, (3, 32, 32)).macs for m in (pruning.restore(start), network)]
    assert macs[0] / macs[1] == pytest.approx(getattr(plan, "speed_up", 1), rel=0.1)


def test_a_fresh_network_has_the_shape_and_none_of_the_weights(start: zoo.Checkpoint, tiny: Dataset) -> None:
    """As narrow as with the weights that are left, drawn from the seed of its own training."""
    given = pruning.restore(start), Channels(2), tiny
    left, _ = pruning._carry_out(*given, seed=3)
    fresh, _ = pruning._carry_out(given[0], Channels(2, fresh=True), tiny, seed=3)
    mine, theirs = models.to_arrays(fresh), models.to_arrays(left)
    assert_drawn_anew(mine, theirs)
    assert same(mine, models.to_arrays(models.redrawn(left, 3)))


def quantized() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)


def with_nan() -> nn.Module:
    model = models.build("resnet8")
    with torch.no_grad():
        model.fc.weight[0, :3] = torch.nan
    return model


def beside(name: str, layer: nn.Module) -> nn.Module:
    """A network of a convolution, which can be pruned, and `layer`."""
    return nn.Sequential(OrderedDict([("conv", nn.Conv2d(3, 8, 3)), (name, layer)]))


def with_own_matrix() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_parameter("places", nn.Parameter(torch.ones(4, 4)))
    return model


@pytest.mark.parametrize(
    ("make", "sparsity", "line"),
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
        (with_nan, 0.5, r"3 of 640 values in 'fc.weight' are NaN or infinite: train the model again"),
        (quantized, 0.5, r"the model is quantized already: prune the float model first, then quantize it"),
        (
            lambda: nn.Sequential(nn.BatchNorm2d(3)),
            0.5,
            r"nothing to prune: expected convolutions \(not depthwise\) or",
        ),
        (
            lambda: Path("model.onnx"),
            0.5,
            r"expected a torch module to prune, got PosixPath: prune before saving a file",
        ),
        (
            lambda: beside("up", nn.ConvTranspose2d(8, 4, 3)),
            0.5,
            r"^ConvTranspose2d 'up' cannot be pruned, only convolutions and fully connected layers: replace it",
        ),
        (lambda: beside("gates", nn.LSTM(4, 4)), 0.5, r"^LSTM 'gates' cannot be pruned, only convolutions and fully"),
        (lambda: beside("heads", nn.MultiheadAttention(8, 2)), 0.5, r"^MultiheadAttention 'heads' cannot be pruned"),
        (lambda: beside("words", nn.Embedding(9, 8)), 0.5, r"^Embedding 'words' cannot be pruned, only convolutions"),
        (with_own_matrix, 0.5, r"^Sequential 'the model itself' cannot be pruned, only convolutions"),
    ],
    ids=[
        "sparsity",
        "layer sparsity",
        "depthwise",
        "NaN",
        "quantized",
        "nothing",
        "file",
        "transposed",
        "LSTM",
        "attention",
        "embedding",
        "own",
    ],
)
def test_what_cannot_be_pruned_is_refused_at_once(
    make: Callable[[], nn.Module], sparsity: object, line: str, monkeypatch: pytest.MonkeyPatch, tiny: Dataset
) -> None:
    """One line, by every function, and before any work."""
    model = make()
    monkeypatch.setattr(pruning.copy, "deepcopy", None)
    monkeypatch.setattr(train, "train", None)
    calls = [lambda: pruning.prune(model, sparsity)]
    if isinstance(sparsity, dict):
        calls.append(lambda: pruning.fine_tune(model, tiny, RECIPE, sparsity))
    if sparsity == 0.5:
        calls += [lambda: pruning.fine_tune(model, tiny, RECIPE), lambda: pruning.scan(model, tiny.validation)]
        calls.append(lambda: pruning.prune_two_of_four(model))
    for call in calls:
        with pytest.raises(EdgelabError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)
