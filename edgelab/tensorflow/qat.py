"""Quantization-aware training in TensorFlow: int8 with TFMOT, which wraps every layer and learns its ranges.

TFMOT takes Sequential and functional models without models inside, and BatchNorm straight behind a convolution.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tf_keras as keras

from edgelab import artifact, zoo
from edgelab.artifact import Artifact, first_line, quiet
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe, check_unaveraged
from edgelab.pruning import check_finite
from edgelab.qat import Int8, Plan
from edgelab.tensorflow import models, pruning, train
from edgelab.tensorflow._flat import check_flat
from edgelab.weights import Arrays, check_fit
from edgelab.zoo import Checkpoint


def check_model(model: keras.Model) -> None:
    """Raise EdgelabError unless `model` is a float tf_keras model that TFMOT can wrap, with finite weights."""
    if not isinstance(model, keras.Model):
        got = type(model).__name__
        raise EdgelabError(f"expected a tf_keras model to quantize, got {got}: start from the network")
    if any(type(layer).__name__.startswith("Quantize") for layer in model.layers):
        raise EdgelabError("the model is quantized already: start from the float model")
    check_flat(model)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            _check_order(layer)
    if not models.to_arrays(model):
        raise EdgelabError("nothing to quantize: expected convolutions or fully connected layers")
    check_finite(models.to_arrays(model))


def _check_order(norm: keras.layers.Layer) -> None:
    source = norm.inbound_nodes[0].inbound_layers
    if not isinstance(source, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense):
        got = type(source).__name__
        raise EdgelabError(f"BatchNorm {norm.name!r} stands behind {got}: put it straight behind the convolution")


def prepare_int8(model: keras.Model) -> keras.Model:
    """A copy of `model` in TFMOT's wrappers, which computes as its int8 version will, for training.

    `artifact.save` with scheme int8 makes a file of it. Raises EdgelabError for a model inside the model, BatchNorm in
    another place than behind a convolution, layers TFMOT does not know, NaN weights or a model that is quantized.
    """
    check_model(model)
    from tensorflow_model_optimization.quantization.keras import quantize_model

    try:
        with quiet():
            return quantize_model(model)
    except (ValueError, RuntimeError, AttributeError, TypeError) as error:  # the last two by layers made of operators
        raise EdgelabError(f"TFMOT cannot quantize {model.name!r} ({first_line(error)})") from error


def fine_tune(
    model: keras.Model, dataset: Dataset, recipe: Recipe, state_path: Path | None = None
) -> list[dict[str, float]]:
    """Train a model of `prepare_int8` in place; the history, as `train.train` does. Resumes from `state_path`."""
    check_unaveraged(recipe)
    return train.train(model, dataset, recipe, state_path)


def _names(model: keras.Model) -> list[str]:
    """A name for each of the wrapped model's variables, the same in every process."""
    bare = (re.sub(r"quantize_layer_\d+", "quantize_layer", weight.name) for weight in model.weights)
    return [name.removesuffix(":0") for name in bare]


def to_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Weights and ranges of a model of `prepare_int8`, under TensorFlow's names and in its layout."""
    return dict(zip(_names(model), model.get_weights(), strict=True))


def from_arrays(model: keras.Model, arrays: Arrays) -> keras.Model:
    """Copy `arrays`, as of `to_arrays`, into `model` and return it; raises EdgelabError where they do not fit."""
    check_fit(to_arrays(model), arrays)
    model.set_weights([arrays[name] for name in _names(model)])
    return model


def restore(checkpoint: Checkpoint) -> keras.Model:
    """The fake-quantized network of a checkpoint that `load_or_quantize` made.

    Raises EdgelabError where the checkpoint is another.
    """
    technique = checkpoint.origin.technique if checkpoint.origin else "baseline"
    if technique != Int8().technique:
        raise EdgelabError(f"{checkpoint.key} holds no quantization-aware network of TensorFlow but {technique}")
    network = models.build(checkpoint.model, len(checkpoint.meta["class_names"]))
    return from_arrays(prepare_int8(network), checkpoint.arrays)


def load_or_quantize(
    start: Checkpoint, plan: Plan, dataset: Dataset, recipe: Recipe, *, kept: bool = True
) -> Checkpoint:
    """The network of `start`, trained on with `recipe` while quantized to int8: kept and found again as `zoo` does.

    Only training and validation images are looked at. Raises EdgelabError for fewer bits, or where TFMOT cannot do it.
    """
    if not isinstance(plan, Int8):
        raise EdgelabError(f"TFMOT quantizes to 8 bits only, got {plan.technique}: use edgelab.pytorch.qat for fewer")

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        prepared = prepare_int8(pruning.restore(start))
        history = fine_tune(prepared, dataset, recipe, state_path)
        return to_arrays(prepared), history

    return zoo.load_or_make(start, plan.technique, "tensorflow", dataset, recipe, make, kept=kept)


def save(model: keras.Model, path: Path | str) -> Artifact:
    """Write a model of `prepare_int8` as a .tflite file, int8 in and out. Raises as `artifact.save` does."""
    return artifact.save(model, path, scheme="int8")
