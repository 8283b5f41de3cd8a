"""The series of rollouts, and the report from what was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from warmswap_client.cli import main
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.rollouts.bench import RolloutOptions, measure_rollouts, read_results, wrong_of
from warmswap_loadtests.rollouts.report import page, rollout_lines, write_results
from warmswap_loadtests.rollouts.series import BAD_KINDS, GOOD, series
from warmswap_loadtests.rollouts.traffic import Sent, percentile_ms

RECORDED = Path(__file__).parents[2] / "docs/benchmarks/rollouts"


@pytest.fixture
def results() -> dict[str, Any]:
    return read_results(RECORDED)


def test_every_second_candidate_is_bad_and_each_fault_comes() -> None:
    kinds = series(50)
    assert [kind.expected == GOOD for kind in kinds] == [True, False] * 25
    assert {kind.name for kind in kinds} >= {kind.name for kind in BAD_KINDS}


def test_the_page_is_that_of_what_was_recorded(results: dict[str, Any]) -> None:
    assert "\n".join(page(results)) + "\n" == (RECORDED / "README.md").read_text(encoding="utf-8")


def test_it_is_drawn_again(results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(results, tmp_path)
    for name in ("rollout.png", "memory.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert len({tuple(pixel) for pixel in picture.reshape(-1, 3)[::97].tolist()}) > 3
    assert main(["bench", "rollouts", "--redraw", "--out", str(tmp_path)]) == (1 if results["wrong"] else 0)
    assert "rollouts that ended as they should" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lost": ["ServerBusyError: full"]}, "1 requests were lost, the first: ServerBusyError: full"),
        ({"flaps": ["/v2/health/ready: 400"]}, "readiness flapped 1 times"),
        ({"ways_back": {"effective_ms": [20.0, 1500.0], "flip_ms": [1, 2]}}, "a way back took 1500 ms"),
    ],
)
def test_what_must_not_be_is_said(results: dict[str, Any], change: dict[str, Any], says: str) -> None:
    good = results | {"lost": [], "flaps": [], "series": [], "ways_back": {"effective_ms": [1.0], "flip_ms": [1.0]}}
    assert wrong_of(good) == []
    (found,) = wrong_of(good | change)
    assert says in found
    assert any(says in line for line in rollout_lines(results | {"wrong": [found]}))


def test_a_rollout_that_ended_otherwise_is_said(results: dict[str, Any]) -> None:
    row = results["series"][0] | {"number": 1, "kind": "x", "expected": "good", "got": "live", "error": "because"}
    (found,) = wrong_of(results | {"lost": [], "flaps": [], "series": [row], "ways_back": {"effective_ms": []}})
    assert found == "rollout 1, x: expected good, got live: because"


def test_percentiles_are_those_of_what_was_answered() -> None:
    sent = [Sent(0.0, float(ms), "grpc") for ms in range(100)] + [Sent(0.0, 9e9, "grpc", error="lost")]
    assert percentile_ms(sent, 0.5) == 50
    assert percentile_ms(sent, 0.99) == 99
    assert percentile_ms([], 0.5) != percentile_ms([], 0.5)


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match="no model repository"):
        measure_rollouts(RolloutOptions(tmp_path), lambda text: None)
    with pytest.raises(BenchError, match=r"rollouts\.json cannot be read"):
        read_results(tmp_path)
    assert main(["bench", "rollouts", "--redraw", "--json"]) != 0
    assert "--redraw needs --out" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["message"]
