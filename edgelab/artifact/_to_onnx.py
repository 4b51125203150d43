"""Converting a torch module, or a float32 .onnx file, to the bytes of an .onnx file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelab.artifact._running import Artifact
from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 18
TORCH_INPUT = (3, 32, 32)
CALIBRATED = ("int8", "int8_per_tensor", "int8_full_range", "int8_entropy", "int8_percentile")
SCHEMES = ("float32", *CALIBRATED)
ENTROPY_BINS = 256


def to_onnx(model: nn.Module | Artifact, scheme: str, values: np.ndarray | None, keep_float: Sequence[str]) -> bytes:
    """The file's content. `values` are the model's inputs (n, height, width, channels) float32 to calibrate with."""
    import onnx

    proto = onnx.load(model.path) if isinstance(model, Artifact) else _exported(model)
    if values is not None:
        proto = quantized(proto, values, scheme, keep_float)
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def _exported(model: nn.Module) -> onnx.ModelProto:
    import torch

    first = next(model.parameters(), torch.empty(0))
    example = torch.zeros(2, *getattr(model, "input_shape", TORCH_INPUT), device=first.device)
    training = model.training and not is_quantized(model)
    if training:
        model.eval()
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"], "opset_version": OPSET}
    try:
        if has_quantized_modules(model):
            return _exported_by_tracing(model, example, names)
        options: dict[str, Any] = {"external_data": False, "dynamic_shapes": ({0: "batch"},), "verbose": False}
        with _one_registry():
            program = torch.onnx.export(model, (example,), dynamo=True, **options, **names)
    finally:
        if training:
            model.train()
    assert program is not None
    del program.model_proto.graph.value_info[:]
    return program.model_proto


@contextmanager
def _one_registry() -> Iterator[None]:
    """Exports within share torch's table of operators.

    torch.onnx makes it anew for every export, by parsing the source of 500 functions: half of the time of small ones.
    Nothing writes to it without a `custom_translation_table`. A torch that keeps it elsewhere makes it anew, as ever.
    """
    from unittest.mock import patch

    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        make = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):
        yield
        return
    with patch.object(ONNXRegistry, "from_torchlib", staticmethod(partial(_registry, make))):
        yield


@cache
def _registry(make: Callable[..., Any], *asked: int, **options: int) -> Any:
    """The table, with the operators of quantized networks, which it knows only once torch has defined them."""
    import_module("torch.ao.quantization.fx._decomposed")
    return make(*asked, **options)


def _exported_by_tracing(model: nn.Module, example: Any, names: dict[str, Any]) -> onnx.ModelProto:
    """By the older exporter: the newer one does not know torch's quantized modules."""
    import onnx
    import torch

    with TemporaryDirectory() as folder:
        path = Path(folder, "traced.onnx")
        axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(model, (example,), path, dynamo=False, dynamic_axes=axes, **names)
        return onnx.load(path)


def has_quantized_modules(model: nn.Module) -> bool:
    """Whether `model` computes with torch's own quantized kernels (the result of `convert` or `convert_fx`)."""
    return any(".quantized" in type(part).__module__ for part in model.modules())


def is_quantized(model: nn.Module) -> bool:
    """Whether `model` has been quantized in torch, in eager or graph mode or by PT2E."""
    from torch.fx import GraphModule

    targets = {str(node.target) for node in model.graph.nodes} if isinstance(model, GraphModule) else set()
    return has_quantized_modules(model) or any(target.startswith("quantized_decomposed.") for target in targets)


class _Reader:
    """Calibration images one at a time, as ONNX Runtime asks for them."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self.left = name, iter(values.transpose(0, 3, 1, 2))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.left, None)
        return None if image is None else {self.name: np.ascontiguousarray(image[None])}


def quantized(
    proto: onnx.ModelProto, values: np.ndarray, scheme: str = "int8", keep_float: Sequence[str] = ()
) -> onnx.ModelProto:
    """`proto` with QuantizeLinear and DequantizeLinear around every operator (QDQ).

    Weights use 7 of their 8 bits (`reduce_range`), but in `int8_full_range`: on x86 processors without VNNI the sum of
    two 8-bit products overflows its 16 bits (ONNX Runtime, "Quantize ONNX models", section on U8S8 on AVX2).
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    is_percentile = scheme == "int8_percentile"
    with TemporaryDirectory() as name:
        source, prepared, target = (Path(name, f"{step}.onnx") for step in ("float32", "prepared", "int8"))
        onnx.save(proto, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        images = proto.graph.input[0].name
        quantize_static(
            prepared,
            target,
            _Reader(images, values),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=scheme != "int8_per_tensor",
            reduce_range=scheme != "int8_full_range",
            calibrate_method=CalibrationMethod.Percentile if is_percentile else CalibrationMethod.MinMax,
            nodes_to_exclude=_nodes_of(onnx.load(prepared).graph, keep_float),
            extra_options=_entropy_ranges(prepared, _Reader(images, values)) if scheme == "int8_entropy" else None,
        )
        return onnx.load(target)


def _entropy_ranges(prepared: Path, reader: _Reader) -> dict[str, Any]:
    """The ranges by entropy (Kullback-Leibler divergence between the values and their quantized form).

    `quantize_static` offers the method too, but with as many bins as quantized values: it then finds the ranges of
    min-max (ONNX Runtime 1.31).
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    options = {"num_bins": ENTROPY_BINS, "num_quantized_bins": 128}
    calibrator = create_calibrator(
        prepared,
        augmented_model_path=str(prepared.with_name("augmented.onnx")),
        calibrate_method=CalibrationMethod.Entropy,
        extra_options=options,
    )
    calibrator.collect_data(reader)
    found = calibrator.compute_data().items()
    ranges = {name: [{"rmin": data.lowest, "rmax": data.highest}] for name, data in found}
    return {"TensorQuantOverrides": ranges}


def _nodes_of(graph: onnx.GraphProto, layers: Sequence[str]) -> list[str]:
    """The names of the nodes with weights of `layers`, and of the ReLU behind each.

    The weight "blocks.3.conv.weight" belongs to the layers "blocks.3.conv", "blocks.3" and "blocks".
    Raises EdgelabError where a layer has no weights.
    """
    weights = {tensor.name for tensor in graph.initializer}
    own = {node.output[0]: node for node in graph.node if weights.intersection(node.input)}
    found = []
    for layer in layers:
        outputs = {
            output
            for output, node in own.items()
            if any(name in weights and name.startswith(f"{layer}.") for name in node.input)
        }
        if not outputs:
            known = ", ".join(sorted(name.removesuffix(".weight") for name in weights if name.endswith(".weight")))
            raise EdgelabError(f"keep_float: there is no layer {layer!r}, only {known[:200]}")
        found += [own[output].name for output in outputs]
        found += [node.name for node in graph.node if node.op_type == "Relu" and node.input[0] in outputs]
    return found


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
