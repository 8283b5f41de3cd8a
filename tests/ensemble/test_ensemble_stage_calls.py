from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.ensemble.support import RecordingCalls, make_face, make_stage, noise_rgb, unit_rows
from warmswap_ensemble.contract import MAX_FACES, MODELS, NUM_KPS, NUM_LANDMARKS
from warmswap_ensemble.errors import StageFailedError
from warmswap_ensemble.geometry import estimate_affine_matrix, transform_points, warp_crop
from warmswap_ensemble.stage_calls import Arrays, StageCalls
from warmswap_ensemble.types import Face, Stage

STAGES = {
    "face_detector": make_stage("face_detector", input_size_hw=[64, 96], frame_multiple=32, min_score=0.5),
    "face_landmarker": make_stage("face_landmarker", crop_size=32, warp_template="dlib_150"),
    "face_embedder": make_stage("face_embedder", crop_size=16, warp_template="arcface_112_v2"),
    "face_swapper": make_stage("face_swapper", crop_size=24, warp_template="ffhq_512"),
}
FACE = make_face(20, 10, 60, 60)
IMAGE = noise_rgb(80, 90)


def toy_stage(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
    """Answers whose rows tell from which input row they were made: by the input's first pixel."""
    first = next(iter(inputs.values()))
    count, mark = len(first), first.reshape(len(first), -1)[:, 0].astype(np.float32)
    assert all(len(array) == count for array in inputs.values())
    answers: dict[str, npt.NDArray[Any]]
    match stage.model:
        case "face_detector":
            bbox = np.zeros((count, MAX_FACES, 4), np.float32)
            score = np.zeros((count, MAX_FACES), np.float32)
            kps = np.zeros((count, MAX_FACES, NUM_KPS, 2), np.float32)
            bbox[:, 0] = (5, 5, 25, 25)
            bbox[:, 0, 2] += mark
            score[:, 0], score[:, 1] = 0.6, 0.3
            bbox[:, 1] = (1, 1, 4, 4)
            answers = {"bbox": bbox, "score": score, "kps": kps, "num_faces": np.full((count, 1), 2, np.int32)}
        case "face_landmarker":
            answers = {"landmarks": np.full((count, NUM_LANDMARKS, 2), 0.5, np.float32)}
        case "face_embedder":
            answers = {"embedding": np.repeat(mark[:, None], 4, axis=1)}
        case _:
            answers = {"swapped_crop_rgb": inputs["target_crop_rgb"], "mask": np.zeros((count, 24, 24), np.float32)}
    return {name: answers[name] for name in output_names}


def marked(value: int) -> npt.NDArray[np.uint8]:
    return np.full((80, 90, 3), value, np.uint8)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_rows_are_split_at_the_largest_batch_and_stay_in_order(count: int) -> None:
    recording = RecordingCalls(toy_stage)
    embeddings = StageCalls(STAGES, recording).embed([(marked(i), FACE) for i in range(count)])
    assert embeddings[:, 0].tolist() == list(range(count))
    sizes = [rows for _, rows in recording.calls]
    most = MODELS["face_embedder"].max_batch
    assert sizes == [most] * (count // most) + ([count % most] if count % most else [])


@pytest.mark.parametrize("count", [1, 4, 5])
def test_pictures_keep_their_own_faces(count: int) -> None:
    """The mark in a frame's first pixel widens its box, so a face that changes pictures is seen."""
    recording = RecordingCalls(toy_stage)
    found = StageCalls(STAGES, recording).detect([marked(i) for i in range(count)], None)
    scale = 64 / 80
    assert [faces[0].bbox[2] * scale for faces in found] == pytest.approx([25 + i for i in range(count)])
    assert max(rows for _, rows in recording.calls) <= MODELS["face_detector"].max_batch


@pytest.mark.parametrize(("min_score", "expected"), [(None, [0.6]), (0.0, [0.3, 0.6]), (0.3, [0.3, 0.6]), (0.7, [])])
def test_least_score_is_the_request_s_or_the_manifest_s(min_score: float | None, expected: list[float]) -> None:
    (faces,) = StageCalls(STAGES, toy_stage).detect([IMAGE], min_score)
    assert [face.score for face in faces] == pytest.approx(expected)


def test_pictures_of_one_frame_size_share_a_batch() -> None:
    recording = RecordingCalls(toy_stage)
    StageCalls(STAGES, recording).detect([noise_rgb(20, 20), noise_rgb(40, 8), noise_rgb(8, 8)], None)
    assert recording.calls == [("face_detector", 2), ("face_detector", 1)]


def test_pictures_of_any_size_share_a_batch_of_fixed_frames() -> None:
    recording = RecordingCalls(toy_stage)
    StageCalls(STAGES, recording, fixed_frames=True).detect([noise_rgb(640, 48), noise_rgb(8, 8), IMAGE], None)
    assert recording.calls == [("face_detector", 3)]


@pytest.mark.parametrize(
    ("fixed_frames", "expected"), [(False, [(1, 32, 64, 3), (1, 32, 32, 3)]), (True, [(2, 64, 96, 3)])]
)
def test_frames_are_cut_to_the_picture_unless_they_are_fixed(
    fixed_frames: bool, expected: list[tuple[int, ...]]
) -> None:
    shapes: list[tuple[int, ...]] = []

    def look(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        shapes.append(inputs["image_rgb"].shape)
        return toy_stage(stage, inputs, output_names)

    StageCalls(STAGES, look, fixed_frames).detect([noise_rgb(20, 40), noise_rgb(30, 10)], None)
    assert shapes == expected


@pytest.mark.parametrize(("min_score", "expected"), [(None, [32]), (0.5, [32]), (0.7, [32]), (0.4, [64])])
def test_small_frame_comes_first_unless_faces_below_the_usual_score_are_wanted(
    min_score: float | None, expected: list[int]
) -> None:
    """A higher score than usual only leaves faces out: the toy detector's, of 0.6, is not looked at again for 0.7."""
    look_first = {"frame_hw": [32, 32], "least_face_px": 10, "window_px": 32, "most_windows": 0}
    detector = make_stage("face_detector", input_size_hw=[64, 64], frame_multiple=32, min_score=0.5)
    detector = replace(detector, settings={**detector.settings, "first_look": look_first})
    sides: list[int] = []

    def look(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        sides.append(inputs["image_rgb"].shape[1])
        answers = toy_stage(stage, inputs, output_names)
        answers["score"][:, 1] = 0
        return answers

    StageCalls({"face_detector": detector}, look).detect([noise_rgb(128, 128)], min_score)
    assert sides == expected


def test_crop_settings_of_the_manifest_are_used() -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def look(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        seen.update({name: array.shape for name, array in inputs.items()})
        return toy_stage(stage, inputs, output_names)

    calls = StageCalls(STAGES, look)
    calls.embed([(IMAGE, FACE)])
    landmarks = calls.find_landmarks([(IMAGE, FACE)])
    crops, _, relative = calls.crops_for_swap([(IMAGE, FACE)], landmarks)
    assert seen == {"aligned_crop_rgb": (1, 16, 16, 3), "crop_rgb": (1, 32, 32, 3)}
    assert crops.shape == (1, 24, 24, 3)
    assert relative.shape == (1, NUM_LANDMARKS, 2)
    assert relative.dtype == np.float32


def test_landmarks_survive_the_way_to_the_image_and_back() -> None:
    """Relative to one crop, into the image, and relative to the same crop again."""
    expected = np.random.default_rng(2).uniform(0, 1, (2, NUM_LANDMARKS, 2)).astype(np.float32)

    def landmarker(_: Stage, __: Arrays, ___: Sequence[str], /) -> Arrays:
        return {"landmarks": expected}

    same = {**STAGES, "face_swapper": STAGES["face_landmarker"]}
    calls = StageCalls(same, landmarker)
    faces: list[tuple[npt.NDArray[np.uint8], Face]] = [(IMAGE, FACE), (IMAGE, make_face(0, 0, 30, 40))]
    _, _, relative = calls.crops_for_swap(faces, calls.find_landmarks(faces))
    np.testing.assert_allclose(relative, expected, atol=1e-5)


def test_landmarks_in_the_middle_of_a_crop_lie_in_the_middle_of_the_face() -> None:
    """The relative middle 0.5 is the crop's pixel 15.5, not 16."""
    calls = StageCalls(STAGES, toy_stage)
    (landmarks,) = calls.find_landmarks([(IMAGE, FACE)])
    _, (matrix,), relative = calls.crops_for_swap([(IMAGE, FACE)], [landmarks])
    in_crop = landmarks @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(relative[0], (in_crop + 0.5) / 24, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "side", "template"),
    [
        pytest.param({}, 24, "ffhq_512", id="as the target"),
        pytest.param({"source_crop_size": 40}, 40, "ffhq_512", id="size"),
        pytest.param({"source_warp_template": "arcface_112_v2"}, 24, "arcface_112_v2", id="template"),
        pytest.param({"source_crop_size": 40, "source_warp_template": "dlib_150"}, 40, "dlib_150", id="both"),
    ],
)
def test_source_is_cut_as_the_swapper_wants_it(settings: dict[str, Any], side: int, template: str) -> None:
    swapper = make_stage("face_swapper", crop_size=24, warp_template="ffhq_512", **settings)
    calls = StageCalls({**STAGES, "face_swapper": swapper}, toy_stage)
    landmarks = np.random.default_rng(3).uniform(10, 60, (NUM_LANDMARKS, 2))
    crops, (matrix,), relative = calls.crops_for_swap([(IMAGE, FACE)], [landmarks], as_source=True)
    expected = estimate_affine_matrix(FACE.kps, template, side)
    np.testing.assert_allclose(matrix, expected)
    np.testing.assert_array_equal(crops[0], warp_crop(IMAGE, expected, side))
    np.testing.assert_allclose(relative[0], (transform_points(landmarks, expected) + 0.5) / side, atol=1e-6)
    as_target, (target_matrix,), _ = calls.crops_for_swap([(IMAGE, FACE)], [landmarks])
    assert as_target.shape == (1, 24, 24, 3)
    np.testing.assert_allclose(target_matrix, estimate_affine_matrix(FACE.kps, "ffhq_512", 24))


def wrong(change: Mapping[str, Any]) -> RecordingCalls:
    def call(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        return {**toy_stage(stage, inputs, output_names), **change}

    return RecordingCalls(call)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answer_that_is_no_number_is_refused(value: float) -> None:
    rows = unit_rows(2, 4)
    rows[1, 2] = value
    with pytest.raises(StageFailedError, match="face_embedder 1 gave embedding with values that are not finite"):
        StageCalls(STAGES, wrong({"embedding": rows})).embed([(IMAGE, FACE), (IMAGE, FACE)])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_answer_with_another_number_of_rows_is_refused(count: int) -> None:
    with pytest.raises(StageFailedError, match=f"face_embedder 1 gave {count} rows of embedding for 2"):
        StageCalls(STAGES, wrong({"embedding": unit_rows(count, 4)})).embed([(IMAGE, FACE), (IMAGE, FACE)])


def test_mask_that_is_no_number_is_refused() -> None:
    rows = {"target_crop_rgb": noise_rgb(24, 24)[None]}
    with pytest.raises(StageFailedError, match="gave mask with values that are not finite"):
        StageCalls(STAGES, wrong({"mask": np.full((1, 24, 24), np.nan, np.float32)})).swap_crops(rows)


def test_failure_of_a_stage_is_passed_on() -> None:
    def broken(_: Stage, __: Arrays, ___: Sequence[str], /) -> Arrays:
        raise StageFailedError("face_detector 1 failed: out of memory")

    with pytest.raises(StageFailedError, match="out of memory"):
        StageCalls(STAGES, broken).detect([IMAGE], None)
