"""Artifacts: the deployable file of a model (.tflite or .onnx) and how to run it.

A file is run the way a device would: one image at a time, on one thread, from uint8 pixels. So a result never depends
on how many images are measured together, not even for files that choose their quantization range at run time.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgelab.data import normalise
from edgelab.errors import EdgelabError
from edgelab.files import atomic_path

if TYPE_CHECKING:
    import tf_keras as keras
    from torch import nn

FRAMEWORKS = {"tflite": "tensorflow", "onnx": "pytorch"}
RUNTIMES = {"tflite": "ai-edge-litert", "onnx": "onnxruntime"}
OPSET = 18
TORCH_INPUT = (3, 32, 32)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what converters and runtimes print, also what they print from C++; errors are raised as ever."""
    sys.stderr.flush()
    kept, nowhere, level = os.dup(2), os.open(os.devnull, os.O_WRONLY), logging.root.manager.disable
    try:
        os.dup2(nowhere, 2)
        logging.disable(logging.WARNING)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Port(NamedTuple):
    """One input or output of a model file: `shape` has None where any size is accepted; scale 0 means not quantized."""

    shape: tuple[int | None, ...]
    dtype: np.dtype
    scale: float = 0.0
    zero_point: int = 0


class Runner(NamedTuple):
    """A loaded file: its one input, its first output, and how to run one batch that already has the input's form."""

    source: Port
    result: Port
    run: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Artifact:
    """A model file; `load` makes one that has been checked."""

    path: Path

    @property
    def format(self) -> str:
        """`tflite` or `onnx`."""
        return self.path.suffix[1:].lower()

    @property
    def framework(self) -> str:
        """The track that writes this format: `tensorflow` or `pytorch`."""
        return FRAMEWORKS[self.format]

    @property
    def runtime(self) -> str:
        """Name and version of the runtime that executes the file."""
        return f"{RUNTIMES[self.format]} {version(RUNTIMES[self.format])}"

    def stream(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """As `predict`, but yields the logits (m, classes) of the next images as soon as they are known.

        m is 1, or the batch size where the file fixes a larger one.
        """
        runner = _runner(self.path)
        height, width, layout = _expected_images(runner.source, self.format, images, self.path)
        size = runner.source.shape[0] or 1
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
            inputs = _to_input(filled.reshape(size, height, width, -1), runner.source)
            outputs = runner.run(np.ascontiguousarray(inputs.transpose(layout)))
            yield _to_logits(outputs, runner.result)[: len(chunk)]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits, or what else the file's first output holds, float32 (n, classes), for uint8 NHWC `images`.

        A float input is fed `data.normalise(images)`, a quantized one the same values by the file's own scale and zero
        point (see `_to_input`); NHWC or NCHW follows from the input's shape.
        Raises EdgelabError where the images do not fit the file.
        """
        parts = list(self.stream(images))
        return np.concatenate(parts) if parts else np.zeros((0, _runner(self.path).result.shape[-1] or 0), np.float32)


def _expected_images(
    source: Port, format_: str, images: np.ndarray, path: Path
) -> tuple[int, int, tuple[int, int, int, int]]:
    """Height, width and the transposition from NHWC that `source` needs; EdgelabError where the images do not fit."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise EdgelabError(f"expected uint8 images (n, height, width, channels), got {images.dtype} {images.shape}")
    height, width, channels = images.shape[1:]
    layouts = {"tflite": (0, 1, 2, 3), "onnx": (0, 3, 1, 2)}
    ordered = [layouts[format_], *(layout for name, layout in layouts.items() if name != format_)]
    for layout in ordered:
        sizes = [images.shape[axis] for axis in layout[1:]]
        if len(source.shape) == 4 and all(
            want in (None, got) for want, got in zip(source.shape[1:], sizes, strict=True)
        ):
            return height, width, layout
    wanted = "x".join("any" if size is None else str(size) for size in source.shape[1:])
    got = f"{height}x{width}x{channels}"
    raise EdgelabError(f"{path.name} takes inputs of {wanted}, got images of {got} (height x width x channels)")


def _to_input(images: np.ndarray, source: Port) -> np.ndarray:
    """uint8 NHWC pixels as the values the input expects.

    A quantized input says itself which values it was calibrated for: [-1, 1] as in this course, [0, 1], or plain pixels
    0..255 where its range reaches that far. With scale 1/128 and zero point 0 the result is simply pixel - 128.
    """
    if not source.scale:
        return normalise(images).astype(source.dtype)
    limits = np.iinfo(source.dtype)
    low, high = ((limit - source.zero_point) * source.scale for limit in (limits.min, limits.max))
    if high > 2:
        values: np.ndarray = images.astype(np.float32)
    elif low > -0.1:
        values = images.astype(np.float32) / 255
    else:
        values = normalise(images)
    return np.clip(np.rint(values / source.scale) + source.zero_point, limits.min, limits.max).astype(source.dtype)


def _to_logits(outputs: np.ndarray, result: Port) -> np.ndarray:
    values = outputs.reshape(len(outputs), -1).astype(np.float32)
    return (values - result.zero_point) * np.float32(result.scale) if result.scale else values


def _tflite_port(details: dict[str, Any]) -> Port:
    scale, zero_point = details["quantization"]
    signature = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    shape = tuple(None if size < 0 else int(size) for size in signature)
    return Port(shape, np.dtype(details["dtype"]), float(scale), int(zero_point))


def _tflite_runner(path: Path) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or not outputs:
        raise EdgelabError(f"{path}: expected a model with one input, got {len(inputs)}")
    source, result = inputs[0]["index"], outputs[0]["index"]

    def run(values: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != values.shape:
            interpreter.resize_tensor_input(source, values.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source, values)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return Runner(_tflite_port(inputs[0]), _tflite_port(outputs[0]), run)


def _onnx_port(argument: Any) -> Port:
    types = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8"}
    if argument.type not in types:
        raise EdgelabError(
            f"expected float inputs and outputs, got {argument.type}: keep QuantizeLinear inside the file"
        )
    return Port(
        tuple(size if isinstance(size, int) else None for size in argument.shape), np.dtype(types[argument.type])
    )


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or not outputs:
        raise EdgelabError(f"{path}: expected a model with one input, got {len(inputs)}")

    def run(values: np.ndarray) -> np.ndarray:
        return session.run([outputs[0].name], {inputs[0].name: values})[0]

    return Runner(_onnx_port(inputs[0]), _onnx_port(outputs[0]), run)


def _runner(path: Path) -> Runner:
    """The loaded file. Raises EdgelabError where there is none or it is no model."""
    runners = {".tflite": _tflite_runner, ".onnx": _onnx_runner}
    check_suffix(path)
    if not path.is_file():
        raise EdgelabError(f"there is no model file at {path}: check the path or make the file first")
    try:
        with quiet():
            return runners[path.suffix.lower()](path)
    except EdgelabError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise EdgelabError(f"{path} is no {path.suffix[1:]} model that can be run ({reason}): make it anew") from error


def check_suffix(path: Path) -> None:
    """Raise EdgelabError unless `path` ends in .tflite or .onnx."""
    if path.suffix.lower() not in (".tflite", ".onnx"):
        raise EdgelabError(f"expected a model file ending in .tflite or .onnx, got {path.name!r}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened to 160 characters, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:160]


def load(path: Path | str) -> Artifact:
    """The artifact in the file at `path`, once a runtime has accepted it. Raises EdgelabError where none does."""
    _runner(Path(path))
    return Artifact(Path(path))


def framework_of(model: object) -> str:
    """`torch` for a torch module, `keras` for a tf_keras or Keras model, else the empty string; imports neither."""
    roots = {cls.__module__.split(".")[0]: cls.__name__ for cls in type(model).__mro__[:-1]}
    if "torch" in roots and hasattr(model, "named_modules"):
        return "torch"
    return "keras" if roots.keys() & {"tf_keras", "keras"} and hasattr(model, "layers") else ""


def save(model: keras.Model | nn.Module, path: Path | str) -> Artifact:
    """Write `model` to `path`: a tf_keras model as .tflite, a torch module as .onnx, float32, for any batch size.

    A torch module is exported for images of its attribute `input_shape` (channels, height, width), or 3x32x32 where it
    has none. The same model gives the same bytes. Raises EdgelabError where model and suffix do not go together or the
    converter fails.
    """
    path = Path(path)
    check_suffix(path)
    wanted, convert = {".tflite": ("keras", _to_tflite), ".onnx": ("torch", _to_onnx)}[path.suffix.lower()]
    if framework_of(model) != wanted:
        name = {"keras": "tf_keras model", "torch": "torch module"}[wanted]
        got = type(model).__name__
        raise EdgelabError(f"{path.name}: a {path.suffix} file is made from a {name}, got {got}: use the other suffix")
    try:
        with quiet():
            content = convert(model)
    except Exception as error:
        raise EdgelabError(f"{path.name}: the model cannot be converted ({first_line(error)})") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return load(path)


def _to_tflite(model: keras.Model) -> bytes:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def _to_onnx(model: nn.Module) -> bytes:
    import onnx
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
    proto = program.model_proto
    del proto.graph.value_info[:]
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


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
