from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from tests.ensemble.support import noise_rgb, smooth_rgb
from warmswap_ensemble.compositing import paste_crop
from warmswap_ensemble.geometry import (
    FloatArray,
    ImageArray,
    MatrixArray,
    invert_affine_matrix,
    transform_points,
    warp_crop,
)

SIDE = 64


def placed(scale: float, centre: tuple[float, float], degrees: float = 0) -> MatrixArray:
    """Image to crop, for a crop whose middle lies at ``centre`` and whose pixels are ``scale`` image pixels."""
    angle = math.radians(degrees)
    a, b = math.cos(angle) / scale, math.sin(angle) / scale
    linear = np.array([[a, -b], [b, a]])
    return np.column_stack((linear, np.full(2, (SIDE - 1) / 2) - linear @ centre))


def full_mask() -> FloatArray:
    """1 inside, 0 along the border."""
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[1:-1, 1:-1] = 1
    return mask


def soft_mask() -> FloatArray:
    y, x = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    return np.asarray((1 - np.hypot(x, y) / 24).clip(0, 0.5) * 2, np.float32)


def outside_of_the_mask(
    image: ImageArray, affine_matrix: MatrixArray, mask: FloatArray, margin_px: float
) -> ImageArray:
    """Boolean (H, W): pixels of the image further from the mask's box than a margin."""
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    in_crop = transform_points(np.stack((x, y), axis=2).astype(np.float64), affine_matrix)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin = margin_px * math.hypot(*affine_matrix[0, :2])
    low, high = (columns[0] - margin, rows[0] - margin), (columns[-1] + margin, rows[-1] + margin)
    return np.asarray(((in_crop < low) | (in_crop > high)).any(axis=2))


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.7, 1, 1.5, 3])
@pytest.mark.parametrize("degrees", [0, 25])
def test_paste_changes_nothing_outside_the_mask(scale: float, degrees: float) -> None:
    before = noise_rgb(240, 320)
    after = before.copy()
    matrix, mask = placed(scale, (160.3, 120.8), degrees), soft_mask()
    paste_crop(after, noise_rgb(SIDE, SIDE, 5), mask, matrix)
    far = outside_of_the_mask(before, matrix, mask, margin_px=max(2.0, 2 * scale))
    assert far.mean() > 0.1
    np.testing.assert_array_equal(after[far], before[far])
    assert (after[~far] != before[~far]).mean() > 0.3


def test_empty_mask_changes_nothing() -> None:
    image = noise_rgb(50, 60)
    paste_crop(image, noise_rgb(SIDE, SIDE, 5), np.zeros((SIDE, SIDE), np.float32), placed(1, (30, 25)))
    np.testing.assert_array_equal(image, noise_rgb(50, 60))


@pytest.mark.parametrize(
    "centre",
    [
        pytest.param((-500, 25), id="left"),
        pytest.param((500, 25), id="right"),
        pytest.param((30, -500), id="above"),
        pytest.param((30, 500), id="below"),
    ],
)
@pytest.mark.parametrize("scale", [0.2, 1, 3])
def test_face_outside_of_the_frame_changes_nothing(centre: tuple[float, float], scale: float) -> None:
    image = noise_rgb(50, 60)
    paste_crop(image, noise_rgb(SIDE, SIDE, 5), full_mask(), placed(scale, centre))
    np.testing.assert_array_equal(image, noise_rgb(50, 60))


@pytest.mark.parametrize(
    "centre",
    [
        pytest.param((0, 60), id="left edge"),
        pytest.param((159, 60), id="right edge"),
        pytest.param((80, 0), id="top edge"),
        pytest.param((80, 119), id="bottom edge"),
        pytest.param((0, 0), id="corner"),
        pytest.param((159, 119), id="other corner"),
    ],
)
@pytest.mark.parametrize("scale", [0.25, 1, 2])
def test_face_cut_by_an_edge_lies_where_it_would_in_a_larger_frame(centre: tuple[float, float], scale: float) -> None:
    crop, margin = smooth_rgb(SIDE, SIDE), 100
    large = np.full((120 + 2 * margin, 160 + 2 * margin, 3), 90, np.uint8)
    small = np.full((120, 160, 3), 90, np.uint8)
    paste_crop(large, crop, soft_mask(), placed(scale, (centre[0] + margin, centre[1] + margin)))
    paste_crop(small, crop, soft_mask(), placed(scale, centre))
    assert (small != 90).any()
    window = large[margin : margin + 120, margin : margin + 160]
    np.testing.assert_allclose(small.astype(np.int64), window, atol=1)


@pytest.mark.parametrize("value", [0, 1, 127, 200, 254, 255])
@pytest.mark.parametrize("scale", [0.2, 0.7, 1, 2.3])
def test_constant_crop_on_constant_image_gives_exactly_that_constant(value: int, scale: float) -> None:
    image = np.full((120, 160, 3), value, np.uint8)
    paste_crop(image, np.full((SIDE, SIDE, 3), value, np.uint8), soft_mask(), placed(scale, (81.4, 59.7), 13))
    assert np.unique(image).tolist() == [value]


@pytest.mark.parametrize("scale", [0.2, 0.7, 1, 2.3])
def test_full_mask_takes_the_crop_and_half_a_mask_takes_half(scale: float) -> None:
    for weight, expected in ((1.0, 220), (0.5, 160)):
        image = np.full((200, 200, 3), 100, np.uint8)
        paste_crop(
            image, np.full((SIDE, SIDE, 3), 220, np.uint8), full_mask() * np.float32(weight), placed(scale, (99, 99))
        )
        assert abs(int(image[99, 99, 0]) - expected) <= 1
        assert image[0, 0, 0] == 100


def test_colours_stay_in_their_channels() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    paste_crop(image, np.full((SIDE, SIDE, 3), (250, 120, 10), np.uint8), full_mask(), placed(1, (50, 50)))
    assert image[50, 50].tolist() == [250, 120, 10]


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.59, 0.61, 1, 2.5])
@pytest.mark.parametrize("degrees", [0, 30])
def test_pattern_keeps_its_place_and_brightness(scale: float, degrees: float) -> None:
    """Four soft spots; a half pixel forgotten while averaging would move them, a bad border darken them."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    for u, v in ((20, 20), (44, 20), (20, 44), (44, 44)):
        spot = 200 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 5.0**2))
        crop = np.repeat(spot.round().astype(np.uint8)[:, :, None], 3, axis=2)
        matrix = placed(scale, (150.4, 149.1), degrees)
        image = np.zeros((300, 300, 3), np.uint8)
        paste_crop(image, crop, full_mask(), matrix)
        light = image[:, :, 0].astype(np.float64)
        rows, columns = np.mgrid[0:300, 0:300]
        centre = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
        expected = transform_points(np.array([u, v], np.float64), invert_affine_matrix(matrix))
        np.testing.assert_allclose(centre, expected, atol=0.3)
        # At 0.1 the spot is one pixel and a half, so what is sampled of it depends on where it falls.
        assert light.sum() == pytest.approx(crop[:, :, 0].sum() * scale**2, rel=0.1 if scale == 0.1 else 0.05)


@pytest.mark.parametrize("scale", [0.4, 1, 2])
def test_pasting_the_crop_that_was_cut_changes_little(scale: float) -> None:
    image = smooth_rgb(240, 320)
    matrix = placed(scale, (163, 117), -20)
    again = image.copy()
    paste_crop(again, warp_crop(image, matrix, SIDE), full_mask(), matrix)
    assert np.abs(again.astype(np.int64) - image).max() <= 6


class CountingCv2:
    """Notes how many pixels each call of OpenCV writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pixels = 0
        for name in ("warpAffine", "resize", "blendLinear"):
            self._count(monkeypatch, name)

    def _count(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        function = getattr(cv2, name)

        def counting(*args: object, **kwargs: object) -> ImageArray:
            result: ImageArray = function(*args, **kwargs)
            self.pixels += result.shape[0] * result.shape[1]
            return result

        monkeypatch.setattr(cv2, name, counting)


@pytest.mark.parametrize("scale", [0.25, 1, 4])
def test_work_grows_with_the_face_and_not_with_the_frame(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountingCv2(monkeypatch)
    written = []
    for side in (400, 3000):
        counted.pixels = 0
        paste_crop(np.zeros((side, side, 3), np.uint8), noise_rgb(SIDE, SIDE), soft_mask(), placed(scale, (200, 200)))
        written.append(counted.pixels)
    assert written[0] == written[1]
    face = (48 * scale + 6) ** 2  # the mask is 48 crop pixels wide
    assert 0 < written[0] < 5 * face + 3000
