"""Class names are found where files carry them, in every form they are written in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mean_files import onnx_file, pictures, tflite_file

from edgelab import artifact, labels
from edgelab.artifact._flat import Table
from edgelab.errors import EdgelabError


def with_files(path: Path, files: dict[str, bytes]) -> Path:
    """A .tflite file with metadata: a zip archive behind the model."""
    tflite_file(path)
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_none_where_there_are_none(tmp_path: Path) -> None:
    assert labels.read(tflite_file(tmp_path / "m.tflite")) is None
    assert labels.read(onnx_file(tmp_path / "m.onnx")) is None
    assert labels.read(with_files(tmp_path / "n.tflite", {"vocab.txt": b"a\nb", "labels/readme.txt": b"x"})) is None
    assert labels.read(onnx_file(tmp_path / "n.onnx", properties={"author": "me", "labels": " "})) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"labels.txt": b"cat\ndog\n"}, ("cat", "dog")),
        ({"labelmap.txt": "\ufeffcat\r\nK\u00e4fer \r\n\r\n".encode()}, ("cat", "K\u00e4fer")),
        ({"probability-labels-en.txt": b"x", "probability-labels.txt": b"cat\ndog"}, ("cat", "dog")),
        ({"a/LABELS.TXT": b"cat\n\ndog"}, ("cat", "", "dog")),
        ({"labels.txt": b"\n"}, None),
    ],
)
def test_tflite_metadata(tmp_path: Path, files: dict[str, bytes], expected: tuple | None) -> None:
    path = with_files(tmp_path / "m.tflite", files)
    assert labels.read(path) == expected
    assert artifact.load(path).format == "tflite", "the file runs as before"


@pytest.mark.parametrize("key", ["labels", "classes", "names", "Labels"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat\ndog, big\n", ("cat", "dog, big")),
        ("cat, dog", ("cat", "dog")),
        ("cat", ("cat",)),
        (json.dumps(["cat", "dog"]), ("cat", "dog")),
        (json.dumps({"1": "dog", "0": "cat", "10": "k", **{str(i): str(i) for i in range(2, 10)}}), None),
        ("{0: 'cat', 1: \"cat's dog\"}", ("cat", "cat's dog")),  # as Ultralytics writes it
    ],
)
def test_onnx_properties(tmp_path: Path, key: str, text: str, expected: tuple | None) -> None:
    expected = expected or ("cat", "dog", *map(str, range(2, 10)), "k")
    assert labels.read(onnx_file(tmp_path / "m.onnx", properties={"author": "a,b", key: text})) == expected


@pytest.mark.parametrize("text", ["[1", "{'a': 'b'}", "{0: 'a', 2: 'b'}", "[" * 10_000, "{__import__('os')}"])
def test_damaged_names_are_one_line(tmp_path: Path, text: str) -> None:
    path = onnx_file(tmp_path / "m.onnx", properties={"names": text})
    with pytest.raises(
        EdgelabError, match=r"m\.onnx: its class labels cannot be read \(.*\): write them anew$"
    ) as caught:
        labels.read(path)
    assert "\n" not in str(caught.value)


def test_damaged_encrypted_and_huge_label_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_files(tmp_path / "m.tflite", {"labels.txt": b"cat\ndog"})
    content = path.read_bytes()
    place = content.rindex(b"PK\x01\x02")
    locked = bytearray(content)
    locked[place + 8] |= 1
    for changed in (bytes(locked), content.replace(b"cat\ndog", b"cat\xffdog")):
        path.write_bytes(changed)
        with pytest.raises(EdgelabError, match=r"m\.tflite: its class labels cannot be read"):
            labels.read(path)
    path.write_bytes(content)
    monkeypatch.setattr(labels, "MAX_LABEL_FILE", 3)
    with pytest.raises(EdgelabError, match=r"labels\.txt is larger than"):
        labels.read(path)


def test_another_suffix_and_no_model_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"ending in \.tflite or \.onnx, got 'm\.pt'"):
        labels.read(tmp_path / "m.pt")
    (tmp_path / "m.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(EdgelabError, match=r"m\.onnx: its class labels cannot be read"):
        labels.read(tmp_path / "m.onnx")


NAMES = ("cat", "K\u00e4fer, blau", "3")


@pytest.mark.parametrize("make", [tflite_file, onnx_file])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_names_are_written_and_read_and_change_no_answer(tmp_path: Path, make: Callable, dtype: str) -> None:
    path = make(tmp_path / f"m.{make.__name__.partition('_')[0]}", dtype)
    images, _ = pictures(5)
    before, size = artifact.load(path).predict(images), path.stat().st_size
    labels.write(path, ("x", "y", "z"), "unit")
    labels.write(path, NAMES, "raw")
    assert labels.read(path) == NAMES
    np.testing.assert_array_equal(artifact.load(path).predict(images), before)
    assert path.stat().st_size < size + 1000
    once = path.read_bytes()
    labels.write(path, NAMES, "raw")
    assert path.read_bytes() == once


def test_tflite_metadata_follow_the_schema(tmp_path: Path) -> None:
    """Slots as in metadata_schema.fbs: what MediaPipe and others look for."""
    path = tflite_file(tmp_path / "m.tflite")
    labels.write(path, NAMES)
    content = path.read_bytes()
    model = Table(content)
    (entry,) = [entry for entry in model.tables(6) if entry.data(0) == b"TFLITE_METADATA"]
    told = model.tables(4)[entry.number(1)].data(0)
    assert told[4:8] == b"M001"
    root = Table(told)
    assert root.data(7) == b"1.0.0"
    (graph,) = root.tables(3)
    (image,), (classes,) = graph.tables(2), graph.tables(3)
    assert image.table(3).number(0, "uint8") == 2 and image.table(3).table(1).number(0, "int8") == 1
    (unit,) = image.tables(4)
    assert unit.number(0, "uint8") == 1
    assert (unit.table(1).numbers(0, "float32"), unit.table(1).numbers(1, "float32")) == ([128.0], [128.0])
    (file,) = classes.tables(6)
    assert (file.data(0), file.number(2, "int8")) == (b"labels.txt", 2)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode() == "".join(f"{name}\n" for name in NAMES)


def test_constants_stay_aligned_as_devices_need_them(tmp_path: Path) -> None:
    path = tflite_file(tmp_path / "m.tflite")
    labels.write(path, NAMES)
    places = [buffer._vector(0) for buffer in Table(path.read_bytes()).tables(4)]
    assert [place % 16 for place, length in places if length] == [0] * 4


def test_other_properties_stay(tmp_path: Path) -> None:
    import onnx

    path = onnx_file(tmp_path / "m.onnx", properties={"author": "me", "Names": "a,b,c"})
    labels.write(path, NAMES)
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert found == {
        "author": "me",
        "labels": json.dumps(NAMES, ensure_ascii=False),
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.NominalPixelRange": "Normalized_1_1",
    }


@pytest.mark.parametrize("make", [tflite_file, onnx_file])
@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("a", "b"), "expected a name for each of the 3 outputs, got 2 names"),
        (("a", "b\nc", "d"), r"expected a name of one line for every class, got 'b\\nc' for class 1"),
        (("a", " ", "d"), "expected a name of one line for every class, got ' ' for class 1"),
        (("a", 2, "d"), "expected a name of one line for every class, got 2 for class 1"),
    ],
)
def test_names_that_cannot_be_are_one_line(tmp_path: Path, make: Callable, names: tuple, line: str) -> None:
    path = make(tmp_path / f"m.{make.__name__.partition('_')[0]}")
    before = path.read_bytes()
    with pytest.raises(EdgelabError, match=rf"^.*m\.\w+: {line}$"):
        labels.write(path, names)
    assert path.read_bytes() == before


def test_names_go_into_models_only(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"no model")
    with pytest.raises(EdgelabError, match=r"is no tflite model"):
        labels.write(tmp_path / "m.tflite", NAMES)
    with pytest.raises(EdgelabError, match=r"expected pixels one of centred, unit, raw, got 'bgr'"):
        labels.write(tmp_path / "m.tflite", NAMES, "bgr")
