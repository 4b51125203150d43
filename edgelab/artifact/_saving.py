"""Writing a model as a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelab.artifact._formats import check_suffix, first_line, framework_of, quiet
from edgelab.artifact._running import Artifact, load
from edgelab.data import normalise
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

if TYPE_CHECKING:
    import onnx
    import tf_keras as keras
    from torch import nn

OPSET = 18
TORCH_INPUT = (3, 32, 32)


def save(model: keras.Model | nn.Module, path: Path | str, calibration: np.ndarray | None = None) -> Artifact:
    """Write `model` to `path`: a tf_keras model as .tflite, a torch module as .onnx, for any batch size.

    The file is float32, or int8 where uint8 NHWC images are given to calibrate it with: take them from the training
    split. Its weights are then quantized per channel, its activations by the least and the greatest value they take on
    those images; a .tflite file has int8 inputs and outputs, an .onnx file float ones with the quantization inside.

    A torch module is exported for images of its attribute `input_shape` (channels, height, width), or 3x32x32 where it
    has none. The same model gives the same bytes. Raises EdgelabError where model and suffix do not go together, there
    are no calibration images or the converter fails.
    """
    path = Path(path)
    check_suffix(path)
    wanted, convert = {".tflite": ("keras", _to_tflite), ".onnx": ("torch", _to_onnx)}[path.suffix.lower()]
    if framework_of(model) != wanted:
        name = {"keras": "tf_keras model", "torch": "torch module"}[wanted]
        got = type(model).__name__
        raise EdgelabError(f"{path.name}: a {path.suffix} file is made from a {name}, got {got}: use the other suffix")
    if calibration is not None and not (calibration.dtype == np.uint8 and calibration.ndim == 4 and len(calibration)):
        got = f"{calibration.dtype} {calibration.shape}"
        raise EdgelabError(f"expected uint8 calibration images (n, height, width, channels), n >= 1, got {got}")
    try:
        with quiet():
            content = convert(model, calibration)
    except Exception as error:
        raise EdgelabError(f"{path.name}: the model cannot be converted ({first_line(error)})") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return load(path)


def _to_tflite(model: keras.Model, calibration: np.ndarray | None) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if calibration is not None:
        values = normalise(calibration)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([value[None]] for value in values)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _to_onnx(model: nn.Module, calibration: np.ndarray | None) -> bytes:
    import onnx

    proto = _exported(model)
    if calibration is not None:
        proto = _quantized(proto, calibration)
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def _exported(model: nn.Module) -> onnx.ModelProto:
    import torch

    first = next(model.parameters())
    example = torch.zeros(2, *getattr(model, "input_shape", TORCH_INPUT), device=first.device)
    training = model.training
    model.eval()
    try:
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    finally:
        model.train(training)
    assert program is not None
    del program.model_proto.graph.value_info[:]
    return program.model_proto


class _Reader:
    """Calibration images one at a time, as ONNX Runtime asks for them."""

    def __init__(self, images: np.ndarray) -> None:
        self.left = iter(normalise(images).transpose(0, 3, 1, 2))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.left, None)
        return None if image is None else {"images": np.ascontiguousarray(image[None])}


def _quantized(proto: onnx.ModelProto, calibration: np.ndarray) -> onnx.ModelProto:
    """`proto` with QuantizeLinear and DequantizeLinear around every operator (QDQ).

    Weights use 7 of their 8 bits (`reduce_range`): on x86 processors without VNNI the sum of two 8-bit products
    overflows its 16 bits (ONNX Runtime, "Quantize ONNX models", section on U8S8 on AVX2).
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as name:
        source, prepared, target = (Path(name, f"{step}.onnx") for step in ("float32", "prepared", "int8"))
        onnx.save(proto, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(target)


def _strip(message: Any) -> None:
    """Remove the exporter's notes (stack traces with this machine's paths, class names) from a protobuf message."""
    from google.protobuf.message import Message

    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
            continue
        items: Iterable[Any] = value if field.message_type and not isinstance(value, Message) else [value]
        for item in items:
            if isinstance(item, Message):
                _strip(item)
