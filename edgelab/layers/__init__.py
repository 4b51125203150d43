"""The only place that counts: layers, parameters and multiply-accumulates of any model or model file.

The convention. One multiplication with a weight of a convolution or a fully connected layer, with its addition, is one
MAC. Bias, normalisation, pooling, activation, quantization, residual additions, products of two activations (as in
attention) and recurrent layers are none; what was left out is named in `LayerTable.uncounted`, as is any layer of Keras
that may compute something between the layers it calls, for that cannot be seen. Padding counts like any other input
value, a transposed convolution is counted at its input positions, and everything is for one image, whatever the batch.
Effective MACs are those on weights that are not zero.

Parameters. Of a torch module or Keras model: what training adjusts or could adjust (weights, biases, BatchNorm's scale
and shift), frozen or not, but no running statistics. Of a file: every stored weight and bias constant, for that is what
the device holds. The two differ where a converter folds BatchNorm into the convolution before it (scale and shift
become one bias) or leaves out a bias that is zero. Shared weights are counted once, in the first layer that uses them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelab.artifact import check_suffix, first_line, framework_of
from edgelab.errors import EdgelabError
from edgelab.layers.table import Layer, LayerTable, Shape

if TYPE_CHECKING:
    import tf_keras as keras
    from torch import nn

__all__ = ["Layer", "LayerTable", "layer_table", "reading"]

COUNTERS = {"torch": "torch_module", "keras": "keras_model", ".tflite": "tflite_file", ".onnx": "onnx_file"}
DECODING = (struct.error, TypeError, ValueError)
"""What the decoder of .tflite files raises on content that is none."""


def _counter(form: str) -> Callable[[Any, Shape | None], LayerTable]:
    """The counter of one form, imported only now: counting one form loads no framework of another."""
    return import_module(f"edgelab.layers.{COUNTERS[form]}").count


def layer_table(model_or_path: keras.Model | nn.Module | str | Path, input_shape: Shape | None = None) -> LayerTable:
    """One row for every layer of a torch module, a Keras model, a .tflite or an .onnx file.

    `input_shape` is the shape of one image without the batch in the model's own layout, (3, 32, 32) for torch and most
    ONNX files, (32, 32, 3) for Keras and TFLite. It is needed only where the model leaves it open; a torch module is
    taken to see its attribute `input_shape` or else 3x32x32. Models are run once on zeros and left as they were.
    Raises EdgelabError for anything else, a damaged file, or an input shape that is missing or does not fit.
    """
    if isinstance(model_or_path, str | Path):
        return _of_file(Path(model_or_path), input_shape)
    framework = framework_of(model_or_path)
    if framework not in COUNTERS:
        got = type(model_or_path).__name__
        raise EdgelabError(f"expected a torch module, a Keras model or a path to a .tflite or .onnx file, got {got}")
    try:
        return _counter(framework)(model_or_path, input_shape)
    except EdgelabError:
        raise
    except Exception as error:
        name, reason = type(model_or_path).__name__, first_line(error)
        raise EdgelabError(f"{name} does not run on the input shape {input_shape} ({reason}): give another") from error


def _of_file(path: Path, input_shape: Shape | None) -> LayerTable:
    with reading(path):
        return _counter(path.suffix.lower())(path, input_shape)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around whatever reads the graph of the model file at `path`: any failure becomes an EdgelabError of one line."""
    check_suffix(path)
    if not path.is_file():
        raise EdgelabError(f"there is no model file at {path}: check the path or make the file first")
    try:
        yield
    except EdgelabError:
        raise
    except Exception as error:
        kind = path.suffix[1:]
        is_decoding = kind.lower() == "tflite" and isinstance(error, DECODING)
        reason = "truncated or damaged" if is_decoding else first_line(error)
        raise EdgelabError(f"{path} is no {kind} model that can be counted ({reason}): make it anew") from error
