"""Class names and the pixels' rule inside a model file, and what a file tells of either and of its outputs.

- .tflite: TensorFlow Lite Metadata: a flatbuffer in the model's buffer TFLITE_METADATA (its schema is
  tflite-support/tensorflow_lite_support/metadata/metadata_schema.fbs, version 1.0.0), and the class names one a line in
  labels.txt, in a zip archive behind the model.
- .onnx: metadata_props: the names as a JSON list under `labels`, the pixels as ONNX's docs/MetadataProps.md says.

Runtimes read neither: a file gives the same answers with and without.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from edgelab.artifact._flat import Table, write
from edgelab.artifact._formats import check_suffix
from edgelab.artifact._running import Pixels
from edgelab.errors import EdgelabError

if TYPE_CHECKING:
    import onnx

RULES: dict[Pixels, tuple[float, float]] = {"centred": (128.0, 128.0), "unit": (0.0, 255.0), "raw": (0.0, 1.0)}
"""(mean, standard deviation) of each rule: a float input takes (pixel - mean) / deviation."""

NAME, LABEL_FILE = "TFLITE_METADATA", "labels.txt"
RANGES: dict[Pixels, str] = {"centred": "Normalized_1_1", "unit": "Normalized_0_1", "raw": "NominalRange_0_255"}
RANGE_KEY, FORMAT_KEY = "Image.NominalPixelRange", "Image.BitmapPixelFormat"
Ending = Literal["softmax", "log_softmax", "sigmoid"]
# Numbers of schema.fbs's BuiltinOperator.
TFLITE_ENDINGS: dict[int, Ending] = {14: "sigmoid", 25: "softmax", 50: "log_softmax"}
TFLITE_MOVED = {6, 22, 43, 53, 114}  # DEQUANTIZE, RESHAPE, SQUEEZE, CAST, QUANTIZE
ONNX_ENDINGS: dict[str, Ending] = {
    "Softmax": "softmax",
    "QLinearSoftmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
}
ONNX_MOVED = {"Identity", "Reshape", "Squeeze", "Flatten", "Cast", "QuantizeLinear", "DequantizeLinear"}


class Told(NamedTuple):
    """What a file tells about itself: (mean, deviation) of its pixels by channel, None where it does not say; whether
    it takes BGR; and the function its first output has gone through last, if it is one that makes probabilities.
    """

    normalised: tuple[list[float], list[float]] | None
    is_bgr: bool
    ending: Ending | None


def check_names(names: Sequence[str]) -> None:
    """Raise EdgelabError unless every class has a name of one line."""
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or name.splitlines() != [name]:
            raise EdgelabError(f"expected a name of one line for every class, got {name!r} for class {place}")


def labelled(content: bytes, suffix: str, names: Sequence[str], pixels: Pixels) -> bytes:
    """The model file `content` with the class `names` and the rule of its `pixels` inside, in place of earlier ones.

    Raises EdgelabError where there are not as many names as outputs, or a name is not one line.
    """
    check_names(names)
    return {".tflite": _labelled_tflite, ".onnx": _labelled_onnx}[suffix.lower()](content, names, pixels)


def _check_count(names: Sequence[str], outputs: int) -> None:
    if outputs > 0 and outputs != len(names):
        raise EdgelabError(f"expected a name for each of the {outputs} outputs, got {len(names)} names")


def _labelled_tflite(content: bytes, names: Sequence[str], pixels: Pixels) -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    _check_count(names, int(graph.tensors[graph.outputs[0]].shape[-1]))
    entry = next((e for e in model.metadata or () if e.name == NAME.encode()), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = NAME.encode(), len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.metadata = [*(model.metadata or ()), entry]
    model.buffers[entry.buffer].data = np.frombuffer(_described(pixels), np.uint8)
    return _packed(model) + _archive(names)


def _described(pixels: Pixels) -> bytes:
    """The metadata's flatbuffer: an RGB image so normalised in, classes named in `LABEL_FILE` out."""
    import flatbuffers

    mean, deviation = RULES[pixels]
    unit = {0: 1, 1: {0: [mean], 1: [deviation]}}  # NormalizationOptions
    image = {0: "image", 3: {0: 2, 1: {0: 1}}, 4: [unit]}  # content: ImageProperties, RGB
    classes = {0: "classes", 6: [{0: LABEL_FILE, 2: 2}]}  # TENSOR_AXIS_LABELS
    builder = flatbuffers.Builder(256)
    builder.Finish(write(builder, {3: [{2: [image], 3: [classes]}], 7: "1.0.0"}), b"M001")
    return bytes(builder.Output())


def _packed(model: Any) -> bytes:
    """The file of a model object of the schema, its constants at multiples of 16 bytes as the converter puts them."""
    import flatbuffers

    class Aligned(flatbuffers.Builder):
        def StartVector(self, size: int, number: int, alignment: int) -> int:  # noqa: N802
            return super().StartVector(size, number, 16 if size == 1 else alignment)

    builder = Aligned(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _archive(names: Sequence[str]) -> bytes:
    """A zip archive with the label file, always the same for the same names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(LABEL_FILE), "\n".join(names) + "\n")
    return stream.getvalue()


def _labelled_onnx(content: bytes, names: Sequence[str], pixels: Pixels) -> bytes:
    import onnx

    model = onnx.load_from_string(content)
    sizes = model.graph.output[0].type.tensor_type.shape.dim
    _check_count(names, sizes[-1].dim_value if sizes else 0)
    known = {entry.key: entry.value for entry in model.metadata_props}
    known = {key: value for key, value in known.items() if key.lower() not in ("labels", "classes", "names")}
    known |= {"labels": json.dumps(list(names), ensure_ascii=False), FORMAT_KEY: "Rgb8", RANGE_KEY: RANGES[pixels]}
    onnx.helper.set_model_props(model, known)
    return model.SerializeToString(deterministic=True)


def read(path: Path) -> Told:
    """What the file at `path` tells. Raises EdgelabError for another suffix; anything where the file is damaged."""
    check_suffix(path)
    return _told_tflite(path.read_bytes()) if path.suffix.lower() == ".tflite" else _told_onnx(path)


def _told_tflite(content: bytes) -> Told:
    model = Table(content)
    graph = model.tables(2)[0]
    codes = [max(code.number(0, "int8"), code.number(3)) for code in model.tables(1)]
    makers = {value: op for op in graph.tables(3) for value in op.numbers(2)}
    maker = makers.get(graph.numbers(2)[0])
    for _ in makers:
        if maker is None or codes[maker.number(0, "uint32")] not in TFLITE_MOVED:
            break
        maker = makers.get(maker.numbers(1)[0])
    ending = TFLITE_ENDINGS.get(codes[maker.number(0, "uint32")]) if maker else None
    return Told(_normalised(model), False, ending)


def _normalised(model: Table) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of the first input in the metadata of the .tflite `model`."""
    numbers = [entry.number(1, "uint32") for entry in model.tables(6) if entry.data(0) == NAME.encode()]
    if not numbers:
        return None
    graphs = Table(model.tables(4)[numbers[0]].data(0)).tables(3)
    inputs = graphs[0].tables(2) if graphs else []
    for unit in inputs[0].tables(4) if inputs else []:
        options = unit.table(1)
        if unit.number(0, "uint8") == 1 and options:
            mean, deviation = options.numbers(0, "float32"), options.numbers(1, "float32")
            if mean and deviation and all(deviation):
                return mean, deviation
    return None


def _told_onnx(path: Path) -> Told:
    import onnx

    model = onnx.load(path, load_external_data=False)
    known = {entry.key.lower(): entry.value.lower() for entry in model.metadata_props}
    wanted = known.get(RANGE_KEY.lower())
    rules = {told.lower(): RULES[pixels] for pixels, told in RANGES.items()}
    rules["nominalrange_16_235"] = (-16 * 255 / 219, 255 / 219)
    normalised = None
    if wanted in rules:
        mean, deviation = rules[wanted]
        normalised = [mean], [deviation]
    return Told(normalised, known.get(FORMAT_KEY.lower(), "").startswith("bgr"), _ending_onnx(model.graph))


def _ending_onnx(graph: onnx.GraphProto) -> Ending | None:
    makers = {value: node for node in graph.node for value in node.output}
    maker = makers.get(graph.output[0].name)
    for _ in makers:
        if maker is None or maker.op_type not in ONNX_MOVED:
            break
        maker = makers.get(maker.input[0])
    return ONNX_ENDINGS.get(maker.op_type) if maker else None
