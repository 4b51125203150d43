from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import os
import pickle
import re
import shutil
import socketserver
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgelab import _cifar, _guard, _images, data
from edgelab.errors import EdgelabError

Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the user's CIFAR-10 or goes to the network."""
    monkeypatch.delenv("EDGELAB_DATA", raising=False)
    monkeypatch.setattr(_cifar, "MIRRORS", ("http://127.0.0.1:1/none",))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def picture(value: int = 0, size: tuple[int, int] = (8, 8), form: str = "PNG", mode: str = "RGB") -> bytes:
    """An encoded image of random pixels; `value` is the seed, and the value of the first one."""
    width, height = size
    pixels = np.random.default_rng(value).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[0, 0] = value
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


def split_files(train: int = 4, test: int = 2, classes: tuple[str, ...] = ("cat", "dog")) -> Files:
    """train/<class>/* and test/<class>/* with a different picture in every file."""
    return {
        f"{split}/{label}/{i:03}.png": picture(100 * (split == "test") + 10 * c + i)
        for split, n in (("train", train), ("test", test))
        for c, label in enumerate(classes)
        for i in range(n)
    }


def as_folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_tar(path: Path, files: Files) -> Path:
    kind = {".gz": "w:gz", ".xz": "w:xz", ".tgz": "w:gz", ".txz": "w:xz"}.get(path.suffix.lower(), "w")
    with tarfile.open(path, kind) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def as_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def kept_files(cache: Path) -> list[str]:
    """What lies in the cache apart from lock files."""
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file() and p.name != ".lock")


def same(a: data.Dataset, b: data.Dataset) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("train", "validation", "test")]
    equal = all(np.array_equal(x.images, y.images) and np.array_equal(x.labels, y.labels) for x, y in pairs)
    return equal and (a.class_names, a.fingerprint) == (b.class_names, b.fingerprint)


class TestSplits:
    def test_normalise_is_the_int8_input_of_scale_one_over_128(self):
        values = data.normalise(np.array([0, 128, 255], dtype=np.uint8))
        assert values.dtype == np.float32
        assert values.tolist() == [-1.0, 0.0, 127 / 128]

    def test_the_holdout_is_the_one_every_record_was_made_with(self):
        kept, held = data.stratified_holdout(np.arange(100) % 10, 0.2)
        assert np.bincount(held % 10).tolist() == [2] * 10
        assert sorted([*kept, *held]) == list(range(100))
        assert held[:6].tolist() == [6, 7, 14, 18, 21, 24]

    def test_the_smallest_class_still_gives_one(self):
        assert data.stratified_holdout(np.array([0, 0, 0, 1, 1]), 0.1)[1].size == 2

    def test_the_fingerprint_is_pinned_and_covers_pixels_labels_and_names(self):
        images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
        split = data.Split(images, np.array([0, 1]))
        mark = data.fingerprint(split, split, ("a", "b"))
        assert mark == "fac5f84548b98523deb683c8b3314ffa96987ef698b8ffca090b0d157eab11ca"
        others = [
            (data.Split(images + 1, split.labels), split, ("a", "b")),
            (split, data.Split(images, split.labels[::-1]), ("a", "b")),
            (split, split, ("a", "c")),
        ]
        assert mark not in {data.fingerprint(*other) for other in others}


class TestDigits:
    def test_it_is_what_the_ci_profile_was_made_with(self):
        digits = data.load()
        assert (digits.name, digits.class_names) == ("digits", tuple("0123456789"))
        assert [len(digits.train), len(digits.validation), len(digits.test)] == [1295, 143, 359]
        assert digits.train.images.shape[1:] == (32, 32, 3)
        assert (digits.train.images.dtype, digits.train.labels.dtype) == (np.uint8, np.int64)
        assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
        assert digits.fingerprint == "6e577cb9066e3452f698b1b50068a34a2576bbcdc4289a60ff02b5ed1d929eed"

    def test_the_guard_finds_nothing_wrong_with_it(self):
        assert data.find_problems(data.load("digits")) == []

    def test_image_size(self):
        assert data.load("digits", image_size=16).test.images.shape == (359, 16, 16, 3)

    @pytest.mark.parametrize("size", [0, -32, 7, 5000, 32.0, "32"])
    def test_an_impossible_size_is_refused(self, size: int):
        with pytest.raises(EdgelabError, match="expected image_size from 8 to 1024 pixels, got"):
            data.load("digits", image_size=size)


class TestImageFolder:
    def test_pixels_labels_and_order(self, tmp_path: Path):
        files = split_files(classes=("dog", "Zebra", "cat"))
        found = data.load(as_folder(tmp_path / "pets", files))
        assert found.name == "pets"
        assert found.class_names == ("Zebra", "cat", "dog")
        assert found.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        expected = [files[f"test/{c}/{i:03}.png"] for c in ("Zebra", "cat", "dog") for i in (0, 1)]
        assert np.array_equal(found.test.images, [np.asarray(Image.open(io.BytesIO(f))) for f in expected])
        assert [len(found.train), len(found.validation)] == [9, 3]
        assert sorted(np.bincount(found.train.labels)) == [3, 3, 3]

    def test_the_fingerprint_is_over_the_training_images_before_the_split(self, tmp_path: Path):
        files = split_files()
        found = data.load(as_folder(tmp_path / "pets", files))
        pixels = {name: np.asarray(Image.open(io.BytesIO(content))) for name, content in files.items()}
        splits = [
            data.Split(
                np.stack([pixels[name] for name in sorted(files) if name.startswith(split)]),
                np.array([int("dog" in name) for name in sorted(files) if name.startswith(split)]),
            )
            for split in ("train", "test")
        ]
        assert found.fingerprint == data.fingerprint(*splits, ("cat", "dog"))

    def test_without_a_test_folder_a_fifth_of_each_class_is_the_test_split(self, tmp_path: Path):
        files = {f"{label}/{i}.png": picture(10 * c + i) for c, label in enumerate("ab") for i in range(10)}
        found = data.load(as_folder(tmp_path / "two", files))
        assert [len(found.train), len(found.validation), len(found.test)] == [14, 2, 4]
        assert np.bincount(found.test.labels).tolist() == [2, 2]
        assert data.find_problems(found) == []

    @pytest.mark.parametrize("wrap", ["", "pets-v1/", "a/b/"])
    def test_folders_around_it_are_looked_through(self, tmp_path: Path, wrap: str):
        plain = data.load(as_folder(tmp_path / "plain", split_files()))
        assert same(plain, data.load(as_folder(tmp_path / "w", {wrap + n: c for n, c in split_files().items()})))

    def test_only_train_is_split_like_plain_classes(self, tmp_path: Path):
        files = {name: content for name, content in split_files(train=5).items() if name.startswith("train")}
        assert len(data.load(as_folder(tmp_path / "t", files)).test) == 2

    def test_formats_modes_and_suffixes(self, tmp_path: Path):
        kinds = [("x.JPG", "JPEG", "RGB"), ("x.jpeg", "JPEG", "L"), ("x.webp", "WEBP", "RGBA"), ("x.PNG", "PNG", "P")]
        files = split_files()
        for i, (name, form, mode) in enumerate(kinds):
            files[f"train/cat/{i}{name}"] = picture(50 + i, form=form, mode=mode)
        found = data.load(as_folder(tmp_path / "pets", files))
        assert len(found.train) + len(found.validation) == 12

    def test_other_and_hidden_files_are_passed_over(self, tmp_path: Path):
        extra = {"README.md": b"x", "train/cat/._000.png": b"x", ".git/a.png": b"x", "__MACOSX/train/cat/0.png": b"x"}
        plain = data.load(as_folder(tmp_path / "plain", split_files()))
        assert same(plain, data.load(as_folder(tmp_path / "extra", split_files() | extra)))

    def test_a_photograph_is_turned_upright(self, tmp_path: Path):
        exif = Image.Exif()
        exif[0x0112] = 6
        file = io.BytesIO()
        Image.open(io.BytesIO(picture(1, size=(8, 16)))).save(file, "PNG", exif=exif)
        files = {name: picture(i, size=(16, 8)) for i, name in enumerate(split_files())}
        files["test/dog/001.png"] = file.getvalue()
        assert data.load(as_folder(tmp_path / "pets", files)).test.images.shape == (4, 8, 16, 3)

    def test_image_size_resizes_any_size(self, tmp_path: Path):
        files = {name: picture(i, size=(8 + i, 20)) for i, name in enumerate(split_files())}
        folder = as_folder(tmp_path / "pets", files)
        assert data.load(folder, image_size=12).train.images.shape == (6, 12, 12, 3)
        assert data.load(folder, image_size=16).train.images.shape == (6, 16, 16, 3)

    def test_image_size_may_be_a_height_and_a_width(self, tmp_path: Path):
        upright = Image.new("RGB", (8, 16))
        upright.paste((255, 255, 255), (0, 0, 8, 8))
        file = io.BytesIO()
        upright.save(file, "PNG")
        files = {name: file.getvalue() for name in split_files()}
        images = data.load(as_folder(tmp_path / "pets", files), image_size=(24, 12)).test.images
        assert images.shape == (4, 24, 12, 3)
        assert images[0, :8].min() > 200 and images[0, 16:].max() < 50
        assert data.load("digits", image_size=(16, 20)).test.images.shape == (359, 16, 20, 3)

    def test_a_folder_cannot_pass_for_a_built_in_data_set(self, tmp_path: Path):
        assert data.load(as_folder(tmp_path / "cifar10", split_files())).name == "cifar10-folder"


class TestWhole:
    FILES: ClassVar = {"a/0.png": picture(9)} | {f"b/{i}.png": picture(i) for i in range(5)}

    @pytest.mark.parametrize("write", [as_folder, as_zip, as_tar])
    def test_every_image_is_a_test_image(self, tmp_path: Path, capsys: pytest.CaptureFixture, write: Callable):
        path = write(tmp_path / {as_folder: "pets", as_zip: "pets.zip", as_tar: "pets.tar"}[write], self.FILES)
        found = data.load_whole(path)
        assert (len(found.train), len(found.validation), found.class_names) == (0, 0, ("a", "b"))
        assert found.test.labels.tolist() == [0, 1, 1, 1, 1, 1]
        pixels = [np.asarray(Image.open(io.BytesIO(self.FILES[name]))) for name in sorted(self.FILES)]
        assert np.array_equal(found.test.images, np.stack(pixels))
        assert data.find_problems(found) == []
        assert capsys.readouterr().err == ""

    def test_it_is_kept_apart_from_the_split_one_and_at_every_size(self, tmp_path: Path):
        folder = as_folder(tmp_path / "pets", {f"{c}/{i}.png": picture(i) for c in "ab" for i in range(5)})
        sizes = [(None, 8), (12, 12), ((12, 12), 12), ((12, 16), 12)]
        for _ in range(2):
            for wanted, height in sizes:
                assert [len(data.load_whole(folder, image_size=wanted).test)] == [10]
                assert data.load(folder, image_size=wanted).test.images.shape[:2] == (2, height)
        marks = {data.load_whole(folder).fingerprint, data.load(folder).fingerprint}
        assert len(marks) == 2

    def test_one_class_is_enough(self, tmp_path: Path):
        found = data.load_whole(as_folder(tmp_path / "pets", {"cat/0.png": picture()}))
        assert (found.class_names, found.test.labels.tolist(), data.find_problems(found)) == (("cat",), [0], [])

    def test_train_and_test_folders_count(self, tmp_path: Path):
        folder = as_folder(tmp_path / "pets", split_files())
        assert same(data.load_whole(folder), data.load(folder))

    def test_an_empty_class_is_named(self, tmp_path: Path):
        folder = as_folder(tmp_path / "pets", self.FILES)
        (folder / "emu").mkdir()
        with pytest.raises(EdgelabError, match="expected at least 1 image of class 'emu', found 0"):
            data.load_whole(folder)


class TestSample:
    LABELS = np.array([0] * 50 + [1] * 30 + [2] * 20)

    @pytest.mark.parametrize("n", [1, 3, 7, 10, 50, 99, 100, 101])
    def test_every_class_has_its_share_and_the_number_is_exact(self, n: int):
        chosen = data.stratified_sample(self.LABELS, n)
        assert len(chosen) == len(set(chosen)) == min(n, 100)
        assert (np.diff(chosen) > 0).all()
        counts = np.bincount(self.LABELS[chosen], minlength=3)
        assert np.abs(counts - min(n, 100) * np.array([0.5, 0.3, 0.2])).max() <= 1

    def test_a_sample_is_fixed_and_part_of_every_larger_one(self):
        small, large = data.stratified_sample(self.LABELS, 12), data.stratified_sample(self.LABELS, 40)
        assert set(small) < set(large)
        assert np.array_equal(small, data.stratified_sample(self.LABELS, 12))
        assert not np.array_equal(small, data.stratified_sample(self.LABELS, 12, seed=1))

    def test_it_is_spread_over_a_class_and_over_equal_classes(self):
        labels = np.arange(1000) // 100
        chosen = data.stratified_sample(labels, 100)
        assert np.bincount(labels[chosen]).tolist() == [10] * 10
        assert 30 < (chosen % 100).mean() < 70
        assert len(set(labels[data.stratified_sample(labels, 5)]) - {0, 1, 2, 3, 4}) > 0


class TestArchives:
    @pytest.mark.parametrize("name", ["pets.tar", "pets.tar.gz", "pets.tgz", "pets.tar.xz", "PETS.TXZ", "pets.zip"])
    def test_an_archive_gives_what_its_folder_gives(self, tmp_path: Path, name: str):
        files = {"README.txt": b"x"} | dict(reversed(split_files().items()))
        path = as_zip(tmp_path / name, files) if name.endswith("zip") else as_tar(tmp_path / name, files)
        found = data.load(str(path))
        assert same(found, data.load(as_folder(tmp_path / "folder", files)))
        assert found.name == name.split(".")[0]

    def test_nothing_is_extracted(self, tmp_path: Path, own_cache: Path):
        path = as_tar(tmp_path / "pets.tar", split_files())
        data.load(path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "pets.tar"]
        assert [Path(name).suffix for name in kept_files(own_cache)] == [".json", ".npy"]

    @given(cut=st.integers(0, 10**6), flip=st.integers(0, 10**6), value=st.integers(1, 255), damage=st.booleans())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
    def test_a_damaged_archive_never_gives_other_data(
        self, tmp_path: Path, name: str, cut: int, flip: int, value: int, damage: bool
    ):
        path = tmp_path / name
        if not path.exists():
            (as_zip if name.endswith("zip") else as_tar)(path, split_files(train=2, test=1))
        content = bytearray(path.read_bytes())
        whole = _images.source(path).read(None)
        if damage:
            content[flip % len(content)] ^= value
        else:
            del content[cut % len(content) :]
        broken = tmp_path / f"broken-{name}"
        broken.write_bytes(content)
        try:
            found = _images.source(broken).read(None)
        except EdgelabError as error:
            assert "\n" not in str(error)
        else:
            assert [len(found.train), len(found.test)] == [len(whole.train), len(whole.test)] or damage

    @pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize("name", ["pets.tar", "pets.tar.gz", "pets.tar.xz", "pets.zip"])
    def test_a_truncated_archive_is_refused(self, tmp_path: Path, own_cache: Path, name: str, keep: float):
        path = (as_zip if name.endswith("zip") else as_tar)(tmp_path / name, split_files(train=20))
        content = path.read_bytes()
        if name == "pets.tar":
            content = content[: content.rindex(b"IEND")]
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(EdgelabError, match=rf"{name}: .*(truncated|cannot read)"):
            data.load(path)
        assert kept_files(own_cache) == []

    def test_a_tar_cut_between_two_members_is_refused(self, tmp_path: Path):
        path = as_tar(tmp_path / "pets.tar", split_files(train=20))
        with tarfile.open(path) as tar:
            end = tar.getmembers()[-1].offset
        path.write_bytes(path.read_bytes()[:end])
        with pytest.raises(EdgelabError, match="the archive is truncated or damaged"):
            data.load(path)

    @pytest.mark.parametrize("name", ["../evil.png", "train/../../evil.png", "/etc/evil.png", "C:\\evil.png"])
    @pytest.mark.parametrize("write", [as_tar, as_zip])
    def test_a_name_that_leads_out_is_refused(
        self, tmp_path: Path, own_cache: Path, name: str, write: Callable[[Path, Files], Path]
    ):
        path = write(tmp_path / f"a.{write.__name__[3:]}", split_files() | {name: picture()})
        with pytest.raises(EdgelabError, match="expected names that stay inside the archive, got"):
            data.load(path)
        assert kept_files(own_cache) == []
        assert not list(tmp_path.rglob("evil*"))

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_a_link_or_device_in_a_tar_is_refused(self, tmp_path: Path, kind: bytes):
        path = as_tar(tmp_path / "a.tar", split_files())
        with tarfile.open(path, "a") as tar:
            member = tarfile.TarInfo("train/cat/link.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        with pytest.raises(EdgelabError, match=r"got the link or device 'train/cat/link.png'"):
            data.load(path)

    def test_a_link_in_a_zip_is_refused(self, tmp_path: Path):
        path = as_zip(tmp_path / "a.zip", split_files())
        with zipfile.ZipFile(path, "a") as archive:
            member = zipfile.ZipInfo("train/cat/link.png")
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(member, "/etc/passwd")
        with pytest.raises(EdgelabError, match=r"got the link 'train/cat/link.png'"):
            data.load(path)

    @pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz", "a.zip"])
    def test_a_bomb_is_refused(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(_images, "MAX_TOTAL", 1 << 20)
        files = {"notes.txt": bytes(2 << 20)} | split_files()
        path = (as_zip if name.endswith("zip") else as_tar)(tmp_path / name, files)
        with pytest.raises(EdgelabError, match="once unpacked, got more"):
            data.load(path)

    def test_a_file_too_large_for_an_image_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(_images, "MAX_IMAGE", 1 << 20)
        path = as_tar(tmp_path / "a.tar.gz", {"train/cat/big.png": bytes(2 << 20)} | split_files())
        with pytest.raises(EdgelabError, match=r"expected image files of at most 1 MiB, got train/cat/big.png"):
            data.load(path)

    def test_too_many_pixels_in_all_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(_images, "MAX_TOTAL", 1000)
        with pytest.raises(EdgelabError, match="GiB of pixels: pass a smaller image_size"):
            data.load(as_folder(tmp_path / "pets", split_files()))

    def test_an_image_with_too_many_pixels_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
        with pytest.raises(EdgelabError, match=r"cannot read the image .*decompression bomb"):
            data.load(as_folder(tmp_path / "pets", split_files()))


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return as_folder(tmp_path / "pets", split_files())

    def forbid_decoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_images, "upright", lambda *_: pytest.fail("decoded again"))

    def test_the_second_load_maps_the_first(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        first = data.load(folder)
        self.forbid_decoding(monkeypatch)
        second = data.load(folder)
        assert same(first, second)
        assert all(isinstance(s.images, np.memmap) for s in (second.train, second.validation, second.test))

    def test_changes_to_the_arrays_stay_in_memory(self, folder: Path, own_cache: Path):
        first = data.load(folder)
        (kept,) = own_cache.rglob("*.npy")
        before = kept.read_bytes()
        first.train.images[:] = 0
        del first
        assert kept.read_bytes() == before

    def test_a_renamed_archive_has_its_new_name(self, tmp_path: Path):
        path = as_zip(tmp_path / "old.zip", split_files())
        assert data.load(path).name == "old"
        assert data.load(path.rename(tmp_path / "new.zip")).name == "new"

    def test_a_changed_source_is_read_again(self, folder: Path):
        before = data.load(folder)
        (folder / "test" / "cat" / "000.png").write_bytes(picture(99))
        after = data.load(folder)
        assert before.fingerprint != after.fingerprint
        assert after.test.images[0, 0, 0].tolist() == [99, 99, 99]

    @pytest.mark.parametrize("suffix", ["npy", "json"])
    @pytest.mark.parametrize("damage", ["cut", "empty", "flip", "missing"])
    def test_a_damaged_entry_is_made_again(self, folder: Path, own_cache: Path, suffix: str, damage: str):
        whole = data.load(folder)
        fingerprint, test = whole.fingerprint, np.array(whole.test.images)
        (path,) = own_cache.rglob(f"*.{suffix}")
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[-40] ^= 1
        path.unlink()
        if damage != "missing":
            path.write_bytes({"cut": content[:-10], "empty": b"", "flip": content}[damage])
        again = data.load(folder)
        assert again.fingerprint == fingerprint
        assert np.array_equal(again.test.images, test)
        assert isinstance(again.test.images, np.memmap)

    def test_two_processes_at_once(self, folder: Path, own_cache: Path):
        code = "import sys; from edgelab import data; print(data.load(sys.argv[1]).fingerprint)"
        command = [sys.executable, "-c", code, str(folder)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert {p.communicate(timeout=60)[0].strip() for p in processes} == {data.load(folder).fingerprint}
        assert len(kept_files(own_cache)) == 2

    def test_what_a_killed_process_left_is_cleared_away(self, folder: Path, own_cache: Path):
        (own_cache / "images").mkdir(parents=True)
        (own_cache / "images" / ".0123.npy.77-abcd.part").write_bytes(b"half")
        data.load(folder)
        assert [Path(name).suffix for name in kept_files(own_cache)] == [".json", ".npy"]

    def test_a_cache_that_cannot_be_written_is_one_line(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("EDGELAB_CACHE", str(folder / "test" / "cat" / "000.png"))
        with pytest.raises(EdgelabError, match=r"cannot write the cache .*; point EDGELAB_CACHE at a folder with room"):
            data.load(folder)

    def test_what_the_guard_finds_is_said_once(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        shutil.copy(folder / "train/cat/000.png", folder / "test/cat/000.png")
        data.load(folder)
        assert "edgelab: pets: test: 1 image (first: index 0) also found" in capsys.readouterr().err
        data.load(folder)
        assert capsys.readouterr().err == ""

    def test_cache_folder(self, monkeypatch: pytest.MonkeyPatch, own_cache: Path):
        assert data.cache_folder() == own_cache
        monkeypatch.setenv("EDGELAB_CACHE", "~/somewhere")
        assert data.cache_folder() == Path.home() / "somewhere"
        monkeypatch.delenv("EDGELAB_CACHE")
        assert data.cache_folder().name == "edgelab"


def sized(**sizes: tuple[int, int]) -> Files:
    return split_files() | {f"train/cat/{name}.png": picture(size=size) for name, size in sizes.items()}


BAD = {
    "expected images .* as train/<class>/.* found none": {"notes.txt": b"x"},
    "expected two classes or more .* found only 'cat'": split_files(classes=("cat",)),
    "expected train/<class>/.*, found preview.png": split_files() | {"preview.png": picture()},
    "expected train/<class>/.*, found val/cat/0.png": split_files() | {"val/cat/0.png": picture()},
    "expected train/<class>/.*, found test/cat/000.png": {
        name: content for name, content in split_files().items() if name.startswith("test")
    },
    "expected at least 1 image of class 'dog' in test/, found 0": {
        name: content for name, content in split_files().items() if not name.startswith("test/dog")
    },
    "expected at least 2 images of class 'fox' in train/, found 0": split_files() | {"test/fox/0.png": picture()},
    "expected at least 2 images of class 'cow' in train/, found 1": split_files()
    | {"train/cow/0.png": picture(), "test/cow/0.png": picture()},
    "expected at least 3 images of class 'b', found 2": {
        f"{c}/{i}.png": picture() for c, n in (("a", 3), ("b", 2)) for i in range(n)
    },
    r"cannot read the image train/cat/bad.png \(cannot identify the image file\): mend or remove it": split_files()
    | {"train/cat/bad.png": b"no image"},
    "cannot read the image train/cat/cut.jpg .*truncated.*: mend or remove it": split_files()
    | {"train/cat/cut.jpg": picture(form="JPEG")[:-20]},
    "cannot read the image train/cat/empty.png": split_files() | {"train/cat/empty.png": b""},
    "cannot read the image train/cat/gif.png": split_files() | {"train/cat/gif.png": picture(form="GIF")},
    "more than 8 bits a pixel, save it with 8": split_files() | {"train/cat/deep.png": picture(mode="I;16")},
    r"\S+.png is 8x8 and train/cat/odd.png is 9x7: pass image_size=": sized(odd=(9, 7)),
}


class TestBadInput:
    @pytest.mark.parametrize("message", BAD, ids=lambda m: m[:60])
    @pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
    def test_one_line_and_nothing_left(self, tmp_path: Path, own_cache: Path, message: str, form: str):
        write = {"folder": as_folder, "zip": as_zip, "tar.gz": as_tar}[form]
        path = write(tmp_path / f"bad.{form}", BAD[message])
        with pytest.raises(EdgelabError, match=message) as caught:
            data.load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        assert kept_files(own_cache) == []

    def test_an_empty_class_folder(self, tmp_path: Path):
        folder = as_folder(tmp_path / "pets", split_files())
        (folder / "train" / "emu").mkdir()
        with pytest.raises(EdgelabError, match="expected at least 2 images of class 'emu' in train/, found 0"):
            data.load(folder)

    def test_an_empty_test_folder_is_no_missing_one(self, tmp_path: Path):
        folder = as_folder(tmp_path / "pets", split_files())
        shutil.rmtree(folder / "test")
        (folder / "test").mkdir()
        with pytest.raises(EdgelabError, match="expected at least 1 image of class 'cat' in test/, found 0"):
            data.load(folder)

    @pytest.mark.parametrize("name", ["missing", "missing/pets.zip", "cifar-10-python.tar.gz", "mnist"])
    def test_nothing_there(self, name: str):
        with pytest.raises(EdgelabError, match=f"there is no data set '{name}': expected digits, cifar10"):
            data.load(name)

    def test_a_file_that_is_no_archive(self, tmp_path: Path):
        (tmp_path / "pets.rar").write_bytes(b"x")
        with pytest.raises(EdgelabError, match=r"expected an image folder or an archive .*, got the file .*rar"):
            data.load(tmp_path / "pets.rar")

    def test_an_image_that_vanished(self, tmp_path: Path):
        folder = as_folder(tmp_path / "pets", split_files())
        (folder / "train/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
        with pytest.raises(EdgelabError, match=r"cannot read the image .*gone.png: No such file"):
            data.load(folder)


def batch(labels: list[int], seed: int) -> bytes:
    """A CIFAR-10 batch as Python 2 pickled it: protocol 2, byte strings, an array rebuilt by numpy.core.multiarray."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8).tobytes()
    return (
        b"\x80\x02}(U\x0bbatch_labelU\x04testU\x06labels]("
        + b"".join(struct.pack("<cB", b"K", label) for label in labels)
        + b"eU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + struct.pack("<cH", b"M", len(labels))
        + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(pixels))
        + pixels
        + b"tbu."
    )


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive in the official layout, taken for the official one."""
    labels = [*range(10), *range(10)]
    batches = {name: batch(labels[seed:] + labels[:seed], seed) for seed, name in enumerate(_cifar.BATCHES)}
    path = as_tar(tmp_path / _cifar.ARCHIVE, {f"{_cifar.FOLDER}/{name}": content for name, content in batches.items()})
    monkeypatch.setattr(_cifar, "BATCHES", {n: hashlib.md5(c).hexdigest() for n, c in batches.items()})
    monkeypatch.setattr(_cifar, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


class TestOfficialCifar:
    def test_the_batch_of_these_tests_is_what_numpy_reads(self):
        content = batch([3, 1], 0)
        plain = pickle.loads(content, encoding="bytes")
        split = _cifar.read_batch(content, "test")
        assert split.labels.tolist() == plain[b"labels"] == [3, 1]
        assert np.array_equal(split.images, plain[b"data"].reshape(2, 3, 32, 32).transpose(0, 2, 3, 1))
        assert split.images[0, 0, 1].tolist() == plain[b"data"][0, [1, 1025, 2049]].tolist()

    @pytest.mark.parametrize("protocol", [2, 4])
    def test_a_batch_written_by_python_3_is_read_too(self, protocol: int):
        pixels = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
        content = pickle.dumps({b"data": pixels, b"labels": [0, 9]}, protocol)
        assert np.array_equal(_cifar.read_batch(content, "x").images[1, 0, :, 0], pixels[1, :32])

    def test_the_archive_its_folder_and_the_file_itself(self, official: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("EDGELAB_DATA", str(official.parent))
        found = data.load("cifar10")
        assert found.name == "cifar10"
        assert found.class_names == _guard.CIFAR_CLASSES
        assert [len(found.train), len(found.validation), len(found.test)] == [90, 10, 20]
        first = np.random.default_rng(5).integers(0, 256, (20, 3072), dtype=np.uint8)[0]
        assert np.array_equal(found.test.images[0], first.reshape(3, 32, 32).transpose(1, 2, 0))
        assert found.test.labels[:3].tolist() == [5, 6, 7]

        monkeypatch.setenv("EDGELAB_DATA", str(official))
        assert same(found, data.load("cifar10"))
        elsewhere = official.parent / "extracted"
        with tarfile.open(official) as tar:
            tar.extractall(elsewhere, filter="data")
        monkeypatch.setenv("EDGELAB_CACHE", str(elsewhere / "cache"))
        for place in (elsewhere, elsewhere / _cifar.FOLDER):
            monkeypatch.setenv("EDGELAB_DATA", str(place))
            assert same(found, data.load("cifar10"))
        assert same(found, data.load(elsewhere / _cifar.FOLDER))

    def test_image_size(self, official: Path):
        assert data.load(official, image_size=16).test.images.shape == (20, 16, 16, 3)

    def test_a_wrong_hash_is_refused(self, official: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
        official.write_bytes(official.read_bytes()[:-100])
        monkeypatch.setenv("EDGELAB_DATA", str(official.parent))
        with pytest.raises(
            EdgelabError, match=r"tar.gz \(\d+ bytes\) is truncated or not the official CIFAR-10: expected"
        ):
            data.load("cifar10")
        assert kept_files(own_cache) == []

    def test_a_changed_or_missing_batch_is_refused(self, official: Path):
        folder = official.parent / _cifar.FOLDER
        with tarfile.open(official) as tar:
            tar.extractall(official.parent, filter="data")
        (folder / "test_batch").write_bytes(batch([0] * 20, 77))
        with pytest.raises(EdgelabError, match=r"test_batch \(\d+ bytes\) is truncated or not the official CIFAR-10"):
            data.load(folder)
        (folder / "test_batch").unlink()
        with pytest.raises(EdgelabError, match=r"expected the CIFAR-10 batch .*test_batch, which is missing"):
            data.load(folder)

    def test_a_malicious_pickle_runs_nothing(self, tmp_path: Path):
        victim = tmp_path / "victim"

        class Evil:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(victim),)

        with pytest.raises(EdgelabError, match=r"cannot read the CIFAR-10 batch b1: it asks for \w+.mkdir, ") as e:
            _cifar.read_batch(pickle.dumps({b"data": Evil(), b"labels": [1]}, 2), "b1")
        assert "\n" not in str(e.value)
        assert not victim.exists()

    @pytest.mark.parametrize(
        "content",
        [b"", b"no pickle", batch([1, 2], 0)[:-50], batch([10], 0), pickle.dumps([1]), pickle.dumps({b"data": 1}, 2)],
    )
    def test_a_batch_that_is_none(self, content: bytes):
        with pytest.raises(EdgelabError, match="cannot read the CIFAR-10 batch b1: "):
            _cifar.read_batch(content, "b1")

    def test_an_array_in_column_order_is_refused(self):
        content = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8, order="F"), b"labels": [1, 2]}, 2)
        with pytest.raises(EdgelabError, match="batch b1: the shapes or labels are not those of CIFAR-10"):
            _cifar.read_batch(content, "b1")

    @pytest.mark.parametrize("place", ["missing", "photo.zip"])
    def test_a_data_folder_that_is_none(self, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "photo.zip").write_bytes(b"x")
        monkeypatch.setenv("EDGELAB_DATA", str(tmp_path / place))
        with pytest.raises(EdgelabError, match=f"EDGELAB_DATA names .*{place}(, which does not exist|: expected a)"):
            data.load("cifar10")


class TestJpegCopy:
    @pytest.fixture
    def copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder with a small cifar10-jpeg.tar.xz, which is named in EDGELAB_DATA."""
        for module in (_images, _guard):
            monkeypatch.setattr(module, "CIFAR_COUNTS", (3, 1))
        folder = tmp_path / "data"
        folder.mkdir()
        as_tar(folder / "cifar10-jpeg.tar.xz", self.files())
        monkeypatch.setenv("EDGELAB_DATA", str(folder))
        return folder

    def files(self, form: str = "JPEG", suffix: str = "jpg") -> Files:
        names = split_files(3, 1, _guard.CIFAR_CLASSES)
        return {n.replace("png", suffix): picture(i, (32, 32), form) for i, n in enumerate(names)}

    def test_it_stands_in_for_cifar10_and_says_so(self, copy: Path, capsys: pytest.CaptureFixture[str]):
        found = data.load("cifar10")
        assert (found.name, found.class_names) == ("cifar10-jpeg", _guard.CIFAR_CLASSES)
        notices = [line for line in capsys.readouterr().err.splitlines() if "not the official CIFAR-10 pixels" in line]
        assert len(notices) == 1
        assert str(copy) in notices[0]

    def test_asked_for_by_its_name_it_needs_no_notice(self, copy: Path, capsys: pytest.CaptureFixture[str]):
        assert data.load("cifar10-jpeg").name == "cifar10-jpeg"
        assert "JPEG copy" not in capsys.readouterr().err

    def test_the_official_archive_comes_first(self, copy: Path, official: Path):
        shutil.copy(official, copy)
        assert data.load("cifar10").name == "cifar10"

    def test_it_keeps_its_name_in_any_folder(self, copy: Path):
        folder = as_folder(copy / "photos", self.files())
        assert data.load(folder).name == "cifar10-jpeg"
        assert data.load(folder, image_size=16).name == "cifar10-jpeg"

    def test_other_numbers_classes_or_formats_are_no_copy(self, copy: Path):
        assert data.load(as_folder(copy / "exact", self.files("PNG", "png"))).name == "exact"
        fewer = {n: c for n, c in self.files().items() if n != "train/cat/000.jpg"}
        assert data.load(as_folder(copy / "fewer", fewer)).name == "fewer"
        renamed = {n.replace("/cat/", "/lion/"): c for n, c in self.files().items()}
        assert data.load(as_folder(copy / "renamed", renamed)).name == "renamed"

    @pytest.mark.parametrize("wanted", ["cifar10", "cifar10-jpeg"])
    def test_the_data_folder_itself_may_be_the_copy(
        self, copy: Path, wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        clone = as_folder(copy / "CIFAR-10-images", self.files() | {"README.md": b"text", ".git/HEAD": b"ref"})
        monkeypatch.setenv("EDGELAB_DATA", str(clone))
        found = data.load(wanted)
        assert (found.name, len(found.train), len(found.test)) == ("cifar10-jpeg", 20, 10)
        monkeypatch.setenv("EDGELAB_DATA", str(copy))
        assert data.load("cifar10-jpeg").fingerprint == found.fingerprint
        notices = [line for line in capsys.readouterr().err.splitlines() if "not the official CIFAR-10 pixels" in line]
        assert len(notices) == (wanted == "cifar10")
        assert all(f"{clone} is a JPEG copy" in notice for notice in notices)

    @pytest.mark.parametrize("lacks", ["everything", "test/truck", "jpegs"])
    def test_a_data_folder_without_cifar10_is_said(
        self, tmp_path: Path, lacks: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        files = self.files("PNG", "png") if lacks == "jpegs" else self.files()
        kept = {n: c for n, c in files.items() if lacks != "everything" and not n.startswith(lacks)}
        place = as_folder(tmp_path / "pictures", {"notes.txt": b"x"} | kept)
        monkeypatch.setenv("EDGELAB_DATA", str(place))
        with pytest.raises(EdgelabError, match="could not be downloaded"):
            data.load("cifar10")
        said = [line for line in capsys.readouterr().err.splitlines() if "EDGELAB_DATA" in line]
        assert len(said) == 1
        assert f"EDGELAB_DATA names {place}, which holds no CIFAR-10 (looked for cifar-10-python.tar.gz, " in said[0]

    def test_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with pytest.raises(EdgelabError, match=r"expected cifar10-jpeg.tar.xz or cifar10-jpeg .*\(it is not set\)"):
            data.load("cifar10-jpeg")
        monkeypatch.setenv("EDGELAB_DATA", str(tmp_path))
        with pytest.raises(EdgelabError, match="found none"):
            data.load("cifar10-jpeg")


class Mirrors(http.server.BaseHTTPRequestHandler):
    """/good serves the file and honours Range, /whole ignores Range, /drop breaks off half-way, /wrong has another.

    /shifted says that it continues elsewhere than asked.
    """

    content = b""
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.asked.append((self.path, span))
        content = bytes(len(self.content)) if self.path == "/wrong" else self.content
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span and self.path != "/whole" else 0
        if self.path == "/missing":
            return self.send_error(404)
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            begin = 0 if self.path == "/shifted" else start
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = (start + len(content)) // 2 if self.path == "/drop" else len(content)
        self.wfile.write(content[start:end])
        return None

    def log_message(self, *_: object) -> None:
        pass


class TestDownload:
    @pytest.fixture
    def server(self, official: Path) -> Iterator[str]:
        Mirrors.content, Mirrors.asked = official.read_bytes(), []
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mirrors) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()
            thread.join()

    @pytest.fixture
    def use(self, server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        return lambda *names: monkeypatch.setattr(_cifar, "MIRRORS", tuple(f"{server}/{name}" for name in names))

    @pytest.fixture
    def part(self, own_cache: Path) -> Path:
        path = own_cache / "downloads" / f"{_cifar.ARCHIVE}.part"
        path.parent.mkdir(parents=True)
        return path

    def test_it_is_fetched_once_and_then_comes_from_the_cache(self, use: Callable[..., None], own_cache: Path):
        use("good")
        first = data.load("cifar10")
        assert first.name == "cifar10"
        assert Mirrors.asked == [("/good", None)]
        assert same(first, data.load("cifar10"))
        for path in own_cache.rglob("*.npy"):
            path.unlink()
        assert same(first, data.load("cifar10"))
        assert len(Mirrors.asked) == 1

    def test_mirrors_are_tried_in_turn(self, use: Callable[..., None]):
        use("missing", "wrong", "good")
        assert data.load("cifar10").name == "cifar10"
        assert [path for path, _ in Mirrors.asked] == ["/missing", "/wrong", "/good"]

    def test_a_broken_download_goes_on_where_it_ended(self, use: Callable[..., None], official: Path):
        use("drop", "good")
        data.load("cifar10")
        (_, nothing), (path, span) = Mirrors.asked
        assert (nothing, path) == (None, "/good")
        half = official.stat().st_size // 2
        assert span is not None
        assert half - (1 << 16) <= int(span[len("bytes=") : -1]) <= half

    def test_a_part_of_an_earlier_run_is_kept(self, use: Callable[..., None], part: Path, official: Path):
        part.write_bytes(official.read_bytes()[:1000])
        use("good")
        data.load("cifar10")
        assert Mirrors.asked == [("/good", "bytes=1000-")]

    def test_a_complete_part_is_not_fetched_again(self, use: Callable[..., None], part: Path, official: Path):
        shutil.copy(official, part)
        use("good")
        data.load("cifar10")
        assert len(Mirrors.asked) == 1

    def test_a_server_without_range_starts_anew(self, use: Callable[..., None], part: Path, official: Path):
        part.write_bytes(official.read_bytes()[:1000])
        use("whole")
        assert data.load("cifar10").name == "cifar10"
        assert len(Mirrors.asked) == 1

    def test_a_server_that_goes_on_elsewhere_is_passed_over(self, use: Callable[..., None], part: Path, official: Path):
        part.write_bytes(official.read_bytes()[:1000])
        use("shifted", "good")
        assert data.load("cifar10").name == "cifar10"
        assert Mirrors.asked == [("/shifted", "bytes=1000-"), ("/good", "bytes=1000-")]

    def test_a_wrong_part_does_not_spoil_the_only_mirror(self, use: Callable[..., None], part: Path):
        part.write_bytes(bytes(1000))
        use("good")
        assert data.load("cifar10").name == "cifar10"
        assert [span for _, span in Mirrors.asked] == ["bytes=1000-", None]

    def test_one_line_where_none_delivers_and_what_came_is_kept(
        self, use: Callable[..., None], own_cache: Path, official: Path
    ):
        use("missing", "drop")
        with pytest.raises(EdgelabError, match=r"from any of 2 mirrors \(last: .*\d+ of \d+ .*\); run again") as e:
            data.load("cifar10")
        assert "\n" not in str(e.value)
        (kept,) = kept_files(own_cache)
        assert kept.endswith(".part")
        assert official.read_bytes().startswith((own_cache / kept).read_bytes())

    def test_a_wrong_file_leaves_nothing(self, use: Callable[..., None], own_cache: Path):
        use("wrong")
        with pytest.raises(EdgelabError, match=r"from any of 1 mirrors \(last: .*hash.*\)"):
            data.load("cifar10")
        assert kept_files(own_cache) == []
        assert len(Mirrors.asked) == 1

    def test_the_listed_mirrors_are_https_and_end_with_the_official_host(self):
        source = Path(_cifar.__file__).read_text()
        urls = [line.split('"')[1] for line in source.splitlines() if line.startswith('    "http')]
        assert len(urls) >= 3
        assert all(url.startswith("https://") and url.endswith(_cifar.ARCHIVE) for url in urls)
        assert "www.cs.toronto.edu" in urls[-1]


def changed(dataset: data.Dataset, split: str, **fields: np.ndarray) -> data.Dataset:
    return dataclasses.replace(dataset, **{split: dataclasses.replace(getattr(dataset, split), **fields)})


class TestGuard:
    @pytest.fixture(scope="class")
    def small(self) -> data.Dataset:
        rng = np.random.default_rng(0)
        splits = [data.Split(rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), np.arange(20) % 2) for _ in range(3)]
        return data.Dataset("small", *splits, ("a", "b"), "")

    def test_sound_images_have_no_problems(self, small: data.Dataset):
        assert data.find_problems(small) == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: data.normalise(x), r"train: expected uint8 pixels 0..255, got float32 -1..0.99"),
            (lambda x: x / 255, r"train: expected uint8 pixels 0..255, got float64 0..1"),
            (lambda x: x // 255, r"train: expected pixels 0..255, got 0..1: fractions"),
            (
                lambda x: x.transpose(0, 3, 1, 2),
                r"train: expected shape .*, got \(20, 3, 8, 8\): transpose",
            ),
            (lambda x: x[..., :1], r"train: expected shape .*, got \(20, 8, 8, 1\): greyscale: repeat"),
            (lambda x: x[..., 0], r"train: expected shape .*, got \(20, 8, 8\): greyscale"),
            (lambda x: np.concatenate([x, x[..., :1]], -1), r"train: expected shape .*: RGBA"),
            (lambda x: x[:, :4], r"the splits differ in image shape: \(4, 8, 3\), \(8, 8, 3\)"),
            (
                lambda x: np.where(np.arange(20)[:, None, None, None] < 2, 7, x).astype(np.uint8),
                r"train: 2 images \(first",
            ),
        ],
    )
    def test_images(self, small: data.Dataset, change: Callable[[np.ndarray], np.ndarray], message: str):
        problems = data.find_problems(changed(small, "train", images=change(small.train.images)))
        assert any(re.match(message, p) for p in problems), problems

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.arange(20), "test: 18 labels (first: index 2) outside 0..1, such as 2"),
            (np.arange(20) % 2 - 1, "test: 10 labels (first: index 0) outside 0..1, such as -1"),
            (np.zeros(20, int), "test: no images of class 1"),
            (np.zeros(19, int), "test: expected one label an image, got (19,) for 20 images"),
            (np.zeros(20), "test: expected integer labels, got float64"),
        ],
    )
    def test_labels(self, small: data.Dataset, labels: np.ndarray, message: str):
        assert data.find_problems(changed(small, "test", labels=labels)) == [message]

    def test_no_images(self, small: data.Dataset):
        empty = dataclasses.replace(small, validation=data.Split(small.train.images[:0], small.train.labels[:0]))
        assert data.find_problems(empty) == ["validation: no images"]

    def test_one_class(self, small: data.Dataset):
        one = dataclasses.replace(small, class_names=("a",))
        assert "expected two classes or more, found 1" in data.find_problems(one)

    def test_test_images_that_stand_in_train(self, small: data.Dataset):
        images = small.test.images.copy()
        images[[4, 9]] = small.train.images[[7, 3]]
        (problem,) = data.find_problems(changed(small, "test", images=images))
        assert problem.startswith("test: 2 images (first: index 4) also found in an earlier split (test 4 is train 7)")

    def test_jpeg_blocks_in_photographs(self):
        from sklearn.datasets import load_sample_image

        rng = np.random.default_rng(0)
        photo = Image.fromarray(load_sample_image("china.jpg"))
        corners = rng.integers(0, 300, (800, 2))
        crops = [photo.crop((x, y, x + 120, y + 120)).resize((32, 32)) for x, y in corners]
        coded = [io.BytesIO() for _ in crops]
        for crop, file in zip(crops, coded, strict=True):
            crop.save(file, "JPEG", quality=75)
        assert not _guard.has_jpeg_blocks(np.stack([np.asarray(c) for c in crops]))
        assert _guard.has_jpeg_blocks(np.stack([np.asarray(Image.open(f)) for f in coded]))

    def test_recompressed_cifar(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(_guard, "CIFAR_COUNTS", (20, 20))
        monkeypatch.setattr(_guard, "has_jpeg_blocks", lambda _: True)
        rng = np.random.default_rng(0)
        counts = {"train": 180, "validation": 20, "test": 200}
        splits = {
            name: data.Split(rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 10)
            for name, n in counts.items()
        }
        dataset = data.Dataset(name="x", class_names=_guard.CIFAR_CLASSES, fingerprint="", **splits)
        none = data.Split(splits["train"].images[:0], splits["train"].labels[:0])
        for found in (dataset, dataclasses.replace(dataset, train=none, validation=none)):
            (problem,) = data.find_problems(found)
            assert "recompressed as JPEG" in problem
        assert data.find_problems(dataclasses.replace(dataset, class_names=tuple("abcdefghij"))) == []


def test_importing_edgelab_data_is_light():
    code = "import sys, edgelab.data; print(*{'torch', 'tensorflow', 'sklearn', 'pooch', 'PIL'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
