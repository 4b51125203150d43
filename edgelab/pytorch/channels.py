"""Structured pruning in PyTorch: whole channels are taken out, so that every runtime has less to do.

A channel cannot go alone: with it go the filter that makes it, its BatchNorm values, and the input channel of every
layer that reads it; a residual addition ties the channels of both its sides together. `torch-pruning` traces these
dependencies (Fang et al. 2023, DepGraph, arXiv:2301.12900).
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from edgelab.artifact import TORCH_INPUT, first_line
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table
from edgelab.pruning import Arrays, check_finite, check_speed_up, kept_channels, smallest_cut
from edgelab.pytorch import models


def remove_channels(model: nn.Module, speed_up: float) -> nn.Module:
    """A copy of `model` with so many channels taken out of every layer that its MACs fall by the factor `speed_up`.

    Every layer loses the same share, least important channels first: importance is the sum of the squares of all
    weights that would go. Multiples of four stay, so the factor is met or a little exceeded. The classes stay.
    Raises EdgelabError for a factor below 1 or out of reach, NaN weights, or dependencies that cannot be traced.
    """
    check_speed_up(speed_up)
    if not isinstance(model, nn.Module):
        raise EdgelabError(f"expected a torch module to prune, got {type(model).__name__}: prune before saving a file")
    check_finite(models.to_arrays(model))
    dense = _macs(model)
    if speed_up == 1:
        return copy.deepcopy(model)
    return _narrowed(model, smallest_cut(lambda percent: _macs(_narrowed(model, percent)), dense, speed_up))


def _macs(model: nn.Module) -> int:
    return layer_table(model, _shape(model)).macs


def _shape(model: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of the images `model` takes."""
    return getattr(model, "input_shape", TORCH_INPUT)


def _narrowed(model: nn.Module, percent: int) -> nn.Module:
    """A copy of `model` without the least important `percent` of each layer's channels."""
    import torch_pruning  # type: ignore[import-untyped]

    narrow = copy.deepcopy(model).eval()
    example = torch.zeros(1, *_shape(model), device=next(narrow.parameters()).device)
    classes = narrow(example).shape
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(narrow, example_inputs=example)
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        groups = list(graph.get_all_groups(ignored_layers=[_last(narrow)]))
        ranked = [(group, importance(group).argsort()) for group in groups]
        for group, order in ranked:
            gone = order[: len(order) - kept_channels(len(order), percent)].tolist()
            if gone:
                graph.get_pruning_group(group[0].dep.layer, group[0].dep.pruning_fn, gone).prune()
        if narrow(example).shape != classes:
            raise ValueError("the number of classes would change")
    except Exception as error:
        raise EdgelabError(f"channels cannot be removed from {type(model).__name__} ({first_line(error)})") from error
    return narrow


def _last(model: nn.Module) -> nn.Module:
    """The layer that makes the logits: its outputs are the classes."""
    counted = [row.name for row in layer_table(model, _shape(model)).layers if row.macs]
    return model.get_submodule(counted[-1])


def resized(model: nn.Module, arrays: Arrays) -> nn.Module:
    """A copy of `model` with its channels cut to what `arrays` (as of `models.to_arrays`) have, and holding them.

    Raises EdgelabError where a name is missing or unknown, or the widths do not go together.
    """
    narrow = copy.deepcopy(model)
    for name, layer in narrow.named_modules():
        weight = arrays.get(f"{name}.weight")
        if weight is not None and weight.ndim == getattr(layer, "weight", torch.empty(0)).ndim:
            _resize(layer, weight.shape)
    models.from_arrays(narrow, dict(arrays))
    try:
        with torch.no_grad():
            narrow.eval()(torch.zeros(1, *_shape(model)))
    except RuntimeError as error:
        raise EdgelabError(f"the widths of the weights do not go together ({first_line(error)})") from error
    return narrow


def _resize(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Give `layer` parameters for a weight of this shape."""
    if isinstance(layer, nn.Conv2d):
        if layer.groups > 1:
            layer.groups = shape[0] // shape[1]
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = shape[0]
        layer.running_mean, layer.running_var = torch.zeros(shape[0]), torch.ones(shape[0])
    else:
        return
    layer.weight = nn.Parameter(torch.empty(shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.empty(shape[0]))
