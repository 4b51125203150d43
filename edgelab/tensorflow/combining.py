"""Clustering in TensorFlow, and the int8 training that keeps zeros and clusters: TFMOT's collaborative optimization."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras

from edgelab import zoo
from edgelab.artifact import first_line, quiet
from edgelab.combining import Clustering, Preserving, check_preservable, gentle
from edgelab.data import Dataset
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe, check_unaveraged
from edgelab.tensorflow import models, pruning, qat, train
from edgelab.zoo import Checkpoint


def _layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers that are clustered, by name: those that can be pruned."""
    pruning.prunable(model)
    names = (name.replace(".", "/") for name in pruning.sparsities(model))
    return {name: model.get_layer(name) for name in names}


def values(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights, in TensorFlow's layout, of every layer that can be pruned or clustered."""
    return {name: layer.kernel.numpy() for name, layer in _layers(model).items()}


def cluster(model: keras.Model, plan: Clustering) -> keras.Model:
    """A copy of `model` in TFMOT's wrappers: the weights of every layer share `plan.clusters` values, zeros stay.

    The shared values start from k-means++ and learn from the mean of their weights' gradients. `strip` takes the
    wrappers off. Raises EdgelabError for a layer with fewer weights than clusters, NaN weights, or a model with
    wrappers or quantizers already.
    """
    from tensorflow_model_optimization.clustering import keras as tool
    from tensorflow_model_optimization.python.core.clustering.keras import cluster_config
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as preserving

    arrays = values(model)
    for name, array in arrays.items():
        if array.size < plan.clusters:
            raise EdgelabError(f"{name!r} has {array.size} weights for {plan.clusters} clusters: choose fewer")
    how: dict[str, Any] = {
        "number_of_clusters": plan.clusters,
        "cluster_centroids_init": tool.CentroidInitialization.KMEANS_PLUS_PLUS,
        "cluster_gradient_aggregation": cluster_config.GradientAggregation.AVG,
    }

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name not in arrays:
            return layer
        zeros = bool((arrays[layer.name] == 0).any())
        return preserving.cluster_weights(layer, preserve_sparsity=zeros, **how)

    return keras.models.clone_model(pruning._copy(model), clone_function=wrap)


def strip(clustered: keras.Model) -> keras.Model:
    """The network inside TFMOT's wrappers, whose weights really share their values."""
    from tensorflow_model_optimization.clustering.keras import strip_clustering

    return strip_clustering(clustered)


def load_or_cluster(
    start: Checkpoint, plan: Clustering, dataset: Dataset, recipe: Recipe, *, kept: bool = True
) -> Checkpoint:
    """The network of `start`, pruned or not, clustered by `plan` and trained on: kept and found again by `zoo`.

    Raises EdgelabError where `cluster` does.
    """
    check_unaveraged(recipe)

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        clustered = cluster(pruning.restore(start), plan)
        history = train.train(clustered, dataset, recipe, state_path)
        return models.to_arrays(strip(clustered)), history

    return zoo.load_or_make(start, plan.technique, "tensorflow", dataset, recipe, make, kept=kept)


def prepare(model: keras.Model, plan: Preserving) -> keras.Model:
    """A copy of `model` that computes as its int8 version will and keeps, in training, what `plan` says.

    Raises EdgelabError where `qat.prepare_int8` does, and where there is nothing to keep.
    """
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
        default_8bit_cluster_preserve_quantize_scheme as of_clusters,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (
        default_8bit_prune_preserve_quantize_scheme as of_zeros,
    )
    from tensorflow_model_optimization.quantization import keras as tool

    qat.check_model(model)
    check_preservable(values(model), plan)
    if plan.clusters:
        scheme = of_clusters.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=plan.zeros)
    else:
        scheme = of_zeros.Default8BitPrunePreserveQuantizeScheme()
    try:
        with quiet(), warnings.catch_warnings(action="ignore"):
            return tool.quantize_apply(tool.quantize_annotate_model(pruning._copy(model)), scheme)
    except (ValueError, RuntimeError) as error:
        raise EdgelabError(f"TFMOT cannot quantize {model.name!r} ({first_line(error)})") from error


def load_or_quantize(
    start: Checkpoint, plan: Preserving, dataset: Dataset, recipe: Recipe, *, kept: bool = True
) -> Checkpoint:
    """The network of `start`, trained on while quantized to int8 and kept as `plan` says: kept and found by `zoo`.

    What it holds is a quantization-aware network like those of `edgelab.tensorflow.qat`: `restore` gives it back.
    Raises EdgelabError where `prepare` does.
    """
    check_unaveraged(recipe)

    def make(state_path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        model = pruning.restore(start)
        prepared = prepare(model, plan)
        learnt = gentle(recipe, values(model)) if plan.clusters else recipe
        history = train.train(prepared, dataset, learnt, state_path)
        return plain(prepared, model), history

    return zoo.load_or_make(start, plan.technique, "tensorflow", dataset, recipe, make, kept=kept)


def plain(prepared: keras.Model, model: keras.Model) -> dict[str, np.ndarray]:
    """The arrays of `prepared` (by `prepare`) but for TFMOT's bookkeeping: those of `model` quantized as usual."""
    known = qat.to_arrays(prepared)
    return {name: known[name] for name in qat.to_arrays(qat.prepare_int8(model))}


def restore(checkpoint: Checkpoint) -> keras.Model:
    """The fake-quantized network of a checkpoint that `load_or_quantize` made; `artifact.save` makes a file of it.

    Raises EdgelabError where the checkpoint is another.
    """
    network = models.build(checkpoint.model, len(checkpoint.meta["class_names"]))
    return qat.from_arrays(qat.prepare_int8(network), checkpoint.arrays)
