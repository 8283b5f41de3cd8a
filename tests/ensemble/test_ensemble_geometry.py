from __future__ import annotations

import math

import numpy as np
import pytest

from tests.ensemble.support import noise_rgb, smooth_rgb
from warmswap_ensemble.errors import InvalidTensorError
from warmswap_ensemble.geometry import (
    WARP_TEMPLATES,
    ImageArray,
    MatrixArray,
    bounding_box,
    clip_bbox,
    compose,
    estimate_affine_matrix,
    fit_into,
    invert_affine_matrix,
    letterbox,
    scale_of,
    transform_points,
    warp_crop,
)


def similarity(scale: float, degrees: float, shift: tuple[float, float] = (0, 0)) -> MatrixArray:
    angle = math.radians(degrees)
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[a, -b, shift[0]], [b, a, shift[1]]])


def umeyama(source: MatrixArray, target: MatrixArray) -> MatrixArray:
    """The method with SVD, after ``skimage.transform._geometric._umeyama`` (scikit-image 0.25, BSD-3)."""
    count, dim = source.shape
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_demean, target_demean = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(target_demean.T @ source_demean / count)
    d = np.ones(dim)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        d[dim - 1] = -1
    rotation = u @ np.diag(d) @ vt
    scale = (s @ d) / source_demean.var(axis=0).sum()
    return np.column_stack((scale * rotation, target_mean - scale * rotation @ source_mean))


def naive_crop(image_rgb: ImageArray, affine_matrix: MatrixArray, crop_size: int) -> MatrixArray:
    """Bilinear, border repeated, pixel by pixel."""
    height, width = image_rgb.shape[:2]
    inverse = np.linalg.inv(np.vstack((affine_matrix, (0, 0, 1))))
    crop = np.zeros((crop_size, crop_size, 3))
    for v in range(crop_size):
        for u in range(crop_size):
            x, y, _ = inverse @ (u, v, 1)
            x0, y0 = math.floor(x), math.floor(y)
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                weight = (x - x0 if dx else 1 - x + x0) * (y - y0 if dy else 1 - y + y0)
                pixel = image_rgb[min(max(y0 + dy, 0), height - 1), min(max(x0 + dx, 0), width - 1)]
                crop[v, u] += weight * pixel
    return crop


@pytest.mark.parametrize("warp_template", WARP_TEMPLATES)
@pytest.mark.parametrize(
    ("scale", "degrees", "jitter"),
    [
        pytest.param(1, 0, 0, id="template itself"),
        pytest.param(3, 0, 0, id="scaled"),
        pytest.param(0.05, 90, 0, id="small, on its side"),
        pytest.param(2, 180, 0, id="upside down"),
        pytest.param(1.5, -33, 2, id="jittered"),
        pytest.param(20, 140, 200, id="huge and jittered"),
    ],
)
def test_closed_form_equals_umeyama_with_svd(warp_template: str, scale: float, degrees: float, jitter: float) -> None:
    rng = np.random.default_rng(17)
    target = WARP_TEMPLATES[warp_template] * 112
    kps = transform_points(target, similarity(scale, degrees, (40, -7))) + rng.normal(size=(5, 2)) * jitter
    actual = estimate_affine_matrix(kps, warp_template, 112)
    np.testing.assert_allclose(actual, umeyama(kps, target), rtol=1e-9, atol=1e-9)
    if not jitter:
        np.testing.assert_allclose(transform_points(kps, actual), target, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_closed_form_equals_umeyama_on_any_face(seed: int) -> None:
    """Five points of a face that is turned, tilted and out of shape, as a detector gives them."""
    rng = np.random.default_rng(seed)
    face = WARP_TEMPLATES["arcface_112_v2"] * (rng.uniform(0.5, 1), 1) + rng.normal(size=(5, 2)) * 0.04
    kps = transform_points(face, similarity(rng.uniform(20, 900), rng.uniform(-180, 180), (rng.uniform(0, 999), 5)))
    expected = umeyama(kps, WARP_TEMPLATES["ffhq_512"] * 256)
    np.testing.assert_allclose(estimate_affine_matrix(kps, "ffhq_512", 256), expected, rtol=1e-9, atol=1e-9)


def test_templates_are_faces_within_the_crop() -> None:
    for name, points in WARP_TEMPLATES.items():
        left_eye, right_eye, nose, left_mouth, right_mouth = points
        assert points.shape == (5, 2), name
        assert points.min() > 0.1, name
        assert points.max() < 0.9, name
        assert left_eye[0] < nose[0] < right_eye[0], name
        assert left_mouth[0] < right_mouth[0], name
        assert left_eye[1] < nose[1] < left_mouth[1], name


BALANCED = np.array([[0, 0], [0, 0], [1, 0], [0, 0], [0, 0]], np.float64)


@pytest.mark.parametrize(
    ("kps", "message"),
    [
        pytest.param(np.zeros((0, 2)), r"kps must be \(5, 2\) finite numbers, got shape \(0, 2\)", id="empty"),
        pytest.param(np.zeros((5, 3)), r"got shape \(5, 3\)", id="three coordinates"),
        pytest.param(np.zeros((5, 2)), "all of them coincide", id="all at the origin"),
        pytest.param(np.full((5, 2), 731.5), "all of them coincide", id="all at one place"),
        pytest.param(BALANCED * np.nan, "finite", id="not a number"),
        pytest.param(np.where(BALANCED == 1, np.inf, BALANCED), "finite", id="infinite"),
    ],
)
def test_degenerate_points_are_refused(kps: MatrixArray, message: str) -> None:
    with pytest.raises(InvalidTensorError, match=message):
        estimate_affine_matrix(kps, "arcface_112_v2", 112)


def test_points_that_fit_the_template_in_no_rotation_are_refused() -> None:
    target = WARP_TEMPLATES["arcface_112_v2"] - WARP_TEMPLATES["arcface_112_v2"].mean(axis=0)
    turned = target @ np.array([[0, 1], [-1, 0]])
    means = np.tile(np.eye(2), 5)
    # A direction of R^10 that the centred template, its quarter turn and both shifts know nothing of.
    *_, null = np.linalg.svd(np.vstack((target.reshape(-1), turned.reshape(-1), means)))
    with pytest.raises(InvalidTensorError, match="do not lie like the points of a face"):
        estimate_affine_matrix(null[-1].reshape(5, 2) * 100, "arcface_112_v2", 112)


def test_points_come_back_through_the_inverse() -> None:
    matrix = similarity(0.31, 73, (400, -12))
    points = np.random.default_rng(3).uniform(-2000, 2000, (68, 2))
    back = transform_points(transform_points(points, matrix), invert_affine_matrix(matrix))
    np.testing.assert_allclose(back, points, atol=1e-9)
    np.testing.assert_allclose(compose(invert_affine_matrix(matrix), matrix), np.eye(2, 3), atol=1e-9)


def test_empty_points_stay_empty() -> None:
    assert transform_points(np.zeros((0, 2)), np.eye(2, 3)).shape == (0, 2)


def test_compose_applies_the_second_after_the_first() -> None:
    first, second = similarity(2, 30, (5, 6)), similarity(0.5, 45, (-1, 3))
    points = np.random.default_rng(4).normal(size=(7, 2))
    expected = transform_points(transform_points(points, first), second)
    np.testing.assert_allclose(transform_points(points, compose(second, first)), expected, atol=1e-12)


@pytest.mark.parametrize("scale", [0.01, 1, 7.5])
def test_scale_of_a_rotated_matrix(scale: float) -> None:
    assert scale_of(similarity(scale, 111, (9, 9))) == pytest.approx(scale)


@pytest.mark.parametrize(
    "affine_matrix",
    [
        pytest.param(similarity(1, 0), id="identity"),
        pytest.param(similarity(1, 0, (-4.25, 3.5)), id="parts of a pixel"),
        pytest.param(similarity(0.8, 20, (3, -2)), id="rotated"),
        pytest.param(similarity(2.5, -70, (10, 30)), id="enlarged"),
        pytest.param(similarity(1, 0, (-300, 5)), id="right of the image"),
        pytest.param(similarity(1, 0, (5, 300)), id="above the image"),
    ],
)
def test_crop_equals_a_naive_warp(affine_matrix: MatrixArray) -> None:
    image = smooth_rgb(27, 31)
    # cv2.warpAffine knows 1/32 of a pixel, and the picture's steepest slope is 10 a pixel.
    np.testing.assert_allclose(warp_crop(image, affine_matrix, 24), naive_crop(image, affine_matrix, 24), atol=1.5)


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("scale", [0.2, 1])
def test_crop_beside_the_image_repeats_its_border(side: str, scale: float) -> None:
    image = np.full((40, 50, 3), 90, np.uint8)
    image[:, 0], image[:, -1], image[0], image[-1] = 10, 20, 30, 40
    (x, y), value = {
        "left": ((-400, 10), 10),
        "right": ((400, 10), 20),
        "top": ((10, -400), 30),
        "bottom": ((10, 400), 40),
    }[side]
    crop = warp_crop(image, similarity(scale, 0, (-x * scale, -y * scale)), 4)
    assert np.unique(crop).tolist() == [value]


def test_crop_works_where_the_image_is_wider_than_opencv_warps() -> None:
    image = np.zeros((8, 33_000, 3), np.uint8)
    image[:, 32_990:] = 200
    crop = warp_crop(image, similarity(1, 0, (-32_980, 0)), 16)
    np.testing.assert_array_equal(crop[:8, :, 0], np.where(np.arange(16) >= 10, 200, 0)[None].repeat(8, axis=0))


def centre_of_light(image: ImageArray) -> MatrixArray:
    light = image[:, :, 0].astype(np.float64)
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    return np.asarray(np.array([(light * x).sum(), (light * y).sum()]) / light.sum())


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.59, 0.61, 1, 2])
@pytest.mark.parametrize("degrees", [0, 37])
def test_a_bright_dot_lands_where_the_matrix_says(scale: float, degrees: float) -> None:
    """In crop pixels; a half pixel forgotten in the averaging would be seen at small scales."""
    side, where = 64, np.array([801.0, 449.0])
    image = np.zeros((900, 1600, 3), np.uint8)
    reach = max(1, round(0.8 / scale))  # a dot of some pixels in the crop
    image[449 - reach : 450 + reach, 801 - reach : 802 + reach] = 255
    matrix = similarity(scale, degrees)
    matrix[:, 2] = (29, 37) - matrix[:, :2] @ where
    crop = warp_crop(image, matrix, side)
    assert crop.max() > 100
    np.testing.assert_allclose(centre_of_light(crop), (29, 37), atol=0.6)


def test_fine_stripes_become_grey_when_shrunk() -> None:
    """Four pixels per crop pixel, which is all that a warp looks at, would show moire."""
    image = np.zeros((800, 800, 3), np.uint8)
    image[:, ::2] = 255
    crop = warp_crop(image, similarity(0.1, 10, (40, 0)), 64)
    assert abs(crop[20:40, 20:40].astype(np.int64) - 127).max() <= 20


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        pytest.param((5, 5, 5, 5), (5, 5, 6, 6), id="a point"),
        pytest.param((0, 0, 19, 9), (0, 0, 20, 10), id="the whole image"),
        pytest.param((-7.5, -0.1, 3.2, 4), (0, 0, 5, 5), id="over the top left"),
        pytest.param((18.7, 8.2, 99, 99), (18, 8, 20, 10), id="over the bottom right"),
        pytest.param((-9, -9, -3, -3), (0, 0, 0, 0), id="left of it: empty"),
        pytest.param((25, 3, 30, 5), (25, 3, 25, 6), id="right of it: empty"),
    ],
)
def test_clip_bbox(bbox: tuple[float, ...], expected: tuple[int, ...]) -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    x1, y1, x2, y2 = clip_bbox(np.array(bbox, np.float64), image)
    assert (x1, y1, x2, y2) == expected


def test_bounding_box_holds_all_points() -> None:
    assert bounding_box(np.array([[3.0, -1], [0, 8], [2, 2]])).tolist() == [0, -1, 3, 8]


@pytest.mark.parametrize(
    ("image_hw", "fitted_hw", "scale"),
    [
        pytest.param((1, 1), (1, 1), 1, id="one pixel is not enlarged"),
        pytest.param((640, 640), (640, 640), 1, id="exact"),
        pytest.param((100, 200), (100, 200), 1, id="small is not enlarged"),
        pytest.param((1280, 640), (640, 320), 0.5, id="tall"),
        pytest.param((720, 1280), (360, 640), 0.5, id="wide"),
        pytest.param((641, 641), (640, 640), 640 / 641, id="one too many"),
        pytest.param((1, 5000), (1, 640), 640 / 5000, id="a line"),
        pytest.param((5000, 1), (640, 1), 640 / 5000, id="a column"),
        pytest.param((3, 40_000), (1, 640), 640 / 40_000, id="wider than opencv warps"),
    ],
)
def test_image_is_shrunk_to_fit(image_hw: tuple[int, int], fitted_hw: tuple[int, int], scale: float) -> None:
    fitted, actual = fit_into(np.full((*image_hw, 3), 77, np.uint8), (640, 640))
    assert fitted.shape == (*fitted_hw, 3)
    assert (fitted == 77).all()
    assert actual == pytest.approx(scale)


def test_size_to_fit_is_height_first() -> None:
    fitted, scale = fit_into(noise_rgb(100, 400), (50, 300))
    assert fitted.shape == (50, 200, 3)
    assert scale == 0.5


def test_shrinking_averages() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, ::2] = 200
    assert np.unique(fit_into(image, (50, 50))[0]).tolist() == [100]


@pytest.mark.parametrize(
    ("size_hw", "multiple", "frame_hw"),
    [
        pytest.param((1, 1), 32, (32, 32), id="one pixel"),
        pytest.param((64, 32), 32, (64, 32), id="exact"),
        pytest.param((65, 33), 32, (96, 64), id="one too many"),
        pytest.param((100, 160), 32, (100, 160), id="never larger than the detector's own size"),
        pytest.param((10, 10), 0, (100, 160), id="fixed"),
    ],
)
def test_letterbox(size_hw: tuple[int, int], multiple: int, frame_hw: tuple[int, int]) -> None:
    image = noise_rgb(*size_hw).clip(1)
    frame = letterbox(image, (100, 160), multiple)
    assert frame.shape == (*frame_hw, 3)
    height, width = size_hw
    np.testing.assert_array_equal(frame[:height, :width], image)
    assert np.count_nonzero(frame) == image.size


def test_letterbox_does_not_touch_the_image() -> None:
    image = noise_rgb(20, 30)
    letterbox(fit_into(image, (64, 64))[0], (64, 64), 0)[:] = 0
    np.testing.assert_array_equal(image, noise_rgb(20, 30))
