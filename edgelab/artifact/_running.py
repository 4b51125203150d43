"""Running a model file on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from edgelab.artifact._formats import check_suffix, first_line, quiet
from edgelab.data import normalise
from edgelab.errors import EdgelabError

FRAMEWORKS = {"tflite": "tensorflow", "onnx": "pytorch"}
RUNTIMES = {"tflite": "ai-edge-litert", "onnx": "onnxruntime"}


class Port(NamedTuple):
    """One input or output of a model file: `shape` has None where any size is accepted; scale 0 means not quantized."""

    shape: tuple[int | None, ...]
    dtype: np.dtype
    scale: float = 0.0
    zero_point: int = 0


class Runner(NamedTuple):
    """A loaded file: its one input, its first output, and how to run one batch that already has the input's form.

    `run` gives the outputs; `prepare` sets the input and gives the runtime's bare call, for timing.
    """

    source: Port
    result: Port
    run: Callable[[np.ndarray], np.ndarray]
    prepare: Callable[[np.ndarray], Callable[[], object]]


class Prepared(NamedTuple):
    """A loaded file whose input is set to `inputs`, one batch: `call` runs it, any number of times."""

    call: Callable[[], object]
    inputs: np.ndarray


Pixels = Literal["centred", "unit", "raw"]
PIXELS: dict[Pixels, Callable[[np.ndarray], np.ndarray]] = {
    "centred": normalise,
    "unit": lambda images: images.astype(np.float32) / 255,
    "raw": lambda images: images.astype(np.float32),
}


@dataclass(frozen=True)
class Artifact:
    """A model file; `load` makes one that has been checked.

    `threads` is how many the runtime may use. `pixels` is what a float input is fed for uint8 pixels: `centred` is the
    course's (pixel - 128) / 128, `unit` is pixel / 255, `raw` the pixel itself; a quantized input says so itself.
    """

    path: Path
    threads: int = 1
    pixels: Pixels = "centred"

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
        runner = _runner(self.path, self.threads)
        size = runner.source.shape[0] or 1
        _expected_images(runner.source, self.format, images, self.path)
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            outputs = runner.run(self._inputs(runner.source, chunk))
            yield _to_logits(outputs, runner.result)[: len(chunk)]

    def prepare(self, image: np.ndarray) -> Prepared:
        """The file loaded anew with one image (1, H, W, C) uint8 as its input, ready to be timed.

        Raises EdgelabError where it is not one image or does not fit the file.
        """
        if len(image) != 1:
            raise EdgelabError(f"expected one image (1, height, width, channels) to time, got {len(image)}")
        runner = _runner(self.path, self.threads)
        inputs = self._inputs(runner.source, image)
        return Prepared(runner.prepare(inputs), inputs)

    def _inputs(self, source: Port, images: np.ndarray) -> np.ndarray:
        """One batch in the input's form, filled up with the last image where the file fixes a larger batch."""
        height, width, layout = _expected_images(source, self.format, images, self.path)
        size = source.shape[0] or 1
        filled = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
        inputs = _to_input(filled.reshape(size, height, width, -1), source, self.pixels)
        return np.ascontiguousarray(inputs.transpose(layout))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits, or what else the file's first output holds, float32 (n, classes), for uint8 NHWC `images`.

        A float input is fed what `pixels` says, a quantized one by the file's own scale and zero point (see
        `_to_input`); NHWC or NCHW follows from the input's shape.
        Raises EdgelabError where the images do not fit the file.
        """
        parts = list(self.stream(images))
        return (
            np.concatenate(parts)
            if parts
            else np.zeros((0, _runner(self.path, self.threads).result.shape[-1] or 0), np.float32)
        )


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


def _to_input(images: np.ndarray, source: Port, pixels: Pixels = "centred") -> np.ndarray:
    """uint8 NHWC pixels as the values the input expects.

    A quantized input says itself which values it was calibrated for: [-1, 1] as in this course, [0, 1], or plain pixels
    0..255 where its range reaches that far. With scale 1/128 and zero point 0 the result is simply pixel - 128.
    """
    if not source.scale:
        return PIXELS[pixels](images).astype(source.dtype)
    limits = np.iinfo(source.dtype)
    low, high = ((limit - source.zero_point) * source.scale for limit in (limits.min, limits.max))
    values = PIXELS["raw" if high > 2 else "unit" if low > -0.1 else "centred"](images)
    return np.clip(np.rint(values / source.scale) + source.zero_point, limits.min, limits.max).astype(source.dtype)


def _to_logits(outputs: np.ndarray, result: Port) -> np.ndarray:
    values = outputs.reshape(len(outputs), -1).astype(np.float32)
    return (values - result.zero_point) * np.float32(result.scale) if result.scale else values


def _tflite_port(details: dict[str, Any]) -> Port:
    scale, zero_point = details["quantization"]
    signature = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    shape = tuple(None if size < 0 else int(size) for size in signature)
    return Port(shape, np.dtype(details["dtype"]), float(scale), int(zero_point))


def _tflite_runner(path: Path, threads: int) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or not outputs:
        raise EdgelabError(f"{path}: expected a model with one input, got {len(inputs)}")
    source, result = inputs[0]["index"], outputs[0]["index"]

    def prepare(values: np.ndarray) -> Callable[[], object]:
        if tuple(interpreter.get_input_details()[0]["shape"]) != values.shape:
            interpreter.resize_tensor_input(source, values.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source, values)
        return interpreter.invoke

    def run(values: np.ndarray) -> np.ndarray:
        prepare(values)()
        return interpreter.get_tensor(result)

    return Runner(_tflite_port(inputs[0]), _tflite_port(outputs[0]), run, prepare)


def _onnx_port(argument: Any) -> Port:
    types = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8"}
    if argument.type not in types:
        raise EdgelabError(
            f"expected float inputs and outputs, got {argument.type}: keep QuantizeLinear inside the file"
        )
    return Port(
        tuple(size if isinstance(size, int) else None for size in argument.shape), np.dtype(types[argument.type])
    )


def _onnx_runner(path: Path, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or not outputs:
        raise EdgelabError(f"{path}: expected a model with one input, got {len(inputs)}")

    def prepare(values: np.ndarray) -> Callable[[], Any]:
        return partial(session.run, [outputs[0].name], {inputs[0].name: values})

    def run(values: np.ndarray) -> np.ndarray:
        return prepare(values)()[0]

    return Runner(_onnx_port(inputs[0]), _onnx_port(outputs[0]), run, prepare)


def _runner(path: Path, threads: int) -> Runner:
    """The loaded file. Raises EdgelabError where there is none or it is no model."""
    runners = {".tflite": _tflite_runner, ".onnx": _onnx_runner}
    check_suffix(path)
    if not path.is_file():
        raise EdgelabError(f"there is no model file at {path}: check the path or make the file first")
    try:
        with quiet():
            return runners[path.suffix.lower()](path, threads)
    except EdgelabError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise EdgelabError(f"{path} is no {path.suffix[1:]} model that can be run ({reason}): make it anew") from error


def load(path: Path | str, threads: int = 1, pixels: Pixels = "centred") -> Artifact:
    """The artifact in the file at `path`, once a runtime has accepted it.

    Raises EdgelabError where none does, or where `threads` or `pixels` cannot be.
    """
    if threads < 1 or pixels not in PIXELS:
        raise EdgelabError(f"expected threads >= 1 and pixels one of {', '.join(PIXELS)}, got {threads} and {pixels!r}")
    _runner(Path(path), threads)
    return Artifact(Path(path), threads, pixels)
