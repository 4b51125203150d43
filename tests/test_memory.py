"""Activation memory agrees with counts by hand in both formats, and the arena with the runtime itself."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgelab import artifact, memory
from edgelab.errors import EdgelabError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
needs_runtime = pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro exists for Linux x86-64")


def onnx_file(path: Path, nodes: list, shape: list, outputs: tuple[str, ...] = ("y",), **constants: object) -> Path:
    """A model of the input `x`; each node is kind, inputs, outputs and attributes."""
    kind = TensorProto.FLOAT
    ports = [helper.make_tensor_value_info("x", kind, shape)]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    for port in results:
        port.type.tensor_type.elem_type = kind
    initializers = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    made = [helper.make_node(kind, inputs, made, name=made[0], **extra) for kind, inputs, made, extra in nodes]
    graph = helper.make_graph(made, "g", ports, results, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def steps(path: Path) -> list[tuple[str, int]]:
    return [(step.operator, step.bytes) for step in memory.peak_activations(path).steps]


PADDED = {"pads": [1, 1, 1, 1]}
CHAIN = [
    ("Conv", ["x", "w"], ["c"], PADDED),
    ("Relu", ["c"], ["r"], {}),
    ("MaxPool", ["r"], ["m"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("Reshape", ["m", "sizes"], ["v"], {}),
    ("Gemm", ["v", "g"], ["y"], {}),
]
CHAIN_CONSTANTS = {"w": weights(6, 3, 3, 3), "sizes": np.array([0, -1]), "g": weights(96, 5)}
CHAIN_STEPS = [("c", 4 * (192 + 384)), ("m", 4 * (384 + 96)), ("y", 4 * (96 + 5))]


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_a_chain_by_hand_whatever_the_batch(tmp_path: Path, batch: str | int) -> None:
    path = onnx_file(tmp_path / "m.onnx", CHAIN, [batch, 3, 8, 8], **CHAIN_CONSTANTS)
    assert steps(path) == CHAIN_STEPS
    peak = memory.peak_activations(path)
    assert (peak.bytes, peak.at, peak.uncounted) == (2304, "c", ())
    frame = peak.to_frame()
    assert list(frame.columns) == ["operator", "kind", "bytes"]
    assert frame.kind.tolist() == ["Conv", "MaxPool", "Gemm"]


def test_a_tensor_lives_until_its_last_reader(tmp_path: Path) -> None:
    nodes = [
        ("Conv", ["x", "w"], ["a"], PADDED),
        ("Conv", ["a", "w"], ["b"], PADDED),
        ("Add", ["x", "b"], ["c"], {}),
        ("GlobalAveragePool", ["c"], ["y"], {}),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 4, 8, 8], w=weights(4, 4, 3, 3))
    assert steps(path) == [("a", 2048), ("b", 3072), ("c", 3072), ("y", 1024 + 16)]
    peak = memory.peak_activations(path)
    assert (peak.bytes, peak.at) == (3072, "b")


def test_outputs_stay_and_unread_values_count_once(tmp_path: Path) -> None:
    nodes = [
        ("GlobalAveragePool", ["x"], ["first"], {}),
        ("Split", ["x", "halves"], ["left", "right"], {"axis": 1}),
        ("Neg", ["left"], ["y"], {}),
        ("Exp", ["y"], ["z"], {}),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 4, 8, 8], ("first", "z"), halves=np.array([1, 3]))
    assert steps(path) == [("first", 1040), ("left", 1024 + 1024 + 16), ("y", 256 + 256 + 16), ("z", 528)]


FUSED = {
    **{kind: ["c"] for kind in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Clip")},
    "BatchNormalization": ["c", "four", "four", "four", "four"],
}


@pytest.mark.parametrize("kind", [*FUSED, "Softmax"])
def test_an_activation_function_takes_the_place_of_its_input(tmp_path: Path, kind: str) -> None:
    nodes = [
        ("Conv", ["x", "w"], ["c"], PADDED),
        (kind, FUSED.get(kind, ["c"]), ["r"], {}),
        ("GlobalAveragePool", ["r"], ["y"], {}),
    ]
    constants = {"w": weights(4, 4, 3, 3), "four": np.ones(4, np.float32)}
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 4, 8, 8], **constants)
    alone = [] if kind in FUSED else [("r", 2048)]
    assert steps(path) == [("c", 2048), *alone, ("y", 1040)]


def test_a_value_read_twice_is_not_overwritten_by_its_activation(tmp_path: Path) -> None:
    nodes = [
        ("Conv", ["x", "w"], ["c"], PADDED),
        ("Sigmoid", ["c"], ["s"], {}),
        ("Mul", ["c", "s"], ["y"], {}),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 4, 8, 8], w=weights(4, 4, 3, 3))
    assert steps(path) == [("c", 2048), ("s", 2048), ("y", 3072)]
    for also in "cv":
        nodes[1:] = [
            ("Reshape", ["c", "sizes"], ["v"], {}),
            ("Relu", ["v"], ["r"], {}),
            ("Concat", [also, "r"], ["y"], {"axis": 1}),
        ]
        constants = {"w": weights(4, 4, 3, 3), "sizes": np.array([0, 4, 8, 8])}
        path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 4, 8, 8], **constants)
        assert steps(path) == [("c", 2048), ("r", 2048), ("y", 4096)], "a tensor and its view have two readers"


def test_shapes_that_only_a_run_tells(tmp_path: Path) -> None:
    nodes = [("Unique", ["x"], ["values", "first", "inverse", "counts"], {}), ("Neg", ["values"], ["y"], {})]
    path = onnx_file(tmp_path / "m.onnx", nodes, [1, 6])
    assert steps(path) == [("values", 24 + 4 + 8 + 6 * 8 + 8), ("y", 8)]


def test_what_depends_on_constants_only_is_no_activation(tmp_path: Path) -> None:
    nodes = [
        ("Mul", ["w", "scale"], ["scaled"], {}),
        ("Transpose", ["scaled"], ["turned"], {"perm": [1, 0, 2, 3]}),
        ("Conv", ["x", "turned"], ["y"], PADDED),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 4, 8, 8], w=weights(4, 4, 3, 3), scale=np.float32(2))
    assert steps(path) == [("y", 2048)]


SCALE = {"s": np.float32(0.1), "z": np.uint8(128), "ws": np.float32(0.1), "wz": np.int8(0)}
QDQ = [
    ("QuantizeLinear", ["x", "s", "z"], ["xq"], {}),
    ("DequantizeLinear", ["w", "ws", "wz"], ["wf"], {}),
    ("DequantizeLinear", ["xq", "s", "z"], ["xf"], {}),
    ("Conv", ["xf", "wf"], ["c"], PADDED),
    ("Relu", ["c"], ["r"], {}),
    ("QuantizeLinear", ["r", "s", "z"], ["rq"], {}),
    ("DequantizeLinear", ["rq", "s", "z"], ["rf"], {}),
    ("Add", ["rf", "xf"], ["a"], {}),
    ("QuantizeLinear", ["a", "s", "z"], ["aq"], {}),
    ("DequantizeLinear", ["aq", "s", "z"], ["y"], {}),
]


def test_between_dequantize_and_quantize_a_value_has_its_quantized_width(tmp_path: Path) -> None:
    kernel = RNG.integers(-128, 128, (4, 4, 3, 3)).astype(np.int8)
    path = onnx_file(tmp_path / "m.onnx", QDQ, ["n", 4, 8, 8], w=kernel, **SCALE)
    assert steps(path) == [("xq", 1024 + 256), ("c", 512), ("a", 768), ("y", 256 + 1024)]
    path = onnx_file(tmp_path / "f.onnx", QDQ, ["n", 4, 8, 8], ("y", "a"), w=kernel, **SCALE)
    assert steps(path)[2:] == [("a", 512 + 1024), ("aq", 1024 + 256), ("y", 1024 + 256 + 1024)], (
        "a is asked for in float"
    )


def test_loops_and_branches_are_named_and_what_they_read_stays(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("Mul" if name == "then" else "Sub", ["a", "a"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        ("Conv", ["x", "w"], ["a"], PADDED),
        ("GlobalAveragePool", ["x"], ["p"], {}),
        ("If", ["flag"], ["y"], {"then_branch": branch("then"), "else_branch": branch("else")}),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, [1, 4, 8, 8], ("y", "p"), w=weights(4, 4, 3, 3), flag=np.array(True))
    peak = memory.peak_activations(path)
    assert [step.bytes for step in peak.steps] == [2048, 2064, 2064]
    assert peak.uncounted == ("If",)


# Both formats

PEAKS = {  # elements alive at the peak, where it is, and the files of each network with the bytes an element takes
    "plain_cnn": (40_960, "pool1", {"plain_cnn.onnx": 4, "plain_cnn.tflite": 4}),
    "resnet8": (49_152, "stage1/b", {"resnet8_int8.onnx": 1, "resnet8_int8.tflite": 1}),
    "ds_cnn": (49_152, "blocks/1/pointwise", {"ds_cnn.onnx": 4, "ds_cnn_int8.tflite": 1}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The course's networks in both formats."""
    from edgelab.pytorch import models as torch_models
    from edgelab.tensorflow import models as keras_models

    folder, made = tmp_path_factory.mktemp("networks"), {}
    for name, (_, _, wanted) in PEAKS.items():
        in_torch = torch_models.build(name)
        in_keras = keras_models.from_arrays(keras_models.build(name), torch_models.to_arrays(in_torch))
        for file, width in wanted.items():
            model = in_torch if file.endswith(".onnx") else in_keras
            made[file] = artifact.save(model, folder / file, IMAGES if width == 1 else None).path
    return made


@pytest.mark.parametrize("name", PEAKS)
def test_ours_need_the_same_memory_in_both_formats(files: dict[str, Path], name: str) -> None:
    elements, at, widths = PEAKS[name]
    found = {file: memory.peak_activations(files[file]) for file in widths}
    assert {file: peak.bytes for file, peak in found.items()} == {file: elements * w for file, w in widths.items()}
    assert next(at in peak.at for file, peak in found.items() if file.endswith("tflite"))
    in_onnx, in_tflite = (len(peak.steps) for peak in found.values())
    assert in_onnx == in_tflite + (2 if name == "resnet8" else 0)


def test_an_int8_onnx_file_is_float_outside(files: dict[str, Path]) -> None:
    first, *_, last = memory.peak_activations(files["resnet8_int8.onnx"]).steps
    assert (first.kind, first.bytes) == ("QuantizeLinear", 3072 * 5)
    assert (last.kind, last.bytes) == ("DequantizeLinear", 10 * 5)
    first, *_, last = memory.peak_activations(files["resnet8_int8.tflite"]).steps
    assert (first.kind, first.bytes) == ("CONV_2D", 3072 + 16_384)
    assert (last.kind, last.bytes) == ("FULLY_CONNECTED", 64 + 10)


def tflite_file(path: Path, operators: list, inputs: list[str], outputs: list[str], **tensors: tuple) -> Path:
    """A model written operator by operator: kind, inputs, outputs; a tensor is shape, type and `variable` or data."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    names = list(tensors)
    graph, model = schema.SubGraphT(), schema.ModelT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.operators, model.operatorCodes = [], [], []
    graph.inputs, graph.outputs = [names.index(name) for name in inputs], [names.index(name) for name in outputs]
    for name, (shape, kind, *rest) in tensors.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, shape, getattr(schema.TensorType, kind)
        tensor.isVariable, tensor.buffer = bool(rest) and isinstance(rest[0], str), 0
        if rest and not tensor.isVariable:
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(rest[0].tobytes(), np.uint8)
        graph.tensors.append(tensor)
    for i, (kind, reads, makes) in enumerate(operators):
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode, op.opcodeIndex = getattr(schema.BuiltinOperator, kind), i
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        op.inputs, op.outputs = ([names.index(name) if name else -1 for name in found] for found in (reads, makes))
        if kind == "WHILE":
            op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.WhileOptions, schema.WhileOptionsT()
        model.operatorCodes.append(code)
        graph.operators.append(op)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def test_state_stays_and_views_and_loops_are_known_in_tflite(tmp_path: Path) -> None:
    operators = [
        ("VAR_HANDLE", [], ["handle"]),
        ("RESHAPE", ["x", "sizes"], ["v"]),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", ["v", "", "w", "h"], ["s"]),
        ("DEQUANTIZE", ["w"], ["unpacked"]),
        ("WHILE", ["s", "unpacked"], ["r"]),
        ("GREATER", ["r", "w"], ["y"]),
        ("ASSIGN_VARIABLE", ["handle", "y"], []),
    ]
    path = tflite_file(
        tmp_path / "m.tflite",
        operators,
        ["x"],
        ["y"],
        x=([1, 24], "FLOAT32"),
        sizes=([3], "INT32", np.array([1, 6, 4], np.int32)),
        v=([1, 6, 4], "FLOAT32"),
        w=([5], "FLOAT16", np.ones(5, np.float16)),
        unpacked=([5], "FLOAT32"),
        h=([1, 5], "FLOAT32", "variable"),
        s=([1, 6, 5], "FLOAT32"),
        r=([1, 7], "INT16"),
        y=([1, 9], "BOOL"),
        handle=([1], "RESOURCE"),
    )
    peak = memory.peak_activations(path)
    assert [(step.operator, step.bytes) for step in peak.steps] == [
        ("handle", 96 + 20),
        ("s", 96 + 120 + 20),
        ("r", 120 + 14 + 20),
        ("y", 14 + 9 + 20),
        ("ASSIGN_VARIABLE", 9 + 20),
    ]
    assert peak.uncounted == ("WHILE",)


def test_an_explicit_padding_is_a_tensor_of_its_own(tmp_path: Path) -> None:
    with artifact.quiet():
        import tf_keras as keras
    layers, source = keras.layers, keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, strides=2)(layers.ZeroPadding2D(((1, 0), (1, 0)))(source))
    path = artifact.save(keras.Model(source, layers.Flatten()(x)), tmp_path / "m.tflite").path
    pad, conv = (step.bytes for step in memory.peak_activations(path).steps)
    assert (pad, conv) == (4 * (256 + 324), 4 * (324 + 64))
    nodes = [("Conv", ["x", "w"], ["y"], {"pads": [1, 1, 0, 0], "strides": [2, 2]})]
    fused = onnx_file(tmp_path / "m.onnx", nodes, ["n", 4, 8, 8], w=weights(4, 4, 3, 3))
    assert steps(fused) == [("y", 4 * (256 + 64))]


def test_what_has_no_peak_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"there is no model file at .*none\.tflite"):
        memory.peak_activations(tmp_path / "none.tflite")
    with pytest.raises(EdgelabError, match=r"ending in \.tflite or \.onnx, got 'm\.h5'"):
        memory.peak_activations(tmp_path / "m.h5")
    path = onnx_file(tmp_path / "view.onnx", [("Identity", ["x"], ["y"], {})], [1, 3])
    with pytest.raises(EdgelabError, match=r"view\.onnx has no operator that makes an activation"):
        memory.peak_activations(path)
    nodes = [("Conv", ["x", "w"], ["y"], PADDED)]
    path = onnx_file(tmp_path / "open.onnx", nodes, ["n", 3, "h", "v"], w=weights(2, 3, 3, 3))
    with pytest.raises(EdgelabError, match=r"open\.onnx leaves its input shape open"):
        memory.peak_activations(path)
    assert memory.peak_activations(path, (3, 4, 5)).bytes == 4 * 20 * 5
    (tmp_path / "bad.tflite").write_bytes(b"\x08\x00\x00\x00TFL3" + b"\xff" * 64)
    with pytest.raises(EdgelabError, match=r"bad\.tflite is no tflite model") as caught:
        memory.peak_activations(tmp_path / "bad.tflite")
    assert "\n" not in str(caught.value)


# The arena of TensorFlow Lite Micro


def starts(path: Path, size: int) -> bool:
    source = (
        "import sys; from tflite_micro.python.tflite_micro.runtime import Interpreter; "
        "Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))"
    )
    return not subprocess.run([sys.executable, "-c", source, path, str(size)], capture_output=True).returncode


@needs_runtime
def test_the_arena_holds_the_peak_and_the_records(files: dict[str, Path]) -> None:
    path = files["resnet8_int8.tflite"]
    arena = memory.arena(path)
    assert arena.head == memory.peak_activations(path).bytes == 49_152
    assert 4_000 < arena.tail < 10_000, "a scale for each of 378 channels, records of 14 operators"
    assert arena.bytes == arena.smallest == arena.head + arena.tail
    assert starts(path, arena.smallest) and not starts(path, arena.smallest - 16)
    assert arena.runtime.startswith("tflite-micro 0.")


@needs_runtime
def test_the_planner_can_leave_gaps(files: dict[str, Path]) -> None:
    path = files["ds_cnn_int8.tflite"]
    assert memory.peak_activations(path).bytes == 49_152
    assert memory.arena(path).head == 65_536


@needs_runtime
def test_a_small_network_needs_more_to_start(tmp_path: Path) -> None:
    names = [f"t{i}" for i in range(13)]
    operators = [("RELU", [before], [after]) for before, after in pairwise(names)]
    tensors = {name: ([1, 4], "FLOAT32") for name in names}
    path = tflite_file(tmp_path / "m.tflite", operators, names[:1], names[-1:], **tensors)
    arena = memory.arena(path)
    assert arena.smallest > arena.bytes
    assert starts(path, arena.smallest) and not starts(path, arena.smallest - 16)


@needs_runtime
def test_a_file_that_does_not_run_is_one_line(tmp_path: Path, files: dict[str, Path]) -> None:
    tensors = {
        "x": ([1, 8], "FLOAT32"),
        "k": ([], "INT32", np.int32(3)),
        "y": ([1, 3], "FLOAT32"),
        "i": ([1, 3], "INT32"),
    }
    path = tflite_file(tmp_path / "m.tflite", [("TOPK_V2", ["x", "k"], ["y", "i"])], ["x"], ["y"], **tensors)
    with pytest.raises(EdgelabError, match=r"Micro does not run this file \(Didn't find op for .*TOPK_V2") as caught:
        memory.arena(path)
    assert "\n" not in str(caught.value)
    (tmp_path / "cut.tflite").write_bytes(files["resnet8_int8.tflite"].read_bytes()[:5000])
    with pytest.raises(EdgelabError, match=r"cut\.tflite: .*does not run this file \(unpack_from requires"):
        memory.arena(tmp_path / "cut.tflite")
    with pytest.raises(EdgelabError, match=r"expected a \.tflite file, .*got 'plain_cnn\.onnx'"):
        memory.arena(files["plain_cnn.onnx"])
    with pytest.raises(EdgelabError, match=r"there is no model file at .*none\.tflite"):
        memory.arena(tmp_path / "none.tflite")


@needs_runtime
def test_nothing_the_runtime_does_takes_the_caller_down(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files["resnet8_int8.tflite"]
    monkeypatch.setattr(memory, "MAX_ARENA", 64)
    with pytest.raises(EdgelabError, match=r"\(it crashed with signal \d+: the file may be damaged\)"):
        memory.arena(path)
    monkeypatch.setattr(memory, "MAX_ARENA", 16_384)
    with pytest.raises(EdgelabError, match=r"\(Failed to resize buffer\. Requested: 49152"):
        memory.arena(path)
    monkeypatch.setattr(memory, "TIME_LIMIT", 0.01)
    with pytest.raises(EdgelabError, match=r"resnet8_int8\.tflite: TensorFlow Lite Micro gave no answer in 0\.01 s"):
        memory.arena(path)


def test_without_the_package_the_line_says_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.tflite").touch()
    monkeypatch.setattr(memory, "find_spec", lambda name: None)
    with pytest.raises(EdgelabError, match=r"m\.tflite: the arena needs the package tflite-micro.*Linux x86-64"):
        memory.arena(tmp_path / "m.tflite")


# Flash


def test_flash_is_the_file_the_framework_and_named_kernels(files: dict[str, Path]) -> None:
    path = files["resnet8_int8.tflite"]
    flash = memory.flash(path)
    assert flash.file == path.stat().st_size
    assert flash.bytes == flash.file + 9732
    assert flash.kernels == ("ADD", "CONV_2D", "FULLY_CONNECTED", "MEAN")
    assert flash.note.startswith(
        f"at least {flash.bytes:,} bytes: {flash.file:,} for the file and 9,732 for TensorFlow"
    )
    assert "TFLM Code Size FAQ" in flash.note and "4 kernels (ADD, CONV_2D, FULLY_CONNECTED, MEAN)" in flash.note
    with pytest.raises(EdgelabError, match=r"expected a \.tflite file, .*got 'plain_cnn\.onnx'"):
        memory.flash(files["plain_cnn.onnx"])


def greedy(path: Path) -> int:
    """As TensorFlow Lite Micro plans: large buffers first, of equal ones the last first, each in the first gap."""
    placed: list[tuple[int, memory.Buffer]] = []
    for new in sorted(reversed(memory.buffers(path)), key=lambda one: -one.bytes):
        offset = 0
        near = [(o, o + b.bytes) for o, b in placed if b.first <= new.last and new.first <= b.last]
        for start, end in sorted(near):
            if start - offset >= new.bytes:
                break
            offset = max(offset, end)
        placed.append((offset, new))
    return max(offset + one.bytes for offset, one in placed)


@needs_runtime
def test_buffers_planned_as_the_runtime_does_give_its_head(tmp_path: Path) -> None:
    from small_files import tflite_file

    from edgelab import predict

    for path in (predict.SHIPPED, tflite_file(tmp_path / "m.tflite", quantized=True)):
        assert greedy(path) == memory.arena(path).head


def test_buffers_live_from_the_first_to_the_last_operator_that_touches_them(tmp_path: Path) -> None:
    from small_files import tflite_file

    found = memory.buffers(tflite_file(tmp_path / "m.tflite", quantized=True))
    assert [(one.bytes, one.first, one.last) for one in found] == [
        (3072, 0, 0),
        (2048, 0, 1),
        (16, 1, 2),
        (16, 2, 3),
        (16, 3, 3),
    ]
    assert found[0].name == "input"
    with pytest.raises(EdgelabError, match=r"expected a \.tflite file"):
        memory.buffers(tmp_path / "m.onnx")
