"""``warmswap bench detector``: what it counts, and one run over the demo pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmswap_client.cli import main
from warmswap_ensemble.types import Face
from warmswap_loadtests.detector import detector_lines, landmark_error, largest_share, match_faces

ROOT = Path(__file__).resolve().parents[2]


def face(x1: float, y1: float, side: float) -> Face:
    box = np.array([x1, y1, x1 + side, y1 + side], np.float32)
    kps = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32) * side + (x1, y1)
    return Face(box, 0.9, kps.astype(np.float32))


def test_each_face_is_matched_once_and_by_the_best_overlap() -> None:
    expected = [face(0, 0, 100), face(300, 0, 100), face(600, 0, 100)]
    actual = [face(310, 0, 100), face(20, 0, 100), face(1, 0, 100)]
    pairs = match_faces(expected, actual)
    assert {(id(a), id(b)) for a, b in pairs} == {(id(expected[0]), id(actual[2])), (id(expected[1]), id(actual[0]))}
    assert match_faces(expected, []) == match_faces([], actual) == []


def test_landmark_error_is_in_distances_of_the_eyes() -> None:
    assert landmark_error(face(0, 0, 100), face(4, 0, 100)) == pytest.approx(4 / 40)


@pytest.mark.parametrize(
    ("actual", "share"),
    [([face(0, 0, 100)], 1.0), ([face(300, 0, 80)], 0.64), ([face(900, 0, 100)], 0.0), ([], 0.0)],
)
def test_largest_face_is_held_to_that_of_the_full_frame(actual: list[Face], share: float) -> None:
    assert largest_share([face(0, 0, 100), face(300, 0, 80)], actual) == pytest.approx(share)


def test_run_over_the_demo_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--repository", str(ROOT / "model_repository"), "--photos", str(ROOT / "examples"), "--rounds", "1"]
    assert main(["bench", "detector", *arguments, "--json"]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    every = figures["groups"][-1]
    assert (every["photos"], every["faces"], every["found"], every["extra"]) == (2, 2, 2, 0)
    assert every["looks"] == {"small": 2, "windows": 0, "full": 0}
    assert every["same_largest"] == 2
    assert any(line.startswith("all ") for line in detector_lines(figures))
