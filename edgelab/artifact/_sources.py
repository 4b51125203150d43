"""What `save` can start from, and what has to hold before it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgelab.artifact import _to_onnx, _to_tflite
from edgelab.artifact._formats import framework_of
from edgelab.artifact._running import Artifact
from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import tf_keras as keras
    from torch import nn

Size = tuple[int | None, ...]
Convert = Callable[[Any, str, np.ndarray | None, Sequence[str]], bytes]
FEWEST = 2


class Source(NamedTuple):
    """A model to be written: how, in which schemes, and what must be known of it first.

    `image` is the size of its images (height, width, channels), None where any will do. `quantized` says that it has
    been quantized already, `aware` that it has learnt its ranges in training and only waits for the converter.
    """

    convert: Convert
    schemes: tuple[str, ...]
    calibrated: tuple[str, ...]
    image: Size
    weights: Iterator[tuple[str, np.ndarray]]
    quantized: bool = False
    aware: bool = False


def source_of(model: keras.Model | nn.Module | Artifact, path: Path) -> Source:
    """What is known of `model`. Raises EdgelabError where it cannot become a file of the suffix of `path`."""
    is_file = isinstance(model, Artifact) and model.format == "onnx"
    kind = "onnx" if is_file else framework_of(model)
    readers: dict[tuple[str, str], Callable[[Any], Source]] = {
        (".tflite", "keras"): _of_keras,
        (".onnx", "torch"): _of_torch,
        (".onnx", "onnx"): _of_onnx,
    }
    reader = readers.get((path.suffix.lower(), kind))
    if reader is None:
        name = {".tflite": "tf_keras model", ".onnx": "torch module or an .onnx file"}[path.suffix.lower()]
        suffix, got = path.suffix, type(model).__name__
        raise EdgelabError(f"{path.name}: a {suffix} file is made from a {name}, got {got}: use the other suffix")
    return reader(model)


def _of_keras(model: keras.Model) -> Source:
    kinds = {type(part) for part in model.submodules}
    aware = any(k.__module__.startswith("tensorflow_model_opt") and k.__name__.startswith("Quantize") for k in kinds)
    image = tuple(model.inputs[0].shape[1:])
    weights = ((weight.name, weight.numpy()) for weight in model.weights)
    return Source(_to_tflite.to_tflite, _to_tflite.SCHEMES, _to_tflite.CALIBRATED, image, weights, aware=aware)


def _of_torch(model: nn.Module) -> Source:
    channels, height, width = getattr(model, "input_shape", _to_onnx.TORCH_INPUT)
    tensors = ((n, v) for n, v in model.state_dict().items() if hasattr(v, "is_quantized") and not v.is_quantized)
    weights = ((name, tensor.detach().cpu().numpy()) for name, tensor in tensors if tensor.is_floating_point())
    quantized = _to_onnx.is_quantized(model)
    schemes = _to_onnx.SCHEMES, _to_onnx.CALIBRATED
    return Source(_to_onnx.to_onnx, *schemes, (height, width, channels), weights, quantized)


def _of_onnx(file: Artifact) -> Source:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file.path).graph
    stored = ((tensor.name, numpy_helper.to_array(tensor)) for tensor in graph.initializer)
    weights = ((name, values) for name, values in stored if values.dtype.kind == "f")
    quantized = any("Quantize" in node.op_type or node.op_type.startswith("QLinear") for node in graph.node)
    schemes = _to_onnx.SCHEMES, _to_onnx.CALIBRATED
    return Source(_to_onnx.to_onnx, *schemes, tuple(file.image_shape()[:3]), weights, quantized)


def check(
    source: Source, path: Path, scheme: str, calibration: np.ndarray | None, keep_float: Sequence[str] = ()
) -> None:
    """Raise EdgelabError, one line, where `save` would fail or its file could not be right."""
    _check_scheme(source, path, scheme, calibration is not None, bool(keep_float))
    if calibration is not None:
        _check_calibration(source, path, calibration)
    for name, values in source.weights:
        if bad := int((~np.isfinite(values)).sum()):
            raise EdgelabError(
                f"{path.name}: {name} holds {bad} of {values.size} values that are no numbers: train it anew"
            )


def _check_scheme(source: Source, path: Path, scheme: str, has_images: bool, has_exceptions: bool) -> None:
    if scheme not in source.schemes:
        raise EdgelabError(f"{path.name}: expected scheme one of {', '.join(source.schemes)}, got {scheme!r}")
    if source.quantized and scheme != "float32":
        raise EdgelabError(
            f"{path.name}: the model is quantized already: save it as it is, without scheme and calibration"
        )
    if source.aware and (has_images or scheme not in ("float32", "int8")):
        raise EdgelabError(
            f"{path.name}: a quantization-aware model knows its ranges: save it with scheme='int8', without calibration"
        )
    needed = scheme in source.calibrated and not source.aware
    if has_images != needed:
        told = "needs calibration images: give about 100 of the training split" if needed else "takes no calibration"
        raise EdgelabError(f"{path.name}: {scheme} {told}")
    if has_exceptions and not needed:
        raise EdgelabError(f"{path.name}: keep_float goes with a calibrated scheme such as int8, got {scheme}")


def _check_calibration(source: Source, path: Path, images: np.ndarray) -> None:
    check_calibration(images, path.name)
    if any(want not in (None, got) for want, got in zip(source.image, images.shape[1:], strict=True)):
        wanted, got = (
            "x".join("any" if n is None else str(n) for n in size) for size in (source.image, images.shape[1:])
        )
        raise EdgelabError(f"{path.name}: the model takes images of {wanted}, got calibration images of {got}")


def check_calibration(images: np.ndarray, name: str) -> None:
    """Raise EdgelabError, naming the model `name`, unless `images` are uint8 NHWC and two of them differ."""
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        got = f"{images.dtype} {images.shape}"
        raise EdgelabError(f"expected uint8 calibration images (n, height, width, channels), got {got}")
    if len(images) < FEWEST or (images == images[0]).all():
        raise EdgelabError(f"{name}: one calibration image does not show the range of the activations: give about 100")
