"""A second look at a recorded request: only the candidate works, and what it is measured by is right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.ensemble.support import COLLINS, HOPPER, REPOSITORY, RecordingCalls, encode, make_stage, smooth_rgb
from warmswap_ensemble.arms import recorded, second_look
from warmswap_ensemble.canary import see_again
from warmswap_ensemble.comparison import Seen, compare
from warmswap_ensemble.errors import NoFaceError, StageFailedError
from warmswap_ensemble.image import ImageLimits
from warmswap_ensemble.options import AnalyzeOptions, SwapOptions
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.recording import Recorder, Replay, SeenEnoughError, swap_gains
from warmswap_ensemble.request_scope import RequestExecutor, request_scope
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_calls import Arrays, CallModel, StageCalls
from warmswap_ensemble.types import FaceReport, Stage, SwapResult

SOURCE, TARGET = (
    (REPOSITORY / "face_swap/warmup" / f"{name}.raw").read_bytes()[4:] for name in ("source_image", "target_image")
)
NOBODY = encode(smooth_rgb(120, 160), "PNG")
PERFECT_FACES = {"recall": 1.0, "precision": 1.0, "iou": 1.0, "kps_error": 0.0}
PERFECT_SWAP = {"psnr_db": 100.0, "ssim": 1.0, "identity_gain": 0.0}
Change = Callable[[dict[str, Any]], dict[str, Any]]


def unchanged(outputs: dict[str, Any]) -> dict[str, Any]:
    return outputs


@dataclass
class Looker:
    """A stable pipeline, and candidates that answer as its stages do, but for a change."""

    stages: Mapping[str, Stage]
    call_onnx: CallModel
    executor: RequestExecutor

    def __post_init__(self) -> None:
        self.live_calls, self.other_calls = RecordingCalls(self.call_onnx), RecordingCalls(self.call_candidate)
        self.live = self.pipeline(self.stages, self.live_calls)
        self.models: set[str] = set()
        self.change: Change = unchanged

    def pipeline(self, stages: Mapping[str, Stage], call_model: CallModel) -> Pipeline:
        return Pipeline(StageCalls(stages, call_model), ImageLimits(), SourceCache(8), self.executor)

    def call_candidate(self, stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        outputs = dict(self.call_onnx(stage, inputs, output_names))
        assert stage.version == (2 if stage.model in self.models else 1)
        return self.change(outputs) if stage.version == 2 else outputs

    def take(self, *models: str, change: Change = unchanged) -> Looker:
        """Make these models candidates."""
        self.models, self.change = set(models), change
        stages = {
            name: replace(stage, version=2, sha256="2" * 64) if name in models else stage
            for name, stage in self.stages.items()
        }
        self.other = self.pipeline(stages, self.other_calls)
        return self

    def swap(self, source: bytes = SOURCE, target: bytes = TARGET) -> Recorder:
        recorder = Recorder()
        with request_scope(""):
            recorder.finish(recorded(self.live, recorder).swap(source, target, None, SwapOptions()))
        return recorder

    def swap_again(self, recorder: Recorder, source: bytes = SOURCE, target: bytes = TARGET) -> dict[str, float]:
        again, seen = second_look(self.other, recorder, self.models, was_cached=recorder.source_cached)

        def look() -> None:
            seen.gains = swap_gains(again.swap(source, target, None, SwapOptions()))

        self.other_calls.calls.clear()
        with request_scope(""):
            see_again(look)
            return compare(sorted(self.models), recorder.seen, seen)

    @property
    def asked(self) -> set[str]:
        """Stages that the second look has asked."""
        return set(self.other_calls.stages)


@pytest.fixture
def looker(stages: Mapping[str, Stage], call_onnx: CallModel) -> Iterator[Looker]:
    with RequestExecutor(2) as executor:
        yield Looker(stages, call_onnx, executor)


@pytest.mark.parametrize(
    ("model", "measures"),
    [
        ("face_detector", PERFECT_FACES),
        ("face_landmarker", {"landmark_error": 0.0}),
        ("face_embedder", {"cosine": 1.0}),
        ("face_swapper", PERFECT_SWAP),
    ],
)
def test_an_identical_copy_is_the_only_one_asked_and_differs_in_nothing(
    model: str, measures: dict[str, float], looker: Looker
) -> None:
    looker.take(model)
    recorder = looker.swap()
    assert set(looker.live_calls.stages) == set(looker.stages)
    assert looker.swap_again(recorder) == pytest.approx(measures, abs=1e-4)
    assert looker.asked == {model}


def test_a_set_is_looked_at_together(looker: Looker) -> None:
    looker.take("face_detector", "face_swapper")
    assert looker.swap_again(looker.swap()) == pytest.approx(PERFECT_FACES | PERFECT_SWAP, abs=1e-4)
    assert looker.asked == {"face_detector", "face_swapper"}


def side_by_side() -> bytes:
    """Two people; Collins is on the left."""
    people = [Image.open(path).convert("RGB").resize((512, 600)) for path in (COLLINS, HOPPER)]
    return encode(np.concatenate([np.asarray(image) for image in people], axis=1), "PNG")


def miss_the_left_one(outputs: dict[str, Any]) -> dict[str, Any]:
    """Of a frame with two faces, find the right one."""
    if "score" not in outputs:
        return outputs
    score = outputs["score"].copy()
    for row, box in zip(score, outputs["bbox"], strict=True):
        found = np.flatnonzero(row >= 0.5)
        if len(found) > 1:
            row[found[np.argmin(box[found, 0])]] = 0.0
    return outputs | {"score": score}


@pytest.mark.parametrize("models", [["face_landmarker"], ["face_landmarker", "face_embedder", "face_swapper"]])
def test_a_set_with_a_detector_that_finds_fewer_faces_compares_the_same_faces(
    models: list[str], looker: Looker
) -> None:
    looker.take("face_detector", *models, change=miss_the_left_one)
    target = side_by_side()
    recorder = looker.swap(target=target)
    assert recorder.seen.faces is not None
    assert len(recorder.seen.faces) == 2
    measures = looker.swap_again(recorder, target=target)
    expected = {"recall": 0.5, "precision": 1.0, "iou": 1.0, "kps_error": 0.0, "landmark_error": 0.0}
    if "face_swapper" in models:
        assert measures.pop("psnr_db") > 80, "the graph had two faces in one call before, and one now"
        expected |= {"cosine": 1.0, "ssim": 1.0, "identity_gain": 0.0}
    assert measures == pytest.approx(expected, abs=1e-3)


def test_an_answer_beside_the_step_that_leads_no_further_counts(looker: Looker) -> None:
    """The embedder's turn ends the look, in which a helper thread still waits for the landmarks."""
    slow = threading.Event()

    def late(outputs: dict[str, Any]) -> dict[str, Any]:
        if "landmarks" in outputs:
            slow.wait(0.3)
        return move_points(outputs) if "kps" in outputs else outputs

    looker.take("face_detector", "face_landmarker", change=late)
    measures = looker.swap_again(looker.swap())
    assert set(measures) == {*PERFECT_FACES, "landmark_error"}
    assert looker.asked == {"face_detector", "face_landmarker"}


def test_an_error_beside_the_step_that_leads_no_further_is_told(looker: Looker) -> None:
    def broken(outputs: dict[str, Any]) -> dict[str, Any]:
        if "landmarks" in outputs:
            raise StageFailedError("no landmarks")
        return move_points(outputs)

    looker.take("face_detector", "face_landmarker", change=broken)
    recorder = looker.swap()
    with pytest.raises(StageFailedError, match="no landmarks"):
        looker.swap_again(recorder)


def move_points(outputs: dict[str, Any]) -> dict[str, Any]:
    return outputs | {"kps": outputs["kps"] + np.float32(3.0)}


def test_a_detector_that_answers_otherwise_leads_to_no_other_stage(looker: Looker) -> None:
    looker.take("face_detector", change=move_points)
    measures = looker.swap_again(looker.swap())
    assert looker.asked == {"face_detector"}
    assert measures["recall"] == measures["precision"] == 1.0
    assert measures["kps_error"] > 0.01
    assert set(measures) == set(PERFECT_FACES)


def find_nobody(outputs: dict[str, Any]) -> dict[str, Any]:
    return outputs | {"score": np.zeros_like(outputs["score"])}


def test_a_detector_that_finds_nobody_is_an_error_with_its_sentence(looker: Looker) -> None:
    looker.take("face_detector", change=find_nobody)
    recorder = looker.swap()
    with pytest.raises(NoFaceError, match="no face was found in source_image"):
        looker.swap_again(recorder)
    assert looker.asked == {"face_detector"}


def test_an_analysis_by_a_detector_that_finds_nobody_has_no_recall(looker: Looker) -> None:
    looker.take("face_detector", change=find_nobody)
    assert analyze_again(looker, HOPPER.read_bytes()) == {"recall": 0.0, "precision": 1.0}
    assert looker.asked == {"face_detector"}


def analyze_again(looker: Looker, image: bytes) -> dict[str, float]:
    recorder = Recorder()
    with request_scope(""):
        recorded(looker.live, recorder).analyze(image, AnalyzeOptions())
    again, seen = second_look(looker.other, recorder, looker.models, was_cached=False)
    with request_scope(""):
        see_again(lambda: again.analyze(image, AnalyzeOptions()))
    return compare(sorted(looker.models), recorder.seen, seen)


@pytest.mark.parametrize(("model", "measures"), [("face_detector", PERFECT_FACES), ("face_embedder", {"cosine": 1.0})])
def test_an_analysis_is_looked_at_too(model: str, measures: dict[str, float], looker: Looker) -> None:
    looker.take(model)
    assert analyze_again(looker, HOPPER.read_bytes()) == pytest.approx(measures, abs=1e-4)
    assert looker.asked == {model}
    looker.take("face_detector")
    assert analyze_again(looker, NOBODY) == {"recall": 1.0, "precision": 1.0}


def test_an_embedder_that_answers_otherwise_leads_to_no_other_stage(looker: Looker) -> None:
    looker.take("face_embedder", change=lambda outputs: {"embedding": -outputs["embedding"]})
    assert looker.swap_again(looker.swap()) == pytest.approx({"cosine": -1.0}, abs=1e-4)
    assert looker.asked == {"face_embedder"}


def test_a_landmarker_that_answers_otherwise_leads_to_no_other_stage(looker: Looker) -> None:
    looker.take("face_landmarker", change=lambda outputs: {"landmarks": outputs["landmarks"] + np.float32(0.1)})
    measures = looker.swap_again(looker.swap())
    assert set(measures) == {"landmark_error"}
    assert measures["landmark_error"] > 0.05
    assert looker.asked == {"face_landmarker"}


def invert(outputs: dict[str, Any]) -> dict[str, Any]:
    return outputs | {"swapped_crop_rgb": 255 - outputs["swapped_crop_rgb"]}


def test_a_swapper_that_answers_otherwise_may_ask_the_embedder(looker: Looker) -> None:
    looker.take("face_swapper", change=invert)
    measures = looker.swap_again(looker.swap())
    assert looker.asked == {"face_swapper", "face_embedder"}
    assert measures["psnr_db"] < 20
    assert measures["ssim"] < 0.5
    assert measures["identity_gain"] < -0.01


def test_a_known_source_is_looked_at_once_and_then_known_here_too(looker: Looker) -> None:
    looker.take("face_swapper")
    looker.swap()
    asked = []
    for _ in range(2):
        recorder = looker.swap()
        assert recorder.source_cached
        assert looker.swap_again(recorder) == pytest.approx(PERFECT_SWAP, abs=1e-4)
        asked.append(looker.asked)
    assert asked[0] >= {"face_swapper", "face_detector", "face_landmarker", "face_embedder"}
    assert asked[1] == {"face_swapper"}


def test_an_embedder_is_compared_at_a_known_source_too(looker: Looker) -> None:
    looker.take("face_embedder")
    looker.swap()
    assert looker.swap_again(looker.swap()) == pytest.approx({"cosine": 1.0}, abs=1e-4), "of the target's face"
    assert looker.asked == set(looker.stages) - {"face_swapper"}
    assert looker.swap_again(looker.swap()) == pytest.approx({"cosine": 1.0}, abs=1e-4)
    assert looker.asked == {"face_embedder"}


def test_a_detector_is_compared_at_a_known_source_too(looker: Looker) -> None:
    looker.take("face_detector")
    looker.swap()
    for _ in range(2):
        recorder = looker.swap()
        assert recorder.source_cached
        assert looker.swap_again(recorder) == pytest.approx(PERFECT_FACES, abs=1e-4)
        assert looker.asked == {"face_detector"}


def test_a_source_that_was_new_is_not_taken_from_the_candidates_cache(looker: Looker) -> None:
    looker.take("face_swapper")
    looker.swap()
    looker.swap_again(looker.swap())  # now the candidate knows it
    looker.live = looker.pipeline(looker.stages, looker.live_calls)  # and the stable version does not
    recorder = looker.swap()
    assert not recorder.source_cached
    assert looker.swap_again(recorder) == pytest.approx(PERFECT_SWAP, abs=1e-4)
    assert looker.asked == {"face_swapper"}


def test_the_record_costs_the_answer_nothing(looker: Looker) -> None:
    plain = looker.live.swap(COLLINS.read_bytes(), TARGET, None, SwapOptions())
    calls = list(looker.live_calls.calls)
    looker.live = looker.pipeline(looker.stages, looker.live_calls)
    looker.live_calls.calls.clear()
    recorder = looker.swap(COLLINS.read_bytes())
    assert recorder.image == plain.image
    assert sorted(looker.live_calls.calls) == sorted(calls)
    assert sorted(stage.model for stage, _, _ in recorder.asked) == sorted(model for model, _ in calls)


def test_what_was_seen_is_that_of_the_target(looker: Looker) -> None:
    recorder = looker.swap()
    seen = recorder.seen
    assert seen.faces is not None
    assert [len(rows) for rows in (seen.faces, seen.gains or [], seen.swapped_rgb)] == [1, 1, 1]  # type: ignore[arg-type]
    assert seen.embeddings is not None
    assert seen.embeddings.shape == (2, 128), "the target's face, then the source's"
    assert seen.landmarks is not None
    assert [points.shape for points in seen.landmarks] == [(68, 2)] * 2
    x1, y1, x2, y2 = seen.faces[0].bbox
    x, y = seen.landmarks[0].mean(axis=0)
    assert x1 < x < x2
    assert y1 < y < y2
    assert seen.spaces == ("dlib_resnet_v1 (128 numbers)",)
    assert (seen.gains or [0.0])[0] > 0.05
    assert seen.image_rgb is None


ONE, TWO = np.ones((1, 2), np.float32), np.full((1, 2), 2.0, np.float32)
KNOWN = make_stage("face_embedder")


def asked_once() -> Recorder:
    recorder = Recorder()
    call = recorder.recording(lambda *_: {"embedding": TWO, "more": ONE})
    assert call(KNOWN, {"crop": ONE}, ("embedding",))["embedding"] is TWO
    return recorder


@pytest.mark.parametrize(
    ("stage", "inputs", "names", "known"),
    [
        pytest.param(KNOWN, {"crop": ONE.copy()}, ["embedding"], True, id="the same"),
        pytest.param(KNOWN, {"crop": ONE}, ["embedding", "more"], True, id="more of it"),
        pytest.param(KNOWN, {"crop": TWO}, ["embedding"], False, id="another picture"),
        pytest.param(KNOWN, {"crop": ONE[:, :1]}, ["embedding"], False, id="another shape"),
        pytest.param(KNOWN, {"crop": ONE, "mask": ONE}, ["embedding"], False, id="more inputs"),
        pytest.param(KNOWN, {"image": ONE}, ["embedding"], False, id="another input"),
        pytest.param(KNOWN, {"crop": ONE}, ["mask"], False, id="another output"),
        pytest.param(make_stage("face_embedder", version=2), {"crop": ONE}, ["embedding"], False, id="another version"),
        pytest.param(make_stage("face_detector"), {"crop": ONE}, ["embedding"], False, id="another model"),
    ],
)
def test_only_the_very_same_question_is_known(stage: Stage, inputs: Arrays, names: list[str], known: bool) -> None:
    assert (asked_once().answer_to(stage, inputs, names) is not None) == known


def test_a_replay_answers_asks_or_ends() -> None:
    asked: list[Stage] = []

    def call(stage: Stage, _inputs: Arrays, _names: Sequence[str], /) -> Arrays:
        asked.append(stage)
        return {"embedding": ONE}

    recorder, candidate = asked_once(), make_stage("face_detector", version=2)
    replay = Replay(recorder, call, {"face_detector"})
    assert replay(KNOWN, {"crop": ONE}, ["embedding"])["embedding"] is TWO
    with pytest.raises(SeenEnoughError):
        replay(KNOWN, {"crop": TWO}, ["embedding"])
    assert asked == []
    assert replay(candidate, {"crop": ONE}, ["embedding"])["embedding"] is ONE
    may_follow = Replay(recorder, call, {"face_detector"}, {"face_embedder"})
    assert may_follow(KNOWN, {"crop": ONE}, ["embedding"])["embedding"] is TWO
    assert may_follow(KNOWN, {"crop": TWO}, ["embedding"])["embedding"] is ONE
    assert asked == [candidate, KNOWN]
    # A candidate is asked even what the stable version was asked: its answer is what is looked for.
    assert Replay(recorder, call, {"face_embedder"})(KNOWN, {"crop": ONE}, ["embedding"])["embedding"] is ONE


def test_an_error_of_a_stage_is_not_recorded_and_comes_through() -> None:
    def fail(*_: object) -> Arrays:
        raise StageFailedError("broken")

    recorder = Recorder()
    with pytest.raises(StageFailedError):
        recorder.recording(fail)(KNOWN, {"crop": ONE}, ["embedding"])
    assert recorder.asked == []
    with pytest.raises(StageFailedError):
        Replay(recorder, fail, {"face_embedder"})(KNOWN, {"crop": ONE}, ["embedding"])


def test_gains_are_of_swapped_faces_only(looker: Looker) -> None:
    recorder = looker.swap()
    assert recorder.seen.faces is not None
    (face,) = recorder.seen.faces
    reports = [FaceReport(face), FaceReport(face, True, 0.25, 0.75), FaceReport(face, True, 0.5, 0.25)]
    result = SwapResult(b"", smooth_rgb(2, 2), reports, None, False, {}, {})
    assert swap_gains(result) == [0.5, -0.25]


def test_an_embedder_without_a_space_is_compared_with_none(looker: Looker) -> None:
    embedder = looker.stages["face_embedder"]
    settings = {name: value for name, value in embedder.settings.items() if name != "embedding_space"}
    looker.stages = {**looker.stages, "face_embedder": replace(embedder, settings=settings)}
    looker.live = looker.pipeline(looker.stages, looker.live_calls)
    looker.take("face_embedder")
    recorder = looker.swap()
    assert recorder.seen.spaces == ()
    assert looker.swap_again(recorder) == {}
    assert looker.asked == {"face_embedder"}


def test_what_nobody_has_seen_is_nothing() -> None:
    assert Recorder().seen == Seen()
    assert Recorder().answer_to(KNOWN, {}, []) is None
