"""Small model files made by hand, without a framework: one convolution, a pooling, one fully connected layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)


def _weights(pruned: bool) -> tuple[np.ndarray, np.ndarray]:
    """Convolution (8, 3, 3, 3), outputs first and inputs last, and dense layer (4, 8), without zeros unless `pruned`.

    Then filter 2, input channel 1 and the last three of every four dense weights are zero.
    """
    rng = np.random.default_rng(1)
    conv, dense = (rng.uniform(0.05, 0.3, size) * rng.choice([-1, 1], size) for size in ((8, 3, 3, 3), (4, 8)))
    if pruned:
        conv[2], conv[..., 1] = 0, 0
        dense.reshape(4, 2, 4)[..., 1:] = 0
    return conv.astype(np.float32), dense.astype(np.float32)


def onnx_file(path: Path, quantized: bool, pruned: bool = False, size: int | str = 32, unsigned: bool = False) -> Path:
    """An .onnx file; int8 with quantization inside where `quantized`, weights with a zero point where `unsigned`."""
    from onnx import TensorProto, helper, numpy_helper, save

    conv, dense = _weights(pruned)
    constants = {"w": np.ascontiguousarray(np.moveaxis(conv, -1, 1)), "v": dense, "c": np.ones(4, np.float32)}
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], name="conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v", "c"], ["logits"], name="dense", transB=1),
    ]
    sizes = {"images": ["n", 3, size, size], "logits": ["n", 4]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in sizes.items()]
    stored = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], stored)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    if quantized:
        _quantize(path, unsigned)
    return path


def _quantize(path: Path, unsigned: bool) -> None:
    """Rewrite the .onnx file at `path` with 8-bit weights and activations."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    left = [{"images": (IMAGE.transpose(0, 3, 1, 2) / np.float32(128) - 1).astype(np.float32)}]

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return left.pop() if left else None

    weights = QuantType.QUInt8 if unsigned else QuantType.QInt8
    types = {"weight_type": weights, "activation_type": QuantType.QUInt8, "quant_format": QuantFormat.QDQ}
    quantize_static(path, path, Reader(), per_channel=not unsigned, reduce_range=True, **types)


class _Builder:
    """A .tflite file, tensor by tensor."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers, self.graph.tensors, self.graph.operators = [schema.BufferT()], [], []

    def tensor(
        self, shape: tuple[int, ...], dtype: str, values: np.ndarray | None = None, scale: Any = None, axis: int = 0
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = f"t{len(self.graph.tensors)}".encode(), np.array(shape, np.int32)
        tensor.type = getattr(self.schema.TensorType, dtype)
        if values is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale is not None:
            quantization = self.schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.float32(scale))
            quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)
            quantization.quantizedDimension, tensor.quantization = axis, quantization
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: list[int], outputs: list[int], options: Any = None, version: int = 1) -> None:
        code, op = self.schema.OperatorCodeT(), self.schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, kind)
        code.version, op.opcodeIndex = version, len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            op.builtinOptionsType = getattr(self.schema.BuiltinOptions, type(options).__name__[:-1])
            op.builtinOptions = options
        self.graph.operators.append(op)

    def save(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        from edgelab.explain._litert import pack

        self.graph.inputs, self.graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        path.write_bytes(pack(self.model))
        return path


def tflite_file(path: Path, quantized: bool, pruned: bool = False) -> Path:
    """A .tflite file; int8 in and out, weights per output channel, where `quantized`."""
    b = _Builder()
    s = b.schema
    conv, dense = _weights(pruned)
    kind, scales = ("INT8", (1 / 128, 0.02, 0.02, 0.02)) if quantized else ("FLOAT32", (None,) * 4)
    images = b.tensor((1, 32, 32, 3), kind, scale=scales[0])
    features = b.tensor((1, 16, 16, 8), kind, scale=scales[1])
    pooled = b.tensor((1, 1, 1, 8), kind, scale=scales[2])
    flat = b.tensor((1, 8), kind, scale=scales[2])
    logits = b.tensor((1, 4), kind, scale=scales[3])
    ends = []
    for values, before in ((conv, scales[0]), (dense, scales[2])):
        bias = np.full(len(values), 0.5)
        if quantized:
            scale = np.maximum(np.abs(values).reshape(len(values), -1).max(1), 0.01) / 127
            stored = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
            bias = np.rint(bias / (scale * before)).astype(np.int32)
            ends.append(b.tensor(values.shape, "INT8", stored, scale))
            ends.append(b.tensor(bias.shape, "INT32", bias, scale * before))
        else:
            ends.append(b.tensor(values.shape, "FLOAT32", values))
            ends.append(b.tensor(bias.shape, "FLOAT32", bias.astype(np.float32)))
    options = s.Conv2DOptionsT()
    options.strideH = options.strideW = 2
    options.fusedActivationFunction = s.ActivationFunctionType.RELU
    pool = s.Pool2DOptionsT()
    pool.padding, pool.strideH, pool.strideW, pool.filterHeight, pool.filterWidth = s.Padding.VALID, 16, 16, 16, 16
    b.operator("CONV_2D", [images, *ends[:2]], [features], options, 3)
    b.operator("AVERAGE_POOL_2D", [features], [pooled], pool, 2)
    shape = b.tensor((2,), "INT32", np.array([1, 8], np.int32))
    b.operator("RESHAPE", [pooled, shape], [flat], s.ReshapeOptionsT())
    b.operator("FULLY_CONNECTED", [flat, *ends[2:]], [logits], s.FullyConnectedOptionsT(), 5)
    return b.save(path, [images], [logits])


def sparse_tflite_file(path: Path) -> tuple[Path, np.ndarray]:
    """A float32 .tflite file of one fully connected layer whose weights are stored as CSR, and the weights."""
    b = _Builder()
    s = b.schema
    dense = np.zeros((4, 8), np.float32)
    dense[[0, 0, 1, 3, 3, 3], [1, 5, 2, 0, 4, 7]] = np.arange(1, 7)
    images, flat, logits = (b.tensor(shape, "FLOAT32") for shape in ((1, 1, 1, 8), (1, 8), (1, 4)))
    packed = b.tensor((4, 8), "FLOAT32", dense[dense != 0])
    rows, columns, segments, indices = (
        s.DimensionMetadataT(),
        s.DimensionMetadataT(),
        s.Int32VectorT(),
        s.Int32VectorT(),
    )
    rows.format, rows.denseSize = s.DimensionType.DENSE, 4
    segments.values = np.concatenate([[0], np.cumsum((dense != 0).sum(1))]).astype(np.int32)
    indices.values = np.nonzero(dense)[1].astype(np.int32)
    columns.format = s.DimensionType.SPARSE_CSR
    columns.arraySegmentsType = columns.arrayIndicesType = s.SparseIndexVector.Int32Vector
    columns.arraySegments, columns.arrayIndices = segments, indices
    sparsity = s.SparsityParametersT()
    sparsity.traversalOrder, sparsity.dimMetadata = np.array([0, 1], np.int32), [rows, columns]
    b.graph.tensors[packed].sparsity = sparsity
    unpacked, bias = b.tensor((4, 8), "FLOAT32"), b.tensor((4,), "FLOAT32", np.ones(4, np.float32))
    shape = b.tensor((2,), "INT32", np.array([1, 8], np.int32))
    b.operator("DENSIFY", [packed], [unpacked])
    b.operator("RESHAPE", [images, shape], [flat], s.ReshapeOptionsT())
    b.operator("FULLY_CONNECTED", [flat, unpacked, bias], [logits], s.FullyConnectedOptionsT())
    return b.save(path, [images], [logits]), dense
