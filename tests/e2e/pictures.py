"""Pictures for the tests, composed from the two portraits of ``examples``; the same bytes on every run."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[2]
COLLINS_PATH = ROOT / "examples/eileen_collins.png"
HOPPER_PATH = ROOT / "examples/grace_hopper.jpg"
COLLINS = COLLINS_PATH.read_bytes()
HOPPER = HOPPER_PATH.read_bytes()
EXIF_ORIENTATION = 0x0112

MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF"}


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@cache
def collins() -> Image.Image:
    return decode(COLLINS).convert("RGB")


@cache
def hopper() -> Image.Image:
    return decode(HOPPER).convert("RGB")


def blank(width: int = 200, height: int = 200) -> Image.Image:
    return Image.new("RGB", (width, height), (120, 130, 140))


@cache
def contact_sheet(columns: int, rows: int, cell: int = 64) -> bytes:
    """Return a JPEG of small portraits; the detector finds every one of them."""
    portraits = [collins().crop((130, 20, 330, 220)), hopper().crop((130, 80, 400, 370))]
    portraits = [picture.resize((cell - 4, cell - 4), Image.Resampling.LANCZOS) for picture in portraits]
    portraits += [ImageOps.mirror(picture) for picture in portraits]
    sheet = Image.new("RGB", (columns * cell, rows * cell), "white")
    for row in range(rows):
        for column in range(columns):
            sheet.paste(portraits[(row + column) % 4], (column * cell + 2, row * cell + 2))
    return encode(sheet, "JPEG", quality=85)


@cache
def group() -> bytes:
    """Return a PNG of three Hoppers (as she is, mirrored, small and tilted) and, second from the left, Collins."""
    picture = Image.new("RGB", (1300, 700), "grey")
    picture.paste(hopper().resize((341, 400)), (20, 150))
    picture.paste(collins().resize((330, 330)), (375, 300))
    picture.paste(ImageOps.mirror(hopper()).resize((290, 340)), (720, 40))
    tilted = hopper().crop((100, 60, 430, 400)).rotate(12, Image.Resampling.BICUBIC, fillcolor="grey")
    picture.paste(tilted.resize((220, 227)), (1040, 400))
    return encode(picture)


def sheared() -> Image.Image:
    return hopper().transform((800, 600), Image.Transform.AFFINE, (1, 0.3, -190, 0, 1, 0), Image.Resampling.BICUBIC)


def with_alpha() -> bytes:
    """Return a PNG whose alpha is a ramp, zero in the first column."""
    width, height = hopper().size
    ramp = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
    picture = hopper().copy()
    picture.putalpha(Image.fromarray(np.ascontiguousarray(ramp)))
    return encode(picture)


def sixteen_bit() -> bytes:
    grey = np.asarray(hopper().convert("L")).astype(np.uint16) * 257
    return encode(Image.fromarray(grey))


def stored_turned(orientation: int) -> bytes:
    """Return a JPEG that shows Hopper upright, in a viewer that heeds EXIF only."""
    undo = {
        3: Image.Transpose.ROTATE_180,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(hopper().transpose(undo[orientation]), "JPEG", quality=95, exif=exif)


def animated(image_format: str) -> bytes:
    return encode(hopper(), image_format, save_all=True, append_images=[collins().resize(hopper().size)], duration=100)


def png_bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """Return a PNG of a hundred bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return MAGIC["png"] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
