from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ensemble.support import REPOSITORY, make_face, make_stage, noise_rgb, unit_rows
from warmswap_ensemble.errors import SelfTestError
from warmswap_ensemble.image import ImageLimits, decode_image
from warmswap_ensemble.self_test import (
    GOLDEN_NAME,
    MAX_BBOX_PX,
    MAX_MEAN_GREY,
    MAX_SIMILARITY,
    MIN_GAIN,
    golden_analysis,
    golden_swap,
    read_golden,
    read_warmup_pictures,
    request_digest,
    thumbnail,
)
from warmswap_ensemble.stage_calls import CallModel, StageCalls
from warmswap_ensemble.types import Face, FaceReport, Stage, SwapResult

STAGES = {"face_detector": make_stage("face_detector", sha256="a"), "face_swapper": make_stage("face_swapper")}
TWINS = {**STAGES, "face_detector": make_stage("face_detector", sha256="t", twin=True)}
OTHER_STAGES = {**STAGES, "face_swapper": make_stage("face_swapper", sha256="b")}
PICTURES = [b"source", b"the target"]
FACE = make_face(20, 10, 52, 42)
EMBEDDING = unit_rows(1, 128)


def answer(
    *faces: Face, before: float | None = 0.5, after: float | None = 0.8, pixels: Any = None, swapped: bool = True
) -> SwapResult:
    reports = [FaceReport(face, swapped, before, after) for face in (faces or (FACE,))]
    pixels_rgb = noise_rgb(60, 80) if pixels is None else pixels
    return SwapResult(b"", pixels_rgb, reports, FACE, False, {}, {})


GOLDEN = golden_swap(PICTURES, STAGES, answer())
GOLDEN_ANALYSIS = golden_analysis(PICTURES[:1], STAGES, [FACE], EMBEDDING)


def moved(face: Face, pixels: float) -> Face:
    return replace(face, bbox=face.bbox + np.array([0, 0, 0, pixels], np.float32))


def brighter(grey: int) -> Any:
    """More light, where there is room for it."""
    return np.where(noise_rgb(60, 80) < 128, noise_rgb(60, 80) + grey, noise_rgb(60, 80)).astype(np.uint8)


def test_right_answer_passes() -> None:
    GOLDEN.check_swap(STAGES, answer())
    GOLDEN_ANALYSIS.check_analysis(STAGES, [FACE], EMBEDDING)


def test_little_differences_pass() -> None:
    near = answer(
        moved(FACE, 0.9 * MAX_BBOX_PX),
        before=0.5 + 0.9 * MAX_SIMILARITY,
        after=0.8 - 0.9 * MAX_SIMILARITY,
        pixels=brighter(round(MAX_MEAN_GREY)),
    )
    GOLDEN.check_swap(STAGES, near)
    turned = EMBEDDING + 0.1 * unit_rows(1, 128, seed=9)
    GOLDEN_ANALYSIS.check_analysis(STAGES, [moved(FACE, 1)], turned / np.linalg.norm(turned))


NOBODY = SwapResult(b"", noise_rgb(60, 80), [], None, False, {}, {})


@pytest.mark.parametrize(
    ("result", "message"),
    [
        pytest.param(NOBODY, "shows one face, 0 were found", id="nobody"),
        pytest.param(answer(swapped=False), "shows one face, 0 were found", id="nobody swapped"),
        pytest.param(answer(FACE, FACE), "shows one face, 2 were found", id="two"),
        pytest.param(answer(moved(FACE, 1.1 * MAX_BBOX_PX)), r"lies 3\.3 px from where it should", id="moved"),
        pytest.param(answer(moved(FACE, float("nan"))), "lies nan px", id="box is no number"),
        pytest.param(answer(before=0.5 + 1.1 * MAX_SIMILARITY), "similarity before the swap", id="before"),
        pytest.param(answer(after=0.8 - 1.1 * MAX_SIMILARITY), "similarity after the swap", id="after, worse"),
        pytest.param(answer(after=0.8 + 1.1 * MAX_SIMILARITY), "similarity after the swap", id="after, better"),
        pytest.param(answer(before=0.8), r"went from 0\.8000 to 0\.8000, must rise", id="not swapped at all"),
        pytest.param(answer(after=None), "must rise", id="no similarity"),
        pytest.param(answer(after=float("nan")), "must rise", id="similarity is no number"),
        pytest.param(answer(pixels=brighter(40)), "face differs by .* grey values, allowed 3", id="brighter"),
        pytest.param(
            answer(pixels=np.roll(noise_rgb(60, 80), 7, axis=0)), "face differs by .* grey values", id="other pixels"
        ),
    ],
)
def test_each_tolerance_can_fail(result: SwapResult, message: str) -> None:
    with pytest.raises(SelfTestError, match=message):
        GOLDEN.check_swap(STAGES, result)


def test_exchanged_colours_are_seen() -> None:
    red = np.zeros((60, 80, 3), np.uint8)
    red[:, :, 0] = 200
    golden = golden_swap(PICTURES, STAGES, answer(pixels=red))
    golden.check_swap(STAGES, answer(pixels=red))
    with pytest.raises(SelfTestError, match=r"differs by 133\.3 grey values"):
        golden.check_swap(STAGES, answer(pixels=red[:, :, ::-1]))


@pytest.mark.parametrize(
    ("faces", "embedding", "message"),
    [
        pytest.param([], EMBEDDING[:0], "shows one face, 0 were found", id="nobody"),
        pytest.param([FACE, FACE], EMBEDDING, "shows one face, 2 were found", id="two"),
        pytest.param([moved(FACE, -4)], EMBEDDING, r"lies 4\.0 px", id="moved"),
        pytest.param([FACE], unit_rows(1, 128, seed=4), "similarity to the golden embedding is", id="somebody else"),
        pytest.param([FACE], EMBEDDING * np.float32(np.nan), "golden embedding is nan", id="no number"),
    ],
)
def test_each_tolerance_of_the_analysis_can_fail(faces: list[Face], embedding: Any, message: str) -> None:
    with pytest.raises(SelfTestError, match=message):
        GOLDEN_ANALYSIS.check_analysis(STAGES, faces, embedding)


def test_with_other_stages_only_what_holds_for_all_is_checked() -> None:
    different = answer(moved(FACE, 50), before=0.1, after=0.1 + MIN_GAIN + 0.01, pixels=noise_rgb(60, 80, 3))
    GOLDEN.check_swap(OTHER_STAGES, different)
    with pytest.raises(SelfTestError, match="must rise"):
        GOLDEN.check_swap(OTHER_STAGES, answer(before=0.1, after=0.1 + MIN_GAIN - 0.01))
    with pytest.raises(SelfTestError, match="2 were found"):
        GOLDEN.check_swap(OTHER_STAGES, answer(FACE, FACE))
    GOLDEN_ANALYSIS.check_analysis(OTHER_STAGES, [moved(FACE, 50)], unit_rows(1, 512))
    with pytest.raises(SelfTestError, match="0 were found"):
        GOLDEN_ANALYSIS.check_analysis(OTHER_STAGES, [], unit_rows(0, 512))


NOT_A_NUMBER = float("nan")
BIGGER = make_face(2, 2, 72, 58)


def test_twins_must_only_swap_somebody_in_finite_numbers() -> None:
    GOLDEN.check_swap(TWINS, answer(BIGGER, FACE, before=0.5, after=0.2, pixels=noise_rgb(60, 80, 3)))
    GOLDEN_ANALYSIS.check_analysis(TWINS, [BIGGER, FACE], unit_rows(2, 512))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        pytest.param(NOBODY, "twins found no face", id="nobody"),
        pytest.param(answer(swapped=False), "twins found no face", id="nobody swapped"),
        pytest.param(answer(FACE, moved(FACE, NOT_A_NUMBER)), "not finite", id="box"),
        pytest.param(answer(before=NOT_A_NUMBER), "not finite", id="before"),
        pytest.param(answer(after=float("inf")), "not finite", id="after"),
        pytest.param(answer(after=None), "not finite", id="no similarity"),
    ],
)
def test_twins_can_fail_too(result: SwapResult, message: str) -> None:
    with pytest.raises(SelfTestError, match=message):
        GOLDEN.check_swap(TWINS, result)
    with pytest.raises(SelfTestError, match=message):
        golden_swap(PICTURES, TWINS, result)


@pytest.mark.parametrize(
    ("faces", "embeddings", "message"),
    [
        pytest.param([], unit_rows(0, 512), "twins found no face", id="nobody"),
        pytest.param([moved(FACE, NOT_A_NUMBER)], EMBEDDING, "not finite", id="box"),
        pytest.param([FACE], EMBEDDING * np.float32(np.inf), "not finite", id="embedding"),
    ],
)
def test_twins_of_the_analysis_can_fail_too(faces: list[Face], embeddings: Any, message: str) -> None:
    with pytest.raises(SelfTestError, match=message):
        GOLDEN_ANALYSIS.check_analysis(TWINS, faces, embeddings)
    with pytest.raises(SelfTestError, match=message):
        golden_analysis(PICTURES[:1], TWINS, faces, embeddings)


def test_recorded_answer_of_twins_is_that_of_the_largest_face_and_is_held_against_them() -> None:
    golden = golden_swap(PICTURES, TWINS, answer(FACE, BIGGER, before=0.6, after=0.3))
    assert golden.bbox == BIGGER.bbox.tolist()
    golden.check_swap(TWINS, answer(FACE, BIGGER, before=0.6, after=0.3))
    golden.check_swap(TWINS, answer(BIGGER, FACE, FACE, before=0.6, after=0.3))
    for different, message in (
        (answer(FACE, before=0.6, after=0.3), "px from where it should"),
        (answer(BIGGER, before=0.6, after=0.4), "similarity after the swap"),
        (answer(BIGGER, before=0.6, after=0.3, pixels=noise_rgb(60, 80, 3)), "grey values"),
    ):
        with pytest.raises(SelfTestError, match=message):
            golden.check_swap(TWINS, different)


def test_recorded_analysis_of_twins_is_held_against_them() -> None:
    embeddings = unit_rows(2, 512)
    golden = golden_analysis(PICTURES[:1], TWINS, [FACE, BIGGER], embeddings)
    assert golden.bbox == BIGGER.bbox.tolist()
    golden.check_analysis(TWINS, [FACE, BIGGER], embeddings)
    golden.check_analysis(TWINS, [BIGGER, FACE], embeddings[::-1])
    with pytest.raises(SelfTestError, match="golden embedding"):
        golden.check_analysis(TWINS, [FACE, BIGGER], embeddings[::-1])


def test_bad_answers_are_not_recorded() -> None:
    with pytest.raises(SelfTestError, match="must rise"):
        golden_swap(PICTURES, STAGES, answer(after=0.5))
    with pytest.raises(SelfTestError, match="0 were found"):
        golden_swap(PICTURES, STAGES, NOBODY)
    with pytest.raises(SelfTestError, match="0 were found"):
        golden_analysis(PICTURES[:1], STAGES, [], EMBEDDING[:0])


@pytest.mark.parametrize(
    ("pictures", "asked"),
    [
        pytest.param([], False, id="empty"),
        pytest.param(PICTURES, True, id="the golden pictures"),
        pytest.param(PICTURES[::-1], False, id="exchanged"),
        pytest.param([b"source", b"the TARGET"], False, id="same sizes"),
        pytest.param([b"source", b"the target", b""], False, id="one more"),
    ],
)
def test_golden_request_is_recognised(pictures: list[bytes], asked: bool) -> None:
    assert GOLDEN.is_asked(pictures) is asked


def test_digest_knows_where_a_picture_ends() -> None:
    assert request_digest([b"ab", b"c"]) != request_digest([b"a", b"bc"])


def test_golden_comes_back_as_it_was_written(tmp_path: Path) -> None:
    GOLDEN.write(tmp_path)
    assert read_golden(tmp_path) == GOLDEN


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[1]", id="list"),
        pytest.param(json.dumps({**asdict(GOLDEN), "colour": 1}), id="unknown field"),
        pytest.param(json.dumps({k: v for k, v in asdict(GOLDEN).items() if k != "bbox"}), id="lacks a field"),
    ],
)
def test_golden_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / GOLDEN_NAME).write_text(text)
    with pytest.raises(SelfTestError, match=r"golden\.json cannot be read"):
        read_golden(tmp_path)


def test_no_golden_is_none(tmp_path: Path) -> None:
    assert read_golden(tmp_path) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b"\1\0\0", "cannot be read", id="no length"),
        pytest.param(struct.pack("<I", 9) + b"eight...", "must hold a picture of 9 bytes, got 8", id="cut short"),
        pytest.param(struct.pack("<I", 7) + b"eight...", "must hold a picture of 7 bytes, got 8", id="too long"),
    ],
)
def test_warmup_picture_that_is_not_whole_is_refused(data: bytes | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    if data is not None:
        (tmp_path / "warmup/image.raw").write_bytes(data)
    with pytest.raises(SelfTestError, match=rf"image\.raw {message}"):
        read_warmup_pictures(tmp_path, ["image"])


def test_warmup_pictures_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    for name in ("b", "a"):
        (tmp_path / f"warmup/{name}.raw").write_bytes(struct.pack("<I", 3) + name.encode() * 3)
    assert read_warmup_pictures(tmp_path, ["b", "a"]) == [b"bbb", b"aaa"]
    assert read_warmup_pictures(tmp_path, []) == []


def test_thumbnail_is_the_box_averaged() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 16:48:2] = 100
    small = thumbnail(image, [16.2, 15.8, 48.3, 47.9])
    assert small.shape == (16, 16, 3)
    assert np.unique(small).tolist() == [50]
    assert thumbnail(image, [-5, -5, 99, 99]).shape == (16, 16, 3)


def test_answer_with_full_frames_is_kept_beside_the_other(tmp_path: Path) -> None:
    other = golden_swap(PICTURES, STAGES, answer(moved(FACE, 9)))
    GOLDEN.with_full_frames(other).write(tmp_path)
    golden = read_golden(tmp_path)
    assert golden is not None
    golden.check_swap(STAGES, answer())
    golden.for_full_frames().check_swap(STAGES, answer(moved(FACE, 9)))
    for wrong, face in ((golden, moved(FACE, 9)), (golden.for_full_frames(), FACE)):
        with pytest.raises(SelfTestError, match="px from where it should"):
            wrong.check_swap(STAGES, answer(face))
    assert GOLDEN.with_full_frames(GOLDEN) == GOLDEN


@pytest.mark.parametrize(("fixed_frames", "first_look"), [(False, True), (False, False), (True, True)])
def test_committed_answers_hold_for_any_frames(
    fixed_frames: bool, first_look: bool, stages: Mapping[str, Stage], call_onnx: CallModel
) -> None:
    golden = read_golden(REPOSITORY / "face_analysis/1")
    assert golden is not None
    if fixed_frames or not first_look:
        golden = golden.for_full_frames()
    (picture,) = read_warmup_pictures(REPOSITORY / "face_analysis", ["image"])
    pixels = decode_image(picture, "image", ImageLimits()).pixels_rgb
    calls = StageCalls(stages, call_onnx, fixed_frames, first_look)
    (faces,) = calls.detect([pixels], None)
    golden.check_analysis(stages, faces, calls.embed([(pixels, face) for face in faces]))
