"""Model files of a few kilobytes, made without a framework: the outputs are the means of the channels of an image.

So the file is right about `pictures` whatever range its input is fed, and its logits are known in advance. Also what
the child processes of the tests run: `gather_quickly` and worse.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"float32": "f4", "float16": "f2", "int8": "i1", "uint8": "u1"}
QUANTIZED = {"int8": (1 / 128, 0), "uint8": (1 / 128, 128)}
CLASSES = ("blue", "green", "red")
CHANNELS = (2, 1, 0)  # the channel that is brightest in an image of each class


def pictures(n: int, size: tuple[int, int] = (8, 8)) -> tuple[np.ndarray, np.ndarray]:
    """`n` noisy images, and the number of the channel that is brightest in each: 0, 1, 2, 0, 1, ..."""
    labels = np.arange(n) % 3
    images = np.random.default_rng(n).integers(0, 120, (n, *size, 3), dtype=np.uint8)
    images[np.arange(n), :, :, labels] += 100
    return images, labels


def picture_folder(folder: Path, n: int = 6, size: tuple[int, int] = (8, 8)) -> Path:
    """`pictures` as red/, green/ and blue/: in the order of their names, these are the channels 2, 1, 0."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(*pictures(n, size), strict=True)):
        path = folder / CLASSES[2 - label] / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def onnx_file(
    path: Path,
    dtype: str = "float32",
    layout: str = "NCHW",
    sizes: tuple[int | str, ...] = ("n", 8, 8, 3),
    gain: np.ndarray | None = None,
    properties: dict[str, str] | None = None,
    scaled: bool = True,
    ending: str = "",
) -> Path:
    """A file for images of `sizes` (batch, height, width, channels) in `layout`; integer ones are `scaled`, or cast.

    `gain` (3, 3) mixes the channels; `properties` are metadata; `ending` is an operator the means go through last.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    order = (0, 1, 2, 3) if layout == "NHWC" else (0, 3, 1, 2)
    channels = sizes[3] if isinstance(sizes[3], int) else 3
    weight = (np.eye(3, channels) if gain is None else gain).astype(np.float32)
    constants = [
        numpy_helper.from_array(weight[:, :, None, None], "w"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    nodes, name = [], "images"
    if dtype in QUANTIZED and scaled:
        scale, zero = QUANTIZED[dtype]
        constants += [
            numpy_helper.from_array(np.float32(scale), "scale"),
            numpy_helper.from_array(np.array(zero, TYPES[dtype]), "zero"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", [name, "scale", "zero"], ["values"]))
    else:
        nodes.append(helper.make_node("Cast", [name], ["values"], to=TensorProto.FLOAT))
    name = "values"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [name], ["turned"], perm=[0, 3, 1, 2]))
        name = "turned"
    nodes.append(helper.make_node("Conv", [name, "w"], ["c"]))
    nodes.append(helper.make_node("ReduceMean", ["c", "axes"], ["means"], keepdims=0))
    if ending:
        nodes[-1].output[0] = "ended"
        nodes.append(helper.make_node(ending, ["ended"], ["means"]))
    kind = getattr(TensorProto, {"float32": "FLOAT"}.get(dtype, dtype.upper()))
    if dtype in QUANTIZED and scaled:
        nodes.append(helper.make_node("QuantizeLinear", ["means", "scale", "zero"], ["logits"]))
    else:
        nodes.append(helper.make_node("Cast", ["means"], ["logits"], to=kind))
    shape = [sizes[axis] for axis in order]
    ports = [helper.make_tensor_value_info(n, kind, s) for n, s in (("images", shape), ("logits", [sizes[0], 3]))]
    graph = helper.make_graph(nodes, "means", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, properties or {})
    save(model, path)
    return path


def shade_folder(folder: Path) -> Path:
    """Dark and light images, split."""
    from PIL import Image

    for split, n in (("train", 20), ("test", 10)):
        for name, grey in (("dark", 60), ("light", 200)):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (8, 8), (grey + i,) * 3).save(folder / split / name / f"{i:02}.png")
    return folder


def darkness(path: Path, threshold: float, scale: float = 1.0) -> Path:
    """A file that tells light images (output 1) from dark ones, by whether the value it is fed is above a threshold."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "threshold"], ["above"]),
        helper.make_node("Neg", ["above"], ["below"]),
        helper.make_node("Concat", ["below", "above"], ["logits"], axis=1),
    ]
    constants = [
        numpy_helper.from_array(np.array([2, 3]), "axes"),
        numpy_helper.from_array(np.float32(threshold), "threshold"),
    ]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("images", ["n", 1, 8, 8]), ("logits", ["n", 2]))
    ]
    graph = helper.make_graph(nodes, "darkness", ports[:1], ports[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


class _Graph:
    """A .tflite file in the making."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model, self.part = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.part]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.part.tensors, self.part.operators = [], []

    def tensor(
        self,
        kind: str,
        shape: tuple[int, ...],
        signature: tuple[int, ...] | None = None,
        data: np.ndarray | None = None,
        scale: tuple[float, int] | None = None,
    ) -> int:
        """The number of a new tensor."""
        tensor = self.schema.TensorT()
        tensor.name = f"t{len(self.part.tensors)}".encode()
        tensor.shape, tensor.type = np.array(shape, np.int32), getattr(self.schema.TensorType, kind.upper())
        tensor.shapeSignature = None if signature is None else np.array(signature, np.int32)
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = np.array(scale[:1], np.float32)
            tensor.quantization.zeroPoint = np.array(scale[1:], np.int64)
        self.part.tensors.append(tensor)
        return len(self.part.tensors) - 1

    def operator(self, name: str, inputs: list[int], output: int, **options: Any) -> int:
        """Append an operator and return its output."""
        code, op = self.schema.OperatorCodeT(), self.schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, name)
        op.opcodeIndex, op.inputs, op.outputs = len(self.model.operatorCodes), np.int32(inputs), np.int32([output])
        kinds = {"CONV_2D": "Conv2D", "AVERAGE_POOL_2D": "Pool2D", "LOG_SOFTMAX": "LogSoftmax"}
        kind = kinds.get(name, name.title()) + "Options"
        if name != "LOGISTIC":
            op.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            op.builtinOptions = getattr(self.schema, f"{kind}T")()
        for key, value in options.items():
            setattr(op.builtinOptions, key, value)
        self.model.operatorCodes.append(code)
        self.part.operators.append(op)
        return output

    def write(self, path: Path, source: int, result: int) -> Path:
        """The file with one input and one output."""
        import flatbuffers

        self.part.inputs, self.part.outputs = np.int32([source]), np.int32([result])
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def tflite_file(
    path: Path, dtype: str = "float32", layout: str = "NHWC", batch: int | None = None, ending: str = ""
) -> Path:
    """A file for 8x8 images in `layout`, of any batch or a fixed one; integer inputs and outputs are scaled.

    `ending` is an operator that the means of a float32 file go through last, such as SOFTMAX.
    """
    graph, n, open_ = _Graph(), batch or 1, batch is None
    scale = QUANTIZED.get(dtype)
    inner = dtype if scale else "float32"

    def value(kind: str, *sizes: int) -> int:
        return graph.tensor(kind, (n, *sizes), (-1, *sizes) if open_ else None, None, scale)

    source = x = value(dtype, *((8, 8, 3) if layout == "NHWC" else (3, 8, 8)))
    if dtype == "float16":
        kinds = {"inDataType": graph.schema.TensorType.FLOAT16, "outDataType": graph.schema.TensorType.FLOAT32}
        x = graph.operator("CAST", [x], value(inner, *((8, 8, 3) if layout == "NHWC" else (3, 8, 8))), **kinds)
    if layout == "NCHW":
        x = graph.operator(
            "TRANSPOSE", [x, graph.tensor("int32", (4,), data=np.int32([0, 2, 3, 1]))], value(inner, 8, 8, 3)
        )
    eye = np.eye(3).reshape(3, 1, 1, 3)
    middle = 128 if dtype == "uint8" else 0
    stored = (127 * eye + middle).astype(TYPES[dtype]) if scale else eye.astype(np.float32)
    weight = graph.tensor(inner, (3, 1, 1, 3), data=stored, scale=(1 / 127, middle) if scale else None)
    bias_type = "int32" if scale else "float32"
    bias_scale = (scale[0] / 127, 0) if scale else None
    bias = graph.tensor(bias_type, (3,), data=np.zeros(3, bias_type), scale=bias_scale)
    x = graph.operator("CONV_2D", [x, weight, bias], value(inner, 8, 8, 3), strideH=1, strideW=1)
    pool = {"filterHeight": 8, "filterWidth": 8, "strideH": 8, "strideW": 8, "padding": graph.schema.Padding.VALID}
    x = graph.operator("AVERAGE_POOL_2D", [x], value(inner, 1, 1, 3), **pool)
    x = graph.operator("RESHAPE", [x, graph.tensor("int32", (2,), data=np.int32([-1, 3]))], value(inner, 3))
    if dtype == "float16":
        kinds = {"inDataType": graph.schema.TensorType.FLOAT32, "outDataType": graph.schema.TensorType.FLOAT16}
        x = graph.operator("CAST", [x], value(dtype, 3), **kinds)
    if ending:
        x = graph.operator(ending, [x], value(dtype, 3), **({"beta": 1.0} if ending == "SOFTMAX" else {}))
    return graph.write(path, source, x)


def gather_quickly(*arguments: Any) -> dict[str, Any]:
    """`report.gather` that times a few runs only."""
    from edgelab import latency, report

    latency.SECONDS, latency.REPETITIONS = 0.001, 3
    return report.gather(*arguments)


def crash(path: str, number: int) -> None:
    """End as a runtime in C++ does."""
    os.kill(os.getpid(), number)


def leave(path: str, status: int) -> None:
    """End as a library does that calls exit."""
    os._exit(status)


def sleep(path: str, seconds: float, limits: list[bool]) -> str:
    """Set and lift the limits one after the other, then take so many seconds."""
    from edgelab import isolated

    for limit in limits:
        isolated.limit(limit)
    time.sleep(seconds)
    return "awake"


def spin(path: str) -> None:
    """Never end."""
    while True:
        pass


def echo(path: str, value: Any) -> list[Any]:
    """The arguments."""
    return [path, value]


def fail(path: str, how: str) -> None:
    """Raise."""
    from edgelab.errors import EdgelabError

    if how == "edgelab":
        raise EdgelabError("expected this")
    if how == "os":
        raise FileNotFoundError(2, "No such file or directory", "nowhere")
    raise ZeroDivisionError("division by zero\nand more")


def fail_about(path: str, others: list[str], how: str | int) -> None:
    """Go on to other files, one after the other, then end by a signal, raise or come to no end."""
    from edgelab import isolated

    for other in others:
        isolated.about(other)
    if isinstance(how, int):
        os.kill(os.getpid(), how)
    elif how == "memory":
        raise MemoryError
    elif how == "endless":
        spin(path)
    fail(path, how)


def allocate(path: str, size: int, is_unlimited: bool) -> int:
    """Ask for so many bytes, without touching them; first lift the limits if told so."""
    from edgelab import isolated

    if is_unlimited:
        isolated.limit(False)
    return int(np.empty(size, np.uint8).size)


def shout(path: str) -> None:
    """Write wherever one can write to."""
    import logging
    import sys
    import warnings

    print("printed")
    os.write(1, b"from C to stdout\n")
    os.write(2, b"from C to stderr\n")
    warnings.warn("a warning", stacklevel=1)
    logging.warning("a log")
    print("a notice", file=sys.stderr)


def endless_file(path: Path) -> Path:
    """A sound .onnx file whose loop takes years."""
    from onnx import TensorProto, helper, save

    flag = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "more")]
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    still = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Relu", ["x"], ["more"])],
        "body",
        [count, flag, ends[0]],
        [still, ends[1]],
    )
    constants = [
        helper.make_tensor("times", TensorProto.INT64, [], [2**60]),
        helper.make_tensor("true", TensorProto.BOOL, [], [True]),
    ]
    nodes = [
        helper.make_node("Loop", ["times", "true", "images"], ["looped"], body=body),
        helper.make_node("Flatten", ["looped"], ["logits"]),
    ]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("images", [1, 3, 8, 8]), ("logits", [1, 192]))
    ]
    graph = helper.make_graph(nodes, "endless", ports[:1], ports[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
