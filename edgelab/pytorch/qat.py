"""Quantization-aware training in PyTorch: learned steps below eight bits (LSQ), and graph mode's int8.

With LSQ every convolution and fully connected layer gets one step for its weights and one for its inputs, each a single
number, learnt along with the weights. BatchNorm stays in float: in the file it is folded into one scale a channel.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.ao.quantization import QConfig, QConfigMapping, get_default_qat_qconfig_mapping
from torch.ao.quantization.fake_quantize import (
    FakeQuantizeBase,
    FusedMovingAvgObsFakeQuantize,
    disable_observer,
    enable_observer,
)
from torch.ao.quantization.observer import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx
from torch.nn import functional as F

from edgelab import artifact, zoo
from edgelab.artifact import Artifact, check_calibration, first_line, quiet
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path
from edgelab.profiles import Recipe, check_unaveraged
from edgelab.pruning import check_finite
from edgelab.pytorch import models, pruning, train
from edgelab.pytorch._low_bit_file import Layer, with_integers
from edgelab.qat import ENDS_BITS, Grid, Int8, LowBit, Plan, check_bits, packed_bytes, spread
from edgelab.weights import Arrays, check_fit
from edgelab.zoo import Checkpoint

REACH = 4.0  # steps stay within this factor of where they begin
STEPS = ("mse", "min_max")
KNOWN = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
FROZEN = "quantiz"  # in the module or operator names of everything PyTorch and torchao quantize with


class _OnGrid(torch.autograd.Function):
    """Values on the grid of `step`, and the gradients of LSQ: rounding is taken for the identity."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, low: int, high: int, share: float) -> Tensor:
        ratio = values / step
        integers = ratio.clamp(low, high).round_()
        ctx.save_for_backward(ratio, integers)
        ctx.bounds, ctx.share = (low, high), share
        return integers * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (ratio, integers), (low, high) = gradients, ctx.saved_tensors, ctx.bounds
        inside = (ratio >= low) & (ratio <= high)
        of_values = gradient * inside if ctx.needs_input_grad[0] else None
        of_step = ((integers - ratio * inside) * gradient).sum().reshape(1) * ctx.share
        return of_values, of_step, None, None, None


class Quantizer(nn.Module):
    """Puts values on a grid with a learned step (Esser et al. 2020, arXiv:1902.08153).

    `per_image` says that the values are activations, with the batch as their first dimension. The gradient of the step
    is multiplied by 1 / sqrt(n * high) with n values (an image), so that steps learn no faster than weights do.
    """

    def __init__(self, grid: Grid, step: float = 1.0, per_image: bool = False) -> None:
        super().__init__()
        self.grid, self.per_image = grid, per_image
        self.step = nn.Parameter(torch.tensor([step], dtype=torch.float32))
        self.register_buffer("bounds", torch.tensor([grid.low, grid.high]))

    def forward(self, values: Tensor) -> Tensor:
        """The values on the grid, of the same shape."""
        count = values[0].numel() if self.per_image else values.numel()
        share = 1 / math.sqrt(count * self.grid.high)
        return _OnGrid.apply(values, self.step, self.grid.low, self.grid.high, share)


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose weights and inputs are put on grids first."""

    of_weight: Quantizer
    of_input: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution it is made of."""
        return self._conv_forward(self.of_input(x), self.of_weight(self.weight), self.bias)


class QuantizedLinear(nn.Linear):
    """A fully connected layer whose weights and inputs are put on grids first."""

    of_weight: Quantizer
    of_input: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """As the layer it is made of."""
        return F.linear(self.of_input(x), self.of_weight(self.weight), self.bias)


Quantized = QuantizedConv2d | QuantizedLinear
TWINS: tuple[tuple[type[Any], type[Any]], ...] = ((nn.Conv2d, QuantizedConv2d), (nn.Linear, QuantizedLinear))


def _as(kind: type[Any], layer: Any) -> Any:
    """A layer of another `kind` with the same sizes, weight and bias."""
    if isinstance(layer, nn.Linear):
        new = kind(layer.in_features, layer.out_features, layer.bias is not None)
    else:
        sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        new = kind(layer.in_channels, layer.out_channels, *sizes, layer.bias is not None, layer.padding_mode)
    new.weight, new.bias = layer.weight, layer.bias
    return new.train(layer.training)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def _wrap(model: nn.Module, name: str, of_weight: Quantizer, of_input: Quantizer) -> None:
    """Put quantizers around the layer `name` of `model`."""
    layer = model.get_submodule(name)
    quantized = _as(next(twin for kind, twin in TWINS if isinstance(layer, kind)), layer)
    quantized.of_weight, quantized.of_input = of_weight, of_input
    _put(model, name, quantized)


def quantized_layers(model: nn.Module) -> dict[str, Quantized]:
    """The layers with learned steps, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Quantized)}


def _check_model(model: nn.Module) -> None:
    """Raise EdgelabError unless `model` is a float torch module of layers that can be quantized, weights finite."""
    if not isinstance(model, nn.Module):
        raise EdgelabError(f"expected a torch module to quantize, got {type(model).__name__}: start from the network")
    operators = [str(node.target) for node in getattr(getattr(model, "graph", None), "nodes", ())]
    kinds = [type(module).__module__ for module in model.modules()]
    if quantized_layers(model) or any(FROZEN in name for name in (*kinds, *operators)):
        raise EdgelabError("the model is quantized already: start from the float model")
    for name, layer in model.named_modules():
        if next(layer.parameters(recurse=False), None) is not None and not isinstance(layer, KNOWN):
            kind, known = type(layer).__name__, "Conv2d, Linear and BatchNorm"
            raise EdgelabError(f"{kind} {name!r} cannot be quantized, only {known}: replace it or leave it out")
    if not any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()):
        raise EdgelabError("nothing to quantize: expected convolutions or fully connected layers")
    check_finite(models.to_arrays(model))


def _inputs(model: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """What convolutions and fully connected layers read when `model` sees `images`, in the order in which they run."""
    seen: dict[str, np.ndarray] = {}

    def remember(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, given[0].detach().cpu().numpy())

        return hook

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    hooks = [layer.register_forward_pre_hook(remember(name)) for name, layer in layers.items()]
    try:
        train.logits(model, images, len(images))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def quantize(model: nn.Module, bits: int, images: np.ndarray, steps: str = "mse") -> nn.Module:
    """A copy of `model` whose weights and activations are on grids of `bits` bits; first and last layer have 8.

    Not trained: `fine_tune` does that. Each layer has one step for all its weights and one for its inputs. The first
    steps are those with the least squared error (`mse`), or those that clip nothing (`min_max`), on the weights and on
    what the layers read when shown `images`, uint8 NHWC of the training split.
    Raises EdgelabError for impossible bits, an unsupported layer, NaN weights, a model that is quantized, or images
    of which there are not two that differ.
    """
    check_bits(bits)
    if steps not in STEPS:
        raise EdgelabError(f"expected steps one of {', '.join(STEPS)}, got {steps!r}")
    _check_model(model)
    check_calibration(images, type(model).__name__)
    new = copy.deepcopy(model).eval()
    read = _inputs(new, images)
    ends = (next(iter(read)), next(reversed(read)))
    for name, values in read.items():
        width = ENDS_BITS if name in ends else bits
        pair: list[Quantizer] = []
        for array in (new.get_submodule(name).weight.detach().cpu().numpy(), values):  # type: ignore[operator]
            grid = Grid(width, signed=not pair or float(array.min()) < 0)
            step = grid.best_step(array) if steps == "mse" else grid.min_max_step(array)
            pair.append(Quantizer(grid, step, per_image=bool(pair)))
        _wrap(new, name, *pair)
    return new


def prepare_int8(model: nn.Module, images: np.ndarray) -> nn.Module:
    """A copy of `model` that computes as its int8 version will, for training: PyTorch's graph mode (FX).

    Weights use 7 of their 8 bits and have a scale a channel, so that no sum of two products overflows 16 bits.
    BatchNorm is folded while it learns. The first ranges of the activations are those on `images`, uint8 NHWC of the
    training split; later they are observed in training mode only.
    Raises EdgelabError where `quantize` does, and where the network cannot be traced.
    """
    _check_model(model)
    check_calibration(images, type(model).__name__)
    return _prepared(model, images)


def _prepared(model: nn.Module, images: np.ndarray) -> nn.Module:
    """As `prepare_int8`, with any images: the ranges are to be replaced where a checkpoint is restored."""
    inputs = train.to_input(torch.tensor(images))
    try:
        with quiet():
            prepared = prepare_qat_fx(copy.deepcopy(model).train(), int8_mapping(), (inputs,))
    except Exception as error:
        raise EdgelabError(f"{type(model).__name__} cannot be traced for quantization ({first_line(error)})") from error
    with torch.no_grad():
        prepared.eval()(inputs)
    prepared.register_forward_pre_hook(_observe_in_training)
    return prepared


def int8_mapping() -> QConfigMapping:
    """Where activations have 8 bits and weights 7, -64..63, on a grid a channel.

    PyTorch's own settings for x86 give 7 bits to the activations instead: while it trains they are cut at 127, in the
    int8 module only at 255, and large values come out otherwise than was learnt.
    """
    activation = FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
    )
    weight = FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver,
        quant_min=-64,
        quant_max=63,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    )
    return get_default_qat_qconfig_mapping("x86").set_global(QConfig(activation, weight))


def _observe_in_training(model: nn.Module, _: object) -> None:
    model.apply(enable_observer if model.training else disable_observer)


def convert_int8(prepared: nn.Module) -> nn.Module:
    """The int8 module that `prepared` (by `prepare_int8`, trained) stands for; `artifact.save` makes a file of it."""
    engine = torch.backends.quantized.engine
    try:
        with quiet():
            if "x86" in torch.backends.quantized.supported_engines:
                torch.backends.quantized.engine = "x86"
            return convert_fx(copy.deepcopy(prepared).eval())  # type: ignore[arg-type]
    finally:
        torch.backends.quantized.engine = engine


def fine_tune(
    model: nn.Module, dataset: Dataset, recipe: Recipe, state_path: Path | None = None
) -> list[dict[str, float]]:
    """Train a model of `quantize` or `prepare_int8` in place, weights and steps; the history, as `train.train` does.

    A learned step stays within a factor of REACH of its first value: while a network of few bits still guesses, single
    large gradients could throw it out of reach for good. Training resumes from `state_path`.
    Raises EdgelabError where a weight is NaN or infinite.
    """
    check_unaveraged(recipe)
    check_finite({name: array for name, array in models.to_arrays(model).items() if name.endswith(("weight", "bias"))})
    steps = [(part, part.step.item()) for part in model.modules() if isinstance(part, Quantizer)]

    def keep_near(_: float) -> None:
        for part, first in steps:
            part.step.data.clamp_(first / REACH, first * REACH)

    return train.train(model, dataset, recipe, state_path, after_step=keep_near)


def to_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The arrays of a quantized model, for a checkpoint; weights with a learned step as the integers on their grid.

    Small integers survive the rounding of a compact checkpoint, see `weights.coarse`, and take little room in it.
    """
    arrays = models.to_arrays(model)
    return arrays | {f"{name}.weight": integers(layer) for name, layer in quantized_layers(model).items()}


def integers(layer: Quantized) -> np.ndarray:
    """The weights of `layer` as integers on its grid, float32 in the weight's shape."""
    return layer.of_weight.grid.integers(layer.weight.detach().cpu().numpy(), layer.of_weight.step.item())


def from_arrays(model: nn.Module, arrays: Arrays) -> nn.Module:
    """A copy of the float `model` with the quantizers and the values of `arrays`, as of `to_arrays`.

    Raises EdgelabError where a name or a shape does not fit.
    """
    new = copy.deepcopy(model)
    given = {name: np.asarray(array) for name, array in arrays.items()}
    for name in [key.removesuffix(".of_weight.bounds") for key in given if key.endswith(".of_weight.bounds")]:
        kinds = {"of_weight": False, "of_input": True}
        pair = [Quantizer(_grid(given[f"{name}.{kind}.bounds"]), 1.0, batched) for kind, batched in kinds.items()]
        _wrap(new, name, *pair)
        step = given[f"{name}.of_weight.step"]
        given[f"{name}.weight"] = (np.rint(given[f"{name}.weight"]) * step).astype(np.float32)
    return models.from_arrays(new, given)


def _grid(bounds: np.ndarray) -> Grid:
    low, high = (int(bound) for bound in bounds)
    return Grid((high - low).bit_length(), signed=low < 0)


def restore(checkpoint: Checkpoint) -> nn.Module:
    """The fake-quantized network of a checkpoint that `load_or_quantize` made, in evaluation mode.

    Raises EdgelabError where the checkpoint is another.
    """
    technique = checkpoint.origin.technique if checkpoint.origin else "baseline"
    network = models.build(checkpoint.model, len(checkpoint.meta["class_names"]))
    if technique.startswith("qat_lsq"):
        return from_arrays(network, checkpoint.arrays)
    if not technique.startswith((Int8().technique, "pqat")):
        raise EdgelabError(f"{checkpoint.key} holds no quantization-aware network but {technique}")
    channels, *size = artifact.TORCH_INPUT
    prepared = _prepared(network, np.zeros((1, *size, channels), np.uint8))
    check_fit(models.to_arrays(prepared), checkpoint.arrays)
    prepared.load_state_dict({name: torch.tensor(array) for name, array in checkpoint.arrays.items()}, strict=False)
    return prepared


def load_or_quantize(
    start: Checkpoint, plan: Plan, dataset: Dataset, recipe: Recipe, *, kept: bool = True
) -> Checkpoint:
    """The network of `start`, trained on with `recipe` while quantized by `plan`: kept and found again as `zoo` does.

    Only training and validation images are looked at. Raises EdgelabError where the plan cannot be carried out.
    """

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        network = pruning.restore(start)
        images = spread(dataset.train.images)
        quantized = quantize(network, plan.bits, images) if isinstance(plan, LowBit) else prepare_int8(network, images)
        history = fine_tune(quantized, dataset, recipe, state_path)
        return to_arrays(quantized), history

    return zoo.load_or_make(start, plan.technique, "pytorch", dataset, recipe, make, kept=kept)


def save(model: nn.Module, path: Path | str) -> Artifact:
    """Write a model of `quantize` or `prepare_int8` as an .onnx file with integers inside.

    Learned steps: weights as integers of 2, 4 or 8 bits, several in a byte; widths between are stored in the next wider
    integers. Runtimes without kernels for so few bits turn the weights back into float32 when they load the file: it is
    small on disk, not fast. Raises EdgelabError where the path does not end in .onnx or the model is another.
    """
    import onnx

    path = Path(path)
    layers = quantized_layers(model)
    if path.suffix.lower() != ".onnx":
        raise EdgelabError(f"{path.name}: a quantized torch module becomes an .onnx file: use that suffix")
    if not layers:
        if not any(isinstance(part, FakeQuantizeBase) for part in model.modules()):
            raise EdgelabError(f"{path.name}: the model has no quantizers: make it with quantize or prepare_int8 first")
        return artifact.save(convert_int8(model), path)
    stored = {
        name: Layer(integers(layer), layer.of_weight.grid, layer.of_input.grid, layer.of_input.step.item())
        for name, layer in layers.items()
    }
    with TemporaryDirectory() as folder:
        whole = artifact.save(_on_grids(model), Path(folder, "float.onnx"))
        proto = with_integers(onnx.load(whole.path), stored)
    onnx.checker.check_model(proto, full_check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return artifact.load(path)


def _on_grids(model: nn.Module) -> nn.Module:
    """`model` with ordinary layers, their weights where the grids have them; the inputs are not rounded."""
    plain = copy.deepcopy(model).cpu().eval()
    for name, layer in quantized_layers(plain).items():
        values = torch.from_numpy(integers(layer)) * layer.of_weight.step.detach()
        layer.weight = nn.Parameter(values.to(torch.float32))
        _put(plain, name, _as(next(kind for kind, twin in TWINS if isinstance(layer, twin)), layer))
    return plain


def packed_size(model: nn.Module) -> int:
    """The bytes that a model of `quantize` needs in flash if every weight takes its bits, and all else float32.

    All else are one step for each layer's weights and inputs, biases, and a scale and an offset for each channel of a
    BatchNorm.
    """
    layers = quantized_layers(model)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    others = 2 * len(layers) + sum(2 * norm.num_features for norm in norms)
    others += sum(layer.bias.numel() for layer in layers.values() if layer.bias is not None)
    counts = {name: layer.weight.numel() for name, layer in layers.items()}
    return packed_bytes({name: layer.of_weight.grid for name, layer in layers.items()}, counts, others)
