from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.ensemble.support import COLLINS, HOPPER, RecordingCalls, make_face, noise_rgb, smooth_rgb, unit_rows
from warmswap_ensemble.arms import recorded, second_look
from warmswap_ensemble.canary import see_again
from warmswap_ensemble.comparison import MAX_PSNR_DB, Seen, compare, compare_faces, iou, psnr_db, ssim
from warmswap_ensemble.image import ImageLimits
from warmswap_ensemble.options import SwapOptions
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.recording import Recorder, swap_gains
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_calls import Arrays, CallModel, StageCalls
from warmswap_ensemble.types import Face, Stage


def test_overlap_by_hand() -> None:
    a, b = np.array([0, 0, 10, 10], np.float32), np.array([5, 0, 15, 10], np.float32)
    assert iou(a, b) == pytest.approx(50 / 150)
    assert iou(a, a) == 1
    assert iou(a, a + 20) == 0


def moved(face: Face, by: float) -> Face:
    return Face(face.bbox + np.float32(by), face.score, face.kps + np.float32(by))


def test_faces_are_matched_one_to_one() -> None:
    left, right = make_face(0, 0, 100, 100), make_face(200, 0, 300, 100)
    same = compare_faces([left, right], [right, left])
    assert same == {"recall": 1.0, "precision": 1.0, "iou": 1.0, "kps_error": 0.0}
    eyes = float(np.linalg.norm(left.kps[0] - left.kps[1]))
    off = compare_faces([left], [moved(left, 4)])
    assert off["kps_error"] == pytest.approx(np.hypot(4, 4) / eyes)
    assert off["iou"] == pytest.approx(96 * 96 / (2 * 10_000 - 96 * 96))
    twice = compare_faces([left], [left, moved(left, 3)])
    assert (twice["recall"], twice["precision"], twice["iou"]) == (1.0, 0.5, 1.0)
    assert compare_faces([left, right], [left])["recall"] == 0.5
    assert compare_faces([left, moved(left, 3)], [left])["recall"] == 0.5, "one face found is not two"
    assert compare_faces([left], []) == {"recall": 0.0, "precision": 1.0}
    assert compare_faces([], []) == {"recall": 1.0, "precision": 1.0}


def test_pictures() -> None:
    picture = smooth_rgb(60, 80)
    assert psnr_db(picture, picture) == MAX_PSNR_DB
    assert psnr_db(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)) == 0
    assert psnr_db(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 5, np.uint8)) == pytest.approx(34.15, abs=0.01)
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(picture, noise_rgb(60, 80)) < 0.1


def test_embeddings_are_compared_within_one_space_only() -> None:
    rows = unit_rows(3, 128)
    one = Seen(embeddings=rows, spaces=("a (128)",))
    assert compare(["face_embedder"], one, Seen(embeddings=rows, spaces=("a (128)",))) == {"cosine": pytest.approx(1)}
    assert compare(["face_embedder"], one, Seen(embeddings=rows, spaces=("b (128)",))) == {}
    assert compare(["face_embedder"], one, Seen(embeddings=rows[:2], spaces=("a (128)",))) == {}
    assert compare(["face_detector"], one, one) == {}


def test_swaps_of_two_sizes_and_what_they_gain() -> None:
    crops = np.stack([smooth_rgb(64, 64)])
    small = np.stack([smooth_rgb(32, 32)])
    found = compare(["face_swapper"], Seen(swapped_rgb=crops, gains=[0.3]), Seen(swapped_rgb=small, gains=[0.2]))
    assert found["identity_gain"] == pytest.approx(-0.1)
    assert found["psnr_db"] > 20
    assert compare(["face_swapper_512"], Seen(swapped_rgb=crops), Seen(swapped_rgb=crops))["psnr_db"] == MAX_PSNR_DB


@pytest.fixture
def executor() -> Any:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def pipeline_of(call_model: CallModel, stages: dict[str, Stage], executor: Any, entries: int = 8) -> Pipeline:
    return Pipeline(StageCalls(stages, call_model), ImageLimits(), SourceCache(entries), executor)


@pytest.mark.parametrize(
    ("models", "asked", "measured"),
    [
        pytest.param(["face_detector"], {"face_detector"}, {"recall", "precision", "iou", "kps_error"}, id="detector"),
        pytest.param(["face_landmarker"], {"face_landmarker"}, {"landmark_error"}, id="landmarker"),
        pytest.param(["face_embedder"], {"face_embedder"}, {"cosine"}, id="embedder"),
        pytest.param(["face_swapper"], {"face_swapper"}, {"psnr_db", "ssim", "identity_gain"}, id="swapper"),
    ],
)
def test_a_second_look_asks_the_candidate_and_nobody_else(
    call_onnx: CallModel,
    stages: dict[str, Stage],
    executor: Any,
    models: list[str],
    asked: set[str],
    measured: set[str],
) -> None:
    """A candidate that is a copy: all measures are perfect, and no stable stage has work."""
    recorder, options = Recorder(), SwapOptions()
    source, target = COLLINS.read_bytes(), HOPPER.read_bytes()
    live = recorded(pipeline_of(call_onnx, stages, executor), recorder)
    recorder.finish(live.swap(source, target, None, options))
    calls = RecordingCalls(call_onnx)
    others = {name: replace(stage, version=2) if name in models else stage for name, stage in stages.items()}
    again, seen = second_look(pipeline_of(calls, others, executor), recorder, models, was_cached=False)
    see_again(lambda: seen.__setattr__("gains", swap_gains(again.swap(source, target, None, options))))
    found = compare(models, recorder.seen, seen)
    assert set(calls.stages) == asked
    assert set(found) == measured
    perfect = {"kps_error": 0, "landmark_error": 0, "identity_gain": 0, "psnr_db": MAX_PSNR_DB}
    assert {name: pytest.approx(perfect.get(name, 1), abs=1e-4) for name in found} == found


def test_a_detector_that_answers_otherwise_ends_the_second_look(
    call_onnx: CallModel, stages: dict[str, Stage], executor: Any
) -> None:
    """Its points lead to other crops, which the stable stages have not seen and are not asked for."""
    recorder, options = Recorder(), SwapOptions()
    source, target = COLLINS.read_bytes(), HOPPER.read_bytes()
    recorder.finish(recorded(pipeline_of(call_onnx, stages, executor), recorder).swap(source, target, None, options))

    def shifted(stage: Stage, inputs: Arrays, names: Sequence[str], /) -> Arrays:
        answer = dict(call_onnx(stage, inputs, names))
        return {**answer, "kps": answer["kps"] + np.float32(3)} if "kps" in answer else answer

    calls = RecordingCalls(shifted)
    others = {**stages, "face_detector": replace(stages["face_detector"], version=2)}
    again, seen = second_look(pipeline_of(calls, others, executor), recorder, ["face_detector"], was_cached=False)
    see_again(partial(again.swap, source, target, None, options))
    assert set(calls.stages) == {"face_detector"}
    found = compare(["face_detector"], recorder.seen, seen)
    assert found["recall"] == 1
    assert found["kps_error"] > 0.01


def test_a_source_that_was_known_is_looked_at_once_more(
    call_onnx: CallModel, stages: dict[str, Stage], executor: Any
) -> None:
    options = SwapOptions()
    source, target = COLLINS.read_bytes(), HOPPER.read_bytes()
    serving = pipeline_of(call_onnx, stages, executor)
    serving.swap(source, target, None, options)
    calls = RecordingCalls(call_onnx)
    others = {**stages, "face_swapper": replace(stages["face_swapper"], version=2)}
    candidate = pipeline_of(calls, others, executor)
    for turn in range(2):
        recorder = Recorder()
        recorder.finish(recorded(serving, recorder).swap(source, target, None, options))
        assert recorder.source_cached
        again, seen = second_look(candidate, recorder, ["face_swapper"], was_cached=True)
        calls.calls.clear()
        see_again(partial(again.swap, source, target, None, options))
        assert seen.swapped_rgb is not None
        assert ("face_detector" in calls.stages) is (turn == 0), "then it is remembered"
