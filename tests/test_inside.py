"""The tensors inside a file are those its operators read and wrote, and the report points at the layer that is off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import brightest

from edgelab import artifact, inside
from edgelab.errors import EdgelabError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, artifact.Artifact]:
    """resnet8 as float32 and int8, in both formats: `tflite`, `tflite_int8`, `onnx`, `onnx_int8`."""
    with artifact.quiet():
        from edgelab.pytorch import models as torch_models
        from edgelab.tensorflow import models as keras_models

    arrays = torch_models.to_arrays(torch_models.build("resnet8", seed=1))
    twin = keras_models.from_arrays(keras_models.build("resnet8"), arrays)
    folder = tmp_path_factory.mktemp("inside")
    made = {}
    for suffix, model in (("tflite", twin), ("onnx", torch_models.build("resnet8", seed=1))):
        made[suffix] = artifact.save(model, folder / f"exact.{suffix}")
        made[f"{suffix}_int8"] = artifact.save(model, folder / f"int8.{suffix}", IMAGES)
    return made


def test_sqnr_is_a_ratio_of_powers_in_decibels() -> None:
    exact = np.array([3.0, -4.0], np.float32)
    assert inside.sqnr(exact, exact + np.float32(0.5)) == pytest.approx(10 * np.log10(25 / 0.5))
    assert inside.sqnr(exact, exact) == np.inf
    grid = np.linspace(-1, 1, 100_001)
    bits = [inside.sqnr(grid, np.round(grid * half) / half) for half in (128, 64)]
    assert bits[0] - bits[1] == pytest.approx(6.02, abs=0.05), "a bit is worth 6 dB"
    assert bits[0] == pytest.approx(48.2, abs=0.1)


def test_operators_hold_what_was_read_and_written(files) -> None:
    found = inside.operators(files["tflite_int8"], IMAGES[:1])
    assert [op.kind for op in found[:2]] == ["CONV_2D", "CONV_2D"] and found[-1].kind == "FULLY_CONNECTED"
    source, weights, bias = found[0].inputs
    assert np.array_equal(source.values, (IMAGES[:1] ^ 128).view(np.int8)), "pixel - 128"
    assert weights.values.shape == (16, 3, 3, 3) and weights.scale.shape == (16,) and bias.values.dtype == np.int32
    assert np.allclose(bias.scale, source.scale * weights.scale, rtol=1e-6)
    assert np.array_equal(found[1].inputs[0].values, found[0].output.values)
    dense = found[-1]
    x, w, b = (tensor.values.astype(np.int64) for tensor in dense.inputs)
    sums = (x - dense.inputs[0].zero_point) @ w.T + b
    scale = dense.inputs[0].scale * dense.inputs[1].scale / dense.output.scale
    assert np.abs(sums * scale + dense.output.zero_point - dense.output.values).max() <= 0.51


def test_windows_times_weights_are_the_sums_of_every_convolution(files) -> None:
    ops = [op for op in inside.operators(files["tflite_int8"], IMAGES[:1]) if op.kind == "CONV_2D"]
    assert {op.output.values.shape[1] for op in ops} == {32, 16, 8} and len(ops) == 9
    for op in ops:
        source, weights, bias = op.inputs
        seen = inside.windows(op)
        assert seen.shape[:3] == (*op.output.values.shape[1:3], source.values.shape[3])
        sums = np.einsum("hwcij,oijc->hwo", seen, weights.values.astype(int)) + bias.values
        found = sums * (source.scale * weights.scale / op.output.scale) + op.output.zero_point
        assert np.abs(np.clip(found, -128, 127) - op.output.values[0]).max() <= 0.51


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_the_report_names_layers_in_order_and_is_plausible(suffix: str, files) -> None:
    report = inside.layer_errors(files[suffix], files[f"{suffix}_int8"], IMAGES[:4])
    layers = report["layer"].tolist()
    assert layers[0].startswith("stem") and layers[-1] == "fc"
    firsts = [next(i for i, layer in enumerate(layers) if layer.startswith(f"stage{n}")) for n in (1, 2, 3)]
    assert firsts == sorted(firsts)
    assert report["sqnr_db"].between(10, 60).all()
    itself = inside.layer_errors(files[suffix], files[suffix], IMAGES[:2])
    assert (itself["sqnr_db"] == np.inf).all() and len(itself) >= len(report)


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_name_in_the_report_is_one_that_stays_in_float(suffix: str, files, tmp_path: Path) -> None:
    report = inside.layer_errors(files[suffix], files[f"{suffix}_int8"], IMAGES[:2])
    with artifact.quiet():
        from edgelab.tensorflow import models

        source = models.build("resnet8") if suffix == "tflite" else files["onnx"]
    first, last = report["layer"][0], report["layer"].iloc[-1]
    artifact.save(source, tmp_path / f"mixed.{suffix}", IMAGES, keep_float=[first, last])


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_the_layer_that_is_off_stands_out(suffix: str, files, tmp_path: Path) -> None:
    with artifact.quiet():
        from edgelab.pytorch import models as torch_models
        from edgelab.tensorflow import models as keras_models

    arrays = torch_models.to_arrays(torch_models.build("resnet8", seed=1))
    arrays["stage2.a.conv.weight"] = arrays["stage2.a.conv.weight"] * np.float32(1.5)
    tracks = {"tflite": keras_models, "onnx": torch_models}
    models = tracks[suffix]
    model = models.from_arrays(models.build("resnet8"), arrays)
    other = artifact.save(model, tmp_path / f"other.{suffix}")
    report = inside.layer_errors(files[suffix], other, IMAGES[:2])
    off = report["sqnr_db"] < 60
    assert report["layer"][off.idxmax()].startswith("stage2.a") and off.any() and not off.all()


def test_what_cannot_be_compared_is_one_line(files, tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"two files of one format, got exact\.tflite and exact\.onnx"):
        inside.layer_errors(files["tflite"], files["onnx"], IMAGES)
    with pytest.raises(EdgelabError, match=r"no images to compare int8\.tflite with exact\.tflite on"):
        inside.layer_errors(files["tflite"], files["tflite_int8"], IMAGES[:0])
    with pytest.raises(EdgelabError, match=r"share no layer: make both of one model"):
        inside.layer_errors(brightest(tmp_path / "b.onnx"), files["onnx_int8"], IMAGES[:1])
    with pytest.raises(EdgelabError, match=r"expected a \.tflite file to look into, got exact\.onnx"):
        inside.operators(files["onnx"], IMAGES[:1])
    with pytest.raises(EdgelabError, match=r"got images of 28x28x3"):
        inside.operators(files["tflite"], IMAGES[:1, :28, :28])
