"""Does it fit? The boards have sources, the arena is the runtime's own, and verdicts follow from the bytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_files
from mean_files import tflite_file
from support import workers

from edgelab import artifact, boards, labels, memory, micro, predict
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table
from edgelab.micro import fitting, operators, targets

needs_runtime = pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro exists for Linux x86-64")
RNG = np.random.default_rng(5)
IMAGES = (RNG.integers(0, 256, (64, 32, 32, 3)) * RNG.uniform(0, 1, (64, 1, 1, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_files.tflite_file(tmp_path_factory.mktemp("micro") / "small.tflite", quantized=True)


@pytest.fixture(scope="module")
def wanted(int8: Path) -> micro.Needs:
    return micro.needs(int8)


@pytest.mark.parametrize("board", micro.BOARDS, ids=lambda board: board.name)
def test_every_board_has_figures_and_their_source(board: micro.Board) -> None:
    assert 0 < board.block <= board.ram and board.flash > board.ram / 4 and 1 <= board.mhz <= 2000
    assert re.match(r"[A-Z]\w+( \w+)*, .{15,}$", board.source), "maker, document and section"
    assert re.match(r"https://[\w.-]+\.\w+/\S+$", board.url)
    figures = [int(number) for number in re.findall(r"\d+", board.source)]
    said = {f"{board.flash // size}" for size in (targets.KIB, targets.MIB)}
    said |= {f"{board.flash / targets.MIB:g}"}
    assert any(re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", board.source) for number in said), "its flash"
    assert figures and board.bits in (8, 32) and board.core and board.chip and board.extras


def test_boards_differ_and_are_found_by_a_part_of_their_name() -> None:
    names = [board.name for board in micro.BOARDS]
    assert len(set(names)) == len(names) >= 12
    assert [board.name for board in micro.BOARDS if board.bits == 8] == ["Arduino UNO R3"]
    assert micro.board("teensy").chip == "NXP i.MX RT1062"
    assert micro.board("raspberry pi pico").chip == "RP2040", "the whole name before a part"
    with pytest.raises(EdgelabError, match=r"^expected one board, 'nucleo' names 4: choose one of NUCLEO-L4R5ZI, "):
        micro.board("nucleo")
    with pytest.raises(EdgelabError, match=r"^expected one board, 'vax' names none: choose one of Arduino UNO R3, "):
        micro.board("vax")


def test_boards_that_were_measured_are_in_the_measurements() -> None:
    measured = {board.measured_as for board in micro.BOARDS} - {""}
    assert len(measured) == 4 and measured <= set(boards.measurements()["board"])


def test_needs_are_those_of_the_modules_that_count(int8: Path, wanted: micro.Needs) -> None:
    assert (wanted.inputs, wanted.outputs, wanted.file) == ("int8", "int8", int8.stat().st_size)
    assert wanted.macs == layer_table(int8).macs
    assert wanted.operators == ("AVERAGE_POOL_2D", "CONV_2D", "FULLY_CONNECTED", "RESHAPE")
    assert wanted.adders == ("AddAveragePool2D", "AddConv2D", "AddFullyConnected", "AddReshape")
    assert wanted.flash == (wanted.file + memory.FRAMEWORK_BYTES, wanted.file + fitting.ALL_KERNELS)
    assert wanted.arena_bytes % 1024 == 0 and 0 <= wanted.arena_bytes - wanted.arena - fitting.SCRATCH < 1024
    assert wanted.ram == wanted.arena_bytes + fitting.PROGRAM


@needs_runtime
def test_the_arena_suffices_and_less_does_not(int8: Path, wanted: micro.Needs) -> None:
    from tflite_micro.python.tflite_micro.runtime import Interpreter

    content = int8.read_bytes()
    assert wanted.arena_by.startswith("tflite-micro ")
    Interpreter.from_bytes(content, arena_size=wanted.arena).invoke()
    with pytest.raises(RuntimeError, match="failed to allocate tensors"):
        Interpreter.from_bytes(content, arena_size=wanted.arena - 16)


@needs_runtime
@pytest.mark.parametrize("shipped", [False, True])
def test_tensorflow_lite_micro_agrees_with_litert(int8: Path, shipped: bool) -> None:
    path = predict.SHIPPED if shipped else int8
    file = artifact.load(path)
    source, result = file.ports()
    expected = np.rint(file.predict(IMAGES) / result.scale + result.zero_point)
    got = micro.run(micro.needs(path), source.of_pixels()[IMAGES]).astype(int)
    apart = np.abs(got - expected).max()
    assert apart <= 8 and apart < np.std(expected, axis=0).mean(), "near, and nearer than two images are"
    sure = np.diff(np.sort(expected, axis=1)[:, -2:]).ravel() > 2 * apart
    assert np.array_equal(np.argmax(got, 1)[sure], expected.argmax(1)[sure])
    assert sure.mean() > 0.2


def test_verdicts_follow_from_the_bytes(wanted: micro.Needs) -> None:
    large = replace(micro.board("Nano 33"), ram=wanted.ram, block=wanted.arena_bytes, flash=wanted.flash[1])
    assert micro.fit(wanted, large).fits and micro.fit(wanted, large).verdict == "fits"

    def verdict(**changes: int) -> str:
        found = micro.fit(wanted, replace(large, **changes))
        assert not found.fits
        return found.verdict

    assert verdict(ram=wanted.ram - 1) == "tight: RAM short by 1 bytes with what is assumed beside the arena"
    assert verdict(block=wanted.arena_bytes - 5).startswith("tight: RAM short by 5 bytes")
    beside = wanted.ram - wanted.arena
    assert verdict(ram=wanted.arena - 7) == f"does not: RAM short by {beside + 7:,} bytes"
    assert verdict(block=wanted.arena - 16) == "does not: largest block of RAM short by 16 bytes"
    assert verdict(flash=wanted.flash[1] - 9) == "tight: flash short by 9 bytes with every kernel linked in"
    assert verdict(flash=wanted.flash[0] - 3) == "does not: flash short by 3 bytes"
    assert verdict(flash=9, bits=8) == f"does not: 8-bit processor, flash short by {wanted.flash[0] - 9:,} bytes"


def test_an_uno_cannot_and_a_nano_can() -> None:
    found = {one.board.name: one for one in micro.fits(predict.SHIPPED)}
    assert list(found) == [board.name for board in micro.BOARDS]
    assert found["Arduino UNO R3"].verdict.startswith("does not: 8-bit processor, RAM short by ")
    assert found["Arduino Nano 33 BLE Sense"].fits
    frame = micro.to_frame(list(found.values()))
    assert list(frame["RAM KiB"])[:2] == [2, 32] and frame["source"].all()
    assert frame.set_index("board").loc["Teensy 4.1", "does it fit?"] == "fits"


def test_without_the_runtime_the_activations_are_a_bound(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "has_runtime", lambda: False)
    found = micro.needs(int8)
    assert found.arena == memory.peak_activations(int8).bytes
    assert found.arena_by.startswith("at least: the activations alone")
    with pytest.raises(EdgelabError, match=r"^small\.tflite: running it needs the package tflite-micro"):
        micro.run(found, IMAGES)


def test_a_float_file_needs_four_times_the_arena_but_is_no_sketch(tmp_path: Path, wanted: micro.Needs) -> None:
    found = micro.needs(small_files.tflite_file(tmp_path / "float.tflite", quantized=False))
    assert found.arena > 3.5 * wanted.arena - 4000 and found.arena > 2 * wanted.arena
    with pytest.raises(EdgelabError, match=r"^float\.tflite: expected int8 in and out .*, got float32 in and float32 "):
        micro.sketch(found)


def test_the_command_prints_the_table_and_writes_the_sketch(int8: Path, tmp_path: Path, command: Any) -> None:
    done = command("micro", int8, "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{int8}: int8 in, int8 out"
    for board in micro.BOARDS:
        assert sum(line.startswith(board.name + "  ") for line in lines) == 1
    assert "operators  AddAveragePool2D, AddConv2D, AddFullyConnected, AddReshape" in lines
    assert lines[-1].startswith(f"{tmp_path / 'out'}: model.h, model.cc, ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(micro.sketch(int8))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bad_files_are_one_line_and_write_nothing(tmp_path: Path, int8: Path, command: Any) -> None:
    (tmp_path / "noise.tflite").write_bytes(bytes(range(256)))
    (tmp_path / "m.onnx").write_bytes(b"")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    folder = str(tmp_path / "out")
    for arguments, line in (
        ((str(tmp_path / "none.tflite"),), "there is no model file at "),
        ((str(tmp_path / "m.onnx"),), "expected a .tflite file, the only kind microcontroller runtimes take"),
        ((str(tmp_path / "noise.tflite"), "-o", folder), "noise.tflite"),
        ((str(small_files.tflite_file(tmp_path / "f.tflite", quantized=False)), "-o", folder), "expected int8 in and"),
        ((str(int8), "-o", str(foreign)), "is not empty (notes.txt): name another folder, nothing was written"),
        ((str(int8), "-o", str(tmp_path / "m.onnx")), "is a file: name a folder for the sketch"),
    ):
        done = command("micro", *arguments)
        assert done.returncode == 2 and done.stderr.startswith("edgelab: ") and line in done.stderr
        assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    assert not Path(folder).exists() and [path.name for path in foreign.iterdir()] == ["notes.txt"]
    assert workers() == []


@pytest.mark.parametrize("damage", ["truncated", "wild offsets", "bad numbers"])
def test_damaged_files_are_told_without_the_decoders_words(tmp_path: Path, damage: str) -> None:
    content = bytearray(predict.SHIPPED.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        at = int.from_bytes(content[:4], "little")
        content[at : at + 4] = (2**31 - 1 if damage == "wild offsets" else -(2**31)).to_bytes(4, "little", signed=True)
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with pytest.raises(EdgelabError) as caught:
        micro.needs(path)
    assert str(caught.value) == f"{path} is no tflite model that can be counted (truncated or damaged): make it anew"


def test_other_peoples_operators_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgelabError, match=r"^m\.tflite: TensorFlow Lite Micro has no operator FlexErf: make the "):
        operators.adders(["CONV_2D", "FlexErf"], "m.tflite")
    assert operators.adders(["PADV2", "L2_POOL_2D", "CONV_2D", "CONV_2D", "ethos-u"], "m") == (
        "AddConv2D",
        "AddEthosU",
        "AddL2Pool2D",
        "AddPadV2",
    )


def test_the_framework_stays_out(int8: Path) -> None:
    code = (
        "import sys; from edgelab import micro; "
        "heavy = {'torch', 'tensorflow', 'tf_keras', 'ai_edge_litert', 'onnxruntime', 'pandas', 'matplotlib'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout.replace("'", '"')) == []


def test_files_of_any_batch_and_layout(tmp_path: Path) -> None:
    for layout, batch in (("NHWC", None), ("NCHW", 1)):
        path = tflite_file(tmp_path / f"{layout}.tflite", "int8", layout, batch)
        labels.write(path, ("red", "green", "blue"))
        found = micro.needs(path)
        assert found.inputs == "int8" and ("AddTranspose" in found.adders) == (layout == "NCHW")
        assert f"kLabels[kClasses] = {{\n    {json.dumps('red')}," in micro.sketch(found)["classifier.cc"]
