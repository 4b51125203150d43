"""What Vela estimates is read correctly, and what it cannot compile is one line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edgelab import artifact, npu
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table

pytestmark = pytest.mark.skipif(find_spec("ethosu") is None, reason="ethos-u-vela is not installed")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small network in int8 and float32, one with an operator the accelerator lacks, one with nothing else."""
    with artifact.quiet():
        import tensorflow as tf
        import tf_keras as keras
    layers, source = keras.layers, keras.Input((16, 16, 3))
    x = layers.Conv2D(20, 3, padding="same", activation="relu")(source)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.MaxPooling2D(2)(x)
    small = keras.Model(source, layers.Dense(7)(layers.Flatten()(x)))
    mixed = keras.Model(source, tf.nn.depth_to_space(layers.Conv2D(4, 3, padding="same")(source), 2))
    none = keras.Model(source, tf.nn.space_to_depth(source, 2))
    folder = tmp_path_factory.mktemp("npu")
    made = {"float": artifact.save(small, folder / "float.tflite").path}
    for name, model in {"small": small, "mixed": mixed, "none": none}.items():
        made[name] = artifact.save(model, folder / f"{name}.tflite", calibration=IMAGES).path
    return made


def test_steps_add_up_and_macs_are_ours_plus_pooling(files: dict[str, Path]) -> None:
    found, table = npu.vela(files["small"]), layer_table(files["small"])
    counted = {"Conv2D": 0, "DepthwiseConv2D": 0, "FullyConnected": 0, "MaxPool": 0}
    for step in found.operations:
        counted[step.kind] += step.macs
    assert counted == {
        "Conv2D": 27 * 20 * 256,
        "DepthwiseConv2D": 9 * 20 * 256,
        "FullyConnected": 7 * 20 * 64,
        "MaxPool": 4 * 20 * 64,
    }
    assert found.macs == sum(counted.values()) == table.macs + counted["MaxPool"]
    assert found.cycles == sum(step.cycles for step in found.operations)
    assert found.milliseconds == pytest.approx(found.cycles / 500e3), "500 MHz"
    assert found.on_processor == ()
    assert found.compiler.startswith("ethos-u-vela ") and npu.SYSTEM in found.compiler


def test_memory_is_in_bytes(files: dict[str, Path]) -> None:
    found = npu.vela(files["small"])
    weights = layer_table(files["small"]).parameters
    activations = 2 * 16 * 16 * 20
    assert activations <= found.sram_bytes < 2 * activations
    assert max(step.sram_bytes for step in found.operations) <= found.sram_bytes
    assert 0.7 * weights < found.flash_bytes < 2 * weights
    assert found.flash_bytes < found.file_bytes < found.flash_bytes + 8192
    frame = found.to_frame()
    assert list(frame.columns) == ["name", "kind", "step", "cycles", "macs", "sram_bytes"]
    assert frame.cycles.sum() == found.cycles


def test_a_larger_accelerator_takes_fewer_cycles_for_the_same_work(files: dict[str, Path]) -> None:
    small, large = (npu.vela(files["small"], f"ethos-u55-{size}") for size in (32, 256))
    assert (small.accelerator, large.accelerator) == ("ethos-u55-32", "ethos-u55-256")
    assert small.macs == large.macs and large.cycles < small.cycles / 2


def test_operators_left_to_the_processor_are_named(files: dict[str, Path]) -> None:
    found = npu.vela(files["mixed"])
    assert found.on_processor == ("DepthToSpace",)
    assert {step.kind for step in found.operations} == {"Conv2D"}
    with pytest.raises(EdgelabError, match=r"none\.tflite: the accelerator has none of its operators \(SpaceToDepth\)"):
        npu.vela(files["none"])


def test_what_vela_cannot_compile_is_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"float\.tflite: the Ethos-U55 computes in int8, layer '.*' has 32-bit wei"):
        npu.vela(files["float"])
    with pytest.raises(EdgelabError, match=r"expected an int8 \.tflite file, .*got 'm\.onnx'"):
        npu.vela(tmp_path / "m.onnx")
    with pytest.raises(EdgelabError, match=r"expected one of ethos-u55-32, .*got 'ethos-u85-128'"):
        npu.vela(files["small"], "ethos-u85-128")  # type: ignore[arg-type]
    with pytest.raises(EdgelabError, match=r"there is no model file at .*none\.tflite"):
        npu.vela(tmp_path / "none.tflite")
    (tmp_path / "cut.tflite").write_bytes(files["small"].read_bytes()[:3000])
    with pytest.raises(EdgelabError, match=r"cut\.tflite is no tflite model") as caught:
        npu.vela(tmp_path / "cut.tflite")
    assert "\n" not in str(caught.value)


def test_an_error_of_the_compiler_is_one_line(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npu, "_check", lambda path, accelerator: None)
    (tmp_path / "m.tflite").write_bytes(b"no model")
    with pytest.raises(EdgelabError, match=r"m\.tflite: Vela does not compile this file \(.+\)") as caught:
        npu.vela(tmp_path / "m.tflite")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(npu, "TIME_LIMIT", 0.01)
    with pytest.raises(EdgelabError, match=r"small\.tflite: Vela gave no answer in 0\.01 s"):
        npu.vela(files["small"])


def test_without_the_compiler_the_line_says_so(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "find_spec", lambda name: None)
    with pytest.raises(EdgelabError, match=r"small\.tflite: the compiler Vela is missing here: pip install ethos-u-v"):
        npu.vela(files["small"])
