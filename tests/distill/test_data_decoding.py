"""Decoding: real files of every kind show what a person sees in them."""

import io
import os
import struct
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from distill.data import BadImage, open_image
from distill.data.decode import LARGE_PIXELS, _to_8_bits


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A photograph of 64 × 64 px, from the offline package."""
    path = next(file for file in files("foolbox") or () if "imagenet_00" in file.name and file.suffix == ".jpg")
    return Image.open(str(path.locate())).convert("RGB").resize((64, 64))


def differ(seen: Image.Image, expected: Image.Image) -> float:
    """Mean absolute difference of the pixels, of 255."""
    assert (seen.size, seen.mode) == (expected.size, expected.mode)
    return float(np.abs(np.asarray(seen).astype(float) - np.asarray(expected)).mean())


def saved(path: Path, image: Image.Image, **how) -> Image.Image:
    image.save(path, **how)
    return open_image(str(path))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "gif", "webp", "jpg", "jp2", "avif"])
def test_every_kind_of_file_shows_the_photograph(tmp_path, photo, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    exact = {"webp": {"lossless": True}, "jpg": {"quality": 95}, "avif": {"quality": 95}}.get(suffix, {})
    limit = {"gif": 12.0, "jpg": 4.0, "avif": 4.0}.get(suffix, 0.0)  # a palette, and lossy kinds
    assert differ(saved(tmp_path / f"x.{suffix}", photo, **exact), photo) <= limit


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # How a camera held each way stores it: the inverse of what the standard says the viewer does.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    seen = saved(tmp_path / "x.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.asarray(seen).tolist() == upright.tolist()


def test_broken_exif_leaves_the_picture(tmp_path, photo):
    photo.save(tmp_path / "x.jpg", quality=95, exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\x7f")
    assert differ(open_image(str(tmp_path / "x.jpg")), photo) < 4


def test_transparent_pixels_are_white(tmp_path):
    for mode, pixels in {
        "RGBA": [(255, 0, 0, 0), (0, 0, 255, 255), (0, 0, 0, 102)],
        "LA": [(0, 0), (9, 255), (0, 102)],
    }.items():
        image = Image.new(mode, (3, 1))
        image.putdata(pixels)
        seen = np.asarray(saved(tmp_path / "x.png", image))[0]
        # 102 of 255 are 40 % of black over 60 % of white: 153.
        expected = [[255, 255, 255], [0, 0, 255], [153, 153, 153]] if mode == "RGBA" else [255, 9, 153]
        assert seen.tolist() == expected


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    assert np.asarray(saved(tmp_path / "x.png", image)).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    clear = saved(tmp_path / "y.png", image, transparency=1)
    assert np.asarray(clear).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    assert np.asarray(saved(tmp_path / "z.gif", image, transparency=1)).tolist()[0][1] == [255, 255, 255]


def test_a_transparent_grey_and_a_transparent_colour_without_a_palette(tmp_path):
    grey = Image.fromarray(np.array([[10, 20]], dtype=np.uint8))
    assert np.asarray(saved(tmp_path / "x.png", grey, transparency=20)).tolist() == [[10, 255]]
    colour = Image.new("RGB", (2, 1), (1, 2, 3))
    colour.putpixel((1, 0), (4, 5, 6))
    assert np.asarray(saved(tmp_path / "y.png", colour, transparency=(4, 5, 6))).tolist() == [[[1, 2, 3], [255] * 3]]


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.fromarray(np.array([[True, False, True]]))
    assert np.asarray(saved(tmp_path / "x.png", image)).tolist() == [[255, 0, 255]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 128 * 257, 65535, 300]], dtype=np.uint16)
    assert np.asarray(saved(tmp_path / f"x.{suffix}", Image.fromarray(values))).tolist() == [[0, 1, 128, 255, 1]]


def test_float_and_32_bit_tiffs_by_their_range(tmp_path):
    def seen(values: list[float], dtype) -> list[int]:
        return np.asarray(saved(tmp_path / "x.tif", Image.fromarray(np.array([values], dtype=dtype)))).tolist()[0]

    assert seen([0.0, 0.5, 1.0], np.float32) == [0, 128, 255]
    assert seen([0.0, 100.0, 255.0], np.float32) == [0, 100, 255]
    assert seen([-10.0, 0.0, 10.0], np.float32) == [0, 128, 255]  # stretched: 127.5 rounds to even
    assert seen([0.25, np.nan, 1.0], np.float32) == [64, 0, 255]
    assert seen([0, 65535, 257], np.int32) == [0, 255, 1]
    assert seen([-5, 195, 35], np.int32) == [0, 255, 51]  # a fifth of the way
    assert _to_8_bits(np.full((2, 2), 7e5)).tolist() == [[0, 0], [0, 0]]  # nothing to stretch


def without_adobe(jpeg: bytes) -> bytes:
    """A JPEG without its APP14 segment, the only place that says its inks are stored inverted."""
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + struct.unpack(">H", jpeg[start + 2 : start + 4])[0] :]


def test_cmyk_with_and_without_adobes_inversion(tmp_path):
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan alone
    buffer = io.BytesIO()
    inks.save(buffer, "JPEG", quality=100)
    adobe = buffer.getvalue()
    assert b"Adobe" in adobe
    (tmp_path / "adobe.jpg").write_bytes(adobe)
    assert differ(open_image(str(tmp_path / "adobe.jpg")), Image.new("RGB", (16, 16), (0, 255, 255))) < 2
    # The same stored bytes are 255 minus the inks; without the marker they are the inks: everything but cyan, so black.
    plain = without_adobe(adobe)
    assert b"Adobe" not in plain
    (tmp_path / "plain.jpg").write_bytes(plain)
    assert differ(open_image(str(tmp_path / "plain.jpg")), Image.new("RGB", (16, 16))) < 2
    assert differ(saved(tmp_path / "x.tif", inks), Image.new("RGB", (16, 16), (0, 255, 255))) == 0


def test_of_an_animation_the_first_frame_is_seen(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for suffix, how in {"gif": {}, "webp": {"lossless": True}, "png": {}}.items():
        frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **how)
        assert differ(open_image(str(tmp_path / f"x.{suffix}")), frames[0]) == 0


def test_a_huge_jpeg_is_decoded_small_and_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    image = Image.new("L", (8000, 6000), 100)
    image.paste(200, (0, 0, 4000, 6000))
    image.save(tmp_path / "x.jpg", exif=exif)
    seen = open_image(str(tmp_path / "x.jpg"))
    assert seen.size == (3000, 4000)  # a half: 48 megapixels are more than 16, 12 are not; and turned
    assert seen.size[0] * seen.size[1] <= LARGE_PIXELS
    assert (seen.getpixel((1500, 100)), seen.getpixel((1500, 3900))) == (200, 100)


def test_a_large_png_is_halved(tmp_path):
    image = Image.new("1", (5000, 4000))
    image.paste(1, (0, 0, 2500, 4000))
    seen = saved(tmp_path / "x.png", image)
    assert (seen.size, seen.getpixel((100, 100)), seen.getpixel((2400, 100))) == ((2500, 2000), 255, 0)


def test_a_decompression_bomb_is_named(tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    assert os.path.getsize(tmp_path / "bomb.png") < 100_000
    with pytest.raises(BadImage, match=r"bomb\.png cannot be read as an image .*200000000 pixels"):
        open_image(str(tmp_path / "bomb.png"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_a_truncated_file_is_named(tmp_path, photo, suffix):
    path = tmp_path / f"cut.{suffix}"
    photo.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImage, match=rf"^{path} cannot be read as an image \(.+\); mend it") as refusal:
        open_image(str(path))
    assert "\n" not in str(refusal.value)


def test_what_is_no_image_and_what_cannot_be_opened(tmp_path):
    (tmp_path / "x.jpg").write_text("<html>404</html>")
    with pytest.raises(BadImage, match=r"x\.jpg cannot be read as an image"):
        open_image(str(tmp_path / "x.jpg"))
    # Formats that start other programs are not tried, whatever the suffix says.
    (tmp_path / "y.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(BadImage, match=r"y\.jpg cannot be read as an image"):
        open_image(str(tmp_path / "y.jpg"))
    with pytest.raises(ValueError, match=r"none\.jpg cannot be opened \(No such file") as refusal:
        open_image(str(tmp_path / "none.jpg"))
    assert not isinstance(refusal.value, BadImage)  # a disk that is away is no bad image to be passed over
