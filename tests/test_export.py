"""Exported files give their checkpoint's answers, carry its class names, and appear only once that has been checked."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mean_files import onnx_file, tflite_file
from safetensors import safe_open

from edgelab import _cifar, artifact, cards, data, export, labels, predict, zoo
from edgelab.errors import EdgelabError
from edgelab.profiles import Recipe


def is_from_scratch(path: Path) -> bool:
    """By its header alone: this is asked of every file whenever tests are collected."""
    with safe_open(path, "numpy") as file:
        return "origin" not in json.loads(file.metadata()["about"])


FROM_SCRATCH = [path for path in sorted(zoo.KEPT.glob("*.safetensors")) if is_from_scratch(path)]
# One of each network: others differ in their numbers and widths only.
ONE_OF_EACH = {re.match("[a-z]+", path.stem)[0]: path for path in reversed(FROM_SCRATCH)}


def checkpoint(name: str = "ds_cnn") -> zoo.Checkpoint:
    return zoo.load(export.find(name))


@pytest.fixture(scope="module")
def on_digits() -> zoo.Checkpoint:
    """An untrained network that says it was trained on the handwritten digits."""
    from edgelab.pytorch import models

    digits = data.load("digits")
    meta = {"class_names": list(digits.class_names), "data_fingerprint": digits.fingerprint}
    return zoo.Checkpoint("resnet8", "digits", Recipe(1), models.to_arrays(models.build("resnet8")), [], meta)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kept network of which half of the channels have been taken out, as a file."""
    from edgelab.pytorch import channels, models, pruning

    start = checkpoint("resnet8")
    arrays = models.to_arrays(channels.remove_channels(pruning.restore(start), 2.0))
    origin = zoo.Origin("structured pruning 2x", "pytorch", start.key)
    return zoo.keep(replace(start, arrays=arrays, origin=origin), tmp_path_factory.mktemp("narrow"))


@pytest.mark.parametrize("network", ONE_OF_EACH)
@pytest.mark.parametrize(("suffix", "int8"), [("tflite", True), ("onnx", False)])
def test_round_trip_of_a_kept_checkpoint(tmp_path: Path, network: str, suffix: str, int8: bool) -> None:
    """Its own images are not here: other ones calibrate as well and show as well whether the file is the network."""
    path, digits = ONE_OF_EACH[network], data.load("digits")
    kept = zoo.load(path)
    if suffix == "tflite" and network == "mobilenet":  # a network of the PyTorch track alone
        with pytest.raises(EdgelabError, match=f"unknown model '{kept.model}'"):
            export.export(kept, tmp_path / "m.tflite", int8=int8, dataset=digits)
        return
    found = export.export(kept, tmp_path / f"m.{suffix}", int8=int8, dataset=digits)
    assert found.checked == len(digits.validation) and found.bytes == (tmp_path / f"m.{suffix}").stat().st_size
    assert found.agreeing >= export.LEAST[int8] * found.checked and found.key == path.stem
    card = cards.describe(tmp_path / f"m.{suffix}")
    assert card["labels"] == kept.meta["class_names"] and card["pixels"] == "centred"
    form = "int8 in and int8 out" if int8 else f"float32 in and float32 out, opset {artifact.OPSET}, passes the ONNX"
    assert found.form.startswith(form)


@pytest.mark.parametrize("path", FROM_SCRATCH, ids=lambda path: path.stem)
def test_every_kept_checkpoint_is_a_network_that_tells_images_apart(path: Path) -> None:
    """What the round trip of another network of the same kind takes for granted."""
    from edgelab.pytorch import pruning, train

    kept = zoo.load(path)
    assert kept.key == path.stem
    answers = train.logits(pruning.restore(kept), data.load("digits").validation.images)
    assert np.isfinite(answers).all() and answers.shape[1] == len(kept.meta["class_names"])
    assert answers.std(0).min() > 0.05


@pytest.mark.parametrize(("suffix", "int8"), [("tflite", False), ("onnx", True)])
def test_round_trip_of_a_narrower_network(tmp_path: Path, narrow: Path, suffix: str, int8: bool) -> None:
    found = export.export(zoo.load(narrow), tmp_path / f"m.{suffix}", int8=int8, dataset=data.load("digits"))
    assert found.agreeing >= export.LEAST[int8] * found.checked
    whole = 4 * sum(array.size for array in checkpoint("resnet8").arrays.values())
    assert found.bytes < (0.25 if int8 else 0.6) * whole
    assert ("int8 inside" in found.form) == int8


@pytest.mark.skipif(not _cifar.is_here(), reason="needs cifar10-jpeg in EDGELAB_DATA")
def test_the_shipped_model_can_be_made_again(tmp_path: Path) -> None:
    """By the command of edgelab/models/README.md: the same bytes, or elsewhere nearly the same answers."""
    try:
        found = export.by_name("ds_cnn", tmp_path / "again.tflite", "tflite", int8=True)
    except EdgelabError as error:
        pytest.skip(str(error))
    if found.file.path.read_bytes() == predict.SHIPPED.read_bytes():
        return
    images = data.load("digits").validation.images
    one, other = (artifact.load(path).predict(images) for path in (found.file.path, predict.SHIPPED))
    assert (one.argmax(1) == other.argmax(1)).mean() > 0.95


def test_the_readme_beside_the_model_names_its_checkpoint_and_command() -> None:
    text = (predict.SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    assert export.find("ds_cnn").name in text
    assert f"edgelab export ds_cnn --to tflite --int8 -o edgelab/models/{predict.SHIPPED.name}" in text
    assert f"{export.CALIBRATION} training images" in text


def test_names_find_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_digits: zoo.Checkpoint) -> None:
    assert export.find("some.safetensors") == Path("some.safetensors")
    monkeypatch.setattr(zoo, "KEPT", tmp_path)
    kept = [zoo.keep(replace(on_digits, recipe=Recipe(1, seed)), tmp_path) for seed in (10, 2)]
    pruned = [
        zoo.keep(replace(on_digits, origin=zoo.Origin("pruned", "pytorch", key)), tmp_path) for key in ("one", "two")
    ]
    assert export.find("resnet8") == kept[1]
    assert export.find(kept[0].stem) == kept[0]
    with pytest.raises(EdgelabError, match=r"^'resnet8-pruned' begins the name of several checkpoints: .*, resnet8-pr"):
        export.find("resnet8-pruned")
    assert export.find(pruned[0].stem) == pruned[0]
    with pytest.raises(EdgelabError, match=r"^there is no checkpoint 'vgg': expected a \.safetensors file or one of "):
        export.find("vgg")


def test_every_name_that_an_error_lists_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.weights, "load", functools.cache(export.weights.load))
    with pytest.raises(EdgelabError) as caught:
        export.find("nope")
    names = str(caught.value).partition(" one of ")[2].split(", ")
    known = sorted(zoo.KEPT.glob("*.safetensors"))
    assert [export.find(name) for name in names] == known
    assert {"plain_cnn", "resnet8", "ds_cnn", "resnet8-qat_lsq_2bit"} < set(names)
    assert sum(len(name) for name in names) < 0.7 * sum(len(file.stem) for file in known)
    listed = r"^there is no checkpoint 'ds_cnn-pruned': expected .* or one of ds_cnn(, ds_cnn-[\w-]+)*$"
    with pytest.raises(EdgelabError, match=listed):
        export.find("ds_cnn-pruned")
    named = "plain_cnn-pqat-{}-cifar10-jpeg-seed{}".format
    with pytest.raises(EdgelabError, match=f"one of {named('pytorch', 0)}, .*, {named('tensorflow', 2)}$"):
        export.find("plain_cnn-pqat")


def test_names_give_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr(export, "export", lambda kept, path, *, int8, dataset: calls.append((path.name, dataset.name)))
    monkeypatch.setattr(_cifar, "is_here", lambda: False)
    export.by_name("ds_cnn", tmp_path / "m", "onnx")
    export.by_name("ds_cnn", tmp_path / "m.TFLITE", "tflite")
    export.by_name("ds_cnn", tmp_path / "m.onnx")
    assert calls == [("m.onnx", "digits"), ("m.TFLITE", "digits"), ("m.onnx", "digits")]
    for path, to, line in (
        ("m", None, r"expected a model file ending in \.tflite or \.onnx, got 'm'"),
        ("m.onnx", "tflite", r"expected a file that ends in \.tflite, got 'm\.onnx'"),
        ("m.onnx", "pt", r"expected --to tflite or onnx, got 'pt'"),
    ):
        with pytest.raises(EdgelabError, match=f"^{line}$"):
            export.by_name("ds_cnn", Path(path), to)


def test_which_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_digits: zoo.Checkpoint) -> None:
    assert export.dataset_for(on_digits, True).name == "digits"
    monkeypatch.setattr(_cifar, "is_here", lambda: False)
    kept = checkpoint()
    assert export.dataset_for(kept, False).name == "digits"
    with pytest.raises(EdgelabError, match=r"^int8 needs training images of cifar10-jpeg .* in EDGELAB_DATA$"):
        export.dataset_for(kept, True)
    with pytest.raises(EdgelabError, match=r"^ds_cnn-.* was trained on other images than this digits$"):
        export.dataset_for(kept, False, "digits")
    other = replace(on_digits, meta={**on_digits.meta, "data_fingerprint": "0"})
    with pytest.raises(EdgelabError, match=r"^int8 needs .* of digits .* trained on other images than this digits$"):
        export.dataset_for(other, True)
    with pytest.raises(EdgelabError, match=r"there is no data set"):
        export.dataset_for(on_digits, False, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("how", ["classes", "logits"])
def test_a_file_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_digits: zoo.Checkpoint, how: str
) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"as before")
    true = artifact.Artifact.predict

    def other(self: artifact.Artifact, images: np.ndarray) -> np.ndarray:
        return true(self, images)[:, ::-1] if how == "classes" else true(self, images) * np.float32(1.01)

    monkeypatch.setattr(artifact.Artifact, "predict", other)
    with pytest.raises(EdgelabError, match=r"^m\.tflite answers otherwise than resnet8-.*; nothing was written$"):
        export.export(on_digits, path)
    assert path.read_bytes() == b"as before" and list(tmp_path.glob("*.part")) == []


def test_what_cannot_be_restored_is_one_line(tmp_path: Path, on_digits: zoo.Checkpoint) -> None:
    with pytest.raises(EdgelabError, match=r"unknown model 'vgg'"):
        export.export(replace(on_digits, model="vgg"), tmp_path / "m.onnx")
    arrays = {name: array for name, array in on_digits.arrays.items() if not name.startswith("fc.")}
    with pytest.raises(EdgelabError):
        export.export(replace(on_digits, arrays=arrays), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_words(tmp_path: Path) -> None:
    file = artifact.load(tflite_file(tmp_path / "m.tflite"))
    found = export.Exported(file, "ds_cnn-digits-seed0-1", "int8 in and int8 out", 1234, "digits", 9, 10, 0.0123, 7, 8)
    assert found.in_words().splitlines() == [
        f"{tmp_path / 'm.tflite'}: 1,234 bytes, int8 in and int8 out, class names inside",
        "made from   ds_cnn-digits-seed0-1",
        "agreement   90.0 %: the same class as the checkpoint for 9 of 10 validation images of digits",
        "logits      differ by up to 1.2 % of their range",
        "right       7 of these images, the checkpoint 8",
    ]
    strange = replace(found, key="ds_cnn-cifar10-jpeg-seed0-1").in_words().splitlines()
    assert strange[4] == "note        checked on digits: the images it was trained on are not on this machine"


def small(suffix: str) -> Any:
    """A network of one convolution and ten classes."""
    if suffix == "onnx":
        import torch
        from torch import nn

        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 10)).eval()
    with artifact.quiet():
        import tf_keras as keras
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((32, 32, 3)), keras.layers.Conv2D(8, 3, 2, activation="relu")]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)], name="small")


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
@pytest.mark.parametrize("int8", [False, True])
def test_files_saved_with_names_differ_in_nothing_else(tmp_path: Path, suffix: str, int8: bool) -> None:
    model, names = small(suffix), tuple("abcdefghij")
    if suffix == "onnx":
        model = artifact.save(model, tmp_path / "exported.onnx")
    images = data.load("digits").validation.images[:40]
    calibration = images if int8 else None
    plain = artifact.save(model, tmp_path / f"plain.{suffix}", calibration)
    named, again = (
        artifact.save(model, tmp_path / f"{name}.{suffix}", calibration, labels=names) for name in ("named", "again")
    )
    np.testing.assert_array_equal(plain.predict(images), named.predict(images))
    assert named.path.read_bytes() == again.path.read_bytes()
    assert 0 < named.path.stat().st_size - plain.path.stat().st_size < 1000
    assert (labels.read(plain.path), labels.read(named.path)) == (None, names)


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_names_that_do_not_fit_are_one_line_and_no_file(tmp_path: Path, suffix: str) -> None:
    for names, line in ((("a",), r"a name for each of the 10 outputs, got 1 names"), (("a\nb",) * 10, "of one line")):
        with pytest.raises(EdgelabError, match=line):
            artifact.save(small(suffix), tmp_path / f"wrong.{suffix}", labels=names)
    assert not (tmp_path / f"wrong.{suffix}").exists()


@pytest.mark.parametrize("make", [tflite_file, onnx_file])
def test_a_saved_file_says_what_its_pixels_are(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / f"m.{make.__name__.partition('_')[0]}")
    labels.write(path, ("a", "b", "c"), "unit")
    assert cards.describe(path)["deviation"] == 255
