"""A model becomes a file that gives the model's own answers, and nothing but the model is in it."""

from __future__ import annotations

from pathlib import Path

import mean_files
import numpy as np
import pytest

from edgelab import artifact
from edgelab.artifact import Port
from edgelab.artifact._running import _to_input
from edgelab.data import normalise
from edgelab.errors import EdgelabError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def torch_model():
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 4)]
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def keras_model():
    with artifact.quiet():
        import tf_keras as keras
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((32, 32, 3)),
        keras.layers.Conv2D(8, 3, 2, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4),
    ]
    return keras.Sequential(layers, name="small")


@pytest.fixture(scope="module")
def onnx_file(torch_model, tmp_path_factory) -> artifact.Artifact:
    return artifact.save(torch_model, tmp_path_factory.mktemp("onnx") / "small.onnx")


@pytest.fixture(scope="module")
def tflite_file(keras_model, tmp_path_factory) -> artifact.Artifact:
    return artifact.save(keras_model, tmp_path_factory.mktemp("tflite") / "small.tflite")


@pytest.fixture(scope="module")
def int8_file(keras_model, tmp_path_factory) -> artifact.Artifact:
    return artifact.save(keras_model, tmp_path_factory.mktemp("int8") / "small.tflite", IMAGES)


@pytest.fixture(scope="module")
def int8_onnx(torch_model, tmp_path_factory) -> artifact.Artifact:
    return artifact.save(torch_model, tmp_path_factory.mktemp("int8") / "small.onnx", IMAGES)


def test_onnx_gives_the_modules_logits(torch_model, onnx_file) -> None:
    import torch

    assert torch_model.training, "saving must leave the module in the mode it was in"
    with torch.no_grad():
        expected = torch_model.eval()(torch.from_numpy(normalise(IMAGES).transpose(0, 3, 1, 2))).numpy()
    torch_model.train()
    assert (onnx_file.format, onnx_file.framework) == ("onnx", "pytorch")
    assert onnx_file.runtime.startswith("onnxruntime 1.")
    got = onnx_file.predict(IMAGES)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.ptp(got, axis=0).min() > 1e-3, "the images must differ for this test to mean anything"


def test_tflite_gives_the_models_logits(keras_model, tflite_file) -> None:
    expected = keras_model(normalise(IMAGES)).numpy()
    assert (tflite_file.format, tflite_file.framework) == ("tflite", "tensorflow")
    assert tflite_file.runtime.startswith("ai-edge-litert ")
    np.testing.assert_allclose(tflite_file.predict(IMAGES), expected, atol=1e-5)


def test_an_int8_file_is_fed_and_read_by_its_own_scales(tflite_file, int8_file) -> None:
    float_logits, int8_logits = tflite_file.predict(IMAGES), int8_file.predict(IMAGES)
    assert int8_logits.dtype == np.float32
    assert np.abs(float_logits - int8_logits).max() < 0.05 * np.ptp(float_logits)


@pytest.mark.parametrize("name", ["onnx_file", "tflite_file", "int8_file"])
def test_the_result_never_depends_on_how_many_images_come_together(name: str, request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue(name)
    whole = file.predict(IMAGES)
    for size in (1, 3):
        parts = [file.predict(IMAGES[i : i + size]) for i in range(0, len(IMAGES), size)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert file.predict(IMAGES[:0]).shape == (0, 4)


@pytest.mark.parametrize(("model", "suffix"), [("torch_model", "onnx"), ("keras_model", "tflite")])
def test_the_same_model_gives_the_same_bytes_and_no_path_of_this_machine(
    model: str, suffix: str, request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    kept = request.getfixturevalue(f"{suffix}_file").path.read_bytes()
    again = artifact.save(request.getfixturevalue(model), tmp_path / f"other.{suffix}").path.read_bytes()
    assert again == kept
    assert capfd.readouterr() == ("", "")
    home, here = str(Path.home()).encode(), str(Path(__file__).parents[1]).encode()
    assert not any(place in kept for place in (home, here, b"site-packages", b".py\x00", b"stack_trace"))
    assert [path.name for path in tmp_path.iterdir()] == [f"other.{suffix}"]


def test_exports_share_torchs_table_of_operators(torch_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once, for our exports only, and the files are the same."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    make, made = ONNXRegistry.from_torchlib, []
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", lambda **asked: made.append(asked) or make(**asked))
    ours = ONNXRegistry.from_torchlib
    first, second = (artifact.save(torch_model, tmp_path / name).path.read_bytes() for name in ("a.onnx", "b.onnx"))
    assert len(made) == 1 and first == second
    assert ONNXRegistry.from_torchlib is ours


def test_onnx_has_the_agreed_interface(onnx_file) -> None:
    import onnx

    proto = onnx.load(onnx_file.path)
    onnx.checker.check_model(proto, full_check=True)
    (source,), (result,) = proto.graph.input, proto.graph.output
    assert (source.name, result.name) == ("images", "logits")
    assert [d.dim_param or d.dim_value for d in source.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    assert [entry.version for entry in proto.opset_import] == [artifact.OPSET]
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


def test_a_file_of_a_fixed_larger_batch_is_filled_up(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    _mean_model(path, [3, 3, 32, 32])
    expected = normalise(IMAGES).mean((1, 2))
    np.testing.assert_allclose(artifact.load(path).predict(IMAGES), expected, atol=1e-5)


def test_a_channels_last_onnx_file_is_recognised_by_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "nhwc.onnx"
    _mean_model(path, ["n", 32, 32, 3])
    np.testing.assert_allclose(artifact.load(path).predict(IMAGES), normalise(IMAGES).mean((2, 3)), atol=1e-5)


def _mean_model(path: Path, shape: list[int | str]) -> None:
    """A file that takes the mean over the last two axes of its input."""
    from onnx import TensorProto, helper, save

    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", shape), ("y", shape[:2]))
    ]
    graph = helper.make_graph(nodes, "mean", ports[:1], ports[1:], [axes])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (Port((1, 1, 3, 1), np.dtype("i1"), 1 / 128, 0), [-128, 0, 127]),
        (Port((1, 1, 3, 1), np.dtype("u1"), 1 / 128, 128), [0, 128, 255]),
        (Port((1, 1, 3, 1), np.dtype("i1"), 1 / 255, -128), [-128, 0, 127]),
        (Port((1, 1, 3, 1), np.dtype("i1"), 1.0, -128), [-128, 0, 127]),
        (Port((1, 1, 3, 1), np.dtype("f4")), [-1, 0, 127 / 128]),
        (Port((1, 1, 3, 1), np.dtype("f2")), [-1, 0, 127 / 128]),
        (Port((1, 1, 3, 1), np.dtype("i2"), 1 / 32768, 0), [-32768, 0, 32512]),
    ],
)
def test_pixels_become_what_the_input_was_calibrated_for(port: Port, expected: list[float]) -> None:
    got = _to_input(np.array([0, 128, 255], np.uint8).reshape(1, 1, 3, 1), port)
    assert got.dtype == port.dtype and got.ravel().tolist() == expected


def test_a_float_input_is_fed_the_pixels_that_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mean.onnx"
    _mean_model(path, ["n", 3, 32, 32])
    for pixels, mean in (("raw", IMAGES), ("unit", IMAGES / 255), ("centred", normalise(IMAGES))):
        got = artifact.load(path, pixels=pixels).predict(IMAGES)
        np.testing.assert_allclose(got, mean.mean((1, 2)), rtol=1e-4, atol=1e-5)
    with pytest.raises(EdgelabError, match="pixels one of centred, unit, raw, got 1 and 'bgr'"):
        artifact.load(path, pixels="bgr")
    with pytest.raises(EdgelabError, match=r"expected threads >= 1 .*, got 0 and 'centred'"):
        artifact.load(path, threads=0)


@pytest.mark.parametrize(
    ("model", "suffix", "kept"),
    [("keras_model", "tflite", ("tflite_file", "int8_file")), ("torch_model", "onnx", ("onnx_file", "int8_onnx"))],
)
def test_calibrated_files_are_int8_near_the_float_ones_and_always_the_same(
    model: str, suffix: str, kept: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from edgelab.layers import layer_table

    network = request.getfixturevalue(model)
    exact, small = map(request.getfixturevalue, kept)
    shape = (32, 32, 3) if suffix == "tflite" else (3, 32, 32)
    counted = [row for row in layer_table(small.path, shape).layers if row.macs]
    assert {(row.weight_bits, row.activation_bits) for row in counted} == {(8, 8)}
    wanted = exact.predict(IMAGES)
    error = np.abs(small.predict(IMAGES) - wanted).max()
    assert 0 < error < 0.05 * np.ptp(wanted)
    assert artifact.save(network, tmp_path / f"again.{suffix}", IMAGES).path.read_bytes() == small.path.read_bytes()
    source = exact if suffix == "onnx" else network
    other = artifact.save(source, tmp_path / f"other.{suffix}", IMAGES // 4).path.read_bytes()
    assert other != small.path.read_bytes(), "the range follows the calibration images"


def test_int8_ports(int8_file, int8_onnx) -> None:
    from edgelab.artifact._running import _runner

    assert {port.dtype.name for port in _runner(int8_file.path, 1)[:2]} == {"int8"}
    assert {port.dtype.name for port in _runner(int8_onnx.path, 1)[:2]} == {"float32"}


def test_onnx_weights_leave_one_bit_free(int8_onnx) -> None:
    import onnx
    from onnx import numpy_helper

    weights = [numpy_helper.to_array(t) for t in onnx.load(int8_onnx.path).graph.initializer if t.data_type == 3]
    matrices = [w for w in weights if w.ndim > 1]
    assert len(matrices) == 2 and all(np.abs(w.astype(int)).max() == 64 for w in matrices)


@pytest.mark.parametrize("images", [IMAGES[:0], IMAGES.astype(np.float32), IMAGES[0]])
def test_calibration_takes_uint8_images(torch_model, images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"expected uint8 calibration images \(n, height, width, channels\), got"):
        artifact.save(torch_model, tmp_path / "m.onnx", images)


@pytest.mark.parametrize("name", ["onnx_file", "tflite_file"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            IMAGES.astype(np.float32),
            r"expected uint8 images \(n, height, width, channels\), got float32 \(7, ",
        ),
        (IMAGES[0], r"expected uint8 images .* got uint8 \(32, 32, 3\)"),
        (IMAGES[:, :28, :28], "small.* takes inputs of .*32x32.*, got images of 28x28x3"),
        (IMAGES[..., :1], "got images of 32x32x1"),
    ],
)
def test_images_that_do_not_fit_are_named(
    name: str, images: np.ndarray, message: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(EdgelabError, match=message):
        request.getfixturevalue(name).predict(images)


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x00" * 4096])
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"odd.{suffix}"
    path.write_bytes(content)
    with pytest.raises(EdgelabError, match=f"odd.{suffix} is no {suffix} model that can be run") as caught:
        artifact.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_suffix_are_named(tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"there is no model file at .*none\.onnx"):
        artifact.load(tmp_path / "none.onnx")
    with pytest.raises(EdgelabError, match=r"ending in \.tflite or \.onnx, got 'model\.h5'"):
        artifact.load(tmp_path / "model.h5")


def test_the_suffix_must_go_with_the_model(tmp_path: Path, torch_model, keras_model) -> None:
    with pytest.raises(EdgelabError, match=r"a \.tflite file is made from a tf_keras model, got Sequential"):
        artifact.save(torch_model, tmp_path / "m.tflite")
    with pytest.raises(EdgelabError, match=r"a \.onnx file is made from a torch module or an \.onnx .*got Seq"):
        artifact.save(keras_model, tmp_path / "m.onnx")
    with pytest.raises(EdgelabError, match=r"made from a torch module or an \.onnx file, got dict"):
        artifact.save({}, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_conversion_is_one_line_and_keeps_the_old_file(tmp_path: Path, onnx_file) -> None:
    from torch import nn

    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_file.path.read_bytes())
    with pytest.raises(EdgelabError, match=r"m\.onnx: the model cannot be converted") as caught:
        artifact.save(nn.Linear(5, 2), path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == onnx_file.path.read_bytes() and len(list(tmp_path.iterdir())) == 1


def test_a_torch_module_says_which_images_it_takes(tmp_path: Path) -> None:
    from torch import nn

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, 2))
    model.input_shape = (3, 8, 12)
    logits = artifact.save(model, tmp_path / "m.onnx").predict(IMAGES[:, :8, :12])
    assert logits.shape == (7, 2)


@pytest.mark.parametrize("name", ["onnx_file", "tflite_file", "int8_file", "int8_onnx"])
def test_a_prepared_file_runs_its_image_again_and_again(name: str, request: pytest.FixtureRequest) -> None:
    prepared = request.getfixturevalue(name).prepare(IMAGES[:1])
    assert prepared.inputs.shape in ((1, 32, 32, 3), (1, 3, 32, 32))
    for _ in range(3):
        outputs = prepared.call()
    if "onnx" in name:
        np.testing.assert_array_equal(outputs[0], request.getfixturevalue(name).predict(IMAGES[:1]))


def test_a_prepared_file_has_its_own_batch_and_one_image(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    _mean_model(path, [3, 3, 32, 32])
    prepared = artifact.load(path).prepare(IMAGES[:1])
    assert prepared.inputs.shape == (3, 3, 32, 32)
    np.testing.assert_allclose(prepared.call()[0], np.repeat(normalise(IMAGES[:1]).mean((1, 2)), 3, 0), atol=1e-5)
    with pytest.raises(EdgelabError, match=r"expected one image .* to time, got 7"):
        artifact.load(path).prepare(IMAGES)


@pytest.mark.parametrize("dtype", mean_files.TYPES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_every_kind_of_input_and_output(tmp_path: Path, dtype: str, layout: str, batch: int | None, form: str) -> None:
    path = tmp_path / f"means.{form}"
    if form == "onnx":
        mean_files.onnx_file(path, dtype, layout, (batch or "n", 8, 8, 3))
    else:
        mean_files.tflite_file(path, dtype, layout, batch)
    file, (images, _) = artifact.load(path), mean_files.pictures(7)
    assert {port.dtype.name for port in file.ports()} == {dtype}
    assert file.image_shape() == (8, 8, 3, layout == "NHWC")
    step = 1 / 128 if dtype in mean_files.QUANTIZED else 2e-3 if dtype == "float16" else 1e-6
    np.testing.assert_allclose(file.predict(images), normalise(images).mean((1, 2)), atol=0.51 * step)


@pytest.mark.parametrize(
    ("shape", "form", "expected"),
    [
        (["n", 3, "h", "w"], "onnx", (None, None, 3, False)),
        (["n", "h", "w", 1], "onnx", (None, None, 1, True)),
        (["n", 3, 5, 3], "onnx", (5, 3, 3, False)),
        ([2, 5, 7, 4], "onnx", (7, 4, 5, False)),
    ],
)
def test_the_images_a_file_takes(tmp_path: Path, shape: list, form: str, expected: tuple) -> None:
    path = tmp_path / f"any.{form}"
    _mean_model(path, shape)
    assert artifact.load(path).image_shape() == expected


def test_a_file_that_takes_no_images_says_so(tmp_path: Path, tflite_file) -> None:
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 40]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "flat", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "flat.onnx")
    with pytest.raises(EdgelabError, match=r"flat\.onnx takes inputs of 40: expected images, four axes"):
        artifact.load(tmp_path / "flat.onnx").image_shape()


@pytest.mark.parametrize(
    ("kind", "expected"), [("uint8", [0, 100, 255]), ("int8", [-128, -28, 127]), ("int32", [0, 100, 255])]
)
def test_an_integer_input_without_a_scale_takes_plain_pixels(tmp_path: Path, kind: str, expected: list[int]) -> None:
    from onnx import TensorProto, helper, save

    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["y"], ["z"])]
    source = helper.make_tensor_value_info("x", getattr(TensorProto, kind.upper()), ["n", 1, 3, 1])
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "cast", [source], [result])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "cast.onnx")
    images = np.array([0, 100, 255], np.uint8).reshape(1, 1, 3, 1)
    assert artifact.load(tmp_path / "cast.onnx").predict(images).tolist() == [expected]


def test_integer_ports_of_operators_that_carry_their_scales(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    stored = {
        "s": np.float32(0.5),
        "z": np.uint8(3),
        "ws": np.float32(1),
        "wz": np.uint8(0),
        "os": np.float32(2),
        "oz": np.uint8(9),
    }
    stored["w"] = np.ones((1, 1, 1, 1), np.uint8)
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("QLinearConv", ["t", "s", "z", "w", "ws", "wz", "os", "oz"], ["c"]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.UINT8, s) for n, s in (("x", ["n", 1, 2, 1]), ("y", ["n", 2]))
    ]
    graph = helper.make_graph(nodes, "q", ports[:1], ports[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "q.onnx")
    source, result = artifact.load(tmp_path / "q.onnx").ports()
    assert (source.scale, source.zero_point, result.scale, result.zero_point) == (0.5, 3, 2.0, 9)


def test_one_output_without_a_batch_is_still_one_image(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Squeeze", ["m"], ["y"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [3]))]
    graph = helper.make_graph(nodes, "flat", ports[:1], ports[1:], [axes])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    images, _ = mean_files.pictures(4)
    got = artifact.load(tmp_path / "m.onnx").predict(images)
    np.testing.assert_allclose(got, normalise(images).mean((1, 2)), atol=1e-6)


def test_a_file_that_loads_but_fails_on_an_image_is_one_line(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 7])
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, 8, 8] if n == "x" else None) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "r", ports[:1], ports[1:], [shape])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(
        EdgelabError, match=r"m\.onnx fails on an image \(Non-zero status code .*\): make it anew$"
    ) as caught:
        artifact.load(tmp_path / "m.onnx").predict(mean_files.pictures(1)[0])
    assert "\n" not in str(caught.value)


def test_the_runtimes_prefix_is_left_out() -> None:
    text = "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /a b/m.onnx failed:Protobuf parsing failed."
    assert artifact.first_line(RuntimeError(text)) == "Protobuf parsing failed."
    assert artifact.first_line(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no\nmore")) == "no"


def test_inputs_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(n, TensorProto.STRING, ["n", 3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "s", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(
        EdgelabError, match=r"m\.onnx is no onnx model that can be run \(expected inputs .* tensor\(string\)\)"
    ):
        artifact.load(tmp_path / "m.onnx")
