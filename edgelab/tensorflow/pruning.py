"""Pruning in TensorFlow: zeros that stay zero in training thanks to TFMOT's wrappers, stripped off afterwards.

Convolutions and fully connected layers are pruned. Depthwise convolutions, biases and BatchNorm are not: TFMOT leaves
them alone, and they hold few weights and are sensitive. TFMOT prunes every layer by itself and while it trains; one
threshold for all layers, or pruning without training, is made of the same masks here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tf_keras as keras

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
    scanned,
    shares,
    two_of_four,
)
from edgelab.pruning import scan as scan_layers
from edgelab.tensorflow import channels, models, train
from edgelab.tensorflow._flat import check_flat
from edgelab.zoo import Checkpoint

PRUNED = (keras.layers.Conv2D, keras.layers.Dense)
UNLIKE = (keras.layers.DepthwiseConv2D, keras.layers.Conv2DTranspose)  # of which some are made from Conv2D
SPARED = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.LayerNormalization,
    keras.layers.PReLU,
)


def _check_model(model: keras.Model) -> None:
    """Raise EdgelabError unless `model` is a tf_keras model of layers that can be pruned or spared, weights finite."""
    if not isinstance(model, keras.Model):
        got = type(model).__name__
        raise EdgelabError(f"expected a tf_keras model to prune, got {got}: prune before saving a file")
    kinds = {type(layer).__name__ for layer in model.layers}
    if any(kind.startswith("Quantize") for kind in kinds):
        raise EdgelabError("the model is quantized already: prune the float model first, then quantize it")
    if "PruneLowMagnitude" in kinds:
        raise EdgelabError("the model has pruning wrappers already: take them off with strip_pruning first")
    check_flat(model)
    others = [layer for layer in model.layers if not (_is_pruned(layer) or isinstance(layer, SPARED))]
    check_spared((layer.name, type(layer).__name__, weight.shape) for layer in others for weight in layer.weights)
    check_finite(models.to_arrays(model))


def _is_pruned(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, PRUNED) and not isinstance(layer, UNLIKE)


def _layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers that can be pruned, by name."""
    return {layer.name.replace("/", "."): layer for layer in model.layers if _is_pruned(layer)}


def _weights(model: keras.Model) -> dict[str, np.ndarray]:
    arrays = models.to_arrays(model)
    return {name: arrays[f"{name}.weight"] for name in _layers(model)}


def _masked(model: keras.Model, masks: Mapping[str, np.ndarray]) -> keras.Model:
    """A copy of `model` whose weights are zero where the masks, in PyTorch's layout, are."""
    arrays = models.to_arrays(model)
    zeroed = {f"{name}.weight": arrays[f"{name}.weight"] * mask for name, mask in masks.items()}
    return models.from_arrays(_copy(model), {**arrays, **zeroed})


def _copy(model: keras.Model) -> keras.Model:
    """A copy of `model` with weights of its own: TFMOT's wrappers take the layers they wrap apart."""
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def prunable(model: keras.Model) -> list[str]:
    """The names of the layers that can be pruned: convolutions but no depthwise ones, and fully connected layers.

    Raises EdgelabError where there is none, a weight is NaN or infinite, the model is quantized, a model stands inside
    it, or another layer has weights to prune, such as an LSTM: only rows of values and depthwise kernels are spared.
    """
    _check_model(model)
    names = list(_layers(model))
    check_request(names, 0.0)
    return names


def sparsities(model: keras.Model) -> dict[str, float]:
    """The share of zeros (0..1) among the weights of every layer that can be pruned."""
    weights = _weights(model)
    return shares(weights, weights)


def prune(model: keras.Model, sparsity: Sparsity) -> keras.Model:
    """A copy of `model` in which the smallest weights are zero for good.

    A single `sparsity` (0..1) sets one threshold for all layers together, a mapping gives each its own share.
    Raises EdgelabError for an impossible sparsity, a layer that cannot be pruned, NaN weights or a quantized model.
    """
    check_request(prunable(model), sparsity)
    return _masked(model, magnitude_masks(_weights(model), sparsity))


def prune_two_of_four(model: keras.Model) -> keras.Model:
    """A copy of `model` with two zeros among every four weights along the input channels, for good.

    Layers whose input channels are not a multiple of four, as a rule the first, stay dense. Raises EdgelabError for NaN
    weights, a quantized model, or one without layers to prune.
    """
    prunable(model)
    pruned = _copy(model)
    for layer in _layers(pruned).values():
        kernel = layer.kernel.numpy()
        layer.kernel.assign(kernel * two_of_four(kernel, axis=-2))
    return pruned


def scan(model: keras.Model, split: Split, levels: Sequence[float] = LEVELS) -> list[dict[str, str | float]]:
    """How sensitive every layer is: its accuracy on `split` when it alone is pruned to each of `levels`.

    One row (layer, sparsity, accuracy 0..1) each; for `edgelab.pruning.allocate`. Use validation images.
    Raises EdgelabError where `prune` does.
    """
    check_request(prunable(model), 0.0)
    network, arrays = _copy(model), models.to_arrays(model)

    def accuracy_with(replaced: Mapping[str, np.ndarray]) -> float:
        changed = {f"{name}.weight": array for name, array in replaced.items()}
        return train.accuracy(models.from_arrays(network, {**arrays, **changed}), split)

    return scan_layers(_weights(model), levels, accuracy_with)


def fine_tune(
    model: keras.Model,
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
    steps = recipe.epochs * recipe.steps(len(dataset.train))
    wrapped, remask = _wrapped(model, targets or {}, max(1, int(RAMP * steps)))
    return train.train(wrapped, dataset, recipe, state_path, after_step=remask, counts_from=RAMP if targets else 0.0)


def _wrapped(
    model: keras.Model, targets: Mapping[str, float], ramp: int
) -> tuple[keras.Model, Callable[[float], None]]:
    """`model` in TFMOT's wrappers, around the same layers, and what zeroes their weights again after every step.

    In the first `ramp` steps the sparsities rise from what they are to `targets`, where there are any.
    """
    from tensorflow_model_optimization.sparsity import keras as sparsity

    every = max(1, ramp // UPDATES)
    now = sparsities(model)
    wrappers = []

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        name = layer.name.replace("/", ".")
        if name not in now:
            return layer
        final = max(now[name], targets.get(name, 0.0))
        schedule = sparsity.PolynomialDecay(now[name], final, 0, ramp // every * every, frequency=every)
        wrappers.append(sparsity.prune_low_magnitude(layer, schedule))
        return wrappers[-1]

    wrapped = keras.models.clone_model(model, clone_function=wrap)
    for wrapper in wrappers:
        wrapper.pruning_step.assign(0)
        for weight, mask, _ in wrapper.pruning_vars:
            mask.assign(weight.numpy() != 0)

    def remask(progress: float) -> None:
        for wrapper in wrappers:
            wrapper.pruning_obj.weight_mask_op()

    return wrapped, remask


def restore(checkpoint: Checkpoint) -> keras.Model:
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

    return zoo.load_or_make(start, plan.technique, "tensorflow", dataset, recipe, make, kept=kept)


def _carry_out(
    model: keras.Model, plan: Plan, dataset: Dataset, seed: int
) -> tuple[keras.Model, dict[str, float] | None]:
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
    return (_copy(model), targets) if plan.gradual else (prune(model, targets), None)
