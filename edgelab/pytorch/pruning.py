"""Pruning in PyTorch: zeros with `torch.nn.utils.prune`, made permanent, and the training that follows.

Convolutions and fully connected layers are pruned. Depthwise convolutions, biases and BatchNorm are not: they hold few
weights and are sensitive; TensorFlow's toolkit leaves them alone too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune as masking

from edgelab import zoo
from edgelab.data import Dataset, Split
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe, check_unaveraged
from edgelab.pruning import (
    LEVELS,
    RAMP,
    UPDATES,
    Channels,
    Plan,
    Sparsity,
    TwoOfFour,
    allocate,
    check_finite,
    check_request,
    check_spared,
    magnitude_masks,
    polynomial,
    scanned,
    shares,
    two_of_four,
)
from edgelab.pruning import scan as scan_layers
from edgelab.pytorch import channels, models, train
from edgelab.zoo import Checkpoint

PRUNED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
FROZEN = "quantiz"  # in the module or operator names of everything PyTorch and torchao quantize with


def _check_model(model: nn.Module) -> None:
    """Raise EdgelabError unless `model` is a torch module of layers that can be pruned or spared, weights finite."""
    if not isinstance(model, nn.Module):
        raise EdgelabError(f"expected a torch module to prune, got {type(model).__name__}: prune before saving a file")
    operators = (str(node.target) for node in getattr(getattr(model, "graph", None), "nodes", ()))
    kinds = (type(module).__module__ for module in model.modules())
    if any(FROZEN in name for name in (*kinds, *operators)):
        raise EdgelabError("the model is quantized already: prune the float model first, then quantize it")
    check_spared(
        (name or "the model itself", type(module).__name__, weight.shape)
        for name, module in model.named_modules()
        if not (_is_pruned(module) or _is_depthwise(module) or isinstance(module, nn.LayerNorm))
        for weight in module.parameters(recurse=False)
    )
    check_finite(models.to_arrays(model))


def _is_depthwise(module: nn.Module) -> bool:
    return 1 < getattr(module, "groups", 1) == getattr(module, "in_channels", 0)


def _is_pruned(module: nn.Module) -> bool:
    return isinstance(module, PRUNED) and not _is_depthwise(module)


def _layers(model: nn.Module) -> dict[str, Any]:
    """The layers that can be pruned, by name."""
    return {name: module for name, module in model.named_modules() if _is_pruned(module)}


def _weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: layer.weight.detach().cpu().numpy() for name, layer in _layers(model).items()}


def prunable(model: nn.Module) -> list[str]:
    """The names of the layers that can be pruned: convolutions but no depthwise ones, and fully connected layers.

    Raises EdgelabError where there is none, a weight is NaN or infinite, the model is quantized, or another layer has
    weights to prune, such as an LSTM: only rows of values and depthwise kernels are spared.
    """
    _check_model(model)
    names = list(_layers(model))
    check_request(names, 0.0)
    return names


def sparsities(model: nn.Module) -> dict[str, float]:
    """The share of zeros (0..1) among the weights of every layer that can be pruned."""
    weights = _weights(model)
    return shares(weights, weights)


def prune(model: nn.Module, sparsity: Sparsity) -> nn.Module:
    """A copy of `model` in which the smallest weights are zero for good.

    A single `sparsity` (0..1) sets one threshold for all layers together, a mapping gives each its own share.
    Raises EdgelabError for an impossible sparsity, a layer that cannot be pruned, NaN weights or a quantized model.
    """
    check_request(prunable(model), sparsity)
    pruned = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    layers = _layers(pruned)
    if isinstance(sparsity, Mapping):
        for name, share in sparsity.items():
            masking.l1_unstructured(layers[name], "weight", float(share))
    else:
        every = [(layer, "weight") for layer in layers.values()]
        masking.global_unstructured(every, masking.L1Unstructured, amount=float(sparsity))
    _make_permanent(pruned)
    return pruned.to(memory_format=torch.channels_last)


def _make_permanent(model: nn.Module) -> None:
    """Put each masked weight in place of the pair (original, mask) that `torch.nn.utils.prune` keeps."""
    for layer in _layers(model).values():
        if masking.is_pruned(layer):
            masking.remove(layer, "weight")


def prune_two_of_four(model: nn.Module) -> nn.Module:
    """A copy of `model` with two zeros among every four weights along the input channels, for good.

    Layers whose input channels are not a multiple of four, as a rule the first, stay dense. Raises EdgelabError for NaN
    weights, a quantized model, or one without layers to prune.
    """
    prunable(model)
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for layer in _layers(pruned).values():
            mask = two_of_four(layer.weight.detach().cpu().numpy(), axis=1)
            layer.weight *= torch.from_numpy(mask).to(layer.weight.device)
    return pruned


def scan(model: nn.Module, split: Split, levels: Sequence[float] = LEVELS) -> list[dict[str, str | float]]:
    """How sensitive every layer is: its accuracy on `split` when it alone is pruned to each of `levels`.

    One row (layer, sparsity, accuracy 0..1) each; for `edgelab.pruning.allocate`. Use validation images.
    Raises EdgelabError where `prune` does.
    """
    check_request(prunable(model), 0.0)
    network, arrays = copy.deepcopy(model), models.to_arrays(model)

    def accuracy_with(replaced: Mapping[str, np.ndarray]) -> float:
        changed = {f"{name}.weight": array for name, array in replaced.items()}
        return train.accuracy(models.from_arrays(network, {**arrays, **changed}), split)

    return scan_layers(_weights(model), levels, accuracy_with)


def fine_tune(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    targets: Mapping[str, float] | None = None,
    state_path: Path | None = None,
) -> list[dict[str, float]]:
    """Train `model` on in place; what is zero stays zero. Returns the history, as `train.train` does.

    With `targets`, a sparsity for each layer, the zeros become more during the first half of the training, along the
    polynomial schedule; only epochs that end after it can be the best. Training resumes from `state_path`.
    Raises EdgelabError where `prune` does.
    """
    check_unaveraged(recipe)
    check_request(prunable(model), targets or {})
    layers = _layers(model)
    for layer in layers.values():
        masking.custom_from_mask(layer, "weight", layer.weight != 0)
    ramp = _ramp(layers, targets) if targets else None
    history = train.train(model, dataset, recipe, state_path, after_step=ramp, counts_from=RAMP if targets else 0.0)
    _make_permanent(model)
    return history


def _ramp(layers: Mapping[str, Any], targets: Mapping[str, float]) -> Callable[[float], None]:
    """What is to be called after every training step so that the masks of `layers` come to reach `targets`."""
    initial = {name: float((layers[name].weight_mask == 0).float().mean()) for name in targets}
    latest = 0

    def after_step(progress: float) -> None:
        nonlocal latest
        stage = min(int(progress / RAMP * UPDATES), UPDATES)
        if stage == latest:
            return
        latest = stage
        for name, target in targets.items():
            layer = layers[name]
            share = polynomial(stage / UPDATES, initial[name], max(initial[name], target))
            remaining = (layer.weight_orig * layer.weight_mask).detach().cpu().numpy()
            layer.weight_mask.copy_(torch.from_numpy(magnitude_masks({name: remaining}, share)[name]))

    return after_step


def restore(checkpoint: Checkpoint) -> nn.Module:
    """The network of a checkpoint, pruned or not, as narrow as its channels are.

    Raises EdgelabError where the weights are not those of the checkpoint's model.
    """
    network = models.build(checkpoint.model, len(checkpoint.meta["class_names"]))
    return channels.resized(network, checkpoint.arrays)


def load_or_prune(start: Checkpoint, plan: Plan, dataset: Dataset, recipe: Recipe, *, kept: bool = True) -> Checkpoint:
    """The network of `start`, pruned by `plan` and trained on with `recipe`: kept and found again as `zoo` does it.

    Only training and validation images are looked at. Raises EdgelabError where the plan cannot be carried out.
    """

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        network = restore(start)
        pruned, targets = _carry_out(network, plan, dataset, recipe.seed)
        history = fine_tune(pruned, dataset, recipe, targets, state_path)
        return models.to_arrays(pruned), history

    return zoo.load_or_make(start, plan.technique, "pytorch", dataset, recipe, make, kept=kept)


def _carry_out(model: nn.Module, plan: Plan, dataset: Dataset, seed: int) -> tuple[nn.Module, dict[str, float] | None]:
    """The network to train on, and the sparsities it is to reach in that training where that is not done at once."""
    if isinstance(plan, Channels):
        narrow = channels.remove_channels(model, plan.speed_up)
        return models.redrawn(narrow, seed) if plan.fresh else narrow, None
    if isinstance(plan, TwoOfFour):
        return prune_two_of_four(model), None
    weights = _weights(model)
    targets = shares(weights, magnitude_masks(weights, plan.sparsity))
    if plan.by_sensitivity:
        sizes = {name: array.size for name, array in weights.items()}
        targets = allocate(scan(model, scanned(dataset)), sizes, plan.sparsity)
    return (copy.deepcopy(model), targets) if plan.gradual else (prune(model, targets), None)
