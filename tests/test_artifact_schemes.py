"""A model is written in the scheme that was asked for, or refused in one line before any work."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgelab import artifact
from edgelab.artifact import _to_onnx, _to_tflite
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
TFLITE_BITS = {"dynamic": (8, 32), "float16": (16, 32), "int8": (8, 8), "int8_per_tensor": (8, 8), "int16x8": (8, 16)}


@pytest.fixture(scope="module")
def torch_model():
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Small(nn.Module):
        """Two convolutions with BatchNorm and ReLU, the second with a shortcut, and a fully connected layer."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            x = self.stem(x)
            return self.fc((x + self.block(x)).mean((2, 3)))

    model = Small()
    with torch.no_grad():
        model(torch.randn(64, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def keras_model():
    with artifact.quiet():
        import tf_keras as keras
        from tf_keras import layers
    keras.utils.set_random_seed(0)
    image = x = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, 2, padding="same", use_bias=False, name="stem/conv")(x)
    x = layers.ReLU(name="stem/relu")(layers.BatchNormalization(name="stem/bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="block/depthwise", activation="relu")(x)
    y = layers.Conv2D(96, 1, name="block/pointwise", activation="relu")(y)
    x = layers.Dense(16, name="fc")(layers.GlobalAveragePooling2D(name="mean")(y))
    return keras.Model(image, x, name="small")


@pytest.fixture(scope="module")
def exact(torch_model, keras_model, tmp_path_factory) -> dict[str, artifact.Artifact]:
    folder = tmp_path_factory.mktemp("float32")
    models = {"tflite": keras_model, "onnx": torch_model}
    return {suffix: artifact.save(model, folder / f"small.{suffix}") for suffix, model in models.items()}


@pytest.fixture(scope="module")
def schemes(keras_model, tmp_path_factory) -> dict[str, artifact.Artifact]:
    """The Keras model in every scheme of .tflite files."""
    folder = tmp_path_factory.mktemp("schemes")
    images = {scheme: IMAGES if scheme in _to_tflite.CALIBRATED else None for scheme in TFLITE_BITS}
    return {
        scheme: artifact.save(keras_model, folder / f"{scheme}.tflite", images[scheme], scheme) for scheme in images
    }


def quantized_weights(path: Path) -> list[np.ndarray]:
    """The scales of every 8-bit weight of two axes or more in a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    constants = (t for t in interpreter.get_tensor_details() if t["dtype"] == np.int8 and "conv" in t["name"].lower())
    return [t["quantization_parameters"]["scales"] for t in constants if t["shape"][0] != 1 or t["shape"][1] == 3]


@pytest.mark.parametrize("scheme", TFLITE_BITS)
def test_tflite_schemes(scheme: str, schemes, exact) -> None:
    file = schemes[scheme]
    counted = [row for row in layer_table(file.path).layers if row.macs]
    wide = [row for row in counted if row.parameters >= 1024]
    assert {(row.weight_bits, row.activation_bits) for row in wide} == {TFLITE_BITS[scheme]}
    assert scheme == "dynamic" or wide != counted or {r.weight_bits for r in counted} == {TFLITE_BITS[scheme][0]}
    integers = {"int8": "int8", "int8_per_tensor": "int8", "int16x8": "int16"}
    assert {port.dtype.name for port in file.ports()} == {integers.get(scheme, "float32")}
    assert file.path.stat().st_size < exact["tflite"].path.stat().st_size
    wanted, got = exact["tflite"].predict(IMAGES), file.predict(IMAGES)
    error = np.abs(got - wanted).max() / np.ptp(wanted)
    assert 0 < error < {"float16": 1e-3, "int16x8": 0.02}.get(scheme, 0.08)


def test_tflite_weights_have_a_scale_a_channel_or_one(keras_model, schemes, tmp_path: Path) -> None:
    again = artifact.save(keras_model, tmp_path / "again.tflite", IMAGES)
    assert again.path.read_bytes() == schemes["int8"].path.read_bytes()
    many, one = (quantized_weights(schemes[scheme].path) for scheme in ("int8", "int8_per_tensor"))
    assert len(many) == len(one) > 0
    assert {len(scales) for scales in one} == {1} and {len(scales) for scales in many} >= {16, 96}


def test_onnx_schemes_and_a_file_quantizes_as_its_module(torch_model, exact, tmp_path: Path) -> None:
    contents = {}
    skewed = np.concatenate([128 + IMAGES[:10] // 64, IMAGES[10:]])
    for scheme in _to_onnx.CALIBRATED:
        file = artifact.save(exact["onnx"], tmp_path / "m.onnx", skewed, scheme)
        bits = {(row.weight_bits, row.activation_bits) for row in layer_table(file.path).layers if row.macs}
        assert bits == {(8, 8)}
        wanted = exact["onnx"].predict(skewed)
        assert 0 < np.abs(file.predict(skewed) - wanted).mean() < 0.2 * np.ptp(wanted)
        contents[scheme] = file.path.read_bytes()
    assert len(set(contents.values())) == len(contents), "every scheme does something else"
    assert artifact.save(torch_model, tmp_path / "n.onnx", skewed).path.read_bytes() == contents["int8"]


def onnx_weights(path: Path) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_onnx_ranges_and_scales_follow_the_scheme(exact, tmp_path: Path) -> None:
    stored = {
        scheme: onnx_weights(artifact.save(exact["onnx"], tmp_path / f"{scheme}.onnx", IMAGES, scheme).path)
        for scheme in ("int8", "int8_full_range", "int8_per_tensor")
    }
    name = next(name for name in stored["int8"] if name.startswith("stem.0.weight") and name.endswith("quantized"))
    assert np.abs(stored["int8"][name].astype(int)).max() == 64
    assert np.abs(stored["int8_full_range"][name].astype(int)).max() == 127
    scale = name.replace("_quantized", "_scale")
    assert stored["int8"][scale].shape == (8,) and stored["int8_per_tensor"][scale].shape == ()


@pytest.mark.parametrize(
    ("suffix", "layer", "kept"), [("tflite", "block", 2), ("onnx", "block.0", 1), ("onnx", "fc", 1)]
)
def test_layers_stay_in_float(suffix: str, layer: str, kept: int, exact, keras_model, tmp_path: Path) -> None:
    source = keras_model if suffix == "tflite" else exact["onnx"]
    path = tmp_path / f"m.{suffix}"
    file = artifact.save(source, path, IMAGES, keep_float=[layer])
    rows = [row for row in layer_table(file.path).layers if row.macs]
    assert [row.weight_bits for row in rows].count(32) == kept and len(rows) > kept
    assert {row.weight_bits for row in rows} == {8, 32}
    assert {port.dtype.name for port in file.ports()} == {"int8" if suffix == "tflite" else "float32"}
    unknown = r"keep_float: there is no layer 'blocks\.9', only .*" + (
        "block/depthwise" if suffix == "tflite" else "fc"
    )
    with pytest.raises(EdgelabError, match=unknown):
        artifact.save(source, path, IMAGES, keep_float=["blocks.9"])


def test_calibration_images_are_shown_as_the_model_takes_them(keras_model, tmp_path: Path) -> None:
    for pixels, scale in (("centred", 1 / 128), ("unit", 1 / 255), ("raw", 1.0)):
        file = artifact.save(keras_model, tmp_path / "m.tflite", IMAGES, pixels=pixels)
        assert file.ports()[0].scale == pytest.approx(scale, rel=0.02) and file.pixels == pixels


def in_graph_mode(model, engine: str):
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    values = torch.from_numpy(artifact.PIXELS["centred"](IMAGES).transpose(0, 3, 1, 2).copy())
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping(engine), (values[:1],))
        prepared(values)
        return convert_fx(prepared), values


def by_export(model):
    import torch

    with artifact.quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    values = torch.from_numpy(artifact.PIXELS["centred"](IMAGES).transpose(0, 3, 1, 2).copy())
    with artifact.quiet(), torch.no_grad():
        exported = torch.export.export(model, (values[:2],), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        prepared(values)
        return convert_pt2e(prepared), values


@pytest.mark.parametrize("way", ["x86", "pt2e"])
def test_modules_quantized_in_torch_become_int8_files(way: str, torch_model, tmp_path: Path) -> None:
    import torch

    pytest.importorskip("torchao" if way == "pt2e" else "torch")
    if way != "pt2e" and way not in torch.backends.quantized.supported_engines:
        pytest.skip(f"this build of torch has no {way} kernels")
    module, values = by_export(torch_model) if way == "pt2e" else in_graph_mode(torch_model, way)
    file = artifact.save(module, tmp_path / "m.onnx")
    with torch.no_grad():
        wanted = module(values).numpy()
    assert np.abs(file.predict(IMAGES) - wanted).max() < 0.05 * np.ptp(wanted)
    assert {row.weight_bits for row in layer_table(file.path).layers if row.macs} == {8}
    assert artifact.save(module, tmp_path / "again.onnx").path.read_bytes() == file.path.read_bytes()
    for model in (module, file):
        with pytest.raises(EdgelabError, match=r"m\.onnx: the model is quantized already: save it as it is"):
            artifact.save(model, file.path, IMAGES)


def test_a_quantization_aware_model_needs_no_calibration(keras_model, tmp_path: Path) -> None:
    with artifact.quiet():
        import tensorflow_model_optimization as tfmot

        aware = tfmot.quantization.keras.quantize_model(keras_model)
    path = tmp_path / "m.tflite"
    file = artifact.save(aware, path, scheme="int8")
    assert {port.dtype.name for port in file.ports()} == {"int8"}
    assert {row.weight_bits for row in layer_table(path).layers if row.macs} == {8}
    with pytest.raises(EdgelabError, match=r"quantization-aware model knows its ranges: save it with scheme='int8', w"):
        artifact.save(aware, path, IMAGES)


@pytest.mark.parametrize(
    ("suffix", "arguments", "message"),
    [
        ("tflite", {"scheme": "int4"}, r"m\.tflite: expected scheme one of float32, float16, .*int16x8, got 'int4'"),
        ("onnx", {"scheme": "dynamic"}, r"m\.onnx: expected scheme one of float32, int8, .*, got 'dynamic'"),
        ("tflite", {"scheme": "int16x8"}, r"m\.tflite: int16x8 needs calibration images: give about 100 of the train"),
        ("tflite", {"scheme": "float16", "calibration": IMAGES}, r"m\.tflite: float16 takes no calibration"),
        (
            "onnx",
            {"keep_float": ["fc"]},
            r"m\.onnx: keep_float goes with a calibrated scheme such as int8, got fl",
        ),
        ("onnx", {"calibration": IMAGES[:1]}, r"m\.onnx: one calibration image does not show the range"),
        ("tflite", {"calibration": IMAGES[[2] * 9]}, r"m\.tflite: one calibration image does not show the range"),
        ("tflite", {"calibration": IMAGES[:, :28, :28]}, r"takes images of 32x32x3, got calibration images of 28x28x3"),
        ("onnx", {"calibration": IMAGES[..., :1]}, r"takes images of 32x32x3, got calibration images of 32x32x1"),
        ("onnx", {"calibration": IMAGES, "pixels": "bgr"}, r"expected pixels one of centred, unit, raw, got 'bgr'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    suffix: str, arguments: dict, message: str, exact, keras_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((_to_tflite, "to_tflite"), (_to_onnx, "to_onnx")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("nothing may be converted"))
    with pytest.raises(EdgelabError, match=message) as caught:
        artifact.save(keras_model if suffix == "tflite" else exact["onnx"], tmp_path / f"m.{suffix}", **arguments)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_named(keras_model, torch_model, exact, tmp_path: Path) -> None:
    import torch
    from onnx import load, numpy_helper, save

    broken = copy.deepcopy(torch_model)
    with torch.no_grad():
        broken.fc.weight[1, :3] = torch.nan
    with pytest.raises(EdgelabError, match=r"m\.onnx: fc\.weight holds 3 of 32 values that are no numbers: train it"):
        artifact.save(broken, tmp_path / "m.onnx")
    with artifact.quiet():
        import tf_keras as keras
    clone = keras.models.clone_model(keras_model)
    clone.get_layer("fc").bias.assign([-np.inf] + [0.0] * 15)
    with pytest.raises(EdgelabError, match=r"m\.tflite: fc/bias.* holds 1 of 16 values"):
        artifact.save(clone, tmp_path / "m.tflite", IMAGES)
    proto = load(exact["onnx"].path)
    stored = next(t for t in proto.graph.initializer if t.name == "fc.bias")
    stored.CopyFrom(numpy_helper.from_array(np.full(4, np.nan, np.float32), "fc.bias"))
    save(proto, tmp_path / "f.onnx")
    with pytest.raises(EdgelabError, match=r"m\.onnx: fc\.bias holds 4 of 4 values"):
        artifact.save(artifact.load(tmp_path / "f.onnx"), tmp_path / "m.onnx", IMAGES)


def test_a_quantized_module_is_exported_after_others_in_a_fresh_process(tmp_path: Path) -> None:
    """Torch's table of operators, which exports share, holds those of quantized networks from the first export on."""
    pytest.importorskip("torchao")
    program = """
        import sys
        import torch
        from edgelab import artifact
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10)).eval()
        artifact.save(linear, sys.argv[1] + "/float32.onnx")
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
        values = torch.rand(2, 3, 32, 32)
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        batch = ({0: torch.export.Dim("batch")},)
        prepared = prepare_pt2e(torch.export.export(linear, (values,), dynamic_shapes=batch).module(), quantizer)
        prepared(values)
        artifact.save(convert_pt2e(prepared), sys.argv[1] + "/int8.onnx")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], check=True)
    int8 = onnx.load(tmp_path / "int8.onnx")
    assert "DequantizeLinear" in {node.op_type for node in int8.graph.node}


def test_the_garbage_collector_is_left_as_it_was() -> None:
    """The converter sees few objects, and all are looked at again afterwards, also after a failure."""
    with pytest.raises(ZeroDivisionError), _to_tflite._little_to_collect():
        _ = 1 / 0
    with _to_tflite._little_to_collect():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
