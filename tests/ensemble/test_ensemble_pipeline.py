"""The whole chain, with the committed models. Similarities are cosines of the open pack's embedder."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

from tests.ensemble.support import COLLINS, HOPPER, RecordingCalls, decode, encode, smooth_rgb
from warmswap_ensemble.contract import MAX_FACES
from warmswap_ensemble.errors import (
    FaceIndexError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidOptionError,
    NoFaceError,
    RequestCancelledError,
)
from warmswap_ensemble.geometry import (
    ImageArray,
    bounding_box,
    clip_bbox,
    estimate_affine_matrix,
    invert_affine_matrix,
    transform_points,
)
from warmswap_ensemble.image import ImageLimits
from warmswap_ensemble.options import AnalyzeOptions, FaceSelector, SwapOptions
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_calls import Arrays, CallModel, StageCalls
from warmswap_ensemble.types import Face, Stage, SwapResult

COLLINS_PNG, HOPPER_JPEG = COLLINS.read_bytes(), HOPPER.read_bytes()
NOBODY = encode(smooth_rgb(240, 320), "PNG")
LEAST_GAIN = 0.05
"""Collins and Hopper are 0.89 alike, one person's pictures 0.98 and more."""


@cache
def group_png() -> bytes:
    """Four faces from left to right: Collins, Hopper (small, mirrored), Collins (large, tilted), Collins (cut)."""
    group = Image.new("RGB", (1300, 620), (110, 120, 130))
    collins, hopper = portrait(COLLINS, (100, 0, 360, 260)), portrait(HOPPER, (100, 60, 430, 400))
    tilted = collins.rotate(25, Image.Resampling.BICUBIC, fillcolor=(110, 120, 130))
    mirror = Image.Transpose.FLIP_LEFT_RIGHT
    group.paste(collins.resize((300, 300), Image.Resampling.LANCZOS), (20, 30))
    group.paste(hopper.transpose(mirror).resize((190, 196), Image.Resampling.LANCZOS), (380, 300))
    group.paste(tilted.resize((400, 400), Image.Resampling.LANCZOS), (600, 100))
    group.paste(collins.transpose(mirror).resize((260, 260), Image.Resampling.LANCZOS), (1140, 200))
    return encode(group, "PNG", compress_level=1)


def portrait(path: object, box: tuple[int, int, int, int]) -> Image.Image:
    with Image.open(str(path)) as image:
        return image.convert("RGB").crop(box)


@pytest.fixture
def recording(call_onnx: CallModel) -> RecordingCalls:
    return RecordingCalls(call_onnx)


@pytest.fixture
def pipeline(stages: Mapping[str, Stage], recording: RecordingCalls, executor: Executor) -> Pipeline:
    return Pipeline(StageCalls(stages, recording), ImageLimits(), SourceCache(4), executor)


def swapped(result: SwapResult) -> list[int]:
    return [i for i, report in enumerate(result.faces) if report.swapped]


def gains(result: SwapResult) -> list[float]:
    chosen = [report for report in result.faces if report.swapped]
    return [(report.similarity_after or 0) - (report.similarity_before or 0) for report in chosen]


def reach_of(face: Face, image: ImageArray) -> tuple[int, int, int, int]:
    """The box of the image that the swapper's crop of a face covers."""
    corners = np.array([[0, 0], [256, 0], [0, 256], [256, 256]], np.float64)
    to_image = invert_affine_matrix(estimate_affine_matrix(face.kps, "ffhq_512", 256))
    return clip_bbox(bounding_box(transform_points(corners, to_image)), image)


@pytest.mark.parametrize(
    ("source", "target", "image_info"),
    [
        pytest.param(COLLINS_PNG, HOPPER_JPEG, {"format": "jpeg", "width": 512, "height": 600}, id="Collins to Hopper"),
        pytest.param(HOPPER_JPEG, COLLINS_PNG, {"format": "png", "width": 512, "height": 512}, id="Hopper to Collins"),
    ],
)
def test_face_becomes_that_of_the_source(
    source: bytes, target: bytes, image_info: dict[str, object], pipeline: Pipeline
) -> None:
    result = pipeline.swap(source, target, None, SwapOptions())
    assert len(result.faces) == 1
    (gain,) = gains(result)
    assert gain >= LEAST_GAIN
    assert result.image_info == image_info
    with Image.open(io.BytesIO(result.image)) as image:
        found = {"format": str(image.format).lower(), "width": image.width, "height": image.height}
    assert found == image_info

    before, after = decode(target).astype(np.int64), decode(result.image)
    x1, y1, x2, y2 = reach_of(result.faces[0].face, after)
    difference = np.abs(after - before).max(axis=2)
    inside = np.zeros(difference.shape, bool)
    inside[y1:y2, x1:x2] = True
    assert 0.05 < inside.mean() < 0.6
    x1, y1, x2, y2 = clip_bbox(result.faces[0].face.bbox.astype(np.float64), after)
    assert difference[y1:y2, x1:x2].mean() > 10
    if image_info["format"] == "png":
        assert difference[~inside].max() == 0
    else:
        assert difference[~inside].mean() < 2

    assert {"decode", "detect", "landmarks_and_embed", "swap", "composite", "encode_and_embed", "total"} == set(
        result.timings_ms
    )
    assert all(0 <= value <= result.timings_ms["total"] for value in result.timings_ms.values())


def test_answer_after_the_swap_is_what_another_request_finds(pipeline: Pipeline) -> None:
    """The reported similarity is that of the picture that is sent."""
    result = pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, SwapOptions())
    _, source = pipeline.analyze(HOPPER_JPEG, AnalyzeOptions())
    faces, after = pipeline.analyze(result.image, AnalyzeOptions())
    assert len(faces) == 1
    assert float(after[0] @ source[0]) == pytest.approx(result.faces[0].similarity_after or 0, abs=0.02)


def test_every_face_of_a_group_is_swapped(pipeline: Pipeline, recording: RecordingCalls) -> None:
    """Small, mirrored, tilted, cut by the edge; the one who is the source already stays as she is."""
    result = pipeline.swap(HOPPER_JPEG, group_png(), None, SwapOptions())
    assert swapped(result) == [0, 1, 2, 3]
    of_collins = np.array(gains(result))[[0, 2, 3]]
    assert (of_collins >= LEAST_GAIN).all()
    hopper = result.faces[1]
    assert (hopper.similarity_before or 0) > 0.98
    assert (hopper.similarity_after or 0) > 0.98
    lefts = [report.face.bbox[0] for report in result.faces]
    assert lefts == sorted(lefts)
    assert result.faces[3].face.bbox[2] == 1300
    # Two frames of different sizes, then five faces (four and the source's) in one call each.
    assert recording.calls[:2] == [("face_detector", 1), ("face_detector", 1)]
    assert sorted(recording.calls[2:4]) == [("face_embedder", 5), ("face_landmarker", 5)]
    assert recording.calls[4:] == [("face_swapper", 4), ("face_embedder", 4)]
    before, after = decode(group_png()), decode(result.image)
    touched = np.zeros(before.shape[:2], bool)
    for report in result.faces:
        x1, y1, x2, y2 = reach_of(report.face, before)
        touched[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(after[~touched], before[~touched])


@pytest.mark.parametrize(
    ("selector", "max_faces", "expected"),
    [
        pytest.param(FaceSelector("largest"), MAX_FACES, [2], id="largest"),
        pytest.param(FaceSelector("index", 0), MAX_FACES, [0], id="leftmost"),
        pytest.param(FaceSelector("index", 3), 1, [3], id="rightmost"),
        pytest.param(FaceSelector("all"), 1, [2], id="all, at most one"),
        pytest.param(FaceSelector("all"), 2, [0, 2], id="all, at most two"),
    ],
)
def test_only_selected_faces_are_swapped(
    selector: FaceSelector, max_faces: int, expected: list[int], pipeline: Pipeline
) -> None:
    result = pipeline.swap(HOPPER_JPEG, group_png(), None, SwapOptions(face_selector=selector, max_faces=max_faces))
    assert len(result.faces) == 4
    assert swapped(result) == expected
    assert min(gains(result)) >= LEAST_GAIN
    before, after = decode(group_png()), decode(result.image)
    for i, report in enumerate(result.faces):
        x1, y1, x2, y2 = clip_bbox(report.face.bbox.astype(np.float64), before)
        same = np.array_equal(after[y1:y2, x1:x2], before[y1:y2, x1:x2])
        assert same == (i not in expected)
        assert report.swapped or report.similarity_before is report.similarity_after is None


@pytest.mark.parametrize(
    ("reference", "threshold", "max_faces", "expected"),
    [
        pytest.param(HOPPER_JPEG, None, MAX_FACES, [1], id="the manifest's threshold"),
        pytest.param(COLLINS_PNG, None, MAX_FACES, [0, 2, 3], id="one person several times"),
        pytest.param(COLLINS_PNG, 0.95, 1, [2], id="the largest of them"),
        pytest.param(HOPPER_JPEG, -1.0, MAX_FACES, [0, 1, 2, 3], id="everyone"),
    ],
)
def test_faces_like_the_reference_are_swapped(
    reference: bytes, threshold: float | None, max_faces: int, expected: list[int], pipeline: Pipeline
) -> None:
    options = SwapOptions(face_selector=FaceSelector("reference"), reference_threshold=threshold, max_faces=max_faces)
    result = pipeline.swap(COLLINS_PNG, group_png(), reference, options)
    assert swapped(result) == expected
    if 1 in expected:  # the others are Collins already
        hopper = result.faces[1]
        assert (hopper.similarity_before or 0) == pytest.approx(0.89, abs=0.02)
        assert gains(result)[expected.index(1)] >= LEAST_GAIN


def test_nobody_like_the_reference(pipeline: Pipeline, recording: RecordingCalls) -> None:
    options = SwapOptions(face_selector=FaceSelector("reference"), reference_threshold=0.95)
    with pytest.raises(NoFaceError, match=r"best similarity 0\.8\d\d, reference_threshold 0\.950"):
        pipeline.swap(HOPPER_JPEG, COLLINS_PNG, HOPPER_JPEG, options)
    assert "face_swapper" not in recording.stages
    lenient = SwapOptions(options.face_selector, reference_threshold=0.95, on_no_face="passthrough")
    assert pipeline.swap(HOPPER_JPEG, COLLINS_PNG, HOPPER_JPEG, lenient).image == COLLINS_PNG


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        pytest.param(None, SwapOptions(FaceSelector("reference")), "needs the input reference_image", id="missing"),
        pytest.param(HOPPER_JPEG, SwapOptions(), "reference_image is only used with", id="not asked for"),
        pytest.param(None, SwapOptions(reference_threshold=0.5), "reference_threshold is only used with", id="floor"),
    ],
)
def test_reference_and_its_selector_belong_together(
    reference: bytes | None, options: SwapOptions, message: str, pipeline: Pipeline, recording: RecordingCalls
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        pipeline.swap(COLLINS_PNG, HOPPER_JPEG, reference, options)
    assert recording.calls == []


def test_face_of_the_source_is_selected(pipeline: Pipeline) -> None:
    """From the group: its largest face is Collins, its second Hopper."""
    largest = pipeline.swap(group_png(), HOPPER_JPEG, None, SwapOptions())
    assert gains(largest)[0] >= LEAST_GAIN
    second = pipeline.swap(group_png(), COLLINS_PNG, None, SwapOptions(source_face_selector=FaceSelector("index", 1)))
    assert gains(second)[0] >= LEAST_GAIN
    assert not second.source_cached
    with pytest.raises(FaceIndexError, match=r"index:4 is out of range: source_image has 4 face"):
        pipeline.swap(group_png(), COLLINS_PNG, None, SwapOptions(source_face_selector=FaceSelector("index", 4)))


def test_least_score_leaves_unclear_faces_out(pipeline: Pipeline) -> None:
    """Of the group only one face is as clear as 0.8."""
    assert len(pipeline.swap(COLLINS_PNG, group_png(), None, SwapOptions(min_score=0.8)).faces) == 1
    with pytest.raises(NoFaceError, match="no face was found in source_image"):
        pipeline.swap(COLLINS_PNG, group_png(), None, SwapOptions(min_score=0.99))


@pytest.mark.parametrize("on_no_face", ["error", "passthrough"])
def test_source_without_a_face_is_an_error(on_no_face: str, pipeline: Pipeline) -> None:
    with pytest.raises(NoFaceError, match="no face was found in source_image"):
        pipeline.swap(NOBODY, HOPPER_JPEG, None, SwapOptions(on_no_face=on_no_face))


def test_target_without_a_face(pipeline: Pipeline, recording: RecordingCalls) -> None:
    with pytest.raises(NoFaceError, match="no face was found in target_image"):
        pipeline.swap(HOPPER_JPEG, NOBODY, None, SwapOptions())
    result = pipeline.swap(HOPPER_JPEG, NOBODY, None, SwapOptions(on_no_face="passthrough"))
    assert result.image == NOBODY
    assert (result.faces, result.source, result.source_cached) == ([], None, False)
    assert result.image_info == {"format": "png", "width": 320, "height": 240}
    assert set(recording.stages) == {"face_detector"}


def test_passthrough_gives_the_very_same_bytes_unless_another_format_is_asked_for(pipeline: Pipeline) -> None:
    nowhere = FaceSelector("index", 7)
    with pytest.raises(FaceIndexError, match="index:7 is out of range: target_image has 1 face"):
        pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, SwapOptions(nowhere))
    for output_format in ("same", "png"):
        options = SwapOptions(nowhere, on_no_face="passthrough", output_format=output_format)
        result = pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, options)
        assert result.image == COLLINS_PNG
        assert len(result.faces) == 1
        assert swapped(result) == []
    options = SwapOptions(nowhere, on_no_face="passthrough", output_format="webp")
    result = pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, options)
    assert result.image_info["format"] == "webp"
    assert np.abs(decode(result.image).astype(np.int64) - decode(COLLINS_PNG)).mean() < 4


def test_known_source_gives_the_same_answer_with_less_work(pipeline: Pipeline, recording: RecordingCalls) -> None:
    first = pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, SwapOptions())
    recording.calls.clear()
    second = pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, SwapOptions())
    assert (first.source_cached, second.source_cached) == (False, True)
    assert second.image == first.image
    assert second.source is first.source
    assert recording.calls[0] == ("face_detector", 1)
    assert (pipeline.cache.hits, pipeline.cache.misses) == (1, 1)


@pytest.mark.parametrize(
    "options", [SwapOptions(min_score=0.4), SwapOptions(source_face_selector=FaceSelector("index", 0))]
)
def test_source_found_in_another_way_is_not_taken_from_the_cache(options: SwapOptions, pipeline: Pipeline) -> None:
    pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, SwapOptions())
    assert not pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, options).source_cached


@pytest.mark.parametrize("fixed_frames", [False, True])
def test_known_source_gives_the_same_bytes_for_any_target(
    fixed_frames: bool, stages: Mapping[str, Stage], call_onnx: CallModel, executor: Executor
) -> None:
    """The source's frame is not of the target's size here, and must not change what is found in the target."""
    pipeline = Pipeline(StageCalls(stages, call_onnx, fixed_frames), ImageLimits(), SourceCache(4), executor)
    first, second = (pipeline.swap(HOPPER_JPEG, group_png(), None, SwapOptions()) for _ in range(2))
    assert (first.source_cached, second.source_cached) == (False, True)
    assert second.image == first.image


@pytest.mark.parametrize(
    ("options", "reference", "expected"),
    [
        (SwapOptions(), None, [False, True]),
        (SwapOptions(source_face_selector=FaceSelector("index", 0)), None, [False, False]),
        (SwapOptions(face_selector=FaceSelector("reference")), HOPPER_JPEG, [False, True, True]),
        (SwapOptions(face_selector=FaceSelector("largest")), None, [False, True]),
    ],
)
def test_all_faces_of_the_target_are_looked_for_and_the_largest_of_the_others(
    options: SwapOptions,
    reference: bytes | None,
    expected: list[bool],
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted: list[bool] = []

    def detect(_: StageCalls, images: Sequence[object], __: float | None, largest_only: Sequence[bool]) -> object:
        wanted.extend(largest_only)
        return [[] for _ in images]

    monkeypatch.setattr(StageCalls, "detect", detect)
    with pytest.raises(NoFaceError):
        pipeline.swap(HOPPER_JPEG, COLLINS_PNG, reference, options)
    assert wanted == expected


def cancelled_at(ask: int) -> Callable[[], bool]:
    asked = iter(range(ask, -1, -1))
    return lambda: next(asked) == 0


@pytest.mark.parametrize(
    ("ask", "called"),
    [
        pytest.param(0, set(), id="at once"),
        pytest.param(1, {"face_detector", "face_landmarker", "face_embedder"}, id="before the swap"),
    ],
)
def test_cancelled_request_stops(ask: int, called: set[str], pipeline: Pipeline, recording: RecordingCalls) -> None:
    with pytest.raises(RequestCancelledError):
        pipeline.swap(HOPPER_JPEG, COLLINS_PNG, None, SwapOptions(), cancelled_at(ask))
    assert set(recording.stages) == called


@pytest.mark.parametrize(
    ("pictures", "name"),
    [
        pytest.param((b"", HOPPER_JPEG, None), "source_image", id="source"),
        pytest.param((COLLINS_PNG, b"GIF89a", None), "target_image", id="target"),
        pytest.param((COLLINS_PNG, HOPPER_JPEG, HOPPER_JPEG[:999]), "reference_image", id="reference"),
    ],
)
def test_unreadable_picture_is_named(
    pictures: tuple[bytes, bytes, bytes | None], name: str, pipeline: Pipeline, recording: RecordingCalls
) -> None:
    options = SwapOptions(FaceSelector("reference" if pictures[2] is not None else "all"))
    with pytest.raises(InvalidImageError, match=f"^{name} "):
        pipeline.swap(*pictures, options)
    assert recording.calls == []


def test_limits_hold_for_every_picture(stages: Mapping[str, Stage], call_onnx: CallModel, executor: Executor) -> None:
    small = Pipeline(StageCalls(stages, call_onnx), ImageLimits(max_pixels=512 * 512), SourceCache(0), executor)
    with pytest.raises(ImageTooLargeError, match="target_image is 512x600"):
        small.swap(COLLINS_PNG, HOPPER_JPEG, None, SwapOptions())
    with pytest.raises(ImageTooLargeError, match="image is 512x600"):
        small.analyze(HOPPER_JPEG, AnalyzeOptions())


@pytest.mark.parametrize("output_format", ["same", "png", "webp", "jpeg"])
def test_transparency_of_the_target_is_kept_where_the_format_can(output_format: str, pipeline: Pipeline) -> None:
    alpha = np.linspace(0, 255, 512).astype(np.uint8)[None].repeat(512, axis=0)
    target = encode(np.dstack((decode(COLLINS_PNG), alpha)), "PNG", compress_level=1)
    result = pipeline.swap(HOPPER_JPEG, target, None, SwapOptions(output_format=output_format, quality=80))
    with Image.open(io.BytesIO(result.image)) as image:
        assert image.mode == ("RGB" if output_format == "jpeg" else "RGBA")
        if output_format != "jpeg":
            np.testing.assert_array_equal(np.asarray(image)[:, :, 3], alpha)


def test_target_stored_on_its_side_comes_back_upright(pipeline: Pipeline) -> None:
    block = Image.Exif()
    block[0x0112] = 6
    target = encode(np.rot90(decode(COLLINS_PNG)[:400], 1).copy(), "PNG", exif=block, compress_level=1)
    result = pipeline.swap(HOPPER_JPEG, target, None, SwapOptions())
    assert result.image_info == {"format": "png", "width": 512, "height": 400}
    assert gains(result)[0] >= LEAST_GAIN
    np.testing.assert_array_equal(decode(result.image)[390:], decode(COLLINS_PNG)[390:400])


def test_analysis_finds_every_face(pipeline: Pipeline) -> None:
    faces, embeddings = pipeline.analyze(group_png(), AnalyzeOptions())
    assert len(faces) == 4
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-4)
    alike = embeddings @ embeddings.T
    assert alike[0, [2, 3]].min() > 0.95
    assert alike[1, [0, 2, 3]].max() < 0.92
    for face in faces:
        x1, y1, x2, y2 = face.bbox
        assert ((face.kps > (x1, y1)) & (face.kps < (x2 + 1, y2))).all()


@pytest.mark.parametrize(("max_faces", "expected"), [(1, [2]), (2, [0, 2]), (MAX_FACES, [0, 1, 2, 3])])
def test_analysis_keeps_the_largest_faces(max_faces: int, expected: Sequence[int], pipeline: Pipeline) -> None:
    every, _ = pipeline.analyze(group_png(), AnalyzeOptions())
    faces, embeddings = pipeline.analyze(group_png(), AnalyzeOptions(max_faces=max_faces))
    assert [face.bbox.tolist() for face in faces] == [every[i].bbox.tolist() for i in expected]
    assert len(embeddings) == len(expected)


def test_analysis_of_nobody_is_empty(pipeline: Pipeline, recording: RecordingCalls) -> None:
    faces, embeddings = pipeline.analyze(NOBODY, AnalyzeOptions())
    assert faces == []
    assert (embeddings.shape, str(embeddings.dtype)) == ((0, 128), "float32")
    assert recording.stages == ["face_detector"]


@pytest.mark.parametrize("size_wh", [(1, 1), (2000, 1), (1, 2000), (5, 3)])
def test_tiny_and_thin_pictures_show_nobody(size_wh: tuple[int, int], pipeline: Pipeline) -> None:
    assert pipeline.analyze(encode(Image.new("RGB", size_wh), "PNG"), AnalyzeOptions())[0] == []


def test_swapper_gets_the_source_cut_its_own_way_and_always_the_embedding(
    stages: Mapping[str, Stage], call_onnx: CallModel, executor: Executor
) -> None:
    seen: list[Arrays] = []

    def call(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        if stage.model != "face_swapper":
            return call_onnx(stage, inputs, output_names)
        seen.append(inputs)
        count = len(inputs["target_crop_rgb"])
        return {"swapped_crop_rgb": inputs["target_crop_rgb"], "mask": np.zeros((count, 256, 256), np.float32)}

    swapper = stages["face_swapper"]
    settings = {**swapper.settings, "source_crop_size": 112, "source_warp_template": "arcface_112_v2"}
    calls = StageCalls({**stages, "face_swapper": replace(swapper, settings=settings)}, call)
    pipeline = Pipeline(calls, ImageLimits(), SourceCache(4), executor)
    for _ in range(2):  # the second time the source comes out of the cache
        pipeline.swap(COLLINS_PNG, group_png(), None, SwapOptions())
    for inputs in seen:
        count = len(inputs["target_crop_rgb"])
        assert inputs["target_crop_rgb"].shape == (count, 256, 256, 3)
        assert inputs["source_crop_rgb"].shape == (count, 112, 112, 3)
        assert inputs["source_landmarks"].shape == inputs["target_landmarks"].shape == (count, 68, 2)
        assert inputs["source_embedding"].shape == (count, 128)
    eyes = seen[0]["source_landmarks"][0][36:48].mean(axis=0)
    np.testing.assert_allclose(eyes, (0.5, 0.46), atol=0.04, err_msg="where arcface_112_v2 puts the eyes")
    mean_eyes_of_target = seen[0]["target_landmarks"][:, 36:48].mean(axis=(0, 1))
    np.testing.assert_allclose(mean_eyes_of_target, (0.5, 0.469), atol=0.05)
