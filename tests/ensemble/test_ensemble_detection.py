"""Which frames the detector is sent, and what becomes of what it finds in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.ensemble.support import COLLINS, HOPPER, REPOSITORY, make_face, noise_rgb
from warmswap_ensemble.contract import MAX_FACES
from warmswap_ensemble.detection import FrameSettings, Rows, find_rows
from warmswap_ensemble.geometry import ImageArray
from warmswap_ensemble.manifest import read_manifest

SETTINGS: dict[str, Any] = {
    "input_size_hw": [640, 640],
    "frame_multiple": 32,
    "min_score": 0.5,
    "first_look": {"frame_hw": [320, 320], "least_face_px": 24, "window_px": 128, "most_windows": 2},
}
FRAMES = FrameSettings.from_manifest(SETTINGS, fixed_frames=False, first_look=True)
IMAGE = noise_rgb(1280, 1280)
"""Its small frame has a quarter of its pixels per side, its full frame a half."""
SMALL, WINDOW, FULL = (320, 320, 3), (128, 128, 3), (640, 640, 3)

Found = Sequence[tuple[float, tuple[float, float, float, float]]]
"""Score and box of each face, in pixels of the image."""


def as_rows(faces: Found, scale: float, corner: tuple[float, float] = (0, 0)) -> Rows:
    """What a frame at a corner of the scaled image would show."""
    bbox, score = np.zeros((MAX_FACES, 4), np.float32), np.zeros(MAX_FACES, np.float32)
    kps = np.zeros((MAX_FACES, 5, 2), np.float32)
    for row, (value, box) in enumerate(sorted(faces, reverse=True)):
        score[row], bbox[row] = value, np.array(box) * scale - (*corner, *corner)
        kps[row] = make_face(*box).kps * scale - corner
    return bbox, score, kps


class Scene:
    """A detector that sees other faces in small frames than in large ones, and notes what it is sent."""

    def __init__(self, small: Found, large: Found) -> None:
        self.small, self.large = small, large
        self.sent: list[tuple[int, ...]] = []

    def __call__(self, frames: Sequence[ImageArray]) -> list[Rows]:
        self.sent += [frame.shape for frame in frames]
        return [self.look(frame) for frame in frames]

    def look(self, frame: ImageArray) -> Rows:
        if frame.shape == SMALL:
            return as_rows(self.small, 0.25)
        if frame.shape == FULL:
            return as_rows(self.large, 0.5)
        corner = corner_of(frame)
        inside = [
            (score, box)
            for score, box in self.large
            if all(corner[axis] < (box[axis] + box[axis + 2]) / 4 < corner[axis] + 128 for axis in (0, 1))
        ]
        return as_rows(inside, 0.5, corner)


def corner_of(window: ImageArray) -> tuple[int, int]:
    full, _ = FRAMES.full_frame(IMAGE)
    places = np.argwhere((full == window[0, 0]).all(axis=2))
    return next((int(x), int(y)) for y, x in places if np.array_equal(full[y : y + 128, x : x + 128], window))


def boxes_of(scene: Scene, min_score: float = 0.5, *, largest_only: bool = False) -> list[tuple[float, ...]]:
    """Return the wanted boxes in pixels of the image, sorted."""
    ((rows, scale),) = find_rows([IMAGE], scene, FRAMES, min_score, [largest_only])
    return sorted(tuple(float(value) for value in (box / scale).round()) for box in rows[0][rows[1] >= min_score])


PORTRAIT = (0.9, (400.0, 300.0, 800.0, 800.0))
WEAK = (0.2, (1000.0, 60.0, 1060.0, 130.0))
SURE_AFTER_ALL = (0.8, (1000.0, 60.0, 1064.0, 130.0))


def test_plain_picture_needs_the_small_frame_only() -> None:
    scene = Scene([PORTRAIT], [PORTRAIT])
    assert boxes_of(scene) == [PORTRAIT[1]]
    assert scene.sent == [SMALL]


def test_weak_place_is_looked_at_again_in_a_window() -> None:
    scene = Scene([PORTRAIT, WEAK], [PORTRAIT, SURE_AFTER_ALL])
    assert boxes_of(scene) == [PORTRAIT[1], SURE_AFTER_ALL[1]]
    assert scene.sent == [SMALL, WINDOW]


def test_weak_place_that_is_no_face_is_dropped() -> None:
    scene = Scene([PORTRAIT, WEAK], [PORTRAIT, WEAK])
    assert boxes_of(scene) == [PORTRAIT[1]]
    assert scene.sent == [SMALL, WINDOW]


def test_small_face_is_looked_at_again_and_taken_as_the_window_shows_it() -> None:
    scene = Scene([PORTRAIT, (0.9, WEAK[1])], [PORTRAIT, SURE_AFTER_ALL])
    assert boxes_of(scene) == [PORTRAIT[1], SURE_AFTER_ALL[1]]
    assert scene.sent == [SMALL, WINDOW]


def test_landmarks_of_a_window_lie_in_the_image() -> None:
    scene = Scene([PORTRAIT, WEAK], [PORTRAIT, SURE_AFTER_ALL])
    ((rows, scale),) = find_rows([IMAGE], scene, FRAMES, 0.5)
    np.testing.assert_allclose(rows[2][1] / scale, make_face(*SURE_AFTER_ALL[1]).kps, atol=0.01)
    np.testing.assert_allclose(rows[2][0] / scale, make_face(*PORTRAIT[1]).kps, atol=0.01)


def test_face_of_the_small_frame_is_not_found_twice() -> None:
    """A window beside the portrait shows it too."""
    beside = (0.2, (810.0, 500.0, 870.0, 560.0))
    moved = (0.95, (410.0, 300.0, 810.0, 800.0))
    assert boxes_of(Scene([PORTRAIT, beside], [moved, (0.7, beside[1])])) == [PORTRAIT[1], beside[1]]


def test_face_where_a_window_ends_is_left_to_another_window() -> None:
    cut = (0.9, (885.0, 40.0, 925.0, 90.0))
    assert boxes_of(Scene([PORTRAIT, WEAK], [PORTRAIT, SURE_AFTER_ALL, cut])) == [PORTRAIT[1], SURE_AFTER_ALL[1]]


def test_face_at_the_border_of_the_picture_is_not_taken_for_cut() -> None:
    corner = (0.2, (1230.0, 0.0, 1280.0, 50.0))
    assert boxes_of(Scene([PORTRAIT, corner], [(0.8, corner[1])])) == [PORTRAIT[1], corner[1]]


def test_places_side_by_side_share_a_window() -> None:
    neighbour = (0.2, (1030.0, 80.0, 1080.0, 140.0))
    scene = Scene([PORTRAIT, WEAK, neighbour], [SURE_AFTER_ALL])
    boxes_of(scene)
    assert scene.sent == [SMALL, WINDOW]


@pytest.mark.parametrize(
    ("small", "why"),
    [
        ([], "nothing was found"),
        ([WEAK], "nothing is sure"),
        ([PORTRAIT, WEAK, (0.2, (50, 50, 90, 90)), (0.2, (50, 1150, 90, 1190))], "more places than windows"),
        ([PORTRAIT, (0.2, (1000, 60, 1140, 130))], "a place too large for a window"),
    ],
)
def test_small_frame_that_shows_too_little_leads_to_the_full_frame(small: Found, why: str) -> None:
    scene = Scene(small, [PORTRAIT, SURE_AFTER_ALL])
    assert boxes_of(scene) == [PORTRAIT[1], SURE_AFTER_ALL[1]], why
    assert scene.sent == [SMALL, FULL]


def test_others_than_the_largest_face_are_not_looked_at_again_where_only_that_is_wanted() -> None:
    scene = Scene([PORTRAIT, WEAK], [PORTRAIT, SURE_AFTER_ALL])
    assert boxes_of(scene, largest_only=True) == [PORTRAIT[1]]
    assert scene.sent == [SMALL]


@pytest.mark.parametrize("rival", [(0.2, (900.0, 300.0, 1270.0, 800.0)), (0.2, (850.0, 300.0, 1279.0, 900.0))])
def test_rival_of_the_largest_face_is_looked_at_again(rival: tuple[float, tuple[float, ...]]) -> None:
    scene = Scene([PORTRAIT, rival], [PORTRAIT, (0.9, rival[1])])  # type: ignore[list-item]  # a box has four numbers
    assert boxes_of(scene, largest_only=True) == [PORTRAIT[1], rival[1]]
    assert scene.sent == [SMALL, FULL]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        pytest.param(1280, 1280, (320, 320, 3), id="large"),
        pytest.param(600, 512, (320, 288, 3), id="medium"),
        pytest.param(200, 320, (224, 320, 3), id="no smaller in a small frame"),
        pytest.param(400, 410, (416, 416, 3), id="not much smaller in a small frame"),
        pytest.param(3000, 30, (640, 32, 3), id="a strip"),
    ],
)
def test_small_frame_is_taken_where_it_saves_something(height: int, width: int, expected: tuple[int, ...]) -> None:
    sent: list[tuple[int, ...]] = []

    def look(frames: Sequence[ImageArray]) -> list[Rows]:
        sent.extend(frame.shape for frame in frames)
        return [as_rows([(0.9, (0, 0, 200, 200))], 1.0) for _ in frames]

    find_rows([noise_rgb(height, width)], look, FRAMES, 0.5)
    assert sent == [expected]


def test_companions_do_not_change_what_a_picture_is_sent() -> None:
    """A picture's faces are the same whether the source comes with it or is known already."""

    def sent_of(images: Sequence[ImageArray], wanted: int) -> list[bytes]:
        sent: list[ImageArray] = []

        def look(frames: Sequence[ImageArray]) -> list[Rows]:
            sent.extend(frames)
            return [as_rows([PORTRAIT, WEAK], 0.25 if frame.shape == SMALL else 0.5) for frame in frames]

        find_rows(images, look, FRAMES, 0.5)
        every = [frame.tobytes() for frame in sent]
        return every[wanted :: len(images)]

    other = noise_rgb(1280, 1280, seed=1)
    assert sent_of([IMAGE], 0) == sent_of([IMAGE, other], 0) == sent_of([other, IMAGE], 1)


@pytest.mark.parametrize(
    ("change", "fixed_frames", "first_look"),
    [
        pytest.param({}, True, True, id="fixed frames"),
        pytest.param({}, False, False, id="switched off"),
        pytest.param({"first_look": None}, False, True, id="not in the manifest"),
    ],
)
def test_full_frames_only(change: dict[str, Any], fixed_frames: bool, first_look: bool) -> None:
    settings = {key: value for key, value in (SETTINGS | change).items() if value is not None}
    frames = FrameSettings.from_manifest(settings, fixed_frames=fixed_frames, first_look=first_look)
    scene = Scene([], [PORTRAIT])
    find_rows([IMAGE], scene, frames, 0.5)
    assert scene.sent == [FULL]


@pytest.mark.parametrize("path", [COLLINS, HOPPER], ids=lambda path: path.stem)
def test_demo_pictures_show_their_face_in_the_small_frame(path: Any, call_onnx: Any, stages: Any) -> None:
    """The committed detector and its committed settings: one small frame, and the face of the full frame."""
    from warmswap_ensemble.detection import iou
    from warmswap_ensemble.image import ImageLimits, decode_image
    from warmswap_ensemble.stage_calls import StageCalls

    assert "first_look" in read_manifest(REPOSITORY / "face_detector/1").settings
    picture = decode_image(path.read_bytes(), path.name, ImageLimits()).pixels_rgb
    sent: list[tuple[int, ...]] = []

    def look(stage: Any, inputs: Any, names: Any, /) -> Any:
        sent.append(inputs["image_rgb"].shape)
        return call_onnx(stage, inputs, names)

    (face,) = StageCalls(stages, look).detect([picture], None)[0]
    assert [max(shape[1:3]) for shape in sent] == [320]
    (expected,) = StageCalls(stages, call_onnx, first_look=False).detect([picture], None)[0]
    assert iou(face.bbox, expected.bbox[None])[0] > 0.8
    eyes = np.linalg.norm(expected.kps[0] - expected.kps[1])
    assert np.linalg.norm(face.kps - expected.kps, axis=1).max() < 0.2 * eyes
