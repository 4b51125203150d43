"""Damaged model files: one line at most, and never a traceback, a hang or the end of the process that measures.

Reproduce and extend by hand: `python tests/test_fuzz.py SEED COUNT`.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mean_files import onnx_file, picture_folder, tflite_file
from PIL import Image
from support import workers
from test_pictures import bad_pictures

from edgelab import isolated, labels, predict
from edgelab.errors import EdgelabError

SECONDS = 6.0


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    assert workers() == []


def originals(folder: Path) -> list[Path]:
    """Small files of every kind, all of them sound."""
    return [
        *[tflite_file(folder / f"{kind}.tflite", kind) for kind in ("float32", "int8", "uint8", "float16")],
        tflite_file(folder / "fixed.tflite", "int8", "NCHW", 2),
        *[
            onnx_file(folder / f"{kind}.onnx", kind, properties={"labels": "blue,green,red"})
            for kind in ("float32", "int8")
        ],
        onnx_file(folder / "open.onnx", sizes=("n", "h", "w", 3), layout="NHWC"),
    ]


def flipped(content: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return content


def cut(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[: rng.integers(len(content))]


def zeroed(content: bytearray, rng: np.random.Generator) -> bytearray:
    start, length = rng.integers(len(content)), rng.integers(1, 65)
    content[start : start + length] = bytes(len(content[start : start + length]))
    return content


def inserted(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = rng.integers(len(content) + 1)
    return content[:start] + rng.bytes(rng.integers(1, 33)) + content[start:]


def removed(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = rng.integers(len(content))
    return content[:start] + content[start + rng.integers(1, 33) :]


def overwritten(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = 4 * rng.integers(len(content) // 4)
    content[start : start + 4] = rng.choice([0, 1, 2**15, 2**31 - 1, 2**32 - 1, 2**30]).astype("<u4").tobytes()
    return content


def noise(content: bytearray, rng: np.random.Generator) -> bytearray:
    return bytearray(rng.bytes(rng.integers(4096)))


NUMBERS = (0, 1, -1, 2, 3, 5, 7, 8, 64, 255, 2**15, 2**24, 2**30, 2**31 - 1, -(2**31))


def altered(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Well-formed, but some numbers, such as sizes, types, operators or references, are others."""
    alter = _altered_tflite if content[4:8] == b"TFL3" else _altered_onnx
    return bytearray(alter(bytes(content), rng))


def _altered_tflite(content: bytes, rng: np.random.Generator) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    while True:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        for _ in range(rng.integers(1, 4)):
            places = [*_numbers(model)]
            owner, key = places[rng.integers(len(places))]
            _replace(owner, key, rng)
        builder = flatbuffers.Builder(1024)
        with suppress(TypeError):  # the number does not fit its type: draw again
            builder.Finish(model.Pack(builder), b"TFL3")
            return bytes(builder.Output())


def _numbers(owner: Any) -> Iterator[tuple[Any, Any]]:
    """(object, attribute) or (array, index) of every number in a tree of flatbuffer objects."""
    parts = owner.items() if isinstance(owner, dict) else vars(owner).items()
    for key, value in parts:
        if isinstance(value, bool | int | float):
            yield owner, key
        elif isinstance(value, np.ndarray):
            value.flags.writeable or setattr(owner, key, value := value.copy())
            yield from ((value, i) for i in range(len(value)))
        elif isinstance(value, list):
            for item in value:
                yield from _numbers(item) if hasattr(item, "__dict__") else ()
        elif hasattr(value, "__dict__"):
            yield from _numbers(value)


def _replace(owner: Any, key: Any, rng: np.random.Generator) -> None:
    number = NUMBERS[rng.integers(len(NUMBERS))]
    if isinstance(owner, np.ndarray):
        owner[key] = np.array(number, np.int64).astype(owner.dtype)
    else:
        setattr(owner, key, type(getattr(owner, key))(number))


def _altered_onnx(content: bytes, rng: np.random.Generator) -> bytes:
    import onnx

    model = onnx.load_from_string(content)
    for _ in range(rng.integers(1, 4)):
        places = [*_fields(model)]
        message, field, place = places[rng.integers(len(places))]
        _set(message, field, place, rng)
    return model.SerializeToString()


def _fields(message: Any) -> Iterator[tuple[Any, Any, int | None]]:
    """(message, field, place in a repeated field) of every scalar in a protobuf message."""
    for field, value in message.ListFields():
        items = list(enumerate(value)) if field.is_repeated else [(None, value)]
        for place, item in items:
            if field.message_type:
                yield from _fields(item)
            else:
                yield message, field, place


def _set(message: Any, field: Any, place: int | None, rng: np.random.Generator) -> None:
    number = NUMBERS[rng.integers(len(NUMBERS))]
    texts = ("", "images", "means", "w", "Add", "MatMul", "Loop", "\n", "[1", "x" * 999)
    value: Any = texts[rng.integers(len(texts))]
    if field.cpp_type == field.CPPTYPE_STRING:
        value = value.encode() if field.type == field.TYPE_BYTES else value
    elif field.cpp_type == field.CPPTYPE_ENUM:
        value = abs(number) % 20
    else:
        value = float(number) if field.cpp_type == field.CPPTYPE_FLOAT else number
    with suppress(ValueError):  # too large, or no such enumerator
        if place is None:
            setattr(message, field.name, value)
        else:
            getattr(message, field.name)[place] = value


KINDS = (flipped, flipped, cut, zeroed, inserted, removed, overwritten, noise, *[altered] * 8)


def damaged(folder: Path, seed: int, count: int) -> Iterator[Path]:
    """`count` damaged files, always the same for a seed, each with its origin and damage in its name."""
    rng, sound = np.random.default_rng(seed), originals(folder)
    for number in range(count):
        origin, kind = sound[rng.integers(len(sound))], KINDS[rng.integers(len(KINDS))]
        path = folder / f"{number:04}-{kind.__name__}-{origin.name}"
        path.write_bytes(kind(bytearray(origin.read_bytes()), rng))
        yield path


def outcome(worker: isolated.Worker, path: Path, images: Path) -> str:
    """What becomes of a file on the way the command takes, less the second that timing takes: measured, or the line."""
    try:
        worker.call("mean_files:gather_quickly", path, str(images), None, 1, "auto", False)
    except EdgelabError as error:
        return str(error)
    return "measured"


def fuzz(folder: Path, seed: int, count: int) -> dict[str, str]:
    images = picture_folder(folder / "images")
    with isolated.Worker(SECONDS) as worker:
        return {path.name: outcome(worker, path, images) for path in damaged(folder, seed, count)}


@pytest.fixture
def with_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_200_damaged_files(with_tests: None, tmp_path: Path) -> None:
    found = fuzz(tmp_path, 1, 200)
    assert len(found) == 200
    lines = {name: line for name, line in found.items() if line != "measured"}
    assert {name: line for name, line in lines.items() if ": unexpected " in line} == {}
    assert {name: line for name, line in lines.items() if "\n" in line or not 20 < len(line) < 500} == {}
    assert {name: line for name, line in lines.items() if name not in line} == {}
    assert len(lines) > 100 and len(found) - len(lines) > 10, "the damage must be neither harmless nor hopeless"


def test_a_dozen_through_the_command_itself(tmp_path: Path, command: Any) -> None:
    files = [*damaged(tmp_path, 2, 60)][::5]
    for i, path in enumerate(files):
        done = command("macs" if i % 3 == 0 else "measure", path, *(["--json"] if i % 2 else []))
        assert done.returncode in (0, 2), path.name
        lines = done.stderr.splitlines()
        if done.returncode == 2:
            assert done.stdout == "" and len(lines) == 1, (path.name, lines)
            assert lines[0].startswith("edgelab: ") and path.name in lines[0]
            assert ": unexpected " not in lines[0] and "Traceback" not in lines[0]
        else:
            assert done.stdout and all(line.startswith("edgelab: ") for line in lines)


def test_damaged_files_through_the_micro_command(tmp_path: Path, command: Any) -> None:
    """TensorFlow Lite Micro checks little: it is asked in a process of its own."""
    files = [path for path in damaged(tmp_path, 6, 200) if path.suffix == ".tflite"][::10]
    codes = Counter()
    for path in files:
        done = command("micro", path, "-o", tmp_path / f"{path.stem}.out")
        codes[done.returncode] += 1
        lines = done.stderr.splitlines()
        assert done.returncode in (0, 2) and "Traceback" not in done.stderr, path.name
        if done.returncode == 2:
            assert done.stdout == "" and len(lines) == 1, (path.name, lines)
            assert path.name in lines[0] and ": unexpected " not in lines[0] and len(lines[0]) < 500
            assert not (tmp_path / f"{path.stem}.out").exists()
    assert codes[2] > 5 and len(files) > 8


def test_damaged_files_through_the_budget_command(tmp_path: Path, command: Any) -> None:
    images = picture_folder(tmp_path / "images")
    for path in [*damaged(tmp_path, 7, 60)][::10]:
        page = tmp_path / f"{path.stem}.html"
        done = command("budget", path, "--flash", "1k", "--data", images, "-o", page)
        assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, path.name
        if done.returncode == 2:
            assert done.stdout == "" and len(done.stderr.splitlines()) == 1, (path.name, done.stderr)
            assert path.name in done.stderr and ": unexpected " not in done.stderr
        assert page.exists() == (done.returncode < 2)


def labelled(folder: Path) -> list[Path]:
    """Files with class names and metadata inside."""
    files = [tflite_file(folder / "named.tflite", "int8"), onnx_file(folder / "named.onnx")]
    for path in files:
        labels.write(path, ("red", "green", "blue"))
    return files


def test_100_damaged_files_with_metadata_are_described_or_one_line(tmp_path: Path) -> None:
    """What `predict` does first with a file: metadata, class names, one image of noise."""
    rng, sound = np.random.default_rng(3), labelled(tmp_path)
    found = {}
    with isolated.Worker(SECONDS) as worker:
        for number in range(100):
            origin, kind = sound[number % 2], KINDS[rng.integers(len(KINDS))]
            path = tmp_path / f"{number:04}-{kind.__name__}-{origin.name}"
            path.write_bytes(kind(bytearray(origin.read_bytes()), rng))
            try:
                worker.call("edgelab._seeing:prepare", path, 1, "auto")
            except EdgelabError as error:
                found[path.name] = str(error)
    assert {name: line for name, line in found.items() if ": unexpected " in line or "\n" in line} == {}
    assert {name: line for name, line in found.items() if name not in line or len(line) > 500} == {}
    assert 30 < len(found) < 95


def test_200_damaged_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    forms = ("png", "jpg", "webp", "gif", "tiff", "bmp", "ppm")
    sound = []
    for form in forms:
        image.save(tmp_path / f"whole.{form}")
        sound.append((tmp_path / f"whole.{form}").read_bytes())
    damages = [kind for kind in KINDS if kind is not altered]
    pictures = []
    for number in range(200):
        kind = damages[rng.integers(len(damages))]
        pictures.append(tmp_path / f"{number:03}-{kind.__name__}.{forms[number % len(forms)]}")
        pictures[-1].write_bytes(kind(bytearray(sound[number % len(forms)]), rng))
    found = predict.predict([str(tflite_file(tmp_path / "m.tflite")), *map(str, pictures)])
    assert [image["image"] for image in found.images] == list(map(str, pictures))
    assert all("\n" not in line and "unexpected" not in line and len(line) < 500 for line in found.errors)
    assert len(found.errors) > 50 and len(found.answered) > 30


def test_bad_pictures_and_files_through_the_predict_command(tmp_path: Path, command: Any) -> None:
    model, good = tflite_file(tmp_path / "m.tflite"), tmp_path / "good.png"
    Image.new("RGB", (9, 9), "red").save(good)
    bad = bad_pictures(tmp_path)
    done = command("predict", model, good, *bad)
    *lines, last = done.stderr.splitlines()
    assert last == f"edgelab: {len(bad)} of {len(bad) + 1} images failed"
    assert done.returncode == 2 and len(lines) == len(bad) and str(good) in done.stdout
    assert all(line.startswith("edgelab: cannot read the image ") for line in lines)
    for path in [*damaged(tmp_path, 5, 40)][::8]:
        done = command("predict", path, good, "--json")
        assert done.returncode in (0, 2) and "Traceback" not in done.stderr, path.name
        if done.returncode == 2:
            assert done.stdout == "" and len(done.stderr.splitlines()) == 1 and ": unexpected " not in done.stderr


def main() -> None:
    """Fuzz by hand and print what came out, the most frequent first."""
    from tempfile import TemporaryDirectory

    seed, count = map(int, sys.argv[1:3])
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    with TemporaryDirectory() as folder:
        os.environ["EDGELAB_CACHE"] = f"{folder}/cache"
        found = fuzz(Path(folder), seed, count)
        kinds = Counter(re.sub(r"\S*\d{4}-\w+-\S+", "FILE", line) for line in found.values())
        for line, times in kinds.most_common():
            print(times, line)
        print(
            *[f"{name}: {line}" for name, line in found.items() if ": unexpected " in line or "after" in line], sep="\n"
        )


if __name__ == "__main__":
    main()
