"""Wrong answers are seen as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.open_loop import Outcome, Record
from warmswap_loadtests.payloads import golden_payload

Picture = NDArray[Any]
REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
TARGET = golden_payload(REPOSITORY).target


def encoded(picture: Picture, extension: str = ".jpg", quality: int = 92) -> bytes:
    return bytes(cv2.imencode(extension, picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


@pytest.fixture(scope="module")
def swapped() -> Picture:
    picture = cv2.imdecode(np.frombuffer(TARGET, np.uint8), cv2.IMREAD_COLOR)
    picture[150:330, 170:350] = picture[150:330, 170:350][:, ::-1] // 2
    return picture


def test_same_picture_in_another_encoding_is_right(swapped: Picture) -> None:
    check = AnswerCheck(TARGET, encoded(swapped))
    assert check.fault(encoded(swapped, quality=85)) == ""
    assert check.fault(encoded(swapped, ".png")) == ""


def test_faults_are_named(swapped: Picture) -> None:
    check = AnswerCheck(TARGET, encoded(swapped))
    assert "grey levels" in check.fault(TARGET)
    assert check.unswapped_levels > 20
    assert "no picture" in check.fault(b"error")
    assert "no picture" in check.fault(b"")
    assert "pixels" in check.fault(encoded(swapped[:-8]))
    brighter = np.clip(swapped.astype(int) + 12, 0, 255).astype(np.uint8)
    assert "grey levels" in check.fault(encoded(brighter))


def test_wrong_answer_is_no_answer(swapped: Picture) -> None:
    from warmswap_loadtests.cold.run import judge

    check = AnswerCheck(TARGET, encoded(swapped))
    wrong, right = (
        Record(index, 0.0, Outcome.ANSWERED, 0.0, 0.1, answer=answer)
        for index, answer in enumerate([TARGET, encoded(swapped)])
    )
    judge(wrong, check)
    judge(right, check)
    assert (wrong.outcome, right.outcome) == (Outcome.WRONG, Outcome.ANSWERED)
    assert wrong.detail


def test_reference_must_show_a_swap() -> None:
    with pytest.raises(BenchError, match="no swapped face"):
        AnswerCheck(TARGET, TARGET)
    with pytest.raises(BenchError, match="no picture"):
        AnswerCheck(TARGET, b"")
