"""Encoded bytes to pixels and back: limits, orientation, colour modes, alpha. The one owner of Pillow.

Metadata is not carried over, except the colour profile: a swapped picture must not repeat the place and time of the
original as if they were its own.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from warmswap_ensemble.contract import IMAGE_FORMATS
from warmswap_ensemble.errors import ImageTooLargeError, InvalidImageError

ImageArray = npt.NDArray[np.uint8]

PILLOW_FORMATS: Final = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}
"""MPO is what phones call a JPEG with a second picture behind it; the first one counts."""

EXIF_ORIENTATION: Final = 0x0112
UPRIGHT: Final = {
    # EXIF 2.32, tag 274: what turns the stored picture upright.
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_SIDE: Final = {"jpeg": 65_500, "webp": 16_383}
"""Most pixels along a side that an encoder writes (libjpeg: JPEG_MAX_DIMENSION, libwebp: WEBP_MAX_DIMENSION)."""

PNG_COMPRESS_LEVEL: Final = 3
"""A quarter of the time of Pillow's default 6, for files some per cent larger."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a picture may cost before it is decoded.

    Attributes:
        max_bytes: Encoded size.
        max_pixels: Width times height, as declared in the header.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 50_000_000


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded picture, upright.

    Attributes:
        pixels_rgb: (H, W, 3) uint8, writable.
        alpha: (H, W) uint8, or None where the picture has none.
        format: One of ``contract.IMAGE_FORMATS``.
        icc_profile: Colour profile of the pixels, or None.
    """

    pixels_rgb: ImageArray
    alpha: ImageArray | None
    format: str
    icc_profile: bytes | None


def decode_image(data: bytes, name: str, limits: ImageLimits) -> DecodedImage:
    """Decode a JPEG, PNG or WebP picture.

    16-bit pictures become 8-bit; grey, palette and CMYK pictures become RGB; EXIF orientation is applied.

    Args:
        data: Encoded picture.
        name: What the picture is called in error messages.
        limits: Largest size, checked before any pixel is decoded.

    Raises:
        InvalidImageError: the bytes are empty, of another format, damaged, cut short or animated.
        ImageTooLargeError: the picture is beyond the limits.
    """
    if not data:
        raise InvalidImageError(f"{name} is empty (0 bytes); send a JPEG, PNG or WebP picture")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(f"{name} has {len(data)} bytes, the server accepts {limits.max_bytes}")
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(f"{name} has far more than the {limits.max_pixels} pixels accepted") from None
    except Exception as error:  # whatever a parser raises over hostile bytes, the picture is at fault
        raise InvalidImageError(
            f"{name} is not a JPEG, PNG or WebP picture that can be read ({len(data)} bytes, beginning with "
            f"{data[:8].hex(' ')})"
        ) from error
    with image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise ImageTooLargeError(
                f"{name} is {width}x{height} = {width * height} pixels, the server accepts {limits.max_pixels}"
            )
        frames = getattr(image, "n_frames", 1)
        if image.format != "MPO" and frames > 1:
            raise InvalidImageError(f"{name} is animated ({frames} frames); send a single picture")
        try:
            return _to_pixels(image)
        except Exception as error:  # as above
            raise InvalidImageError(f"{name} is damaged or cut short: {error}") from error


def _to_pixels(image: Image.Image) -> DecodedImage:
    image_format = PILLOW_FORMATS[str(image.format)]
    icc_profile = image.info.get("icc_profile") if image.mode in {"RGB", "RGBA", "P"} else None
    orientation = image.getexif().get(EXIF_ORIENTATION)
    image.load()
    upright: Image.Image = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
    if upright.mode in {"I;16", "I;16B", "I;16L", "I"}:
        grey = (np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return DecodedImage(np.repeat(grey[:, :, None], 3, axis=2), None, image_format, None)
    if not upright.has_transparency_data:
        rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
        return DecodedImage(np.array(rgb), None, image_format, icc_profile)
    rgba = np.array(upright if upright.mode == "RGBA" else upright.convert("RGBA"))
    return DecodedImage(np.ascontiguousarray(rgba[:, :, :3]), rgba[:, :, 3].copy(), image_format, icc_profile)


def encode_image(image: DecodedImage, image_format: str, quality: int) -> bytes:
    """Encode a picture.

    Args:
        image: What to encode; alpha is kept by PNG and WebP, and laid onto white for JPEG.
        image_format: One of ``contract.IMAGE_FORMATS``.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ImageTooLargeError: the format has no room for a picture of this width or height.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format must be one of {IMAGE_FORMATS}, got {image_format!r}")
    pixels = image.pixels_rgb
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_SIDE.get(image_format, max(height, width)):
        raise ImageTooLargeError(
            f"the answer is {width}x{height}, {image_format} allows {MAX_SIDE[image_format]} pixels along a side; "
            "ask for another output_format"
        )
    if image.alpha is not None and image_format == "jpeg":
        share = image.alpha[:, :, None].astype(np.float32) / 255
        pixels = (pixels * share + 255 * (1 - share) + 0.5).astype(np.uint8)
    elif image.alpha is not None:
        pixels = np.dstack((pixels, image.alpha))
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    extra: dict[str, Any] = {"icc_profile": image.icc_profile} if image.icc_profile else {}
    if image_format == "png":
        picture.save(buffer, "PNG", compress_level=PNG_COMPRESS_LEVEL, **extra)
    else:
        picture.save(buffer, image_format.upper(), quality=quality, **extra)
    return buffer.getvalue()
