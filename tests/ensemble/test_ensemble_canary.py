"""Who answers while a rollout is under way; arms are strings here, the routes are real files."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from warmswap_ensemble.arms import Role
from warmswap_ensemble.canary import FAILURES_IN_A_ROW, Canary, CandidateError, Work
from warmswap_ensemble.errors import (
    InvalidImageError,
    NoFaceError,
    OverloadedError,
    PipelineError,
    RequestCancelledError,
    StageFailedError,
    StageNotReadyError,
)
from warmswap_ensemble.observations import Observations
from warmswap_ensemble.recording import Recorder
from warmswap_ensemble.request_scope import request_scope
from warmswap_ensemble.routes import ROUTES_NAME, Rollout, RouteFile, Routes
from warmswap_ensemble.shadow import MAX_WAITING, SecondLook, Shadow

SET = {"face_detector": (1, 2), "face_embedder": (4, 5)}


@dataclass
class ToyArm:
    versions: dict[str, int]
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Place:
    """A canary on a state file; ``fails`` says what each arm does with a request."""

    folder: Path
    built: list[dict[str, int]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    candidate_does: Callable[[], None] = lambda: None
    stable_does: Callable[[], None] = lambda: None
    looked: list[dict[str, int]] = field(default_factory=list)
    generation: int = 0

    def __post_init__(self) -> None:
        self.observed = self.folder / "observed"
        self.observed.mkdir()
        self.canary: Canary[ToyArm] = Canary(
            Role("face_swap", "face_swap", 1),
            RouteFile(self.folder),
            self.build,
            Observations(self.observed, "face_swap"),
            self.errors.append,
        )

    def build(self, versions: dict[str, int], rollout: Rollout | None) -> ToyArm:
        if 99 in versions.values():
            raise ValueError("there is no version 99")
        self.built.append(versions)
        return ToyArm(versions)

    def state(self, rollout: Rollout | None, **pins: int) -> None:
        self.generation += 1
        new = self.folder / "new"
        new.write_text(json.dumps(Routes(self.generation, pins, rollout).as_json()))
        os.replace(new, self.folder / ROUTES_NAME)

    def ask(self, key: str = "somebody") -> dict[str, int]:
        def answer(arm: ToyArm, recorder: Recorder | None) -> dict[str, int]:
            (self.stable_does if arm is self.canary.stable else self.candidate_does)()
            return arm.versions

        def look_again(arm: ToyArm, recorder: Recorder, rollout: Rollout) -> dict[str, float]:
            self.looked.append(arm.versions)
            self.candidate_does()
            return {"recall": 1.0}

        with request_scope("id"), self.canary.shadow:
            return self.canary.answer(key, Work(answer, look_again))

    def seen(self, kind: str = "request") -> list[dict[str, Any]]:
        lines = [line for path in self.observed.iterdir() for line in path.read_text().splitlines()]
        return [found for line in lines if (found := json.loads(line))["kind"] == kind]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path)
    yield opened
    opened.canary.close()


def watched(share: float = 1.0, **values: Any) -> Rollout:
    return replace(Rollout("r1", SET, share=share, expires_s=time.time() + 1000), **values)


def fail(error: Exception) -> Callable[[], None]:
    def does() -> None:
        raise error

    return does


def test_without_a_rollout_the_stable_versions_answer(place: Place) -> None:
    assert place.ask() == {}
    place.state(None, face_detector=3)
    assert place.ask() == {"face_detector": 3}
    assert place.seen() == []


def test_a_request_meets_all_of_one_set_and_its_key_stays_there(place: Place) -> None:
    place.state(watched(0.5))
    answers = {key: place.ask(key) for key in map(str, range(40))}
    old, new = {"face_detector": 1, "face_embedder": 4}, {"face_detector": 2, "face_embedder": 5}
    assert {tuple(answer.items()) for answer in answers.values()} == {tuple(old.items()), tuple(new.items())}
    assert all(place.ask(key) == answer for key, answer in answers.items())
    place.state(watched(0.75))
    assert all(place.ask(key) == new for key, answer in answers.items() if answer == new)
    arms = [found["arm"] for found in place.seen()]
    assert set(arms) == {"stable", "candidate"}
    assert len(place.built) == 3, "the first stable arm, the stable one of the set, the candidate; then nothing"


def test_promotion_and_rollback_are_changes_of_the_file(place: Place) -> None:
    place.state(watched(0.0))
    assert place.ask()["face_detector"] == 1
    turned = {model: (new, old) for model, (old, new) in SET.items()}
    place.state(watched(0.0, versions=turned))
    assert place.ask() == {"face_detector": 2, "face_embedder": 5}
    place.state(None, face_detector=1, face_embedder=4)
    assert place.ask() == {"face_detector": 1, "face_embedder": 4}


@pytest.mark.parametrize(
    "error",
    [
        StageFailedError("no"),
        OverloadedError("full"),
        NoFaceError("none"),
        CandidateError("x", "internal"),
        ValueError("bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_fails_on_the_candidate_the_stable_versions_answer(place: Place, error: Exception) -> None:
    place.state(watched())
    place.candidate_does = fail(error)
    assert place.ask()["face_detector"] == 1
    (found,) = place.seen()
    assert (found["arm"], found["failed"]) == ("candidate", True)
    assert found["outcome"] == getattr(error, "code", type(error).__name__)


def test_what_any_version_would_refuse_is_not_held_against_the_candidate(place: Place) -> None:
    place.state(watched())
    place.candidate_does = place.stable_does = fail(NoFaceError("nobody there"))
    with pytest.raises(NoFaceError):
        place.ask()
    (found,) = place.seen()
    assert (found["arm"], found["failed"], found["outcome"]) == ("candidate", False, "no_face")


@pytest.mark.parametrize("error", [InvalidImageError("no picture"), RequestCancelledError("gone")])
def test_what_is_refused_before_any_stage_is_not_asked_twice(place: Place, error: PipelineError) -> None:
    place.state(watched())
    place.candidate_does = fail(error)
    place.stable_does = fail(AssertionError("asked again"))
    with pytest.raises(type(error)):
        place.ask()
    assert place.seen() == []


def test_errors_of_the_stable_versions_count_for_them(place: Place) -> None:
    place.state(watched(0.0))
    place.stable_does = fail(StageFailedError("down"))
    with pytest.raises(StageFailedError):
        place.ask()
    place.stable_does = fail(NoFaceError("none"))
    with pytest.raises(NoFaceError):
        place.ask()
    assert [(found["arm"], found["failed"]) for found in place.seen()] == [("stable", True), ("stable", False)]


def test_failures_in_a_row_break_the_candidate_off_until_the_share_changes(place: Place) -> None:
    place.state(watched(0.9))
    place.candidate_does = fail(StageFailedError("again"))
    keys = [key for key in map(str, range(200)) if watched(0.9).is_candidates(key)]
    for key in keys[: FAILURES_IN_A_ROW + 5]:
        assert place.ask(key)["face_detector"] == 1
    tried = [found for found in place.seen() if found["arm"] == "candidate"]
    assert len(tried) == FAILURES_IN_A_ROW
    (broken,) = place.seen("breaker")
    assert "3 failures in a row, the last: again" in broken["reason"]
    place.state(watched(0.95))
    place.candidate_does = lambda: None
    assert place.ask(keys[0])["face_detector"] == 2


def test_a_success_ends_the_row(place: Place) -> None:
    place.state(watched())
    for _ in range(FAILURES_IN_A_ROW):
        place.candidate_does = fail(StageFailedError("no"))
        place.ask()
        place.candidate_does = lambda: None
        assert place.ask()["face_detector"] == 2
    assert place.seen("breaker") == []


def test_a_candidate_that_hangs_costs_its_patience_once(place: Place) -> None:
    ended = threading.Event()
    place.state(watched(patience_ms=50.0))
    place.candidate_does = lambda: (ended.wait(60) and None) or None
    assert place.ask()["face_detector"] == 1
    assert place.ask()["face_detector"] == 1
    ended.set()
    (broken,) = place.seen("breaker")
    assert "no answer in 50 ms" in broken["reason"]


def test_nobody_watching_means_the_stable_versions(place: Place) -> None:
    place.state(watched(expires_s=time.time() - 1))
    assert place.ask()["face_detector"] == 1
    assert place.seen() == []


def test_a_state_that_cannot_be_followed_changes_nothing(place: Place) -> None:
    place.state(None, face_detector=3)
    place.ask()
    place.state(watched(versions={"face_detector": (3, 99)}))
    assert place.ask()["face_detector"] == 3
    assert "there is no version 99" in place.errors[-1]
    (broken,) = place.seen("breaker")
    assert "there is no version 99" in broken["reason"]


def test_a_request_whose_versions_were_unloaded_under_it_is_answered_by_the_new_ones(place: Place) -> None:
    place.state(None, face_detector=2)
    place.ask()

    def unloaded() -> None:
        if place.canary.stable.versions["face_detector"] == 2:
            place.state(None, face_detector=1)
            raise StageNotReadyError("face_detector 2 is not loaded now")

    place.stable_does = unloaded
    assert place.ask() == {"face_detector": 1}
    place.stable_does = fail(StageNotReadyError("face_detector 1 is not loaded now"))
    with pytest.raises(StageNotReadyError):
        place.ask()


def eventually(holds: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return holds()


def test_second_looks_come_later_and_their_errors_are_observations(place: Place) -> None:
    place.state(watched(0.0, shadow=1.0))
    assert place.ask()["face_detector"] == 1
    assert eventually(lambda: len(place.seen("shadow")) == 1)
    assert place.looked == [{"face_detector": 2, "face_embedder": 5}]
    place.candidate_does = fail(StageFailedError("not today"))
    place.ask()
    assert eventually(lambda: len(place.seen("shadow")) == 2)
    first, second = place.seen("shadow")
    assert (first["measures"], first["error"]) == ({"recall": 1.0}, None)
    assert (second["measures"], second["error"]) == ({}, "not today")


def test_a_shadow_waits_while_requests_are_answered_and_drops_what_is_too_much() -> None:
    shadow = Shadow()
    done: list[int] = []
    dropped: list[int] = []
    with shadow:
        for number in range(MAX_WAITING + 2):
            shadow.offer(SecondLook(partial(done.append, number), partial(dropped.append, number)))
        time.sleep(0.1)
        assert done == []
    assert dropped == [MAX_WAITING, MAX_WAITING + 1]
    assert eventually(lambda: done == list(range(MAX_WAITING)))
    shadow.close()
    shadow.offer(SecondLook(lambda: done.append(9), lambda: dropped.append(9)))
    assert dropped[-1] == 9
