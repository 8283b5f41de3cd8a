"""Pictures written by hand, faces and stages from numbers: what the tests of the ensemble share."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from warmswap_ensemble.geometry import FloatArray, ImageArray
from warmswap_ensemble.stage_calls import Arrays
from warmswap_ensemble.types import Face, Stage

ROOT: Final = Path(__file__).resolve().parents[2]
REPOSITORY: Final = ROOT / "model_repository"
COLLINS: Final = ROOT / "examples/eileen_collins.png"
HOPPER: Final = ROOT / "examples/grace_hopper.jpg"

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
"""PNG colour types (PNG specification, table 11.1)."""


def noise_rgb(height: int, width: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def smooth_rgb(height: int, width: int) -> ImageArray:
    """A picture without edges, so that JPEG and resampling change it by little."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = (255 * x / max(1, width - 1), 255 * y / max(1, height - 1), 128 + 60 * np.sin(x / 9) * np.cos(y / 7))
    return np.asarray(np.stack(channels, axis=2).round(), np.uint8)


def encode(image: Image.Image | npt.NDArray[Any], image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_by_hand(
    samples: npt.NDArray[Any], colour_type: int, *, before_idat: bytes = b"", size_wh: tuple[int, int] | None = None
) -> bytes:
    """Write a PNG that Pillow cannot write, such as 16-bit RGB.

    Args:
        samples: (H, W) or (H, W, C) of uint8 or uint16; written without filtering.
        colour_type: ``GREY``, ``RGB``, ``GREY_ALPHA`` or ``RGBA``.
        before_idat: More chunks.
        size_wh: What the header says, if it is to lie.
    """
    height, width = samples.shape[:2]
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    raw = b"".join(b"\x00" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", *(size_wh or (width, height)), samples.dtype.itemsize * 8, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + before_idat + png_chunk(b"IDAT", zlib.compress(raw))
    return PNG_SIGNATURE + chunks + png_chunk(b"IEND", b"")


def decode(data: bytes) -> ImageArray:
    """What another reader sees: plain Pillow, without orientation."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def make_face(x1: float, y1: float, x2: float, y2: float, score: float = 0.9) -> Face:
    """A face whose five points lie in its box as they do in a portrait."""
    width, height = x2 - x1, y2 - y1
    places = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    kps = (places * (width, height) + (x1, y1)).astype(np.float32)
    return Face(np.array([x1, y1, x2, y2], np.float32), score, kps)


def make_stage(model: str, *, version: int = 1, sha256: str = "0" * 64, twin: bool = False, **settings: Any) -> Stage:
    return Stage(model, version, sha256, settings, twin)


def unit_rows(count: int, length: int, seed: int = 0) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(count, length))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class RecordingCalls:
    """A ``call_model`` around another one that notes which stages were called, and with how many rows."""

    def __init__(self, call_model: Any) -> None:
        self.call_model = call_model
        self.calls: list[tuple[str, int]] = []

    def __call__(self, stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        self.calls.append((stage.model, len(next(iter(inputs.values())))))
        answer: Arrays = self.call_model(stage, inputs, output_names)
        return answer

    @property
    def stages(self) -> list[str]:
        return [model for model, _ in self.calls]
