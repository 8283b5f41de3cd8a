from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from warmswap_ensemble.arms import Role, concerns
from warmswap_ensemble.routes import ROUTES_NAME, Rollout, RouteFile, Routes, RoutesError, parse_routes, read_routes

ROLLOUT = Rollout("r1", {"face_detector": (1, 2)}, share=0.25, shadow=0.1, expires_s=2e9)
STATE = Routes(7, {"face_swapper": 3}, ROLLOUT, {"face_detector": 2}, {"phase": "canary"})


def write(folder: Path, values: Any) -> None:
    """Replace the file as the operations side does: a new inode."""
    new = folder / "new"
    new.write_text(values if isinstance(values, str) else json.dumps(values))
    os.replace(new, folder / ROUTES_NAME)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, STATE.as_json())
    assert read_routes(tmp_path) == STATE
    assert read_routes(tmp_path / "elsewhere") == Routes()


def without(key: str) -> dict[str, Any]:
    values = STATE.as_json()
    del values[key]
    return values


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="list"),
        pytest.param(None, id="null"),
        pytest.param({**STATE.as_json(), "schema_version": 2}, id="other-schema"),
        pytest.param(without("pins"), id="no-pins"),
        pytest.param({**STATE.as_json(), "pins": {"face_swapper": 0}}, id="version-0"),
        pytest.param({**STATE.as_json(), "pins": {"face_swapper": "3"}}, id="version-text"),
        pytest.param({**STATE.as_json(), "pins": {"face_swapper": True}}, id="version-true"),
        pytest.param({**STATE.as_json(), "rollout": {"id": "r"}}, id="half-a-rollout"),
        pytest.param(replace(STATE, rollout=replace(ROLLOUT, share=1.5)).as_json(), id="share-above-1"),
        pytest.param(replace(STATE, rollout=replace(ROLLOUT, share=float("nan"))).as_json(), id="share-nan"),
        pytest.param(replace(STATE, rollout=replace(ROLLOUT, shadow=-0.1)).as_json(), id="shadow-below-0"),
    ],
)
def test_what_is_no_state_is_refused(values: Any) -> None:
    with pytest.raises(RoutesError, match=r"^the file is no rollout state: "):
        parse_routes(values, "the file")


def test_a_file_is_followed_and_a_broken_one_is_not(tmp_path: Path) -> None:
    file = RouteFile(tmp_path)
    assert file.look() is None
    write(tmp_path, STATE.as_json())
    assert file.look() is None
    assert file.routes == STATE
    write(tmp_path, "{")
    said = file.look()
    assert said is not None
    assert "is not JSON" in said
    assert (file.look(), file.routes) == (None, STATE), "said once"
    (tmp_path / ROUTES_NAME).unlink()
    assert "is gone" in str(file.look())
    assert (file.look(), file.routes) == (None, STATE)
    write(tmp_path, replace(STATE, generation=8).as_json())
    assert file.look() is None
    assert file.routes.generation == 8


def test_a_first_file_that_is_broken_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "nonsense")
    with pytest.raises(RoutesError):
        RouteFile(tmp_path)


def test_requests_are_shared_out_by_key() -> None:
    keys = [f"user {number}" for number in range(10_000)]
    chosen = {
        share: {key for key in keys if replace(ROLLOUT, share=share).is_candidates(key)} for share in (0.05, 0.25)
    }
    assert chosen[0.05] < chosen[0.25], "who is in at 5 % is in at 25 %"
    assert abs(len(chosen[0.25]) / 10_000 - 0.25) < 0.02
    assert not any(replace(ROLLOUT, share=0.0).is_candidates(key) for key in keys)
    assert all(replace(ROLLOUT, share=1.0).is_candidates(key) for key in keys)
    other = {key for key in keys if replace(ROLLOUT, id="r2", share=0.25).is_candidates(key)}
    assert 0.15 < len(other & chosen[0.25]) / len(other) < 0.35, "another rollout picks others"
    shadowed = {key for key in keys if replace(ROLLOUT, shadow=0.25).is_shadowed(key)}
    assert 0.15 < len(shadowed & chosen[0.25]) / len(shadowed) < 0.35, "second looks do not follow the share"


def test_nobody_watching_shows() -> None:
    assert replace(ROLLOUT, expires_s=100.0).is_watched(99.0)
    assert not replace(ROLLOUT, expires_s=100.0).is_watched(100.0)
    assert not replace(ROLLOUT, expires_s=0.0).is_watched()


def test_what_must_be_loaded() -> None:
    assert STATE.needed("face_detector") == (1, 2)
    assert STATE.needed("face_swapper") == (3,)
    assert STATE.needed("face_embedder") == ()
    pipeline = Routes(rollout=Rollout("r", {"face_swap": (1, 2)}))
    assert pipeline.needed("face_swap") == (1,), "Triton would send everybody to 2"
    promoted = Routes(rollout=Rollout("r", {"face_swap": (2, 1)}))
    assert promoted.needed("face_swap") == (1, 2)


def test_a_version_of_a_pipeline_comes_with_its_own_stages() -> None:
    together = Rollout("r", {"face_swap": (1, 2), "face_detector": (1, 2)})
    state = Routes(rollout=together)
    old, new, alias = (
        Role("face_swap", "face_swap", 1),
        Role("face_swap", "face_swap", 2),
        Role("face_swap", "face_swap_candidate", 2),
    )
    assert old.stable(state)["face_detector"] == 1
    assert old.candidate(state) == {"face_swap": 2, "face_detector": 2}
    for role in (new, alias):
        assert role.stable(state)["face_detector"] == 2
        assert (role.candidate(state), role.rollout(state)) == (None, None), "a candidate hands nothing on"
    turned = Routes(rollout=Rollout("r", {"face_swap": (2, 1), "face_detector": (2, 1)}))
    assert new.stable(turned)["face_detector"] == 2
    assert old.stable(turned)["face_detector"] == 1


@pytest.mark.parametrize(
    ("pipeline", "model", "expected"),
    [
        ("face_swap", "face_swapper", True),
        ("face_swap", "face_swapper_512", True),
        ("face_swap", "face_swap", True),
        ("face_swap", "face_analysis", False),
        ("face_analysis", "face_swapper", False),
        ("face_analysis", "face_swapper_512", False),
        ("face_analysis", "face_embedder", True),
    ],
)
def test_which_pipelines_meet_a_rollout(pipeline: str, model: str, expected: bool) -> None:
    assert concerns(pipeline, Rollout("r", {model: (1, 2)})) is expected
