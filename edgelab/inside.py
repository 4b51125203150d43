"""What happens inside a model file: the tensors of every operator, and where two files drift apart.

How far a quantized layer is from the float one is told as its signal-to-quantization-noise ratio (SQNR) in decibels:
10 log10 of the mean square of the exact values over the mean square of the error. 6 dB are worth one bit, and a uniform
8-bit grid that a signal fills evenly reaches about 50 dB. The ratio of a layer's *output* holds the errors of all
layers before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgelab.artifact import Artifact, quiet
from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import onnx
    import pandas as pd

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "DELEGATE")


class Tensor(NamedTuple):
    """Stored `values` with `scale` float64 and `zero_point` int64, (channels,) or (1,), or empty if not quantized."""

    name: str
    values: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray


class Operator(NamedTuple):
    """One operator of a .tflite file: what it read, weights included, and its first output."""

    kind: str
    inputs: tuple[Tensor, ...]
    output: Tensor


def sqnr(exact: np.ndarray, approximate: np.ndarray) -> float:
    """Signal-to-quantization-noise ratio in dB of two arrays of one shape; infinite where they are equal."""
    return _decibels(np.square(exact, dtype=np.float64).sum(), np.square(exact - approximate, dtype=np.float64).sum())


def _decibels(signal: float, noise: float) -> float:
    return float(10 * np.log10(signal / noise)) if noise else np.inf


def operators(file: Artifact, image: np.ndarray) -> list[Operator]:
    """Every operator of a .tflite file with its tensors, after one image (1, H, W, C) uint8, by the reference kernels.

    These (`BUILTIN_REF`) are the plain C++ loops that the fast kernels are tested against.
    Raises EdgelabError where it is no .tflite file or the image does not fit.
    """
    if file.format != "tflite":
        raise EdgelabError(f"expected a .tflite file to look into, got {file.path.name}: save the Keras model instead")
    interpreter = _interpreter(file, reference=True)
    _run(interpreter, file, image)
    known = {details["index"]: details for details in interpreter.get_tensor_details()}

    def tensor(index: int) -> Tensor:
        details = known[index]
        parameters = details["quantization_parameters"]
        scale, zero_point = parameters["scales"].astype(np.float64), parameters["zero_points"].astype(np.int64)
        return Tensor(details["name"].split(";")[0], interpreter.get_tensor(index), scale, zero_point)

    return [
        Operator(op["op_name"], tuple(tensor(int(i)) for i in op["inputs"] if i >= 0), tensor(int(op["outputs"][0])))
        for op in interpreter._get_ops_details()
    ]


def windows(op: Operator) -> np.ndarray:
    """What a convolution sees at every output position: its input less the zero point, (H, W, channels, k, k) int64.

    For operators of `operators`, quantized, of padding `same` and a square kernel.
    """
    source, kernel = op.inputs[0], op.inputs[1].values.shape[1]
    size, out = source.values.shape[1], op.output.values.shape[1]
    stride = -(-size // out)
    total = max((out - 1) * stride + kernel - size, 0)
    margin = (total // 2, total - total // 2)
    padded = np.pad(source.values[0] - source.zero_point, (margin, margin, (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (0, 1))[::stride, ::stride]


def _interpreter(file: Artifact, reference: bool) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with quiet():
        interpreter = Interpreter(
            str(file.path), num_threads=1, experimental_op_resolver_type=kernels, experimental_preserve_all_tensors=True
        )
        interpreter.allocate_tensors()
    return interpreter


def _run(interpreter: Any, file: Artifact, image: np.ndarray) -> None:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], file.prepare(image).inputs)
    interpreter.invoke()


def layer_errors(reference: Artifact, other: Artifact, images: np.ndarray) -> pd.DataFrame:
    """How far the layers of `other` are from those of `reference`, both made from one model, on uint8 NHWC `images`.

    One row for every layer output that both files hold, in the order they run: `layer`, a name that `keep_float` of
    `artifact.save` takes, `kind`, the operator's name, and `sqnr_db`. A few dozen images will do.
    Raises EdgelabError where the formats differ, no layer goes by the same name, or the images do not fit.
    """
    import pandas as pd

    if reference.format != other.format:
        raise EdgelabError(f"expected two files of one format, got {reference.path.name} and {other.path.name}")
    if not len(images):
        raise EdgelabError(f"there are no images to compare {other.path.name} with {reference.path.name} on")
    names, values = {"tflite": (_tflite_names, _tflite_values), "onnx": (_onnx_names, _onnx_values)}[reference.format]
    sums: dict[str, np.ndarray] = {}
    for exact, found in zip(values(reference, images), values(other, images), strict=True):
        for key in (key for key in exact if key in found and exact[key].shape == found[key].shape):
            powers = [np.square(array, dtype=np.float64).sum() for array in (exact[key], exact[key] - found[key])]
            sums[key] = sums.get(key, np.zeros(2)) + powers
    if not sums:
        raise EdgelabError(f"{other.path.name} and {reference.path.name} share no layer: make both of one model")
    rows = [(*named, _decibels(*sums[key])) for key, named in names(reference).items() if key in sums]
    return pd.DataFrame(rows, columns=["layer", "kind", "sqnr_db"])


def _real(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    return (values.astype(np.float32) - zero_point) * np.float32(scale) if scale else values.astype(np.float32)


def _tflite_names(file: Artifact) -> dict[str, tuple[str, str]]:
    """Name of each operator's output -> (layer, kind). An output without a path is named after the weights used."""
    interpreter = _interpreter(file, reference=False)
    names = {details["index"]: details["name"].split(";")[0] for details in interpreter.get_tensor_details()}
    found = {}
    for op in interpreter._get_ops_details():
        own = [names.get(int(i), "") for i in (op["outputs"][0], *op["inputs"][1:])]
        path = next((name for name in own if "/" in name), own[0])
        if op["op_name"] not in CONVERSIONS:
            found[own[0]] = (".".join(path.split("/")[1:-1]) or path, op["op_name"].lower())
    return found


def _tflite_values(file: Artifact, images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """For every image, each operator's output as real numbers, under its name in the file."""
    interpreter = _interpreter(file, reference=False)
    known = {details["index"]: details for details in interpreter.get_tensor_details()}
    ops = [op for op in interpreter._get_ops_details() if op["op_name"] not in CONVERSIONS]
    outputs = [known[int(op["outputs"][0])] for op in ops]
    for image in images:
        _run(interpreter, file, image[None])
        yield {
            details["name"].split(";")[0]: _real(interpreter.get_tensor(details["index"]), *details["quantization"])
            for details in outputs
        }


def _onnx_names(file: Artifact) -> dict[str, tuple[str, str]]:
    """Name of each node's output -> (layer, kind). A node without weights goes by the layer before it."""
    import onnx

    graph = onnx.load(file.path).graph
    weights = {tensor.name for tensor in graph.initializer if tensor.name.endswith(".weight")}
    found: dict[str, tuple[str, str]] = {}
    for node in graph.node:
        own = next((name.removesuffix(".weight") for name in node.input if name in weights), None)
        before = next((found[name][0] for name in reversed(node.input) if name in found), node.op_type.lower())
        found[node.output[0]] = (own or before, node.op_type.lower())
    return found


def _onnx_values(file: Artifact, images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """For every image, each node's output as real numbers, under its name in the float file.

    Of a quantized file only what is quantized is read, so that ONNX Runtime still fuses and runs its integer kernels.
    """
    import onnx
    import onnxruntime

    proto = onnx.load(file.path)
    read = _quantized_outputs(proto.graph) or {node.output[0]: (node.output[0], 0.0, 0) for node in proto.graph.node}
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name, *_ in read.values())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    with quiet():
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for image in images:
        results = session.run(None, {session.get_inputs()[0].name: file.prepare(image[None]).inputs})
        yield {key: _real(r, scale, zero) for (key, (_, scale, zero)), r in zip(read.items(), results, strict=True)}


def _quantized_outputs(graph: onnx.GraphProto) -> dict[str, tuple[str, float, int]]:
    """Name of a value that is quantized right away -> (name of its integers, scale, zero point)."""
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in stored]
    names = {node.output[0]: node.input[0].removesuffix("_QuantizeLinear_Input") for node in nodes}
    return {names[n.output[0]]: (n.output[0], float(stored[n.input[1]]), int(stored[n.input[2]])) for n in nodes}
