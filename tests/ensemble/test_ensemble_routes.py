"""``rollout.json``: what it may hold, how a process follows it, and whom it sends where."""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.ensemble.rollout_support import make_rollout, write_routes, write_text
from tests.ensemble.support import ROOT
from warmswap_ensemble.routes import ROUTES_NAME, Rollout, RouteFile, Routes, RoutesError, parse_routes, read_routes

KEYS = [f"user-{number}" for number in range(10_000)]
FULL = Routes(
    generation=7,
    pins={"face_embedder": 3},
    rollout=Rollout("r1", {"face_detector": (1, 2), "face_swapper": (4, 6)}, 0.25, 0.5, 1764241000.5, 1500.0),
    used={"face_detector": 2, "face_swapper": 6},
    record={"phase": "canary", "steps": [0.05, 0.25]},
)


@pytest.mark.parametrize("routes", [Routes(), FULL, Routes(generation=1, pins={"face_swap": 2})])
def test_a_state_comes_back_as_it_was_written(routes: Routes, tmp_path: Path) -> None:
    write_routes(tmp_path, routes)
    assert read_routes(tmp_path) == routes


def test_a_repository_without_the_file_never_had_a_rollout(tmp_path: Path) -> None:
    assert read_routes(tmp_path) == Routes()
    assert RouteFile(tmp_path).look() is None


def changed(path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return the full state with one value exchanged."""
    values = copy.deepcopy(FULL.as_json())
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return values


BAD_VERSIONS: list[Any] = [0, -1, 1.0, True, "2", None]
BAD_SHARES: list[Any] = [-0.01, 1.01, float("nan"), float("inf"), "0.5", True, None]
BAD_NUMBERS: list[Any] = [float("nan"), float("inf"), 10**400, "soon", None, [], True]
BAD_PAIRS: list[Any] = [pair for bad in BAD_VERSIONS for pair in ([bad, 2], [2, bad])]
MALFORMED: dict[str, list[Any]] = {
    "schema_version": [0, 2, "1", None],
    "generation": ["next", None, float("inf"), float("nan"), -1, 1.5, True],
    "pins": [None, [], 3, "face_swap"],
    "pins.face_embedder": BAD_VERSIONS,
    "used": [None, [["face_detector", 2]]],
    "used.face_detector": BAD_VERSIONS,
    "record": [None, 3, "canary", [1]],
    "rollout": [{}, [], "r1", 1, False],
    "rollout.id": [None, "", 5, "../../etc/passwd", "a b", "\ud800", "r" * 200],
    "rollout.versions": [None, [], "face_swap"],
    "rollout.versions.face_detector": [[1], [], 1, None, "12", [1, 2, 3], {"0": 1}, *BAD_PAIRS],
    "rollout.share": BAD_SHARES,
    "rollout.shadow": BAD_SHARES,
    "rollout.expires_s": BAD_NUMBERS,
    "rollout.patience_ms": [*BAD_NUMBERS, 0, -5],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [pytest.param(path, value, id=f"{path}={value!r:.30}") for path, values in MALFORMED.items() for value in values],
)
def test_a_malformed_value_is_refused_with_a_sentence(path: str, value: Any) -> None:
    with pytest.raises(RoutesError, match=r"^/models/rollout\.json is no rollout state: \w+: .+"):
        parse_routes(changed(path.split("."), value), "/models/rollout.json")


@pytest.mark.parametrize("name", list(FULL.as_json()))
def test_a_missing_field_is_named(name: str) -> None:
    values = FULL.as_json()
    del values[name]
    with pytest.raises(RoutesError, match=f"KeyError: '{name}'"):
        parse_routes(values, "the call")


@pytest.mark.parametrize("name", ["id", "versions", "share", "shadow", "expires_s", "patience_ms"])
def test_a_missing_field_of_the_rollout_is_named(name: str) -> None:
    values = FULL.as_json()
    del values["rollout"][name]
    with pytest.raises(RoutesError, match=f"KeyError: '{name}'"):
        parse_routes(values, "the call")


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_a_state_is_an_object(values: Any) -> None:
    with pytest.raises(RoutesError, match="the call is no rollout state"):
        parse_routes(values, "the call")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_file_that_is_not_json_is_refused(text: str, tmp_path: Path) -> None:
    write_text(tmp_path, text)
    with pytest.raises(RoutesError, match=r"rollout\.json is not JSON: "):
        read_routes(tmp_path)
    with pytest.raises(RoutesError, match=r"rollout\.json is not JSON: "):
        RouteFile(tmp_path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / ROUTES_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(RoutesError, match=r"rollout\.json cannot be read: "):
        read_routes(tmp_path)
    (tmp_path / ROUTES_NAME).unlink()
    (tmp_path / ROUTES_NAME).mkdir()
    with pytest.raises(RoutesError, match=r"rollout\.json cannot be read: "):
        read_routes(tmp_path)


def test_a_replaced_file_is_followed(tmp_path: Path) -> None:
    file = RouteFile(tmp_path)
    for generation in range(1, 4):
        write_routes(tmp_path, Routes(generation=generation))
        assert file.look() is None
        assert file.routes.generation == generation
    same = file.routes
    assert file.look() is None
    assert file.routes is same


@pytest.mark.parametrize("text", ["{", json.dumps(changed(["generation"], None)), "\0"])
def test_a_broken_file_changes_nothing_and_is_told_of_once(text: str, tmp_path: Path) -> None:
    write_routes(tmp_path, FULL)
    file = RouteFile(tmp_path)
    write_text(tmp_path, text)
    problem = file.look()
    assert problem is not None
    assert problem.startswith(f"{tmp_path / ROUTES_NAME} is no")
    assert problem.endswith("; the last state stays in force")
    assert file.look() is None
    assert file.routes == FULL
    write_routes(tmp_path, Routes(generation=8))
    assert file.look() is None
    assert file.routes.generation == 8


def test_a_removed_file_changes_nothing_and_is_told_of_once(tmp_path: Path) -> None:
    write_routes(tmp_path, FULL)
    file = RouteFile(tmp_path)
    (tmp_path / ROUTES_NAME).unlink()
    assert file.look() == (
        f"{tmp_path / ROUTES_NAME} is gone; its last state stays in force until the process is started again"
    )
    assert file.look() is None
    assert file.routes == FULL
    write_routes(tmp_path, Routes(generation=8))
    assert file.look() is None
    assert file.routes.generation == 8


def chosen(share: float, name: str = "r1") -> set[str]:
    rollout = make_rollout(name=name, share=share)
    return {key for key in KEYS if rollout.is_candidates(key)}


def test_nobody_and_everybody() -> None:
    assert chosen(0.0) == set()
    assert chosen(1.0) == set(KEYS)
    assert not any(make_rollout(shadow=0.0).is_shadowed(key) for key in KEYS)
    assert all(make_rollout(shadow=1.0).is_shadowed(key) for key in KEYS)


def test_who_is_the_candidates_stays_so_as_the_share_grows() -> None:
    steps = [chosen(share) for share in (0.01, 0.05, 0.25, 0.5, 0.99)]
    assert all(less < more for less, more in itertools.pairwise(steps))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("name", ["r1", "20261127-101500-ab12"])
def test_the_share_is_kept_within_a_point(share: float, name: str) -> None:
    assert abs(len(chosen(share, name)) / len(KEYS) - share) < 0.01
    rollout = make_rollout(name=name, shadow=share)
    assert abs(sum(map(rollout.is_shadowed, KEYS)) / len(KEYS) - share) < 0.01


def test_another_rollout_and_the_second_looks_draw_others() -> None:
    first, second = chosen(0.25), chosen(0.25, "r2")
    assert 0.2 < len(first & second) / len(first) < 0.3
    rollout = make_rollout(share=0.25, shadow=0.25)
    both = [key for key in KEYS if rollout.is_candidates(key) and rollout.is_shadowed(key)]
    assert 0.2 < len(both) / len(first) < 0.3


def test_any_text_is_a_key() -> None:
    for key in ("", "ü" * 256, "\ud800", "\0"):
        assert make_rollout(share=1.0).is_candidates(key)


def test_another_process_shares_out_alike() -> None:
    program = (
        "import sys; from warmswap_ensemble.routes import Rollout; r = Rollout('r1', {}, 0.05, 0.3);"
        "print(*[f'{r.is_candidates(k):d}{r.is_shadowed(k):d}' for k in (f'user-{n}' for n in range(2000))])"
    )
    environ = {"PYTHONPATH": str(ROOT / "ensemble_python"), "PATH": os.environ["PATH"]}
    answers = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    rollout = make_rollout(share=0.05, shadow=0.3)
    here = [f"{rollout.is_candidates(key):d}{rollout.is_shadowed(key):d}" for key in KEYS[:2000]]
    assert answers == [here, here]
    assert set(here) == {"00", "01", "10", "11"}


@pytest.mark.parametrize(
    ("routes", "model", "needed"),
    [
        pytest.param(Routes(), "face_detector", (), id="nothing said"),
        pytest.param(FULL, "face_landmarker", (), id="not concerned"),
        pytest.param(FULL, "face_detector", (1, 2), id="stage"),
        pytest.param(FULL, "face_swapper", (4, 6), id="another of the set"),
        pytest.param(FULL, "face_embedder", (3,), id="pinned"),
        pytest.param(
            Routes(pins={"face_detector": 9}, rollout=make_rollout({"face_detector": (1, 2)})),
            "face_detector",
            (1, 2),
            id="a rollout knows better than a pin",
        ),
        pytest.param(Routes(rollout=make_rollout({"face_detector": (5, 3)})), "face_detector", (3, 5), id="down"),
        pytest.param(Routes(rollout=make_rollout({"face_swap": (1, 2)})), "face_swap", (1,), id="pipeline: not higher"),
        pytest.param(Routes(rollout=make_rollout({"face_analysis": (1, 2)})), "face_analysis", (1,), id="analysis"),
        pytest.param(Routes(rollout=make_rollout({"face_swap": (3, 2)})), "face_swap", (2, 3), id="pipeline: down"),
        pytest.param(Routes(pins={"face_swap": 2}), "face_swap", (2,), id="pinned pipeline"),
        pytest.param(
            Routes(pins={"face_detector": 2}, rollout=make_rollout({"face_detector": (2, 1)})),
            "face_detector",
            (1, 2),
            id="promoted: the old one waits",
        ),
        pytest.param(
            Routes(pins={"face_swap": 2}, rollout=make_rollout({"face_swap": (2, 1)})),
            "face_swap",
            (1, 2),
            id="promoted pipeline",
        ),
        pytest.param(Routes(pins={"face_detector": 2}), "face_detector", (2,), id="done"),
    ],
)
def test_which_versions_must_be_loaded(routes: Routes, model: str, needed: tuple[int, ...]) -> None:
    assert routes.needed(model) == needed


def test_what_answers_without_the_rollout_and_with_it() -> None:
    assert FULL.stable == {"face_embedder": 3, "face_detector": 1, "face_swapper": 4}
    assert FULL.rollout is not None
    assert FULL.rollout.candidate == {"face_detector": 2, "face_swapper": 6}


def test_a_rollout_that_nobody_leads_any_more_expires() -> None:
    assert FULL.rollout is not None
    assert FULL.rollout.is_watched(1764241000.4)
    assert not FULL.rollout.is_watched(1764241000.5)
    assert make_rollout().is_watched()
    assert not make_rollout(watched_s=-1).is_watched()
    assert not Rollout("r1", {"face_detector": (1, 2)}).is_watched()
