from __future__ import annotations

import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, ImageFile

from tests.ensemble.support import (
    GREY,
    GREY_ALPHA,
    RGB,
    RGBA,
    decode,
    encode,
    noise_rgb,
    png_by_hand,
    png_chunk,
    smooth_rgb,
)
from warmswap_ensemble.errors import ImageTooLargeError, InvalidImageError
from warmswap_ensemble.image import DecodedImage, ImageArray, ImageLimits, decode_image, encode_image

LIMITS = ImageLimits()
SMOOTH = smooth_rgb(48, 64)
NOISE = noise_rgb(6, 9)
GREY_8 = NOISE[:, :, 0].copy()
ALPHA: ImageArray = np.arange(0, 216, 4, np.uint8).reshape(6, 9)
NOISE_16 = np.random.default_rng(1).integers(0, 65536, (6, 9, 4), dtype=np.uint16)


def read(data: bytes) -> DecodedImage:
    return decode_image(data, "image", LIMITS)


def grey_as_rgb(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def palette(transparency: bytes | int | None = None) -> bytes:
    """A palette picture: index 0 red, 1 green, 2 blue."""
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    options = {} if transparency is None else {"transparency": transparency}
    return encode(image, "PNG", **options)


PALETTE_RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 255], [0, 255, 0], [255, 0, 0]]], np.uint8)


@pytest.mark.parametrize(
    ("data", "image_format", "pixels", "alpha"),
    [
        pytest.param(encode(NOISE[:1, :1], "PNG"), "png", NOISE[:1, :1], None, id="1x1"),
        pytest.param(encode(NOISE, "PNG"), "png", NOISE, None, id="png"),
        pytest.param(encode(NOISE, "WEBP", lossless=True), "webp", NOISE, None, id="lossless webp"),
        pytest.param(encode(GREY_8, "PNG"), "png", grey_as_rgb(GREY_8), None, id="grey"),
        pytest.param(
            encode(Image.fromarray(GREY_8 > 127), "PNG"), "png", grey_as_rgb((GREY_8 > 127) * 255), None, id="1-bit"
        ),
        pytest.param(palette(), "png", PALETTE_RGB, None, id="palette"),
        pytest.param(
            palette(bytes([255, 128, 0])),
            "png",
            PALETTE_RGB,
            np.array([[255, 128, 0], [0, 128, 255]], np.uint8),
            id="palette with an alpha per colour",
        ),
        pytest.param(
            palette(1), "png", PALETTE_RGB, np.array([[255, 0, 255], [255, 0, 255]], np.uint8), id="palette, one clear"
        ),
        pytest.param(
            png_by_hand(np.dstack((GREY_8, ALPHA)), GREY_ALPHA), "png", grey_as_rgb(GREY_8), ALPHA, id="grey + alpha"
        ),
        pytest.param(encode(np.dstack((NOISE, ALPHA)), "PNG"), "png", NOISE, ALPHA, id="rgba"),
        pytest.param(
            encode(np.dstack((NOISE, ALPHA)), "WEBP", lossless=True, exact=True), "webp", NOISE, ALPHA, id="rgba webp"
        ),
        pytest.param(
            png_by_hand(NOISE, RGB, before_idat=png_chunk(b"tRNS", struct.pack(">3H", *NOISE[2, 3].tolist()))),
            "png",
            NOISE,
            np.where((NOISE[2, 3] == NOISE).all(axis=2), 0, 255).astype(np.uint8),
            id="rgb, one colour clear",
        ),
        pytest.param(
            png_by_hand(NOISE_16[:, :, 0], GREY), "png", grey_as_rgb(NOISE_16[:, :, 0] >> 8), None, id="16-bit grey"
        ),
        pytest.param(
            png_by_hand(NOISE_16[:, :, :3], RGB), "png", (NOISE_16[:, :, :3] >> 8).astype(np.uint8), None, id="16-bit"
        ),
        pytest.param(
            png_by_hand(NOISE_16, RGBA),
            "png",
            (NOISE_16[:, :, :3] >> 8).astype(np.uint8),
            (NOISE_16[:, :, 3] >> 8).astype(np.uint8),
            id="16-bit rgba",
        ),
    ],
)
def test_lossless_pictures_are_read_exactly(
    data: bytes, image_format: str, pixels: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8] | None
) -> None:
    image = read(data)
    assert image.format == image_format
    np.testing.assert_array_equal(image.pixels_rgb, pixels)
    if alpha is None:
        assert image.alpha is None
    else:
        assert image.alpha is not None
        np.testing.assert_array_equal(image.alpha, alpha)
    for array in (image.pixels_rgb, image.alpha):
        assert array is None or (array.dtype == np.uint8 and array.flags.writeable and array.flags.c_contiguous)


@pytest.mark.parametrize(
    ("data", "image_format"),
    [
        pytest.param(encode(SMOOTH, "JPEG", quality=95), "jpeg", id="jpeg"),
        pytest.param(encode(SMOOTH, "JPEG", quality=95, progressive=True), "jpeg", id="progressive jpeg"),
        pytest.param(encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95), "jpeg", id="cmyk jpeg"),
        pytest.param(encode(SMOOTH, "WEBP", quality=95), "webp", id="webp"),
    ],
)
def test_lossy_pictures_keep_their_colours(data: bytes, image_format: str) -> None:
    """A mean of 4 grey values is the codec's; red and blue exchanged would be 80."""
    image = read(data)
    assert image.format == image_format
    assert np.abs(image.pixels_rgb.astype(np.int64) - SMOOTH).mean() < 4


def test_grey_jpeg_becomes_rgb() -> None:
    image = read(encode(SMOOTH[:, :, 0].copy(), "JPEG", quality=95))
    assert image.pixels_rgb.shape == SMOOTH.shape
    assert np.abs(image.pixels_rgb.astype(np.int64) - SMOOTH[:, :, :1]).mean() < 4


# EXIF 2.32, tag 274: what to do with the stored picture to see it upright.
UPRIGHT: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9])
def test_pictures_are_turned_upright(orientation: int) -> None:
    upright = UPRIGHT.get(orientation, UPRIGHT[1])
    block = exif(orientation)
    np.testing.assert_array_equal(read(encode(NOISE, "PNG", exif=block)).pixels_rgb, upright(NOISE))
    np.testing.assert_array_equal(read(encode(NOISE, "WEBP", lossless=True, exif=block)).pixels_rgb, upright(NOISE))
    from_jpeg = read(encode(SMOOTH, "JPEG", quality=95, exif=block)).pixels_rgb
    assert from_jpeg.shape == upright(SMOOTH).shape
    assert np.abs(from_jpeg.astype(np.int64) - upright(SMOOTH)).mean() < 4


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_alpha_and_16_bit_pictures_are_turned_too(orientation: int) -> None:
    upright = UPRIGHT[orientation]
    image = read(encode(np.dstack((NOISE, ALPHA)), "PNG", exif=exif(orientation)))
    assert image.alpha is not None
    np.testing.assert_array_equal(image.alpha, upright(ALPHA))
    np.testing.assert_array_equal(image.pixels_rgb, upright(NOISE))
    grey = read(encode(NOISE_16[:, :, 0].copy(), "PNG", exif=exif(orientation)))
    np.testing.assert_array_equal(grey.pixels_rgb, grey_as_rgb(upright(NOISE_16[:, :, 0] >> 8)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
@pytest.mark.parametrize(
    "block", [b"", b"not a TIFF header", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x05\0"], ids=range(4)
)
def test_broken_exif_does_not_cost_the_picture(block: bytes) -> None:
    payload = b"Exif\0\0" + block
    jpeg = encode(SMOOTH, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    np.testing.assert_array_equal(read(jpeg[:2] + segment + jpeg[2:]).pixels_rgb, decode(jpeg))


def test_first_picture_of_an_mpo_counts() -> None:
    """What phones write: a JPEG with a second picture, such as a depth map, behind it."""
    second = Image.fromarray(np.zeros_like(SMOOTH))
    data = encode(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    decoded = read(data)
    assert decoded.format == "jpeg"
    assert np.abs(decoded.pixels_rgb.astype(np.int64) - SMOOTH).mean() < 4


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_colour_profile_is_kept_and_all_other_metadata_dropped(image_format: str) -> None:
    block = Image.Exif()
    block[0x010E] = "a secret description"
    block.get_ifd(0x8825)[1] = "N"
    block.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    image = read(encode(SMOOTH, image_format.upper(), icc_profile=PROFILE, exif=block))
    assert image.icc_profile == PROFILE
    for output_format in ("jpeg", "png", "webp"):
        data = encode_image(image, output_format, 90)
        assert b"secret" not in data
        with Image.open(io.BytesIO(data)) as answer:
            assert answer.info["icc_profile"] == PROFILE
            assert not answer.getexif()
            assert "xmp" not in answer.info


def test_profile_of_other_colours_is_not_put_onto_rgb() -> None:
    """The pixels were turned into RGB, so a profile of CMYK or grey would be wrong for them."""
    assert read(encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", icc_profile=PROFILE)).icc_profile is None
    assert read(encode(GREY_8, "PNG", icc_profile=PROFILE)).icc_profile is None


SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", r"target_image is empty \(0 bytes\)", id="empty"),
        pytest.param(b"\x00", "not a JPEG, PNG or WebP", id="one byte"),
        pytest.param(bytes(range(256)), r"not a JPEG.*\(256 bytes, beginning with 00 01 02 03", id="garbage"),
        pytest.param(encode(SMOOTH, "GIF"), "not a JPEG.*47 49 46", id="gif"),
        pytest.param(encode(SMOOTH, "BMP"), "not a JPEG.*42 4d", id="bmp"),
        pytest.param(encode(SMOOTH, "TIFF"), "not a JPEG.*49 49 2a", id="tiff"),
        pytest.param(encode(SMOOTH, "ICO"), "not a JPEG", id="ico"),
        pytest.param(SVG, "not a JPEG.*3c 73 76 67", id="svg"),
        pytest.param(encode(SMOOTH, "JPEG")[:2], "not a JPEG", id="two bytes of jpeg"),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(200), "target_image", id="jpeg header only"),
        pytest.param(encode(SMOOTH, "PNG")[:33], "not a JPEG", id="png header only"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message) as caught:
        decode_image(data, "target_image", LIMITS)
    assert str(caught.value).startswith("target_image")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(noise_rgb(40, 40), "JPEG", quality=60), id="jpeg"),
        pytest.param(encode(noise_rgb(40, 40), "JPEG", quality=60, progressive=True), id="progressive jpeg"),
        pytest.param(encode(noise_rgb(40, 40), "PNG"), id="png"),
        pytest.param(encode(noise_rgb(40, 40), "WEBP", quality=60), id="webp"),
    ],
)
def test_pictures_cut_short_anywhere_are_refused(data: bytes) -> None:
    # A PNG that lacks no more than its IEND chunk (12 bytes) and the two checksums before it has all of its pixels.
    last = len(data) - (20 if data.startswith(b"\x89PNG") else 0)
    read(data)
    for length in itertools.chain(range(0, last, 41), range(last - 8, last)):
        with pytest.raises(InvalidImageError, match="image"):
            read(data[:length])


def test_damaged_png_is_refused() -> None:
    data = bytearray(encode(noise_rgb(40, 40), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InvalidImageError, match="damaged or cut short"):
        read(bytes(data))


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if any pixel is decoded."""

    def load(_: ImageFile.ImageFile) -> None:
        pytest.fail("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", load)


def bomb(width: int, height: int) -> bytes:
    rows = zlib.compress(bytes(30_000_000), 9)  # 29 kB
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize(
    ("width", "height"),
    [
        pytest.param(7_072, 7_072, id="a little too large"),
        pytest.param(10_000, 10_000, id="Pillow warns"),
        pytest.param(30_000, 30_000, id="Pillow refuses"),
        pytest.param(2**31 - 1, 2**31 - 1, id="largest header"),
    ],
)
@pytest.mark.parametrize("warnings_are", ["error", "ignore"])
def test_bomb_is_refused_before_it_is_decoded(
    width: int, height: int, warnings_are: Literal["error", "ignore"]
) -> None:
    data = bomb(width, height)
    assert len(data) < 40_000
    with warnings.catch_warnings():
        warnings.simplefilter(warnings_are)
        with pytest.raises(ImageTooLargeError, match=r"image (is|has) .* pixels"):
            read(data)


@pytest.mark.usefixtures("no_pixels")
def test_limits_count_before_decoding() -> None:
    jpeg = encode(SMOOTH, "JPEG")
    with pytest.raises(ImageTooLargeError, match=f"image has {len(jpeg)} bytes, the server accepts {len(jpeg) - 1}"):
        decode_image(jpeg, "image", ImageLimits(max_bytes=len(jpeg) - 1))
    with pytest.raises(ImageTooLargeError, match="image is 64x48 = 3072 pixels, the server accepts 3071"):
        decode_image(jpeg, "image", ImageLimits(max_pixels=3071))


def test_limits_are_inclusive() -> None:
    jpeg = encode(SMOOTH, "JPEG")
    decode_image(jpeg, "image", ImageLimits(max_bytes=len(jpeg), max_pixels=64 * 48))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_animations_are_refused(image_format: str) -> None:
    frames = [Image.fromarray(noise_rgb(8, 8, seed)) for seed in range(3)]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(InvalidImageError, match=r"image is animated \(3 frames\)"):
        read(data)


def picture(alpha: npt.NDArray[np.uint8] | None = None) -> DecodedImage:
    return DecodedImage(NOISE.copy(), alpha, "png", None)


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_one_pixel_comes_back(image_format: str) -> None:
    grey = DecodedImage(np.full((1, 1, 3), 128, np.uint8), None, "png", None)
    again = read(encode_image(grey, image_format, 100))
    assert again.format == image_format
    np.testing.assert_allclose(again.pixels_rgb, 128, atol=2)


def test_png_keeps_every_pixel_and_alpha() -> None:
    again = read(encode_image(picture(ALPHA), "png", 1))
    np.testing.assert_array_equal(again.pixels_rgb, NOISE)
    assert again.alpha is not None
    np.testing.assert_array_equal(again.alpha, ALPHA)


def test_webp_keeps_alpha() -> None:
    again = read(encode_image(picture(ALPHA), "webp", 100))
    assert again.alpha is not None
    np.testing.assert_array_equal(again.alpha, ALPHA)


def test_opaque_picture_gets_no_alpha() -> None:
    assert read(encode_image(picture(), "png", 92)).alpha is None


def test_jpeg_lays_the_picture_onto_white() -> None:
    alpha = np.zeros((16, 48), np.uint8)
    alpha[:, 16:32], alpha[:, 32:] = 128, 255
    black = DecodedImage(np.zeros((16, 48, 3), np.uint8), alpha, "png", None)
    again = read(encode_image(black, "jpeg", 100)).pixels_rgb
    np.testing.assert_allclose(again[8, [4, 24, 44], 0], [255, 127, 0], atol=3)


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_quality_changes_the_size(image_format: str) -> None:
    image = DecodedImage(noise_rgb(64, 64), None, "png", None)
    sizes = [len(encode_image(image, image_format, quality)) for quality in (1, 50, 92, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("image_format", "most"), [("jpeg", 65_500), ("webp", 16_383)], ids=["jpeg", "webp"])
def test_side_that_a_format_cannot_hold_is_refused_in_words(image_format: str, most: int) -> None:
    def line(width: int) -> DecodedImage:
        return DecodedImage(np.zeros((1, width, 3), np.uint8), None, "png", None)

    assert read(encode_image(line(most), image_format, 50)).pixels_rgb.shape == (1, most, 3)
    with pytest.raises(ImageTooLargeError, match=f"{most + 1}x1, {image_format} allows {most} pixels.*output_format"):
        encode_image(line(most + 1), image_format, 50)
    assert read(encode_image(line(most + 1), "png", 50)).pixels_rgb.shape == (1, most + 1, 3)


def test_unknown_format_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="image_format must be one of"):
        encode_image(picture(), "gif", 92)
