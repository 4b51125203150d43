"""Learned steps and graph mode's int8 in PyTorch: gradients, training, checkpoints, files and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support import same
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig_mapping

from edgelab import artifact, weights, zoo
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table
from edgelab.profiles import Recipe
from edgelab.pytorch import models, qat, train
from edgelab.qat import Grid, Int8, LowBit

RECIPE = Recipe(epochs=2, batch=16, peak_rate=0.02, crop=1)


def shaken(name: str = "resnet8", classes: int = 2) -> nn.Module:
    """A network whose BatchNorm does something, one channel with a negative factor, as training can leave it."""
    model = models.build(name, classes)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
                part.weight[0] *= -1
                part.running_var.uniform_(0.1, 0.5, generator=torch.Generator().manual_seed(2))
                part.bias.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(3))
    return model


@pytest.fixture
def start(tiny: Dataset) -> zoo.Checkpoint:
    """A network passed off as trained."""
    arrays = models.to_arrays(shaken())
    meta = {"data_fingerprint": tiny.fingerprint, "class_names": ["0", "1"], "train_seconds": 100.0}
    return zoo.Checkpoint("resnet8", tiny.name, replace(RECIPE, seed=7), arrays, [], meta)


@pytest.mark.parametrize(("bits", "signed"), [(2, True), (4, False)])
@pytest.mark.parametrize("per_image", [False, True])
def test_forward_and_gradients_are_those_of_the_paper(bits: int, signed: bool, per_image: bool) -> None:
    """Against equations 1 to 5 of Esser et al., value by value, with values beyond both ends of the grid."""
    grid, step = Grid(bits, signed), 0.3
    quantizer = qat.Quantizer(grid, step, per_image)
    values = (4 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0))).requires_grad_()
    given = torch.rand(6, 50, generator=torch.Generator().manual_seed(1))
    result = quantizer(values)
    (result * given).sum().backward()
    ratio, low, high = values.detach() / np.float32(step), grid.low, grid.high
    assert (ratio < low).any() and (ratio > high).any()
    assert torch.equal(result.detach(), ratio.clamp(low, high).round() * np.float32(step))
    inside = (ratio > low) & (ratio < high)
    assert torch.equal(values.grad, given * inside)
    slope = torch.where(inside, ratio.round() - ratio, ratio.clamp(low, high))
    scale = 1 / np.sqrt((50 if per_image else 300) * high)
    assert quantizer.step.grad.item() == pytest.approx(((slope * given).sum() * scale).item(), rel=1e-5)


@pytest.mark.parametrize("name", models.MODELS)
def test_first_and_last_layer_have_eight_bits_and_activations_their_sign(name: str, tiny: Dataset) -> None:
    model = models.build(name)
    quantized = qat.quantize(model, 3, tiny.train.images[:8])
    layers = list(qat.quantized_layers(quantized).values())
    assert [layer.of_weight.grid.bits for layer in layers] == [8] + [3] * (len(layers) - 2) + [8]
    assert [layer.of_input.grid.bits for layer in layers] == [8] + [3] * (len(layers) - 2) + [8]
    assert [layer.of_input.grid.signed for layer in layers] == [True] + [False] * (len(layers) - 1)
    assert not qat.quantized_layers(model), "the old one is untouched"


def test_eight_bits_change_little_and_weights_lie_on_their_grids(tiny: Dataset) -> None:
    model, images = shaken("plain_cnn"), tiny.train.images[:16]
    quantized = qat.quantize(model, 8, images)
    exact = train.logits(model, images)
    assert np.abs(train.logits(quantized, images) - exact).max() < 0.05 * np.ptp(exact)
    layer = qat.quantized_layers(qat.quantize(model, 2, images))["conv2"]
    step = layer.of_weight.step.item()
    assert set(np.unique(qat.integers(layer))) == {-2, -1, 0, 1}
    assert torch.equal(layer.of_weight(layer.weight).detach(), torch.tensor(qat.integers(layer)) * step)
    wide = qat.quantized_layers(qat.quantize(model, 2, images, "min_max"))["conv2"]
    assert wide.of_weight.step.item() > step


def test_training_moves_weights_and_steps_and_mends_the_network(tiny: Dataset) -> None:
    model = models.build("resnet8", 2)
    train.train(model, tiny, RECIPE)
    quantized = qat.quantize(model, 2, tiny.train.images[:16])
    before = {name: array.copy() for name, array in models.to_arrays(quantized).items()}
    history = qat.fine_tune(quantized, tiny, replace(RECIPE, epochs=4))
    after = models.to_arrays(quantized)
    steps = [name for name in after if name.endswith(".step")]
    assert sum(not np.array_equal(before[name], after[name]) for name in steps) > len(steps) / 2
    assert all(1 / qat.REACH <= after[name] / before[name] <= qat.REACH for name in steps)
    assert history[-1]["loss"] < history[0]["loss"]
    assert train.accuracy(quantized, tiny.train) > 0.9


def test_a_step_is_kept_within_reach(tiny: Dataset) -> None:
    """Rates at which single gradients throw it far away."""
    quantized = qat.quantize(models.build("resnet8", 2), 2, tiny.train.images[:16])
    first = {name: p.item() for name, p in quantized.named_parameters() if name.endswith(".step")}
    qat.fine_tune(quantized, tiny, replace(RECIPE, epochs=1, peak_rate=3.0))
    ratios = [p.item() / first[name] for name, p in quantized.named_parameters() if name in first]
    assert max(ratios) <= qat.REACH * 1.0001 and min(ratios) >= 0.9999 / qat.REACH


PLANS = (LowBit(2), LowBit(3), Int8())


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.technique)
def test_made_once_then_found(
    plan: LowBit, start: zoo.Checkpoint, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call trains nothing; what is restored answers alike each time; no test image is needed."""
    made = qat.load_or_quantize(start, plan, replace(tiny, test=None), RECIPE)
    assert made.origin == zoo.Origin(plan.technique, "pytorch", start.key)
    assert made.meta["train_seconds"] > 100 and len(made.history) == 2
    monkeypatch.setattr(qat, "fine_tune", None)
    found = qat.load_or_quantize(start, plan, tiny, RECIPE)
    assert same(found.arrays, made.arrays) and found.history == made.history
    network = qat.restore(found)
    answers = train.logits(network, tiny.test.images)
    assert np.array_equal(train.logits(network, tiny.test.images), answers)
    assert np.array_equal(train.logits(qat.restore(made), tiny.test.images), answers)


def test_a_checkpoint_keeps_the_trained_network_exactly(tiny: Dataset) -> None:
    """Though its weights are rounded to eight significant bits: integers survive that, at all widths in use."""
    for bits in (2, 4, 8):
        trained = qat.quantize(shaken(), bits, tiny.train.images[:16])
        kept = weights.coarse(qat.to_arrays(trained))
        again = qat.from_arrays(models.build("resnet8", 2), kept)
        for name, layer in qat.quantized_layers(trained).items():
            assert np.array_equal(qat.integers(layer), qat.integers(qat.quantized_layers(again)[name]))
            assert layer.of_input.grid == qat.quantized_layers(again)[name].of_input.grid
        images = tiny.test.images
        assert np.abs(train.logits(again, images) - train.logits(trained, images)).max() < 1e-4


@pytest.mark.parametrize("way", ["lsq", "int8"])
def test_training_resumes(way: str, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within the second of two epochs: bit for bit what an undisturbed run gives."""

    def make() -> nn.Module:
        model = models.build("resnet8", 2)
        images = tiny.train.images[:16]
        return qat.quantize(model, 3, images) if way == "lsq" else qat.prepare_int8(model, images)

    undisturbed = make()
    qat.fine_tune(undisturbed, tiny, RECIPE)
    original = train._epoch
    monkeypatch.setattr(train, "_epoch", lambda *given: original(*given) if given[-1] < 1 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        qat.fine_tune(make(), tiny, RECIPE, tmp_path / "state")
    monkeypatch.setattr(train, "_epoch", original)
    resumed = make()
    assert len(qat.fine_tune(resumed, tiny, RECIPE, tmp_path / "state")) == 2
    assert same(qat.to_arrays(resumed), qat.to_arrays(undisturbed))


@pytest.mark.parametrize(("name", "bits"), [("plain_cnn", 2), ("resnet8", 3), ("ds_cnn", 4)])
def test_the_file_holds_narrow_integers_and_answers_as_the_network(
    name: str, bits: int, tiny: Dataset, tmp_path: Path
) -> None:
    """BatchNorm folded into scales, a negative one among them; sizes as they should be."""
    quantized = qat.quantize(shaken(name), bits, tiny.train.images[:16])
    file = qat.save(quantized, tmp_path / "low.onnx")
    exact, found = train.logits(quantized, tiny.test.images), file.predict(tiny.test.images)
    assert np.median(np.abs(exact - found)) < 0.02 * np.ptp(exact)
    assert np.abs(exact - found).max() < 0.2 * np.ptp(exact), (
        "where a value lies between two points it may go to either"
    )
    rows = [row for row in layer_table(file.path, (3, 32, 32)).layers if row.macs]
    width = {3: 4}.get(bits, bits)
    assert [row.weight_bits for row in rows] == [8] + [width] * (len(rows) - 2) + [8]
    assert [row.activation_bits for row in rows] == [8] + [width] * (len(rows) - 2) + [8]
    layers = qat.quantized_layers(quantized)
    stored = sum(
        layer.weight.numel() * (8 if i in (0, len(layers) - 1) else width) for i, layer in enumerate(layers.values())
    )
    assert stored / 8 < file.path.stat().st_size < stored / 8 + 50_000
    assert qat.packed_size(quantized) < file.path.stat().st_size
    kept = {t.name: t for t in onnx.load(file.path).graph.initializer}
    second = list(layers)[1]
    integers = onnx.numpy_helper.to_array(kept[f"{second}.weight_integers"]).astype(int)
    assert np.array_equal(integers - (128 if width == 8 else 0), qat.integers(layers[second]))


def test_graph_mode_s_file_answers_as_the_network(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the ranges seen too, where PyTorch's own settings differ: 127 in training, 255 in the file."""
    images, dark = tiny.test.images, tiny.train.images[:16] // 4 + 96

    def steps_apart() -> float:
        prepared = qat.prepare_int8(models.build("plain_cnn"), dark)
        file = qat.save(prepared, tmp_path / "eight.onnx")
        scales = [
            part.scale.item() for part in prepared.modules() if hasattr(part, "scale") and part.scale.numel() == 1
        ]
        return float(np.abs(file.predict(images) - train.logits(prepared, images)).max()) / scales[-1]

    assert steps_apart() <= 3
    rows = [row for row in layer_table(tmp_path / "eight.onnx", (3, 32, 32)).layers if row.macs]
    assert {row.weight_bits for row in rows} == {8}
    monkeypatch.setattr(qat, "int8_mapping", lambda: get_default_qat_qconfig_mapping("x86"))
    assert steps_apart() > 10


def test_evaluation_changes_no_range_training_does(tiny: Dataset) -> None:
    prepared = qat.prepare_int8(models.build("resnet8", 2), tiny.train.images[:16])

    def ranges() -> list[float]:
        return [part.scale.sum().item() for part in prepared.modules() if hasattr(part, "scale")]

    before = ranges()
    train.logits(prepared, np.full((4, 32, 32, 3), 255, np.uint8))
    assert ranges() == before
    prepared.train()(train.to_input(torch.tensor(tiny.train.images[:8])))
    assert ranges() != before


def quantized_already(tiny: Dataset) -> nn.Module:
    return qat.quantize(models.build("resnet8"), 4, tiny.train.images[:2])


def with_nan(tiny: Dataset) -> nn.Module:
    model = models.build("resnet8")
    with torch.no_grad():
        model.fc.weight[0, :3] = torch.nan
    return model


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (quantized_already, r"the model is quantized already: start from the float model"),
        (
            lambda d: qat.prepare_int8(models.build("resnet8"), d.train.images[:2]),
            r"the model is quantized already: start",
        ),
        (with_nan, r"3 of 640 values in 'fc.weight' are NaN or infinite: train the model again"),
        (
            lambda d: nn.Sequential(nn.Conv2d(3, 2, 3), nn.LSTM(4, 4)),
            r"LSTM '1' cannot be quantized, only Conv2d, Linear",
        ),
        (lambda d: nn.Sequential(nn.ReLU()), r"nothing to quantize: expected convolutions or fully connected layers"),
        (lambda d: Path("model.onnx"), r"expected a torch module to quantize, got PosixPath: start from the network"),
    ],
    ids=["LSQ twice", "int8 then LSQ", "NaN", "layer", "nothing", "file"],
)
def test_what_cannot_be_quantized_is_refused_at_once(
    make: Callable[[Dataset], nn.Module], line: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, by both ways, before any work."""
    model = make(tiny)
    monkeypatch.setattr(qat.copy, "deepcopy", None)
    monkeypatch.setattr(train, "logits", None)
    for call in (lambda: qat.quantize(model, 4, tiny.train.images), lambda: qat.prepare_int8(model, tiny.train.images)):
        with pytest.raises(EdgelabError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), r"^ResNet8: one calibration image does not show the range of the"),
        (np.zeros((9, 32, 32, 3), np.uint8), r"^ResNet8: one calibration image does not show the range of the"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"^expected uint8 calibration images \(n, height, width, channels\), got"),
        (np.zeros((2, 32, 32, 3)), r"^expected uint8 calibration images \(n, height, width, channels\), got float64"),
    ],
    ids=["one", "alike", "none", "floats"],
)
def test_images_that_show_no_range_are_refused_as_for_a_file(images: np.ndarray, line: str, tmp_path: Path) -> None:
    model = models.build("resnet8")
    with pytest.raises(EdgelabError, match=line.replace("ResNet8", "a.onnx")):
        artifact.save(model, tmp_path / "a.onnx", images)
    for call in (lambda: qat.quantize(model, 4, images), lambda: qat.prepare_int8(model, images)):
        with pytest.raises(EdgelabError, match=line):
            call()


def test_other_requests_that_cannot_be_met(tiny: Dataset, tmp_path: Path, start: zoo.Checkpoint) -> None:
    model, images = models.build("resnet8"), tiny.train.images[:2]
    with pytest.raises(EdgelabError, match=r"^expected a width from 2 to 8 bits, got 16"):
        qat.quantize(model, 16, images)
    with pytest.raises(EdgelabError, match=r"^expected steps one of mse, min_max, got 'best'"):
        qat.quantize(model, 4, images, "best")
    with pytest.raises(EdgelabError, match=r"^a.tflite: a quantized torch module becomes an .onnx file"):
        qat.save(qat.quantize(model, 4, images), tmp_path / "a.tflite")
    with pytest.raises(EdgelabError, match=r"^a.onnx: the model has no quantizers: make it with quantize or"):
        qat.save(model, tmp_path / "a.onnx")
    with pytest.raises(EdgelabError, match=r"holds no quantization-aware network but baseline"):
        qat.restore(start)
    broken = qat.quantize(model, 4, images)
    broken.fc.weight.data[0, 0] = torch.inf
    with pytest.raises(EdgelabError, match=r"^1 of 640 values in 'fc.weight' are NaN or infinite"):
        qat.fine_tune(broken, tiny, RECIPE)
    with pytest.raises(EdgelabError, match=r"quantized already: save it as it is|the weights do not fit"):
        qat.from_arrays(models.build("resnet8", 3), qat.to_arrays(broken))
    assert not list(tmp_path.iterdir())
    assert isinstance(artifact.save(model, tmp_path / "float.onnx"), artifact.Artifact)
