"""Class names are found where files carry them, in every form they are written in."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from mean_files import onnx_file, tflite_file

from edgelab import artifact, labels
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
