"""Frames with known faces: a portrait laid into a larger picture, once or five times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from warmswap_ensemble.geometry import (
    FloatArray,
    ImageArray,
    MatrixArray,
    bounding_box,
    compose,
    estimate_affine_matrix,
    scale_of,
    transform_points,
    warp_crop,
)
from warmswap_ensemble.image import ImageLimits, decode_image
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.tiny_swapper import CROP_SIZE

TEMPLATE: Final = "arcface_128"

SIZES_WH: Final = {"720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
TILTS_DEG: Final = (0.0, -8.0, 6.0, 11.0, -4.0)
GRID: Final = {1: (1, 1), 5: (3, 2)}
"""Number of faces to columns and rows."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """A demo picture and its face, as ``face_detector`` of the open pack finds it.

    Attributes:
        file: Name in ``examples/``.
        bbox: x1, y1, x2, y2.
        kps: x and y of eyes, nose, mouth corners.
    """

    file: str
    bbox: tuple[float, float, float, float]
    kps: tuple[tuple[float, float], ...]

    def read(self, folder: Path) -> ImageArray:
        """Return the picture, RGB.

        Raises:
            BenchError: it is not there.
        """
        try:
            data = (folder / self.file).read_bytes()
        except OSError as error:
            raise BenchError(f"no demo picture, run this in a checkout or give --examples: {error}") from error
        return decode_image(data, self.file, ImageLimits()).pixels_rgb


TARGET: Final = Portrait(
    "grace_hopper.jpg",
    (174.8, 131.5, 357.0, 336.3),
    ((221.4, 200.0), (304.3, 192.2), (265.9, 237.4), (235.9, 279.7), (304.0, 273.1)),
)
SOURCE: Final = Portrait(
    "eileen_collins.png",
    (181.5, 58.2, 269.9, 177.8),
    ((203.2, 101.7), (247.0, 104.5), (223.3, 125.1), (203.4, 142.3), (241.3, 144.4)),
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: a frame size, a number of faces, their height in pixels."""

    frame: str
    faces: int
    face_px: int

    @property
    def name(self) -> str:
        """Name for files."""
        return f"{self.frame}_{self.faces}x{self.face_px}"


CASES: Final = (
    Case("720p", 1, 300),
    Case("720p", 5, 210),  # five larger ones would overlap
    Case("1080p", 1, 300),
    Case("1080p", 5, 300),
    Case("4K", 1, 300),
    Case("4K", 5, 300),
    Case("4K", 1, 900),
    Case("4K", 5, 600),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A frame and the faces in it.

    Attributes:
        frame_rgb: (H, W, 3) uint8.
        kps: (5, 2) float32 of each face.
        bboxes: (4,) of each face, pixels.
        crop_px: Side of the square that the swapper's crop covers in the frame, the mean over the faces.
    """

    frame_rgb: ImageArray
    kps: list[FloatArray]
    bboxes: list[MatrixArray]
    crop_px: float


def build_scene(case: Case, portrait_rgb: ImageArray) -> Scene:
    """Lay the target's portrait into a frame."""
    width, height = SIZES_WH[case.frame]
    x1, y1, x2, y2 = TARGET.bbox
    scale, middle = case.face_px / (y2 - y1), ((x1 + x2) / 2, (y1 + y2) / 2)
    tiny = cv2.resize(portrait_rgb, (16, 9), interpolation=cv2.INTER_AREA)
    frame = np.asarray(cv2.resize(tiny, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    columns, rows = GRID[case.faces]
    all_kps, bboxes, crops_px = [], [], []
    for number in range(case.faces):
        column, row = number % columns, number // columns
        left, right = column * width // columns, (column + 1) * width // columns
        top, bottom = row * height // rows, (row + 1) * height // rows
        matrix = np.asarray(cv2.getRotationMatrix2D(middle, TILTS_DEG[number], scale), np.float64)
        matrix[:, 2] += ((left + right) / 2 - middle[0], (top + bottom) / 2 - middle[1])
        tile = frame[top:bottom, left:right]
        to_tile = compose(np.array([[1.0, 0, -left], [0, 1, -top]]), matrix)
        size_wh = (right - left, bottom - top)
        laid = cv2.warpAffine(portrait_rgb, to_tile, size_wh, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        there = cv2.warpAffine(np.full(portrait_rgb.shape[:2], 255, np.uint8), to_tile, size_wh)
        tile[there == 255] = laid[there == 255]
        kps = transform_points(np.array(TARGET.kps), matrix)
        corners = np.array([[x1, y1], [x2, y1], [x1, y2], [x2, y2]])
        all_kps.append(kps.astype(np.float32))
        bboxes.append(bounding_box(transform_points(corners, matrix)))
        crops_px.append(CROP_SIZE / scale_of(estimate_affine_matrix(kps, TEMPLATE, CROP_SIZE)))
    return Scene(frame, all_kps, bboxes, float(np.mean(crops_px)))


def swapped_crop(source_rgb: ImageArray, target_rgb: ImageArray) -> ImageArray:
    """Return what a swapper might give: the target's aligned crop, with the source's face in the target's colours."""
    source, target = (
        warp_crop(pixels, estimate_affine_matrix(np.array(portrait.kps), TEMPLATE, CROP_SIZE), CROP_SIZE)
        for portrait, pixels in ((SOURCE, source_rgb), (TARGET, target_rgb))
    )
    axis = np.linspace(-1, 1, CROP_SIZE)
    radius = np.hypot(axis[None] / 0.52, (axis[:, None] - 0.12) / 0.62)
    inside = radius < 0.8
    (mean, std), (wanted_mean, wanted_std) = ((c[inside].mean(axis=0), c[inside].std(axis=0)) for c in (source, target))
    matched = (source - mean) / std * wanted_std + wanted_mean
    weight = ((1 - radius) / 0.25).clip(0, 1)[..., None]
    return np.asarray((weight * matched + (1 - weight) * target).round().clip(0, 255), np.uint8)


def box_mask(size: int = CROP_SIZE, border: float = 0.10, blur: float = 0.05) -> FloatArray:
    """Return the (size, size) mask of insightface's pasting: a square, eroded by a tenth, its edge blurred.

    insightface makes it anew for each face, in the pixels of the frame; here it is made once, in those of the crop.
    """
    inner, radius = round(size * border / 2) + 1, max(round(size * blur), 1)
    mask = np.zeros((size, size), np.float32)
    mask[inner : size - inner, inner : size - inner] = 1
    side = 2 * radius + 1
    return np.asarray(cv2.GaussianBlur(mask, (side, side), 0, borderType=cv2.BORDER_CONSTANT), np.float32)
