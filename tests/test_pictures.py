"""Pictures of every kind come out as a network takes them, and what is none is one line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgelab import _images, pictures
from edgelab.errors import EdgelabError

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_formats_without_loss_give_their_pixels(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    pixels, size = pictures.read(saved(tmp_path / f"a.{suffix}", RGB, **options), None, None)
    np.testing.assert_array_equal(pixels, RGB)
    assert (pixels.dtype, size) == (np.uint8, (12, 20))


def test_a_name_says_nothing_about_the_format(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", RGB).rename(tmp_path / "photo")
    np.testing.assert_array_equal(pictures.read(tmp_path / "photo", None, None)[0], RGB)


def test_resizing_is_that_of_data_sets(tmp_path: Path) -> None:
    pixels, size = pictures.read(saved(tmp_path / "a.png", RGB), 8, 9)
    expected = np.asarray(_images.resized(Image.fromarray(RGB), (8, 9)))
    np.testing.assert_array_equal(pixels, expected)
    assert (pixels.shape, size) == ((8, 9, 3), (12, 20))


def test_an_open_size_keeps_the_pictures_own_up_to_a_limit(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.zeros((30, 3072, 3), np.uint8))
    assert pictures.read(path, None, None)[0].shape == (10, 1024, 3)
    assert pictures.read(path, 5, None)[0].shape == (5, 1024, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(tmp_path: Path, orientation: int) -> None:
    turns = [RGB, RGB[:, ::-1], RGB[::-1, ::-1], RGB[::-1]]
    turns += [RGB.swapaxes(0, 1), np.rot90(RGB), RGB[::-1, ::-1].swapaxes(0, 1), np.rot90(RGB, -1)]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", np.ascontiguousarray(turns[orientation - 1]), exif=exif)
    np.testing.assert_array_equal(pictures.read(path, None, None)[0], RGB)


def test_grey_palette_and_one_bit(tmp_path: Path) -> None:
    grey = RGB[..., 0]
    pixels, _ = pictures.read(saved(tmp_path / "g.png", grey), None, None)
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, 2))
    quantized = Image.fromarray(RGB).quantize(16)
    pixels, _ = pictures.read(saved(tmp_path / "p.png", quantized), None, None)
    np.testing.assert_array_equal(pixels, np.asarray(quantized.convert("RGB")))
    pixels, _ = pictures.read(saved(tmp_path / "b.png", Image.fromarray(grey > 127)), None, None)
    assert set(np.unique(pixels)) == {0, 255}


def test_sixteen_bits_lose_the_lower_eight(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    for name in ("d.png", "d.tiff"):
        pixels, _ = pictures.read(saved(tmp_path / name, deep), None, None)
        np.testing.assert_array_equal(pixels[..., 1], [[0, 0, 1], [128, 255, 255]])


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    alpha = np.zeros((12, 20, 1), np.uint8)
    alpha[:6] = 255
    expected = np.where(alpha, RGB, 255)
    pixels, _ = pictures.read(saved(tmp_path / "rgba.png", np.concatenate([RGB, alpha], 2)), None, None)
    np.testing.assert_array_equal(pixels, expected)
    pixels, _ = pictures.read(saved(tmp_path / "la.png", np.concatenate([RGB[..., :1], alpha], 2)), None, None)
    np.testing.assert_array_equal(pixels, np.repeat(np.where(alpha, RGB[..., :1], 255), 3, 2))
    flat = Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20) % 3).convert("P")
    pixels, _ = pictures.read(saved(tmp_path / "p.png", flat, transparency=1), None, None)
    assert (pixels[np.asarray(flat) == 1] == 255).all() and not (pixels == 255).all()


def test_one_channel_is_the_grey_of_measure(tmp_path: Path) -> None:
    from edgelab._fitting import in_grey

    pixels, _ = pictures.read(saved(tmp_path / "a.png", RGB), None, None, 1)
    np.testing.assert_array_equal(pixels, in_grey(RGB))
    assert pixels.shape == (12, 20, 1)


def test_of_several_frames_the_first_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), shade) for shade in (10, 200)]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (pictures.read(path, None, None)[0] == 10).all()


def test_print_colours_become_rgb(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    red, green, blue = pictures.read(path, None, None)[0][0, 0]
    assert red > 200 and green < 60 and blue < 60


def png_of(width: int, height: int) -> bytes:
    """A PNG file that claims this size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def bad_pictures(folder: Path) -> list[Path]:
    """Files that are no pictures, each in its own way."""
    whole = saved(folder / "whole.png", RGB).read_bytes()
    photo = saved(folder / "whole.jpg", RGB).read_bytes()
    contents = {
        "empty.png": b"",
        "text.png": b"this is no picture at all\n" * 9,
        "cut.png": whole[:-400],
        "cut.jpg": photo[: len(photo) // 2],
        "head.jpg": photo[:3],
        "bomb.png": png_of(50_000, 50_000),
        "large.png": png_of(20_000, 6_000),
        "none.png": png_of(0, 10),
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "random.webp": np.random.default_rng(0).bytes(3000),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    saved(folder / "float.tiff", np.ones((4, 4), np.float32))
    return [*(folder / name for name in contents), folder / "float.tiff"]


def test_what_is_no_picture_is_one_line(tmp_path: Path) -> None:
    for path in bad_pictures(tmp_path):
        with pytest.raises(EdgelabError, match=r"^cannot read the image .* \(.+\): mend or remove it$") as caught:
            pictures.read(path, 8, 8)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_where_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.png", tmp_path, tmp_path / ("x" * 5000)):
        with pytest.raises(EdgelabError, match=r"^there is no image at .*: check the path$"):
            pictures.read(path, 8, 8)
    monkeypatch.setattr(pictures, "MAX_IMAGE", 10)
    with pytest.raises(EdgelabError, match=r"at most 0 MiB, .*a\.png is larger"):
        pictures.read(saved(tmp_path / "a.png", RGB), 8, 8)
