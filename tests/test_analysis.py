"""The look at an image folder: what is planted is found, what is clean is left alone."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgelab import analysis, data, folders, plots
from edgelab.errors import EdgelabError

Pictures = dict[str, np.ndarray]


def scene(seed: int, height: int = 40, width: int = 40) -> np.ndarray:
    """A picture of smooth coloured patches, unlike any other."""
    coarse = np.random.default_rng(seed).integers(20, 236, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def clean(each: int = 15) -> Pictures:
    """Two classes of `each` pictures."""
    names = [f"{label}/{i:02}.png" for label in ("cat", "dog") for i in range(each)]
    return {name: scene(i) for i, name in enumerate(names)}


def recompressed(image: np.ndarray) -> np.ndarray:
    """Brighter, and through JPEG."""
    stream = io.BytesIO()
    Image.fromarray((image * 0.85 + 25).astype(np.uint8)).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream))


def look(folder: Path, pictures: Pictures, **how: float) -> analysis.Analysis:
    """The analysis of a folder with these pictures."""
    return analysis.analyse(folders.write(pictures, folder / "set"), **how)  # type: ignore[arg-type]


def test_nothing_is_found_in_clean_images(tmp_path: Path) -> None:
    found = look(tmp_path, clean())
    assert found.problems() == []
    assert found.removable() == []
    assert len(found.copies) == len(found.outliers) == 0
    assert found.imbalance == 1


def test_nothing_is_removed_from_digits() -> None:
    digits = data.load("digits").train
    zeros = [analysis._described(image)[1] for image in digits.images[digits.labels == 0]]
    small, hashes = (np.stack(part) for part in zip(*zeros, strict=True))
    assert len(analysis._near(small, hashes[:, :1], analysis.LEAST_LIKE)) == 0


def test_copies_are_found_exact_near_turned_and_mirrored(tmp_path: Path) -> None:
    pictures = clean()
    pictures["cat/copy.png"] = pictures["cat/03.png"]
    pictures["cat/bright.png"] = recompressed(pictures["cat/04.png"])
    pictures["dog/turned.png"] = np.rot90(pictures["dog/05.png"]).copy()
    pictures["dog/mirrored.png"] = recompressed(pictures["dog/06.png"])[:, ::-1].copy()
    pictures["dog/larger.png"] = scene(22, 120, 120)
    found = look(tmp_path, pictures)
    groups = [set(part["file"]) for _, part in found.copies.groupby("group")]
    assert groups == [
        {"cat/03.png", "cat/copy.png"},
        {"cat/04.png", "cat/bright.png"},
        {"dog/05.png", "dog/turned.png"},
        {"dog/06.png", "dog/mirrored.png"},
        {"dog/07.png", "dog/larger.png"},
    ]
    assert list(found.copies.groupby("group")["kind"].first()) == ["exact", "near", "near", "near", "near"]
    assert found.removable() == [
        "cat/bright.png",
        "cat/copy.png",
        "dog/larger.png",
        "dog/mirrored.png",
        "dog/turned.png",
    ]
    assert found.problems()[0].startswith("copies: 5 image(s) there more than once (8 near, 2 exact copies in all)")


def test_turned_copies_can_be_left_alone(tmp_path: Path) -> None:
    pictures = clean()
    pictures["dog/turned.png"] = np.rot90(pictures["dog/05.png"]).copy()
    assert len(look(tmp_path, pictures, turned=False).copies) == 0


def test_the_bar_for_copies_can_be_raised(tmp_path: Path) -> None:
    pictures = clean()
    pictures["dog/bright.png"] = recompressed(pictures["dog/05.png"])
    assert len(look(tmp_path, pictures, alike=0.99).copies) == 2
    assert len(look(tmp_path, pictures, alike=0.99999).copies) == 0


def test_a_leak_between_training_and_test_is_said_and_the_test_image_kept(tmp_path: Path) -> None:
    pictures = {f"train/{name}": image for name, image in clean().items()}
    pictures |= {f"test/{label}/{i}.png": scene(90 + i) for label, i in (("cat", 1), ("dog", 2))}
    pictures["test/dog/leak.png"] = recompressed(pictures["train/dog/02.png"])
    found = look(tmp_path, pictures)
    assert found.leaks() == found.removable() == ["train/dog/02.png"]
    assert "leak: 1 training image(s) have copies among the test images" in found.problems()
    assert found.balance().to_dict("list") == {
        "class": ["cat", "dog"],
        "test": [1, 2],
        "train": [15, 15],
        "images": [16, 17],
        "share": [16 / 33, 17 / 33],
    }


def test_copies_in_two_classes_contradict_and_all_go(tmp_path: Path) -> None:
    pictures = clean()
    pictures["dog/cat.png"] = pictures["cat/03.png"]
    found = look(tmp_path, pictures)
    assert found.contradictions() == found.removable() == ["cat/03.png", "dog/cat.png"]
    assert any(line.startswith("contradiction: 2 copies") for line in found.problems())


def test_an_empty_image_is_an_outlier_and_removable(tmp_path: Path) -> None:
    pictures = clean() | {"cat/empty.png": np.full((40, 40, 3), 250, np.uint8)}
    found = look(tmp_path, pictures)
    assert set(found.outliers["file"]) == {"cat/empty.png"}
    assert found.removable() == ["cat/empty.png"]
    assert "empty: 1 image(s) of a single colour, such as cat/empty.png" in found.problems()


def test_two_empty_images_of_two_classes_do_not_contradict_but_both_go(tmp_path: Path) -> None:
    empty = np.full((40, 40, 3), 250, np.uint8)
    found = look(tmp_path, clean() | {"cat/empty.png": empty, "dog/empty.png": empty // 2})
    assert found.removable() == ["cat/empty.png", "dog/empty.png"]
    assert found.contradictions() == []


def test_an_image_unlike_its_class_is_found_but_left_to_a_second_look(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    found = look(tmp_path, clean() | {"dog/noise.png": noise})
    (row,) = found.outliers.to_dict("records")
    assert (row["file"], row["statistic"]) == ("dog/noise.png", "detail")
    assert row["z"] > analysis.FAR
    assert row["value"] > row["median"]
    assert found.removable() == []
    assert found.problems()[0].startswith("outliers: 1 image(s) unlike their class, such as dog/noise.png (detail ")


def test_of_a_few_images_none_is_called_an_outlier(tmp_path: Path) -> None:
    pictures = clean(4) | {"cat/dark.png": scene(50) // 20}
    assert len(look(tmp_path, pictures).outliers) == 0


def test_imbalance_is_said_with_its_ratio(tmp_path: Path) -> None:
    pictures = clean() | {f"dog/{i}.png": scene(i) for i in range(200, 215)}
    found = look(tmp_path, pictures)
    assert found.imbalance == 2
    assert found.problems() == [
        "unbalanced: 'dog' has 30 images, 'cat' 15 (2.0 times as many): read the accuracy by class"
    ]


def test_means_and_variances_are_those_of_all_pixels(tmp_path: Path) -> None:
    pictures = clean(3)
    channels = look(tmp_path, pictures).channels().set_index("class")
    groups = {label: [image for name, image in pictures.items() if name.startswith(label)] for label in ("cat", "dog")}
    for label, images in {**groups, "all": list(pictures.values())}.items():
        pixels = np.stack(images).reshape(-1, 3).astype(float)
        for at, channel in enumerate(analysis.CHANNELS):
            assert channels.loc[label, f"mean_{channel}"] == pytest.approx(pixels[:, at].mean(), abs=1e-3)
            assert channels.loc[label, f"variance_{channel}"] == pytest.approx(pixels[:, at].var(), rel=1e-4)


def test_sizes_and_shapes_are_those_of_the_files(tmp_path: Path) -> None:
    found = look(tmp_path, clean(3) | {"cat/wide.png": scene(70, 30, 120), "dog/high.png": scene(71, 80, 20)})
    assert found.sizes().set_index("what")["max"].to_dict() == {"width": 120, "height": 80, "aspect": 4}
    assert found.problems() == [
        "sizes: 20x30 to 120x80 pixels, 0.25 to 4.00 times as wide as high: all are squeezed to one shape, here and in "
        "edgelab predict"
    ]


def test_the_hash_is_the_sign_of_neighbouring_differences() -> None:
    ramp = np.repeat(np.arange(0, 180, 5, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    assert analysis.dhash(ramp).all()
    assert not analysis.dhash(ramp[:, ::-1]).any()
    assert analysis.dhash(ramp).shape == (64,)
    different = (analysis.dhash(scene(1)) != analysis.dhash(recompressed(scene(1)))).sum()
    assert different <= 4 < 16 < (analysis.dhash(scene(1)) != analysis.dhash(scene(2))).sum()


def test_the_robust_z_score_is_not_moved_by_what_it_is_to_find() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 1000])
    assert analysis.robust_z(values)[-1] == pytest.approx((1000 - 3.5) / (1.4826 * 1.5))
    assert np.abs((values - values.mean()) / values.std()).max() < 3, "the usual score does not see it"
    assert analysis.robust_z(np.array([2.0, 2, 2, 3])).tolist() == [0, 0, 0, np.inf]
    assert analysis.robust_z(np.array([2.0, 2, 2, 3]), floor=1).tolist() == [0, 0, 0, 1]
    normal = np.random.default_rng(0).normal(5, 3, 20_000)
    assert analysis.robust_z(normal).std() == pytest.approx(1, abs=0.03)


def test_archives_are_read_like_folders(tmp_path: Path) -> None:
    folder = folders.write(clean(4), tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    found, packed = analysis.analyse(folder), analysis.analyse(tmp_path / "set.zip")
    assert (packed.images["file"] == "set/" + found.images["file"]).all()
    assert packed.channels().equals(found.channels())


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ({}, "^{0}: expected images .* found none$"),
        ({"loose.png": scene(1), "cat/1.png": scene(2)}, "^{0}: expected train/<class>/.* found loose.png$"),
        ({"cat/1.png": None, "dog/1.png": scene(2)}, "^{0}: cannot read the image cat/1.png .*: mend or remove it$"),
    ],
)
def test_a_folder_that_cannot_be_used_is_said_in_one_line(tmp_path: Path, pictures: Pictures, message: str) -> None:
    folder = folders.write({name: image for name, image in pictures.items() if image is not None}, tmp_path / "set")
    for name in (name for name, image in pictures.items() if image is None):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(EdgelabError, match=message.format(folder)):
        analysis.analyse(folder)


def test_a_path_that_is_not_there_and_an_impossible_bar(tmp_path: Path) -> None:
    with pytest.raises(EdgelabError, match=r"^there is no data set '.*nowhere'"):
        analysis.analyse(tmp_path / "nowhere")
    with pytest.raises(EdgelabError, match=r"^expected alike, a correlation, between 0 and 1, got 99: 0.99 is usual$"):
        analysis.analyse(tmp_path, alike=99)


class TestFigure:
    def test_words_and_table_say_what_is_drawn(self, tmp_path: Path) -> None:
        found = look(tmp_path, clean(3) | {"dog/x.png": scene(40)})
        figure = plots.classes(found.balance(), found.channels(), "The folder.")
        assert figure.alt.startswith("The folder. Images: cat 3, dog 4. Mean of the channels over all: red ")
        mean = found.channels().set_index("class").loc["cat", "mean_red"]
        assert f"{round(mean, 4):,.4g}" in figure.table.html
        for text in ("cat", "dog", "all", "variance_blue", "share"):
            assert f">{text}</" in figure.table.html
        assert figure.svg.count(b"<svg") == 1

    def test_nothing_to_draw(self, tmp_path: Path) -> None:
        found = look(tmp_path, clean(3))
        with pytest.raises(EdgelabError, match=r"^no classes to draw: analyse a folder"):
            plots.classes(found.balance().iloc[:0], found.channels(), "x")


class TestFolders:
    def test_images_of_a_split_come_back_in_their_classes(self, tmp_path: Path) -> None:
        split = data.Split(np.stack(list(clean(4).values())), np.arange(8) % 2)
        named = folders.pictures(split, ("a", "b"))
        assert list(named) == [f"{label}/00{i}.png" for i in range(4) for label in "ab"]
        assert list(folders.pictures(split, ("a", "b"), {"b": 2})) == ["b/000.png", "b/001.png"]
        read = data.load_whole(folders.write(named, tmp_path / "set")).test
        assert np.array_equal(read.images, np.concatenate([split.images[::2], split.images[1::2]]))

    def test_the_same_pictures_give_the_same_data_set_without_decoding_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = data.load(folders.write(clean(), tmp_path / "set"))
        folders.write(clean(), tmp_path / "set")
        monkeypatch.setattr("edgelab._images.upright", lambda *_: pytest.fail("decoded again"))
        assert data.load(tmp_path / "set").fingerprint == first.fingerprint

    def test_changed_pictures_of_the_same_size_are_seen(self, tmp_path: Path) -> None:
        plain = {f"{label}/{i}.png": np.full((8, 8, 3), i, np.uint8) for label in "ab" for i in range(3)}
        first = data.load(folders.write(plain, tmp_path / "set"))
        other = folders.write({name: image + 1 for name, image in plain.items()}, tmp_path / "set")
        assert data.load(other).fingerprint != first.fingerprint

    def test_files_are_left_out_and_the_source_stays(self, tmp_path: Path) -> None:
        source = folders.write(clean(4), tmp_path / "set")
        copy = folders.without(source, ["cat/00.png", "dog/02.png"], tmp_path / "copy")
        names = {str(path.relative_to(copy)) for path in copy.rglob("*.png")}
        assert names == set(clean(4)) - {"cat/00.png", "dog/02.png"}
        assert (copy / "cat/01.png").read_bytes() == (source / "cat/01.png").read_bytes()
        assert len(list(source.rglob("*.png"))) == 8

    def test_a_file_that_is_not_there_is_said_before_anything_is_written(self, tmp_path: Path) -> None:
        source = folders.write(clean(4), tmp_path / "set")
        with pytest.raises(EdgelabError, match=r"set has no image 'cat/99.png' to leave out"):
            folders.without(source, ["cat/99.png"], tmp_path / "copy")
        assert not (tmp_path / "copy").exists()

    def test_a_folder_of_the_user_is_never_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        with pytest.raises(EdgelabError, match=r"mine is there and was not written by edgelab: name another folder$"):
            folders.write(clean(1), tmp_path / "mine")
        assert (tmp_path / "mine").is_dir()


def test_transparent_images_are_trained_on_as_predict_sees_them(tmp_path: Path) -> None:
    from edgelab import pictures

    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(3):
            image = Image.fromarray(scene(i)).convert("RGBA")
            image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))))
            image.save(tmp_path / "set" / label / f"{i}.png")
    dataset = data.load_whole(tmp_path / "set", image_size=32)
    seen, _ = pictures.read(tmp_path / "set" / "a" / "1.png", 32, 32)
    assert np.array_equal(dataset.test.images[1], seen)
    assert (seen[:, 0] > 240).all()
