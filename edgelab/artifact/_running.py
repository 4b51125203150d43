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

    @property
    def pixels(self) -> Pixels:
        """What a quantized input was calibrated for, by the range of its scale."""
        limits = np.iinfo(self.dtype)
        low, high = ((limit - self.zero_point) * self.scale for limit in (limits.min, limits.max))
        return "raw" if high > 2 else "unit" if low > -0.1 else "centred"

    def of_pixels(self) -> np.ndarray:
        """What a quantized input is fed for each of the pixels 0 to 255."""
        return _to_input(np.arange(256, dtype=np.uint8), self)


class Runner(NamedTuple):
    """A loaded file: its one input, its first output, and how to run one batch that already has the input's form.

    `run` gives the outputs; `prepare` sets the input and gives the runtime's bare call, for timing.
    """

    source: Port
    result: Port
    run: Callable[[np.ndarray], np.ndarray]
    prepare: Callable[[np.ndarray], Callable[[], object]]


class ImageShape(NamedTuple):
    """Size of one image, None where any will do, and whether the file's own layout has the channels last (NHWC)."""

    height: int | None
    width: int | None
    channels: int | None
    channels_last: bool


class Prepared(NamedTuple):
    """A loaded file whose input is set to `inputs`, one batch: `call` runs it, any number of times."""

    call: Callable[[], object]
    inputs: np.ndarray


class Opened(NamedTuple):
    """A loaded file: `answer` gives what `Artifact.predict` does for up to `batch` images, without loading it again."""

    source: Port
    batch: int
    answer: Callable[[np.ndarray], np.ndarray]

    def stream(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """The answers to any number of `images`, a batch at a time."""
        for start in range(0, len(images), self.batch):
            yield self.answer(images[start : start + self.batch])


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

    def ports(self) -> tuple[Port, Port]:
        """What the file takes, and what its first output is."""
        return _runner(self.path, self.threads)[:2]

    def image_shape(self) -> ImageShape:
        """The images the file takes. Raises EdgelabError where it takes none: then its input has not four axes."""
        source, _ = self.ports()
        if len(source.shape) != 4:
            raise EdgelabError(
                f"{self.path.name} takes inputs of {_text(source.shape[1:])}: expected images, four axes"
            )
        last, first = (source.shape[axis] in (1, 3) for axis in (3, 1))
        is_last = last if last != first else self.format == "tflite"
        height, width, channels = (source.shape[axis] for axis in ((1, 2, 3) if is_last else (2, 3, 1)))
        return ImageShape(height, width, channels, is_last)

    def stream(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """As `predict`, but yields the logits (m, classes) of the next images as soon as they are known.

        m is 1, or the batch size where the file fixes a larger one.
        """
        file = self.opened()
        _expected_images(file.source, self.format, images, self.path)
        yield from file.stream(images)

    def opened(self) -> Opened:
        """The file loaded once, for images that come one after the other. Its `answer` raises as `predict` does."""
        runner = _runner(self.path, self.threads)
        size = runner.source.shape[0] or 1

        def answer(images: np.ndarray) -> np.ndarray:
            _expected_images(runner.source, self.format, images, self.path)
            try:
                outputs = runner.run(self._inputs(runner.source, images))
                logits = _to_logits(outputs, runner.result, size)[: len(images)]
            except Exception as error:
                raise EdgelabError(f"{self.path} fails on an image ({first_line(error)}): make it anew") from error
            if np.isnan(logits).any():
                raise EdgelabError(f"{self.path} gives values that are no numbers: make it anew")
            return logits

        return Opened(runner.source, size, answer)

    def prepare(self, image: np.ndarray | None) -> Prepared:
        """The file loaded anew with one image (1, H, W, C) uint8 as its input, ready to be timed.

        None stands for noise in the input's own form, for a file that takes no images; open sizes are 1.
        Raises EdgelabError where it is not one image, does not fit the file, or the file fails on noise.
        """
        if image is not None and len(image) != 1:
            raise EdgelabError(f"expected one image (1, height, width, channels) to time, got {len(image)}")
        runner = _runner(self.path, self.threads)
        inputs = _noise(runner.source) if image is None else self._inputs(runner.source, image)
        prepared = Prepared(runner.prepare(inputs), inputs)
        if image is None:
            try:
                prepared.call()
            except Exception as error:
                raise EdgelabError(f"{self.path} fails on noise ({first_line(error)})") from error
        return prepared

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
    got = f"{height}x{width}x{channels}"
    wanted = _text(source.shape[1:])
    raise EdgelabError(f"{path.name} takes inputs of {wanted}, got images of {got} (height x width x channels)")


def _text(sizes: tuple[int | None, ...]) -> str:
    return "x".join("any" if size is None else str(size) for size in sizes) or "a single number"


def _noise(source: Port) -> np.ndarray:
    """Random values as the input takes them; zeros for integers without a scale, which may be numbers of words."""
    shape, draws = tuple(size or 1 for size in source.shape), np.random.default_rng(0)
    if source.dtype.kind == "f":
        return draws.standard_normal(shape).astype(source.dtype)
    if not source.scale:
        return np.zeros(shape, source.dtype)
    limits = np.iinfo(source.dtype)
    return draws.integers(limits.min, limits.max, shape, source.dtype, endpoint=True)


def _to_input(images: np.ndarray, source: Port, pixels: Pixels = "centred") -> np.ndarray:
    """uint8 NHWC pixels as the values the input expects.

    A quantized input says itself which values it was calibrated for: [-1, 1] as in this course, [0, 1], or plain pixels
    0..255 where its range reaches that far. With scale 1/128 and zero point 0 the result is simply pixel - 128. An
    integer input without a scale takes the pixels as they are, int8 that less 128.
    """
    if source.dtype.kind == "f" and not source.scale:
        return PIXELS[pixels](images).astype(source.dtype)
    if not source.scale:
        return images.astype(source.dtype) if source.dtype != np.int8 else (images ^ np.uint8(128)).view(np.int8)
    limits = np.iinfo(source.dtype)
    values = PIXELS[source.pixels](images)
    return np.clip(np.rint(values / source.scale) + source.zero_point, limits.min, limits.max).astype(source.dtype)


def _to_logits(outputs: np.ndarray, result: Port, n: int) -> np.ndarray:
    values = outputs.reshape(n, -1).astype(np.float32)
    return (values - result.zero_point) * np.float32(result.scale) if result.scale else values


def _tflite_port(details: dict[str, Any]) -> Port:
    scale, zero_point = details["quantization"]
    signature = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    shape = tuple(None if size < 0 else int(size) for size in signature)
    return _checked(Port(shape, np.dtype(details["dtype"]), float(scale), int(zero_point)))


def _checked(port: Port) -> Port:
    """`port`. Raises ValueError where its values are no numbers or its scale cannot be."""
    if port.dtype.kind not in "fiu":
        raise ValueError(f"expected inputs and outputs that are numbers, got {port.dtype}")
    if not 0 <= port.scale < np.inf or (port.scale and port.dtype.kind == "f"):
        raise ValueError(f"expected a scale above 0, and only for integers, got {port.scale:g} for {port.dtype}")
    return port


def _tflite_runner(path: Path, threads: int) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or not outputs:
        raise _other_ports(path, len(inputs), len(outputs))
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


ONNX_TYPES = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8"}
ONNX_TYPES |= {
    f"tensor({sign}int{bits})": f"{sign or 'i'}{bits // 8}" for sign in ("u", "") for bits in (8, 16, 32, 64)
}


def _onnx_ports(path: Path, arguments: tuple[Any, Any]) -> tuple[Port, Port]:
    """Input and output; the scale of an integer one is read from the graph."""
    ports = []
    for argument in arguments:
        if argument.type not in ONNX_TYPES:
            raise ValueError(f"expected inputs and outputs that are numbers, got {argument.type}")
        shape = tuple(size if isinstance(size, int) and size > 0 else None for size in argument.shape)
        ports.append(Port(shape, np.dtype(ONNX_TYPES[argument.type])))
    if all(port.dtype.kind == "f" for port in ports):
        return ports[0], ports[1]
    from edgelab.artifact._onnx_scales import Scales

    scales = Scales(path)
    found = scales.of_input(arguments[0].name), scales.of_output(arguments[1].name)
    source, result = (
        _checked(port._replace(scale=scale, zero_point=zero_point)) if port.dtype.kind != "f" else port
        for port, (scale, zero_point) in zip(ports, found, strict=True)
    )
    return source, result


def _other_ports(path: Path, inputs: int, outputs: int) -> EdgelabError:
    return EdgelabError(f"{path}: expected a model with one input and an output, got {inputs} and {outputs}")


def _onnx_runner(path: Path, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or not outputs:
        raise _other_ports(path, len(inputs), len(outputs))

    def prepare(values: np.ndarray) -> Callable[[], Any]:
        return partial(session.run, [outputs[0].name], {inputs[0].name: values})

    def run(values: np.ndarray) -> np.ndarray:
        return prepare(values)()[0]

    return Runner(*_onnx_ports(path, (inputs[0], outputs[0])), run, prepare)


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
    except ImportError as error:
        package = RUNTIMES[path.suffix[1:].lower()]
        raise EdgelabError(
            f"{path} needs {package}, which cannot be loaded ({error}): pip install {package}"
        ) from error
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
