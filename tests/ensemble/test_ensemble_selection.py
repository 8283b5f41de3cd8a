from __future__ import annotations

import numpy as np
import pytest

from tests.ensemble.support import make_face
from warmswap_ensemble.contract import MAX_FACES, NUM_KPS
from warmswap_ensemble.errors import FaceIndexError, NoFaceError
from warmswap_ensemble.geometry import FloatArray
from warmswap_ensemble.options import FaceSelector
from warmswap_ensemble.selection import faces_from_rows, keep_largest, largest, select_faces
from warmswap_ensemble.types import Face

SMALL, LARGE, MIDDLE = make_face(0, 0, 10, 10), make_face(20, 0, 60, 40), make_face(70, 0, 90, 20)
THREE = [SMALL, LARGE, MIDDLE]


def rows(*boxes: tuple[float, float, float, float, float]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Rows of a detector: x1, y1, x2, y2 and score, then padding."""
    bbox = np.zeros((MAX_FACES, 4), np.float32)
    score = np.zeros(MAX_FACES, np.float32)
    kps = np.zeros((MAX_FACES, NUM_KPS, 2), np.float32)
    for i, (*box, value) in enumerate(boxes):
        bbox[i], score[i], kps[i] = box, value, make_face(*box).kps
    return bbox, score, kps


def find(
    *boxes: tuple[float, float, float, float, float], scale: float = 1, min_score: float = 0.5
) -> list[tuple[float, ...]]:
    faces = faces_from_rows(*rows(*boxes), scale=scale, size_hw=(100, 200), min_score=min_score)
    return [tuple(face.bbox.tolist()) for face in faces]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        pytest.param([], [], id="empty"),
        pytest.param([(10, 10, 20, 20, 0.9)], [(10, 10, 20, 20)], id="one"),
        pytest.param([(50, 0, 60, 9, 0.6), (0, 0, 9, 9, 0.7)], [(0, 0, 9, 9), (50, 0, 60, 9)], id="left to right"),
        pytest.param(
            [(30, 0, 40, 9, 0.9), (0, 0, 100, 99, 0.9)], [(30, 0, 40, 9), (0, 0, 100, 99)], id="by their middle"
        ),
        pytest.param([(0, 0, 9, 9, 0.49), (20, 0, 29, 9, 0.5)], [(20, 0, 29, 9)], id="score at the limit stays"),
        pytest.param([(-5, -5, 30, 30, 0.9)], [(0, 0, 30, 30)], id="clipped top left"),
        pytest.param([(150, 80, 250, 130, 0.9)], [(150, 80, 200, 100)], id="clipped bottom right"),
        pytest.param([(-30, 10, -1, 30, 0.9), (199.5, 0, 220, 9, 0.9)], [], id="outside, or less than a pixel inside"),
    ],
)
def test_faces_from_rows(
    boxes: list[tuple[float, float, float, float, float]], expected: list[tuple[float, ...]]
) -> None:
    assert find(*boxes) == expected


def test_rows_are_in_pixels_of_the_frame() -> None:
    assert find((10, 10, 20, 20, 0.9), scale=0.5) == [(20, 20, 40, 40)]
    (face,) = faces_from_rows(*rows((10, 10, 20, 20, 0.9)), scale=0.5, size_hw=(100, 200), min_score=0)
    np.testing.assert_allclose(face.kps, make_face(20, 20, 40, 40).kps)
    assert face.bbox.dtype == face.kps.dtype == np.float32


def test_least_score_of_nought_takes_no_padding() -> None:
    assert find((10, 10, 20, 20, 0.01), (40, 40, 60, 60, 0), min_score=0) == [(10, 10, 20, 20)]


def test_row_with_points_that_are_no_numbers_is_left_out() -> None:
    bbox, score, kps = rows((10, 10, 20, 20, 0.9), (30, 10, 40, 20, 0.9))
    kps[0, 3, 1] = np.nan
    (face,) = faces_from_rows(bbox, score, kps, scale=1, size_hw=(100, 200), min_score=0.5)
    assert face.bbox[0] == 30


@pytest.mark.parametrize(
    ("faces", "selector", "expected"),
    [
        pytest.param([SMALL], FaceSelector("all"), [0], id="all of one"),
        pytest.param(THREE, FaceSelector("all"), [0, 1, 2], id="all"),
        pytest.param(THREE, FaceSelector("largest"), [1], id="largest"),
        pytest.param(THREE, FaceSelector("index", 0), [0], id="leftmost"),
        pytest.param(THREE, FaceSelector("index", 2), [2], id="rightmost"),
    ],
)
def test_select_faces(faces: list[Face], selector: FaceSelector, expected: list[int]) -> None:
    assert select_faces(faces, selector, "target_image") == expected


@pytest.mark.parametrize("kind", ["all", "largest", "index", "reference"])
def test_picture_without_faces_is_an_error(kind: str) -> None:
    with pytest.raises(NoFaceError, match="no face was found in target_image"):
        select_faces([], FaceSelector(kind), "target_image")


def test_index_that_is_not_there() -> None:
    with pytest.raises(FaceIndexError, match=r"index:3 is out of range: source_image has 3 face\(s\)"):
        select_faces(THREE, FaceSelector("index", 3), "source_image")


@pytest.mark.parametrize(
    ("similarities", "floor", "expected"),
    [
        pytest.param([0.1, 0.9, 0.3], 0.5, [1], id="one"),
        pytest.param([0.7, 0.9, 0.5], 0.5, [0, 1, 2], id="several, one at the limit"),
        pytest.param([-0.3, -0.9, 0.0], -1, [0, 1, 2], id="everyone"),
    ],
)
def test_faces_like_the_reference(similarities: list[float], floor: float, expected: list[int]) -> None:
    assert select_faces(THREE, FaceSelector("reference"), "target_image", similarities, floor) == expected


def test_nobody_like_the_reference_says_how_near_the_best_was() -> None:
    with pytest.raises(NoFaceError, match=r"best similarity 0\.412, reference_threshold 0\.500"):
        select_faces(THREE, FaceSelector("reference"), "target_image", [0.1, 0.412, 0.3], 0.5)


@pytest.mark.parametrize(
    ("chosen", "max_faces", "expected"),
    [
        pytest.param([], 1, [], id="empty"),
        pytest.param([0, 1, 2], 1, [1], id="the largest"),
        pytest.param([0, 1, 2], 2, [1, 2], id="two, in their order"),
        pytest.param([0, 2], 1, [2], id="of the chosen only"),
        pytest.param([0, 1, 2], 128, [0, 1, 2], id="all"),
    ],
)
def test_keep_largest(chosen: list[int], max_faces: int, expected: list[int]) -> None:
    assert keep_largest(THREE, chosen, max_faces) == expected


def test_of_two_equal_faces_the_left_one_is_largest() -> None:
    assert largest([make_face(0, 0, 10, 10), make_face(20, 0, 30, 10)]) == 0
