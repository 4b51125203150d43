"""The report of a file says what was measured, on which images, fed how, and what could not be measured."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mean_files import TYPES, darkness, onnx_file, picture_folder, pictures, shade_folder, tflite_file

from edgelab import _fitting, artifact, data, isolated, measure, report
from edgelab._images import LUMA
from edgelab.errors import EdgelabError
from edgelab.layers import layer_table

NAMED = {"labels": "red, green, blue"}
SHORT = {"limit": None, "threads": 1, "pixels": "auto", "explain": False}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a few runs only; no CIFAR-10 is at hand."""
    from edgelab import latency

    monkeypatch.setattr(latency, "SECONDS", 0.001)
    monkeypatch.setattr(latency, "REPETITIONS", 3)
    monkeypatch.delenv("EDGELAB_DATA", raising=False)


def gathered(path: Path, name: Path | str | None = None, **options: object) -> report.Report:
    """The report, in this process."""
    return report.Report(**report.gather(str(path), None if name is None else str(name), **{**SHORT, **options}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("pictures") / "colours", 12)


def test_the_measurements_are_those_of_the_modules_that_make_them(tmp_path: Path, folder: Path) -> None:
    from edgelab import energy, memory

    path = tflite_file(tmp_path / "m.tflite", "int8")
    found, table = gathered(path, folder), layer_table(path)
    assert list(found.as_json()) == [
        "file",
        "runtime",
        "accuracy",
        "accuracy_ci95",
        "n_images",
        "bytes",
        "gzip_bytes",
        "parameters",
        "nonzero_parameters",
        "macs",
        "effective_macs",
        "relative_energy",
        "energy_uj",
        "ram_bytes",
        "latency_ms",
        "data",
        "data_fingerprint",
    ]
    assert found.file == str(path) and found.runtime == artifact.load(path).runtime
    assert (found.bytes, found.gzip_bytes) == measure.sizes(path)
    assert (found.parameters, found.nonzero_parameters) == (table.parameters, table.nonzero) == (12, 3)
    assert (found.macs, found.effective_macs) == (table.macs, table.effective_macs) == (576, 192)
    assert found.relative_energy == pytest.approx(192e-6)
    assert found.energy_uj == pytest.approx(energy.estimate(table).total_uj, abs=1e-6)
    assert found.ram_bytes == memory.peak_activations(path).bytes == 384
    assert found.latency_ms is not None and 0 < found.latency_ms < 10
    # Without names the classes are taken in sorted order: blue, green, red against red, green, blue. Green is right.
    assert (found.accuracy, found.n_images) == (pytest.approx(1 / 3), 12)
    assert tuple(found.accuracy_ci95 or ()) == measure.wilson(4, 12)
    assert any("taken for the folders in alphabetical order, blue, green, red" in note for note in found.notes)
    assert (found.data, found.data_fingerprint) == ("colours", data.load_whole(folder).fingerprint)


@pytest.mark.parametrize(
    ("correct", "n", "guessing"), [(40, 300, True), (1, 3, False), (60, 300, False), (1000, 10_000, True)]
)
def test_guessing_needs_enough_images_to_be_called_so(correct: int, n: int, guessing: bool) -> None:
    score = measure.Accuracy(correct, n, correct / n, *measure.wilson(correct, n))
    assert report.is_guessing(score, 10) is guessing


def test_an_accuracy_of_chance_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(report, "is_guessing", lambda score, classes: (score.n, classes) == (12, 3))
    notes = gathered(onnx_file(tmp_path / "m.onnx"), folder).notes
    assert "no better than guessing among 3 classes: does the file know these, in this order?" in notes


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("batch", ["n", 4])
def test_classes_are_matched_by_name_for_every_kind_of_file(
    tmp_path: Path, folder: Path, dtype: str, layout: str, batch: int | str
) -> None:
    path = onnx_file(tmp_path / "m.onnx", dtype, layout, (batch, 8, 8, 3), properties=NAMED)
    found = gathered(path, folder)
    assert (found.accuracy, found.n_images, found.macs) == (1.0, 12, 576)
    assert not any("alphabetical" in note for note in found.notes)
    assert found.told["form"] == f"{dtype} input {'8x8x3' if layout == 'NHWC' else '3x8x8'}, {dtype} output 3"


def test_names_are_matched_whatever_their_case_and_underscores(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "x")
    (folder / "red").rename(folder / "dark_RED")
    path = onnx_file(tmp_path / "m.onnx", properties={"labels": "Dark Red\nGREEN\nblue"})
    assert gathered(path, folder).accuracy == 1.0


def test_fewer_folders_than_classes_are_fine_by_name(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "x")
    for path in (folder / "blue").iterdir():
        path.unlink()
    (folder / "blue").rmdir()
    found = gathered(onnx_file(tmp_path / "m.onnx", properties=NAMED), folder)
    assert (found.accuracy, found.n_images) == (1.0, 4)
    with pytest.raises(EdgelabError, match=r"n\.onnx has 3 outputs and no class names, x has 2 classes: expected as"):
        gathered(onnx_file(tmp_path / "n.onnx"), folder)


def test_folders_the_model_does_not_know_are_listed(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "x")
    (folder / "red").rename(folder / "rot")
    (folder / "blue").rename(folder / "blau")
    path = onnx_file(tmp_path / "m.onnx", properties=NAMED)
    line = r"m\.onnx does not know these classes of x: blau, rot \(it has red, green, blue\)$"
    with pytest.raises(EdgelabError, match=line):
        gathered(path, folder)


def test_names_that_do_not_fit_the_outputs_are_refused(tmp_path: Path, folder: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", properties={"labels": "red, green"})
    with pytest.raises(EdgelabError, match=r"m\.onnx has 3 outputs but names 2 classes: mend its names"):
        gathered(path, folder)


def test_a_split_folder_is_measured_on_its_test_images(tmp_path: Path) -> None:
    for split, n in (("train", 30), ("test", 9)):
        picture_folder(tmp_path / "x" / split, n)
    found = gathered(onnx_file(tmp_path / "m.onnx", properties=NAMED), tmp_path / "x")
    assert (found.accuracy, found.n_images) == (1.0, 9)
    assert found.told["data"] == "9 test images"
    assert "found by trying 27 training images" in found.told["pixels"]


def test_a_folder_of_test_images_alone_is_measured_whole(tmp_path: Path) -> None:
    picture_folder(tmp_path / "only" / "test")
    found = gathered(onnx_file(tmp_path / "m.onnx", properties=NAMED), tmp_path / "only")
    assert (found.n_images, found.told["data"]) == (6, "6 images, not split")


def test_images_of_other_sizes_are_resized_and_it_is_said(tmp_path: Path, folder: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", properties=NAMED)
    large = picture_folder(tmp_path / "large", 6, (20, 30))
    mixed = picture_folder(tmp_path / "mixed", 6, (8, 8))
    picture_folder(mixed, 3, (12, 9))
    for images in (large, mixed):
        found = gathered(path, images)
        assert found.accuracy == 1.0
        assert "images resized to 8x8 (squeezed, not cropped), which the file takes" in found.notes
    assert not any("resized" in note for note in gathered(path, folder).notes)
    exact = picture_folder(tmp_path / "exact", 6, (24, 16))
    assert gathered(onnx_file(tmp_path / "e.onnx", sizes=("n", 24, 16, 3), properties=NAMED), exact).notes == []
    upright = gathered(onnx_file(tmp_path / "u.onnx", sizes=("n", 24, 16, 3), properties=NAMED), large)
    assert upright.accuracy == 1.0 and "images resized to 24x16" in " ".join(upright.notes)


def test_a_size_that_no_image_can_be_resized_to(tmp_path: Path, folder: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", sizes=("n", 4, 8, 3), properties=NAMED)
    with pytest.raises(EdgelabError, match=r"m\.onnx takes images of 4x8: resized they can be to 8 to 1024 a side"):
        gathered(path, folder)


def test_built_in_data_is_not_resized(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", properties={"labels": ",".join("0123456789")}, gain=np.ones((10, 3)))
    with pytest.raises(EdgelabError, match=r"m\.onnx takes inputs of 3x8x8, got images of 32x32x3"):
        gathered(path, "digits")


def test_one_channel_gets_grey(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    from PIL import Image

    for name, colour in (("dark", (90, 20, 40)), ("light", (10, 250, 100))):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(folder / name / "0.png")
    gain = np.array([[-1.0], [1.0]])  # the first output is the greater where grey is below the middle
    path = onnx_file(tmp_path / "m.onnx", sizes=("n", 8, 8, 1), gain=gain)
    found = gathered(path, folder, pixels="centred")
    assert found.accuracy == 1.0
    assert "images turned to grey, for the file takes one channel" in found.notes
    dataset = data.load_whole(folder)
    model = _fitting.Model(artifact.load(path), artifact.load(path).image_shape(), 2, None)
    grey = [np.asarray(Image.fromarray(image).convert("L")) for image in dataset.test.images]
    assert np.abs(_fitting.given(model, dataset, None).test.images[..., 0].astype(int) - np.stack(grey)).max() <= 1


@pytest.mark.parametrize("sizes", [("n", "h", "w", 3), ("n", "h", "w", "c")])
def test_an_open_size_is_that_of_the_images(tmp_path: Path, folder: Path, sizes: tuple) -> None:
    path = onnx_file(tmp_path / "m.onnx", sizes=sizes, properties=NAMED)
    found = gathered(path, folder)
    assert (found.accuracy, found.macs, found.notes) == (1.0, 9 * 64, [])
    alone = gathered(path)
    assert (alone.accuracy, alone.macs) == (None, 9 * 1024)
    assert "the file leaves the size of its images open: 32x32 was taken" in alone.notes
    mixed = picture_folder(tmp_path / "mixed", 6, (8, 8))
    picture_folder(mixed, 3, (12, 9))
    with pytest.raises(EdgelabError, match="expected images of one size"):
        gathered(path, mixed)


# What a float input is fed


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shade_folder(tmp_path_factory.mktemp("shades"))


@pytest.mark.parametrize(
    ("threshold", "chosen"),
    [(0.0, "-1..1 (centred)"), (0.75, "0..1 (unit)"), (128.0, "0..255 (raw)"), (0.1, "-1..1 (centred)")],
)
def test_what_a_float_input_takes_is_found_out_on_training_images(
    tmp_path: Path, shades: Path, threshold: float, chosen: str
) -> None:
    found = gathered(darkness(tmp_path / "m.onnx", threshold), shades)
    assert (found.accuracy, found.n_images) == (1.0, 20)
    assert found.told["pixels"].startswith(f"{chosen}, found by trying 36 training images: right were ")


def test_a_tie_or_a_hair_leaves_the_courses_own(tmp_path: Path, shades: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = darkness(tmp_path / "m.onnx", 1000.0)
    assert gathered(path, shades).told["pixels"].startswith("-1..1 (centred), found by trying")
    answers = {"centred": [1] * 10 + [0] * 30, "unit": [1] * 14 + [0] * 26, "raw": [0] * 40}
    monkeypatch.setattr(_fitting, "_right", lambda model, split, pixels: np.array(answers[pixels]))
    told = gathered(path, shades).told["pixels"]
    assert told.startswith("-1..1 (centred), the course's own, since none was clearly better on 36 "), (
        "4 of 40 is chance"
    )
    answers["unit"] = [1] * 20 + [0] * 20
    assert "(unit)" in gathered(path, shades).told["pixels"]
    answers["raw"] = [0] * 5 + [1] * 17 + [0] * 18
    assert "(unit)" in gathered(path, shades).told["pixels"]


def test_test_images_are_never_looked_at_to_choose(
    tmp_path: Path, shades: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    right = _fitting._right

    def watched(model: _fitting.Model, split: data.Split, pixels: artifact.Pixels) -> np.ndarray:
        seen.append({image.tobytes() for image in split.images})
        return right(model, split, pixels)

    monkeypatch.setattr(_fitting, "_right", watched)
    dataset = data.load(shades)
    monkeypatch.setattr(data, "load_whole", lambda *_, **__: shifted)
    shifted = data.Dataset(
        "x",
        dataset.train,
        dataset.validation,
        data.Split(dataset.test.images + 3, dataset.test.labels),
        dataset.class_names,
        "",
    )
    gathered(darkness(tmp_path / "m.onnx", 0.0), "x")
    test = {np.rint(image @ LUMA).astype(np.uint8)[..., None].tobytes() for image in shifted.test.images}
    train = {np.rint(image @ LUMA).astype(np.uint8)[..., None].tobytes() for image in dataset.train.images}
    assert len(seen) == 3 and all(images <= train for images in seen)
    assert len(test - train) > 0 and not any(images & (test - train) for images in seen)


def test_what_the_metadata_say_is_not_found_out_by_trying(
    tmp_path: Path, shades: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fed 0..255 the file would be right more often, but this is not what it asks for."""
    import onnx

    monkeypatch.setattr(_fitting, "_right", lambda *_: pytest.fail("tried"))
    path = darkness(tmp_path / "m.onnx", 128.0)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"Image.NominalPixelRange": "Normalized_0_1"})
    onnx.save(model, path)
    found = gathered(path, shades)
    assert (found.accuracy, found.told["pixels"]) == (0.5, "0..1 (unit), as the file's metadata say")
    assert gathered(path, shades, pixels="raw").accuracy == 1.0


def test_images_of_few_classes_are_no_trial(tmp_path: Path) -> None:
    """All images are red: whatever is fed, answers in favour of red would win."""
    red = picture_folder(tmp_path / "reds")
    for other in ("green", "blue"):
        shutil.rmtree(red / other)
    found = gathered(onnx_file(tmp_path / "m.onnx", properties=NAMED), red)
    assert found.told["pixels"] == (
        "-1..1 (centred), the course's own: images of 1 of 3 classes are too few to find out, give --pixels"
    )


def test_values_that_are_no_numbers_are_no_answers(tmp_path: Path, folder: Path) -> None:
    path = darkness(tmp_path / "m.onnx", np.nan)
    with pytest.raises(EdgelabError, match=r"m\.onnx gives values that are no numbers: make it anew$"):
        gathered(path, folder)


def test_several_images_at_once_share_the_time(tmp_path: Path, folder: Path) -> None:
    four = gathered(onnx_file(tmp_path / "m.onnx", sizes=(4, 8, 8, 3), properties=NAMED), folder)
    whole = re.fullmatch(r"(\S+) ms an image; a run of 4 images: (\S+) ms \(.*, batch 4, .*", four.told["latency"])
    assert float(whole[1]) == pytest.approx(float(whole[2]) / 4, rel=0.01) == pytest.approx(four.latency_ms, rel=0.01)


def test_where_there_are_no_training_images_it_is_said(tmp_path: Path, folder: Path) -> None:
    found = gathered(onnx_file(tmp_path / "m.onnx", properties=NAMED), folder)
    assert "trying 12 of the measured images (there are no others): right were 12 fed -1..1, 12" in found.told["pixels"]


def test_what_was_asked_for_and_what_a_quantized_input_says(tmp_path: Path, shades: Path, folder: Path) -> None:
    path = darkness(tmp_path / "m.onnx", 128.0)
    found = gathered(path, shades, pixels="unit")
    assert (found.accuracy, found.told["pixels"]) == (0.5, "0..1 (unit), as asked")
    quantized = gathered(tflite_file(tmp_path / "m.tflite", "int8"), folder, pixels="raw")
    assert quantized.told["pixels"] == "-1..1 (centred), for the int8 input has scale 0.0078125 and zero point 0"


def test_an_integer_input_without_a_scale_gets_plain_pixels(tmp_path: Path, folder: Path) -> None:
    found = gathered(onnx_file(tmp_path / "m.onnx", "uint8", properties=NAMED, scaled=False), folder)
    assert (found.accuracy, found.told["pixels"]) == (1.0, "0..255 (raw), for the uint8 input has no scale")


@pytest.mark.parametrize("size", [8, "any"])
def test_data_may_take_longer_than_the_first_inference(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, size: int | str
) -> None:
    events: list[object] = [True]
    find, predict = _fitting.find, artifact.Artifact.predict
    monkeypatch.setattr(isolated, "limit", events.append)
    monkeypatch.setattr(_fitting, "find", lambda *a: events.append("find") or find(*a))
    monkeypatch.setattr(artifact.Artifact, "predict", lambda *a: events.append("run") or predict(*a))
    gathered(onnx_file(tmp_path / "m.onnx", sizes=("n", size, size, 3), properties=NAMED), folder)
    assert events[events.index("find") - 1] is False
    assert events[events.index("run") - 1] is True
    assert events[-1] == "run" and events[events.index("run") + 1] is False


# Samples and data sets


def test_a_limit_takes_the_fixed_sample(tmp_path: Path, folder: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", properties=NAMED)
    found = gathered(path, folder, limit=6)
    assert (found.n_images, found.told["data"]) == (6, "a fixed sample of 6 of the 12 images, not split")
    assert gathered(path, folder, limit=99).n_images == 12
    dataset = data.load_whole(folder)
    model = _fitting.Model(artifact.load(path), artifact.load(path).image_shape(), 3, ("red", "green", "blue"))
    labels = _fitting.given(model, dataset, 6).test.labels
    assert np.bincount(labels).tolist() == [2, 2, 2]


def test_without_data_there_is_no_accuracy_and_a_line_says_how_to_get_it(tmp_path: Path) -> None:
    found = gathered(tflite_file(tmp_path / "m.tflite"))
    empty = ["accuracy", "accuracy_ci95", "n_images", "data", "data_fingerprint"]
    assert [key for key, value in found.as_json().items() if value is None] == empty
    assert found.notes == ["no data was named, and none at hand fits: give --data NAME or PATH for the accuracy"]


def nearest(path: Path, dataset: data.Dataset) -> Path:
    """A file that finds the class whose mean image is nearest: good at the data it is made from."""
    from onnx import TensorProto, helper, numpy_helper, save

    pixels = data.normalise(dataset.train.images).reshape(len(dataset.train), -1)
    means = np.stack([pixels[dataset.train.labels == c].mean(0) for c in range(10)])
    weight = means.T.reshape(32, 32, 3, 10).transpose(2, 0, 1, 3).reshape(-1, 10).astype(np.float32)
    stored = {"w": weight, "b": (-0.5 * (means**2).sum(1)).astype(np.float32)}
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("images", ["n", 3, 32, 32]), ("logits", ["n", 10]))
    ]
    graph = helper.make_graph(
        nodes, "nearest", ports[:1], ports[1:], [numpy_helper.from_array(v, n) for n, v in stored.items()]
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_data_at_hand_that_the_file_knows_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.load("digits")
    known = nearest(tmp_path / "known.onnx", digits)
    found = gathered(known)
    assert found.data == "digits" and found.n_images == 359 and found.accuracy > 0.8
    (note,) = [note for note in found.notes if "no data was named" in note]
    assert note.startswith("no data was named: digits was tried, and 1")
    stranger = data.Split(digits.train.images, (digits.train.labels + 1) % 10)
    unknown = nearest(
        tmp_path / "unknown.onnx", data.Dataset("x", stranger, stranger, stranger, digits.class_names, "")
    )
    assert gathered(unknown).data is None
    named = onnx_file(
        tmp_path / "named.onnx",
        sizes=("n", 32, 32, 3),
        gain=np.ones((10, 3)),
        properties={"names": ",".join("abcdefghij")},
    )
    assert gathered(named).data is None
    monkeypatch.setattr(_fitting._cifar, "is_here", lambda: True)
    monkeypatch.setattr(data, "load", lambda name: {"digits": digits, "cifar10": cifar}[name])
    cifar = data.Dataset("cifar10-jpeg", stranger, stranger, stranger, digits.class_names, "f")
    assert gathered(unknown).data == "cifar10-jpeg"


def test_the_guard_is_heard_and_the_jpeg_copy_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pictures(30)
    split = data.Split(images, labels.astype(np.int64))
    dataset = data.Dataset("cifar10-jpeg", split, split, split, ("red", "green", "blue"), "f")
    monkeypatch.setattr(data, "load", lambda name: dataset)
    found = gathered(onnx_file(tmp_path / "m.onnx"), "cifar10-jpeg")
    assert found.accuracy == 1.0
    assert any("results on test will be too good" in note for note in found.notes)
    assert found.notes[-1].startswith(
        "so this is not the published accuracy of a network that was trained and measured"
    )


# What cannot be measured


def test_a_file_that_takes_no_images_has_all_but_an_accuracy(tmp_path: Path, folder: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    path = tmp_path / "flat.onnx"
    weight = numpy_helper.from_array(np.ones((40, 2), np.float32), "w")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 40), ("y", 2))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "flat", ports[:1], ports[1:], [weight])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    found = gathered(path, explain=True)
    assert (found.macs, found.accuracy) == (80, None) and found.latency_ms > 0
    assert found.notes == ["the file takes no images: its accuracy was not measured, its latency on noise"]
    assert found.explain["int8"].startswith("flat.onnx is not quantized")
    with pytest.raises(EdgelabError, match=r"flat\.onnx takes inputs of 40: expected images"):
        gathered(path, folder)


def test_what_cannot_be_counted_is_a_note(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EdgelabError("this operator has no shape")

    monkeypatch.setattr("edgelab.layers.layer_table", fail)
    monkeypatch.setattr("edgelab.memory.peak_activations", fail)
    found = gathered(onnx_file(tmp_path / "m.onnx", properties=NAMED), folder)
    assert (found.accuracy, found.macs, found.energy_uj, found.ram_bytes) == (1.0, None, None, None)
    assert found.notes == ["this operator has no shape"]
    assert "MACs" not in report.in_words(found)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"limit": 0}, "expected a limit of one image or more, got 0"),
        ({"threads": 0}, "expected 1 to 256 threads, got 0"),
        ({"threads": 100_000}, "expected 1 to 256 threads, got 100000"),
        ({"pixels": "bgr"}, "expected pixels auto, centred, unit, raw, got 'bgr'"),
        ({"name_or_path": " "}, "expected the name of a data set or a path to images, got nothing"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict, line: str) -> None:
    path = onnx_file(tmp_path / "m.onnx")
    with pytest.raises(EdgelabError, match=f"^{line}$"):
        report.measure(path, **{"name_or_path": "digits", **options})


def test_a_missing_file_needs_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "Worker", None)
    for ask in (report.measure, report.macs):
        with pytest.raises(EdgelabError, match=r"there is no model file at .*none\.onnx"):
            ask(str(tmp_path / "none.onnx"))
        with pytest.raises(EdgelabError, match=r"ending in \.tflite or \.onnx, got 'm\.pt'"):
            ask(str(tmp_path / "m.pt"))
    with pytest.raises(EdgelabError, match=r"expected a \.tflite or \.onnx file or one of plain_cnn, .* got 'resnet9'"):
        report.macs("resnet9")


# In a child process


def test_measured_in_a_child_that_loads_no_framework(tmp_path: Path, folder: Path) -> None:
    path = tflite_file(tmp_path / "m.tflite", "int8")
    found = report.measure(path, str(folder), limit=6)
    assert (found.n_images, found.data, found.macs) == (6, "colours", 576)
    code = f"""import sys
from edgelab import report
report.gather({str(path)!r}, {str(folder)!r}, None, 1, "auto", False)
heavy = {{"torch", "tensorflow", "keras", "tf_keras", "onnx", "onnxruntime", "pandas", "sklearn"}}
print(*sorted(heavy & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_explanation_takes_the_size_and_threads_that_the_rest_took(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgelab import explain

    asked = []

    def answer(path: Path, other: None, image: np.ndarray, threads: int) -> SimpleNamespace:
        asked.append((path.name, other, image.shape, image.dtype.name, threads))
        return SimpleNamespace(verdict=f"verdict {len(asked)}", int8=None)

    monkeypatch.setattr(explain, "int8", answer)
    monkeypatch.setattr(explain, "sparsity", answer)
    path = onnx_file(tmp_path / "m.onnx", sizes=("n", "h", "w", 3), properties=NAMED)
    assert gathered(path, folder, threads=2, explain=True).explain == {"int8": "verdict 1", "sparsity": "verdict 2"}
    assert asked == [("m.onnx", None, (1, 8, 8, 3), "uint8", 2)] * 2


def test_the_runtime_gets_the_threads_that_were_asked_for(tmp_path: Path, folder: Path) -> None:
    found = gathered(tflite_file(tmp_path / "m.tflite"), folder, threads=2)
    assert "2 threads" in found.told["latency"]


# macs


def test_macs_of_a_file_come_whole_from_the_child(tmp_path: Path) -> None:
    for path in (tflite_file(tmp_path / "m.tflite", "int8"), onnx_file(tmp_path / "m.onnx", "int8", "NHWC")):
        assert report.macs(str(path)) == layer_table(path)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_macs_take_the_size_in_one_order_whatever_the_layout(tmp_path: Path, layout: str) -> None:
    path = str(onnx_file(tmp_path / "m.onnx", layout=layout, sizes=("n", "h", "w", 3)))
    assert report.macs(path, (10, 20, 3)).macs == 9 * 200
    with pytest.raises(
        EdgelabError, match=r"m\.onnx leaves the size of its images open: give --input HEIGHTxWIDTHxCHANNELS$"
    ):
        report.macs(path)
    with pytest.raises(EdgelabError, match=r"m\.onnx takes images of anyxanyx3, got 10x20x5 as input"):
        report.macs(path, (10, 20, 5))


# In words


def test_the_report_in_words_has_the_figures_with_their_units(tmp_path: Path, folder: Path) -> None:
    found = gathered(tflite_file(tmp_path / "m.tflite", "int8"), folder)
    found.told["arena"] = "1,234 bytes"
    row = {"kind": "CONV_2D", "runs_in": "XNNPACK", "arithmetic": "int8", "output": "8x8x3", "macs": 1576}
    times = {"ms": 0.01234, "share": 0.987, "float32_ms": None}
    found.explain = {"int8": "word " * 40, "operators": [{**row, **times}]}
    text = report.in_words(found)
    low, high = (f"{100 * end:.2f}" for end in measure.wilson(4, 12))
    assert text.startswith(f"{found.file}: int8 input 8x8x3, int8 output 3, run by ai-edge-litert ")
    for line in (
        f"accuracy    33.33 % (95 % interval {low} to {high}), 4 of 12",
        f"data        colours, 12 images, not split, fingerprint {found.data_fingerprint[:12]}",
        "pixels      -1..1 (centred), for the int8 input has scale 0.0078125 and zero point 0",
        f"size        {found.bytes:,} bytes, {found.gzip_bytes:,} with gzip",
        "parameters  12, of which 3 are not zero",
        "MACs        576 an image, of which 192 are on weights that are not zero",
        "not counted AVERAGE_POOL_2D 1, RESHAPE 1",
        "RAM         384 bytes of activations at the peak, at t3",
        "            1,234 bytes: arena of TensorFlow Lite Micro",
        "int8        " + " ".join(["word"] * 21),
        "            " + " ".join(["word"] * 19),
        "operators, in the order they run:",
        "operator  runs in  numbers  output   MACs      ms  share  float32 ms",
        "CONV_2D   XNNPACK  int8     8x8x3   1,576  0.0123  98.7%           -",
    ):
        assert f"\n{line}\n" in text + "\n", line
    assert " relative: an ESTIMATE by rule of thumb, " in text
    assert " uJ an image: an ESTIMATE " in text
    (latency,) = [line for line in text.splitlines() if line.startswith("latency")]
    assert re.search(r" ms \(half of \d+ runs .*, 1 thread, ", latency)


def test_the_table_in_words_adds_up_and_cuts_long_names(tmp_path: Path) -> None:
    table = report.macs(str(onnx_file(tmp_path / "m.onnx")))
    text = report.table_in_words(table).splitlines()
    assert text[0].split() == ["layer", "kind", "input", "output", "kernel", "parameters", "MACs"]
    (conv,) = [line for line in text if "convolution" in line]
    assert conv.split() == ["c", "convolution", "3x8x8", "3x8x8", "1x1", "9", "576"]
    (total,) = [line for line in text if line.startswith("total")]
    assert total.split() == ["total", "9", "576"] and total.endswith(conv[-3:])
    assert text[-1] == "not counted: Cast 2, ReduceMean 1"
    assert report._short("a" * 40 + "end") == "..." + "a" * 24 + "end"
