"""The measures of a comparison, against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.ensemble.support import make_face, noise_rgb, smooth_rgb, unit_rows
from warmswap_ensemble.comparison import MAX_PSNR_DB, Placed, Seen, compare, compare_faces, iou, psnr_db, ssim
from warmswap_ensemble.geometry import FloatArray, ImageArray
from warmswap_ensemble.types import Face

SPACE = ("dlib_resnet_v1 (128 numbers)",)


def box(*xyxy: float) -> FloatArray:
    return np.array(xyxy, np.float32)


LEFT, MIDDLE, RIGHT = (make_face(x, 0, x + 100, 100) for x in (0, 300, 600))


def placed(*faces: Face, picture: int = 0) -> list[Placed]:
    return [(picture, face) for face in faces]


def flat(value: int, height: int = 32, width: int = 32) -> ImageArray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(box(0, 0, 10, 10), box(0, 0, 10, 10), 1.0, id="same"),
        pytest.param(box(0, 0, 10, 10), box(5, 0, 15, 10), 1 / 3, id="half beside"),
        pytest.param(box(0, 0, 10, 10), box(5, 5, 15, 15), 25 / 175, id="a corner"),
        pytest.param(box(0, 0, 10, 10), box(2, 2, 7, 7), 0.25, id="inside"),
        pytest.param(box(0, 0, 10, 10), box(10, 0, 20, 10), 0.0, id="touching"),
        pytest.param(box(0, 0, 10, 10), box(20, 20, 30, 30), 0.0, id="apart on both axes"),
        pytest.param(box(0, 0, 10, 10), box(0, 20, 10, 30), 0.0, id="apart on one"),
        pytest.param(box(5, 5, 5, 5), box(5, 5, 5, 5), 0.0, id="no area"),
    ],
)
def test_iou(first: FloatArray, second: FloatArray, expected: float) -> None:
    assert iou(first, second) == pytest.approx(expected)
    assert iou(second, first) == pytest.approx(expected)


def test_two_pictures_without_faces_agree() -> None:
    assert compare_faces([], []) == {"recall": 1.0, "precision": 1.0}


def test_a_face_that_only_one_side_sees() -> None:
    face = make_face(0, 0, 100, 100)
    assert compare_faces([face], []) == {"recall": 0.0, "precision": 1.0}
    assert compare_faces([], [face]) == {"recall": 1.0, "precision": 0.0}
    assert compare_faces([face], [make_face(200, 200, 300, 300)]) == {"recall": 0.0, "precision": 0.0}


def test_equal_faces_in_another_order() -> None:
    faces = [make_face(0, 0, 100, 100), make_face(300, 0, 400, 100), make_face(600, 0, 700, 100)]
    measures = compare_faces(faces, faces[::-1])
    assert measures == pytest.approx({"recall": 1.0, "precision": 1.0, "iou": 1.0, "kps_error": 0.0})


def test_a_moved_face() -> None:
    # Moved by a fifth of the width: 80 of 120 shared. The eyes are 0.4 widths apart, so 20 px are half their distance.
    measures = compare_faces([make_face(0, 0, 100, 100)], [make_face(20, 0, 120, 100)])
    assert measures == pytest.approx({"recall": 1.0, "precision": 1.0, "iou": 80 / 120, "kps_error": 0.5})


def test_the_error_of_points_is_relative_to_the_expected_eyes() -> None:
    expected, found = make_face(0, 0, 100, 100), make_face(0, 0, 200, 200)
    small = Face(expected.bbox, 0.9, expected.kps)
    large = Face(expected.bbox, 0.9, found.kps)
    distances = np.linalg.norm(expected.kps, axis=1)  # twice as far from the origin
    assert compare_faces([small], [large])["kps_error"] == pytest.approx(float(distances.mean()) / 40)
    assert compare_faces([large], [small])["kps_error"] == pytest.approx(float(distances.mean()) / 80)


def test_points_that_coincide_do_not_divide_by_zero() -> None:
    face = make_face(0, 0, 100, 100)
    nothing = Face(face.bbox, 0.9, np.zeros((5, 2), np.float32))
    assert math.isfinite(compare_faces([nothing], [face])["kps_error"])


@pytest.mark.parametrize(("shift", "matches"), [(33, True), (34, False)])  # IoU 67/133 and 66/134
def test_boxes_match_from_half_an_overlap_on(shift: float, matches: bool) -> None:
    measures = compare_faces([make_face(0, 0, 100, 100)], [make_face(shift, 0, 100 + shift, 100)])
    assert measures["recall"] == measures["precision"] == float(matches)
    assert ("iou" in measures) == matches


def test_faces_are_matched_one_to_one() -> None:
    expected = [make_face(0, 0, 100, 100)]
    found = [make_face(0, 0, 100, 100), make_face(10, 0, 110, 100)]
    assert compare_faces(expected, found) == pytest.approx(
        {"recall": 1.0, "precision": 0.5, "iou": 1.0, "kps_error": 0.0}
    )
    assert compare_faces(found, expected) == pytest.approx(
        {"recall": 0.5, "precision": 1.0, "iou": 1.0, "kps_error": 0.0}
    )


def test_the_best_overlap_is_taken_first() -> None:
    # The first expected face would take what is the second's: (10) overlaps 0 by 90/110 and 12 by 98/102.
    expected = [make_face(0, 0, 100, 100), make_face(12, 0, 112, 100)]
    found = [make_face(10, 0, 110, 100), make_face(-20, 0, 80, 100)]
    measures = compare_faces(expected, found)
    assert (measures["recall"], measures["precision"]) == (1.0, 1.0)
    assert measures["iou"] == pytest.approx((98 / 102 + 80 / 120) / 2)
    assert measures["kps_error"] == pytest.approx((2 / 40 + 20 / 40) / 2)


def test_psnr() -> None:
    assert psnr_db(flat(100), flat(100)) == MAX_PSNR_DB
    assert psnr_db(flat(0), flat(255)) == pytest.approx(0.0)
    assert psnr_db(flat(10), flat(20)) == psnr_db(flat(20), flat(10)) == pytest.approx(20 * math.log10(25.5))
    one = flat(0, 64, 64)
    one[0, 0, 0] = 1
    assert psnr_db(flat(0, 64, 64), one) == pytest.approx(48.1308 + 10 * math.log10(64 * 64 * 3), abs=1e-3)
    huge = flat(0, 4096, 4096)
    huge[0, 0, 0] = 1
    assert psnr_db(flat(0, 4096, 4096), huge) == MAX_PSNR_DB


def test_ssim() -> None:
    assert ssim(smooth_rgb(64, 64), smooth_rgb(64, 64)) == pytest.approx(1.0, abs=1e-6)
    assert ssim(flat(7), flat(7)) == pytest.approx(1.0, abs=1e-6)
    assert abs(ssim(noise_rgb(64, 64, 1), noise_rgb(64, 64, 2))) < 0.1
    smooth = smooth_rgb(64, 64)
    noisy = (smooth.astype(int) + np.random.default_rng(0).integers(-9, 10, smooth.shape)).clip(0, 255)
    assert 0.3 < ssim(smooth, noisy.astype(np.uint8)) < 0.99


def test_ssim_of_flat_pictures_is_that_of_their_brightness() -> None:
    c1 = (0.01 * 255) ** 2
    assert ssim(flat(100), flat(50)) == pytest.approx((2 * 100 * 50 + c1) / (100**2 + 50**2 + c1), abs=1e-4)


def test_ssim_is_of_the_grey_values() -> None:
    red, green = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)
    red[..., 0], green[..., 1] = 255, 130  # 0.299 * 255 = 76.2, 0.587 * 130 = 76.3
    assert ssim(red, green) == pytest.approx(1.0, abs=1e-4)


def test_only_what_differs_and_both_have_seen_is_measured() -> None:
    everything: dict[str, Any] = {
        "faces": [make_face(0, 0, 100, 100)],
        "landmarks": [np.arange(136, dtype=np.float32).reshape(68, 2)],
        "landmark_faces": placed(LEFT),
        "embeddings": unit_rows(1, 128),
        "embedded_faces": placed(LEFT),
        "swapped_rgb": noise_rgb(32, 32)[None],
        "swapped_faces": placed(LEFT),
        "gains": [0.1],
        "spaces": SPACE,
    }
    full, nothing = Seen(**everything), Seen()
    by_model = {
        "face_detector": {"recall": 1.0, "precision": 1.0, "iou": 1.0, "kps_error": 0.0},
        "face_landmarker": {"landmark_error": 0.0},
        "face_embedder": {"cosine": 1.0},
        "face_swapper": {"psnr_db": 100.0, "ssim": 1.0, "identity_gain": 0.0},
        "face_swapper_512": {"psnr_db": 100.0, "ssim": 1.0, "identity_gain": 0.0},
        "face_swap": {},
    }
    for model, expected in by_model.items():
        assert compare([model], full, full) == expected
        assert compare([model], full, nothing) == {}
        assert compare([model], nothing, full) == {}
    both = by_model["face_detector"] | by_model["face_embedder"]
    assert compare(["face_detector", "face_embedder"], full, full) == both


def test_a_detector_that_saw_no_face_is_measured_too() -> None:
    live = Seen(faces=[make_face(0, 0, 100, 100)])
    assert compare(["face_detector"], live, Seen(faces=[])) == {"recall": 0.0, "precision": 1.0}
    assert compare(["face_detector"], Seen(faces=[]), Seen(faces=[])) == {"recall": 1.0, "precision": 1.0}


def test_landmarks_are_relative_to_the_size_of_the_face() -> None:
    points = np.stack(np.meshgrid(np.linspace(0, 100, 17), np.linspace(0, 25, 4)), axis=-1).reshape(68, 2)
    live = points.astype(np.float32)  # sqrt(100 * 25) = 50
    source = placed(MIDDLE, picture=1)
    first = Seen(landmarks=[live, live], landmark_faces=[*placed(LEFT), *source])
    moved = live + np.array([3, 4], np.float32)
    second = Seen(landmarks=[moved, live], landmark_faces=[*placed(LEFT), *source])
    assert compare(["face_landmarker"], first, second) == {"landmark_error": 0.05}
    # The source's landmarks come last, and only where it was not known yet.
    second = Seen(landmarks=[moved], landmark_faces=placed(LEFT))
    assert compare(["face_landmarker"], first, second) == {"landmark_error": 0.1}
    assert compare(["face_landmarker"], second, first) == {"landmark_error": 0.1}


def test_landmarks_are_those_of_the_same_face() -> None:
    points = {
        name: np.full((68, 2), 40.0, np.float32) * np.arange(68)[:, None] + 1e4 * n for n, name in enumerate("lmr")
    }
    live = Seen(landmarks=[points["l"], points["m"]], landmark_faces=placed(LEFT, MIDDLE))
    for order, faces in (
        ("ml", (MIDDLE, LEFT)),
        ("mr", (MIDDLE, RIGHT)),
        ("m", (MIDDLE,)),
        ("rml", (RIGHT, MIDDLE, LEFT)),
    ):
        other = Seen(landmarks=[points[name] for name in order], landmark_faces=placed(*faces))
        assert compare(["face_landmarker"], live, other) == {"landmark_error": 0.0}, order
        assert compare(["face_landmarker"], other, live) == {"landmark_error": 0.0}, order
    nobody = Seen(landmarks=[points["r"]], landmark_faces=placed(RIGHT))
    assert compare(["face_landmarker"], live, nobody) == {}


def test_faces_of_two_pictures_are_not_the_same() -> None:
    """A source that one side knew already leaves the reference in its place."""
    rows = unit_rows(3, 128)
    faces = [*placed(LEFT), *placed(LEFT, picture=1), *placed(LEFT, picture=2)]
    live = seen_embeddings(rows, faces=faces)
    known = seen_embeddings(rows[[0, 2]], faces=faces[:2])
    for first, second in ((live, live), (live, known), (known, live)):
        assert compare(["face_embedder"], first, second) == {"cosine": 1.0}
    others = seen_embeddings(np.concatenate([rows[:1], -rows[1:]]), faces=faces)
    assert compare(["face_embedder"], live, others)["cosine"] == pytest.approx(-1 / 3, abs=1e-4)


def test_cosine() -> None:
    rows = np.array([[1, 0], [0, 1]], np.float32)
    turned = np.array([[0.6, 0.8], [0, 1]], np.float32)
    assert compare(["face_embedder"], seen_embeddings(rows), seen_embeddings(turned)) == {"cosine": 0.8}
    assert compare(["face_embedder"], seen_embeddings(rows), seen_embeddings(-rows)) == {"cosine": -1.0}
    in_another_order = seen_embeddings(rows[::-1], faces=placed(MIDDLE, LEFT))
    assert compare(["face_embedder"], seen_embeddings(rows), in_another_order) == {"cosine": 1.0}
    one_is_another = seen_embeddings(-rows, faces=placed(RIGHT, MIDDLE))
    assert compare(["face_embedder"], seen_embeddings(rows), one_is_another) == {"cosine": -1.0}


def seen_embeddings(rows: FloatArray, spaces: tuple[str, ...] = SPACE, faces: Sequence[Placed] | None = None) -> Seen:
    known = placed(LEFT, MIDDLE, RIGHT)[: len(rows)] if faces is None else faces
    return Seen(embeddings=rows, embedded_faces=known, spaces=spaces)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(seen_embeddings(unit_rows(2, 128), ("arcface (128 numbers)",)), id="another space"),
        pytest.param(seen_embeddings(unit_rows(2, 64)), id="another length"),
        pytest.param(seen_embeddings(unit_rows(2, 128), faces=placed(RIGHT, RIGHT)), id="other faces"),
        pytest.param(seen_embeddings(unit_rows(2, 128), ()), id="an unknown space"),
    ],
)
def test_embeddings_that_cannot_be_compared_are_not(other: Seen) -> None:
    live = seen_embeddings(unit_rows(2, 128))
    assert "cosine" in compare(["face_embedder"], live, live)
    assert compare(["face_embedder"], live, other) == {}


def test_embeddings_of_two_unknown_spaces_are_not_compared() -> None:
    unknown = seen_embeddings(unit_rows(2, 128), ())
    assert compare(["face_embedder"], unknown, unknown) == {}


def test_no_embeddings_no_cosine() -> None:
    nobody = seen_embeddings(np.zeros((0, 128), np.float32))
    assert compare(["face_embedder"], nobody, nobody) == {}


def test_swaps_are_averaged_over_the_faces() -> None:
    faces = placed(LEFT, RIGHT)
    live = Seen(swapped_rgb=np.stack([flat(10), flat(10)]), swapped_faces=faces, gains=[0.1, 0.3])
    other = Seen(swapped_rgb=np.stack([flat(10), flat(20)]), swapped_faces=faces, gains=[0.2, 0.6])
    measures = compare(["face_swapper"], live, other)
    assert measures["psnr_db"] == pytest.approx((100 + 20 * math.log10(25.5)) / 2, abs=1e-4)
    assert measures["identity_gain"] == pytest.approx(0.2)
    assert measures["ssim"] < 1.0


def test_swaps_are_compared_of_the_faces_that_both_have_swapped() -> None:
    live = Seen(swapped_rgb=np.stack([flat(10), flat(99)]), swapped_faces=placed(LEFT, RIGHT), gains=[0.1, 0.9])
    other = Seen(swapped_rgb=np.stack([flat(50), flat(10)]), swapped_faces=placed(MIDDLE, LEFT), gains=[0.5, 0.3])
    assert compare(["face_swapper"], live, other) == {"psnr_db": 100.0, "ssim": 1.0, "identity_gain": 0.2}
    other = Seen(swapped_rgb=flat(10)[None], swapped_faces=placed(MIDDLE), gains=[0.3])
    assert compare(["face_swapper"], live, other) == {}


@pytest.mark.parametrize("sides", [(64, 128), (128, 64)])
def test_crops_of_different_sizes_are_compared_in_the_live_ones(sides: tuple[int, int]) -> None:
    small = smooth_rgb(64, 64)
    by_size = {64: small, 128: np.asarray(small.repeat(2, axis=0).repeat(2, axis=1))}
    live, other = (by_size[side] for side in sides)
    seen, again = (Seen(swapped_rgb=crop[None], swapped_faces=placed(LEFT)) for crop in (live, other))
    measures = compare(["face_swapper"], seen, again)
    assert measures["psnr_db"] > 30
    assert measures["ssim"] > 0.95
    noise = Seen(swapped_rgb=noise_rgb(sides[1], sides[1])[None], swapped_faces=placed(LEFT))
    worse = compare(["face_swapper"], seen, noise)
    assert worse["psnr_db"] < 15
    assert worse["ssim"] < 0.3


def test_whole_pictures_are_compared_only_in_one_size() -> None:
    live, other = Seen(image_rgb=flat(10)), Seen(image_rgb=flat(20))
    assert compare([], live, other) == pytest.approx(
        {"psnr_db": 20 * math.log10(25.5), "ssim": ssim(flat(10), flat(20))}, abs=1e-5
    )
    assert compare([], live, Seen(image_rgb=flat(10, 33))) == {}
    assert compare([], live, Seen()) == {}


def test_measures_are_plain_numbers_of_five_digits() -> None:
    noise = Seen(swapped_rgb=noise_rgb(9, 9)[None], swapped_faces=placed(LEFT))
    measures = compare(["face_swapper"], noise, Seen(swapped_rgb=flat(0, 9, 9)[None], swapped_faces=placed(LEFT)))
    assert measures
    assert all(type(value) is float and round(value, 5) == value for value in measures.values())
