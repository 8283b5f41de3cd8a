"""Who answers during a rollout, what is held against the candidate, and how a process follows the state."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.ensemble.rollout_support import WAIT_S, make_rollout, observed, write_rollout, write_routes, write_text
from warmswap_ensemble import errors
from warmswap_ensemble import shadow as shadow_module
from warmswap_ensemble.arms import Role
from warmswap_ensemble.canary import FAILURES_IN_A_ROW, Canary, CandidateError, Work, see_again
from warmswap_ensemble.errors import NoFaceError, OverloadedError, StageFailedError
from warmswap_ensemble.observations import MAX_BYTES, Observations
from warmswap_ensemble.recording import Recorder, SeenEnoughError
from warmswap_ensemble.request_scope import current_scope, note, request_scope
from warmswap_ensemble.routes import ROUTES_NAME, Rollout, RouteFile, Routes

VERSIONS = {"face_detector": (1, 2)}
SET = {"face_detector": (1, 2), "face_embedder": (3, 4), "face_swapper": (5, 6)}
KEYS = [f"user-{number}" for number in range(200)]


@dataclass(eq=False)
class Arm:
    versions: dict[str, int]
    rollout: Rollout | None
    closed: bool = False

    def close(self) -> None:
        self.closed = True


Behaviour = Callable[[], object]


@dataclass
class Bench:
    """One pipeline process, with versions that do as they are told."""

    repository: Path
    role: Role = field(default_factory=lambda: Role("face_swap", "face_swap", 1))
    missing: set[int] = field(default_factory=set)
    built: list[Arm] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    answered: list[Arm] = field(default_factory=list)
    candidate: Behaviour = lambda: "ok"
    stable: Behaviour = lambda: "ok"
    look_again: Callable[[Arm, Recorder, Rollout], dict[str, float]] = lambda *_: {"ssim": 1.0}

    def __post_init__(self) -> None:
        self.observations = Observations(self.repository, self.role.pipeline)
        self.canary = self.start()

    def start(self) -> Canary[Arm]:
        routes = RouteFile(self.repository)
        return Canary(self.role, routes, self.build, self.observations, self.logged.append)

    def build(self, versions: dict[str, int], rollout: Rollout | None) -> Arm:
        if gone := self.missing & set(versions.values()):
            raise ValueError(f"has no version {gone}")
        self.built.append(Arm(versions, rollout))
        return self.built[-1]

    def ask(self, key: str = "somebody") -> tuple[str, object]:
        """Return which arm's answer came back, and the answer."""

        def answer(arm: Arm, recorder: Recorder | None) -> tuple[str, object]:
            self.answered.append(arm)
            if arm.rollout is not None:
                return "candidate", self.candidate()
            if recorder is not None:
                recorder.image = b"recorded"
            return "stable", self.stable()

        with self.canary.shadow:
            return self.canary.answer(key, Work(answer, self.look_again))

    def who(self, key: str = "somebody") -> str:
        return self.ask(key)[0]

    def requests(self) -> list[tuple[str, str, bool]]:
        return [(line["arm"], line["outcome"], line["failed"]) for line in observed(self.repository, "request")]

    def breakers(self) -> list[str]:
        return [line["reason"] for line in observed(self.repository, "breaker")]

    def wait_for(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for observations that another thread makes."""
        pause = threading.Event()
        for _ in range(int(WAIT_S / 0.01)):
            found = observed(self.repository, kind)
            if len(found) >= count:
                return found
            pause.wait(0.01)
        raise AssertionError(f"no {kind} was observed")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.canary.close()


def raising(error: BaseException) -> Behaviour:
    def fail() -> object:
        raise error

    return fail


CANDIDATE_OK = ("candidate", "ok", False)
STABLE_OK = ("stable", "ok", False)


def test_without_a_rollout_there_is_one_arm_and_nothing_is_observed(bench: Bench) -> None:
    assert {bench.who(key) for key in KEYS} == {"stable"}
    assert [arm.versions for arm in bench.built] == [{}]
    write_rollout(bench.repository, None, face_detector=3)
    assert bench.who() == "stable"
    assert [arm.versions for arm in bench.built] == [{}, {"face_detector": 3}]
    assert bench.built[0].closed
    assert observed(bench.repository) == []
    assert list(bench.repository.glob("*.observed")) == []


def test_a_key_stays_with_its_version_as_the_share_grows(bench: Bench) -> None:
    by_share = {}
    for share in (0.0, 0.25, 0.5, 1.0):
        write_rollout(bench.repository, rollout := make_rollout(share=share))
        answers = [[bench.who(key) for key in KEYS] for _ in range(2)]
        assert answers[0] == answers[1]
        by_share[share] = {key for key, arm in zip(KEYS, answers[0], strict=True) if arm == "candidate"}
        assert by_share[share] == {key for key in KEYS if rollout.is_candidates(key)}
    assert by_share[0.0] == set()
    assert by_share[0.0] < by_share[0.25] < by_share[0.5] < by_share[1.0] == set(KEYS)
    assert len(bench.built) == 3, "a change of the share needs no new arms"


def test_what_both_arms_answer_is_observed(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=1.0))
    assert bench.ask() == ("candidate", "ok")
    write_rollout(bench.repository, make_rollout(share=0.0))
    assert bench.ask() == ("stable", "ok")
    assert bench.requests() == [CANDIDATE_OK, STABLE_OK]
    first = observed(bench.repository)[0]
    assert set(first) == {"kind", "t", "pipeline", "arm", "ms", "outcome", "failed"}
    assert first["pipeline"] == "face_swap"
    assert [path.name.split(".")[:2] for path in bench.repository.glob("*.observed")] == [["r1", "face_swap"]]


def of_every_kind() -> list[BaseException]:
    """Everything that a candidate may raise, but for what is the caller's fault for sure."""
    askers = (
        errors.InvalidImageError,
        errors.ImageTooLargeError,
        errors.InvalidOptionError,
        errors.InvalidTensorError,
        errors.RequestCancelledError,
    )
    known = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    ours = [error for error in known if error not in askers]
    assert {NoFaceError, OverloadedError, StageFailedError, errors.SelfTestError} <= set(ours)
    return [
        *(error("what happened") for error in ours),
        CandidateError("what happened", "invalid_image"),
        ZeroDivisionError("what happened"),
        MemoryError("what happened"),
        TimeoutError("what happened"),
        SeenEnoughError("what happened"),
    ]


@pytest.mark.parametrize("error", of_every_kind(), ids=lambda error: type(error).__name__)
def test_what_fails_on_the_candidate_the_stable_version_answers(error: BaseException, bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    bench.candidate = raising(error)
    assert bench.ask() == ("stable", "ok")
    outcome = getattr(error, "code", None) or type(error).__name__
    assert bench.requests() == [("candidate", outcome, True)]
    (line,) = observed(bench.repository, "request")
    assert line["error"] == "what happened"
    assert bench.breakers() == []


@pytest.mark.parametrize(
    "error_class",
    [errors.InvalidImageError, errors.ImageTooLargeError, errors.InvalidOptionError, errors.InvalidTensorError],
)
def test_what_any_version_would_refuse_is_refused_at_once(
    error_class: type[errors.PipelineError], bench: Bench
) -> None:
    write_rollout(bench.repository, make_rollout())
    bench.candidate = raising(error_class("no"))
    for _ in range(FAILURES_IN_A_ROW + 1):
        with pytest.raises(error_class):
            bench.ask()
    assert {arm.rollout is None for arm in bench.answered} == {False}
    assert bench.requests() == []
    assert bench.breakers() == []


def test_what_both_say_of_a_request_is_not_held_against_the_candidate(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    bench.candidate = raising(NoFaceError("no face was found in a"))
    bench.stable = raising(NoFaceError("no face was found in b"))
    for _ in range(FAILURES_IN_A_ROW + 1):
        with pytest.raises(NoFaceError, match="in b"):
            bench.ask()
    assert bench.requests() == [("candidate", "no_face", False)] * (FAILURES_IN_A_ROW + 1)
    assert bench.breakers() == []


def test_a_candidate_of_the_pipeline_may_say_the_same_too(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    bench.candidate = raising(CandidateError("no_face: nobody", "no_face"))
    bench.stable = raising(NoFaceError("nobody"))
    with pytest.raises(NoFaceError):
        bench.ask()
    assert bench.requests() == [("candidate", "no_face", False)]


def test_another_error_than_the_stable_versions_is_the_candidates(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    bench.candidate = raising(StageFailedError("broken"))
    bench.stable = raising(NoFaceError("nobody"))
    for _ in range(FAILURES_IN_A_ROW):
        with pytest.raises(NoFaceError):
            bench.ask()
    assert bench.requests() == [("candidate", "stage_failed", True)] * FAILURES_IN_A_ROW
    assert len(bench.breakers()) == 1


@pytest.mark.parametrize(
    ("error", "failed"),
    [(NoFaceError("nobody"), False), (StageFailedError("broken"), True), (OverloadedError("full"), True)],
)
def test_errors_of_the_stable_version_are_observed(error: errors.PipelineError, failed: bool, bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=0.0))
    bench.stable = raising(error)
    with pytest.raises(type(error)):
        bench.ask()
    assert bench.requests() == [("stable", error.code, failed)]


def test_a_fault_of_the_stable_version_is_observed_as_one_too(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=0.0))
    bench.stable = raising(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        bench.ask()
    assert bench.requests() == [("stable", "ZeroDivisionError", True)]


def test_a_fault_of_the_stable_version_does_not_hide_that_of_the_candidate(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    bench.candidate = raising(StageFailedError("broken"))
    bench.stable = raising(ZeroDivisionError("a bug"))
    for _ in range(FAILURES_IN_A_ROW):
        with pytest.raises(ZeroDivisionError):
            bench.ask()
    assert bench.requests() == [("candidate", "stage_failed", True)] * FAILURES_IN_A_ROW
    assert len(bench.breakers()) == 1
    bench.canary._failures, bench.canary._broken = 0, False
    bench.candidate = raising(ZeroDivisionError("the same bug"))
    with pytest.raises(ZeroDivisionError):
        bench.ask()
    assert bench.requests()[-1] == ("candidate", "ZeroDivisionError", False)


def test_a_candidate_that_takes_too_long_gets_nothing_more(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(patience_ms=1.0))
    release, left = threading.Event(), threading.Event()

    def stuck() -> object:
        assert release.wait(WAIT_S)
        left.set()
        return "late"

    bench.candidate = stuck
    assert bench.ask() == ("stable", "ok")
    assert not left.is_set()
    assert bench.requests() == [("candidate", "CandidateTooSlowError", True)]
    assert bench.breakers() == ["no answer in 1 ms"]
    assert bench.who() == "stable"
    assert len(bench.answered) == 3, "the candidate was asked once"
    assert bench.requests()[1:] == [STABLE_OK]
    assert bench.logged == ["rollout r1: the candidate gets no more requests of this process: no answer in 1 ms"]
    release.set()
    assert left.wait(WAIT_S)


def test_failures_in_a_row_open_the_breaker_and_a_new_share_closes_it(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=0.99))
    bench.candidate = raising(StageFailedError("broken"))
    key = next(key for key in KEYS if make_rollout(share=0.5).is_candidates(key))
    for _ in range(FAILURES_IN_A_ROW + 2):
        assert bench.who(key) == "stable"
    assert bench.requests() == [("candidate", "stage_failed", True)] * FAILURES_IN_A_ROW + [STABLE_OK] * 2
    assert bench.breakers() == [f"{FAILURES_IN_A_ROW} failures in a row, the last: broken"]
    bench.candidate = lambda: "mended"
    write_rollout(bench.repository, make_rollout(share=0.99, shadow=0.5, watched_s=7200))
    assert bench.who(key) == "stable", "only another share closes it"
    write_rollout(bench.repository, make_rollout(share=0.98))
    assert bench.ask(key) == ("candidate", "mended")


def test_another_rollout_closes_the_breaker(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    bench.candidate = raising(StageFailedError("broken"))
    for _ in range(FAILURES_IN_A_ROW):
        bench.ask()
    bench.candidate = lambda: "ok"
    assert bench.who() == "stable"
    write_rollout(bench.repository, make_rollout(name="r2"))
    assert bench.who() == "candidate"


def test_a_success_between_failures_keeps_the_breaker_closed(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    for _ in range(3):
        bench.candidate = raising(StageFailedError("broken"))
        for _ in range(FAILURES_IN_A_ROW - 1):
            assert bench.who() == "stable"
        bench.candidate = lambda: "ok"
        assert bench.who() == "candidate"
    assert bench.breakers() == []


def test_with_an_open_breaker_nothing_is_shown_to_the_candidate_either(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(shadow=1.0))
    bench.candidate = raising(StageFailedError("broken"))
    for _ in range(FAILURES_IN_A_ROW + 1):
        bench.ask()
    assert not bench.canary.shadow._waiting
    assert bench.canary.shadow._thread is None


def test_an_expired_rollout_is_none(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(shadow=1.0, watched_s=-1))
    assert {bench.who(key) for key in KEYS} == {"stable"}
    assert observed(bench.repository) == []
    write_rollout(bench.repository, make_rollout())
    assert bench.who() == "candidate"


@pytest.mark.parametrize(
    ("pipeline", "model", "concerned"),
    [
        ("face_swap", "face_landmarker", True),
        ("face_analysis", "face_landmarker", False),
        ("face_swap", "face_swapper_512", True),
        ("face_analysis", "face_swapper_512", False),
        ("face_analysis", "face_embedder", True),
        ("face_swap", "face_swap", True),
        ("face_analysis", "face_swap", False),
    ],
)
def test_only_pipelines_that_meet_the_candidate_take_part(
    pipeline: str, model: str, concerned: bool, tmp_path: Path
) -> None:
    write_rollout(tmp_path, make_rollout({model: (1, 2)}))
    bench = Bench(tmp_path, Role(pipeline, pipeline, 1))
    assert bench.who() == ("candidate" if concerned else "stable")
    assert len(bench.built) == (2 if concerned else 1)
    assert bool(observed(tmp_path)) == concerned
    bench.canary.close()


def test_the_candidate_of_a_pipeline_shares_nothing_out(tmp_path: Path) -> None:
    versions = {"face_swap": (1, 2), "face_detector": (3, 4)}
    write_rollout(tmp_path, make_rollout(versions))
    bench = Bench(tmp_path, Role("face_swap", "face_swap_candidate", 2))
    assert {bench.who(key) for key in KEYS} == {"stable"}
    assert [arm.versions for arm in bench.built] == [{"face_swap": 2, "face_detector": 4}]
    assert observed(tmp_path) == []
    bench.canary.close()


def test_after_the_promotion_of_a_pipeline_the_old_process_keeps_its_own_stages(tmp_path: Path) -> None:
    versions = {"face_swap": (1, 2), "face_detector": (3, 4)}
    write_rollout(tmp_path, make_rollout(versions, share=0.0))
    old = Bench(tmp_path, Role("face_swap", "face_swap", 1))
    assert old.who() == "stable"
    promoted = {"face_swap": (2, 1), "face_detector": (4, 3)}
    write_rollout(tmp_path, make_rollout(promoted, share=0.0), face_swap=2, face_detector=4)
    new = Bench(tmp_path, Role("face_swap", "face_swap", 2))
    for bench, expected in ((old, {"face_swap": 1, "face_detector": 3}), (new, {"face_swap": 2, "face_detector": 4})):
        assert bench.who() == "stable"
        assert bench.answered[-1].versions == expected
        bench.canary.close()


def test_the_versions_of_a_set_are_never_mixed(bench: Bench) -> None:
    stable = {model: pair[0] for model, pair in SET.items()}
    candidate = {model: pair[1] for model, pair in SET.items()}
    for number in range(20):
        swapped = {model: pair[::-1] for model, pair in SET.items()} if number % 5 == 4 else SET
        write_rollout(bench.repository, make_rollout(swapped, share=0.5))
        bench.candidate = raising(StageFailedError("broken")) if number % 3 == 2 else lambda: "ok"
        for key in KEYS[:10]:
            bench.ask(key)
    used = [arm.versions for arm in bench.answered]
    assert all(versions in (stable, candidate) for versions in used)
    assert stable in used
    assert candidate in used


def test_promotion_and_rollback_are_followed_without_a_new_process(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=1.0))
    assert bench.who() == "candidate"
    assert bench.answered[-1].versions == {"face_detector": 2}
    write_rollout(bench.repository, make_rollout({"face_detector": (2, 1)}, share=0.0), face_detector=2)
    assert bench.who() == "stable"
    assert bench.answered[-1].versions == {"face_detector": 2}
    assert bench.canary.stable is bench.answered[-1]
    write_rollout(bench.repository, make_rollout(share=0.0), face_detector=1)
    assert bench.who() == "stable"
    assert bench.answered[-1].versions == {"face_detector": 1}
    write_rollout(bench.repository, None, face_detector=1)
    assert bench.who() == "stable"
    assert bench.answered[-1].versions == {"face_detector": 1}
    assert [arm for arm in bench.built if not arm.closed] == [bench.canary.stable]
    assert bench.logged == []


def test_a_rollback_takes_the_candidate_away_at_once(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=1.0))
    assert bench.who() == "candidate"
    stable, candidate = bench.canary.stable, bench.answered[-1]
    write_rollout(bench.repository, None, face_detector=1)
    assert bench.who() == "stable"
    assert bench.canary.stable is stable
    assert (stable.closed, candidate.closed) == (False, True)


def test_a_missing_candidate_costs_nothing_but_the_rollout(bench: Bench) -> None:
    bench.missing = {2}
    write_rollout(bench.repository, make_rollout(shadow=1.0))
    assert {bench.who(key) for key in KEYS} == {"stable"}
    assert bench.logged == ["cannot follow the rollout's state: has no version {2}"]
    assert bench.breakers() == ["cannot use the versions: has no version {2}"]
    bench.missing = set()
    write_rollout(bench.repository, make_rollout(share=0.99))
    assert bench.who(next(key for key in KEYS if make_rollout(share=0.99).is_candidates(key))) == "candidate"


@pytest.mark.parametrize("versions", [(1, 2), (7, 8)], ids=["candidate", "stable"])
def test_versions_that_cannot_be_used_are_reported_once_for_a_step(versions: tuple[int, int], bench: Bench) -> None:
    """Each renewal of the lease is a new file; only a new step, which is judged by itself, is told again."""
    bench.missing = {versions[0], versions[1]} - {1}
    pair = {"face_detector": versions}
    for watched_s in (60, 61, 62, 63):
        write_rollout(bench.repository, make_rollout(pair, share=0.0, shadow=0.5, watched_s=watched_s))
        assert [bench.who(), bench.who()] == ["stable"] * 2
    assert (len(bench.logged), len(bench.breakers())) == (1, 1)
    for watched_s in (60, 61):
        write_rollout(bench.repository, make_rollout(pair, share=0.5, shadow=0.5, watched_s=watched_s))
        assert bench.who() == "stable"
    assert (len(bench.logged), len(bench.breakers())) == (2, 2)
    write_rollout(bench.repository, make_rollout(pair, name="r2", share=0.5, shadow=0.5))
    assert bench.who() == "stable"
    assert len(bench.breakers()) == 3


def test_pins_that_cannot_be_followed_are_logged_once(bench: Bench) -> None:
    bench.missing = {7}
    for generation in range(3):
        write_routes(bench.repository, Routes(generation, {"face_detector": 7}))
        assert bench.who() == "stable"
    assert bench.logged == ["cannot follow the rollout's state: has no version {7}"]


def test_a_heartbeat_mends_the_arms_but_not_the_breaker(bench: Bench) -> None:
    """What could not be used may be there a moment later; whoever leads the rollout has been told, and decides."""
    bench.missing = {2}
    write_rollout(bench.repository, make_rollout(watched_s=60))
    assert bench.who() == "stable"
    bench.missing = set()
    write_rollout(bench.repository, make_rollout(watched_s=61))
    assert bench.who() == "stable"
    write_rollout(bench.repository, make_rollout(share=0.99))
    assert bench.who(next(key for key in KEYS if make_rollout(share=0.99).is_candidates(key))) == "candidate"
    assert len(bench.breakers()) == 1


def test_a_heartbeat_neither_resets_the_breaker_nor_the_count_of_failures(bench: Bench) -> None:
    bench.candidate = raising(StageFailedError("broken"))
    for number in range(FAILURES_IN_A_ROW + 2):
        write_rollout(bench.repository, make_rollout(watched_s=60 + number))
        assert bench.who() == "stable"
    assert len(bench.breakers()) == 1
    assert [arm for arm, _, _ in bench.requests()] == ["candidate"] * FAILURES_IN_A_ROW + ["stable"] * 2


def test_a_missing_stable_version_leaves_the_old_one_in_place(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    assert bench.who() == "candidate"
    stable = bench.canary.stable
    bench.missing = {7}
    write_rollout(bench.repository, make_rollout({"face_detector": (7, 8)}, name="r2"))
    assert {bench.who(key) for key in KEYS} == {"stable"}
    assert bench.canary.stable is stable
    assert not stable.closed
    assert stable.versions == {"face_detector": 1}
    assert bench.logged == ["cannot follow the rollout's state: has no version {7}"]
    assert bench.breakers() == ["cannot use the versions: has no version {7}"]
    bench.missing = set()
    write_rollout(bench.repository, make_rollout({"face_detector": (7, 8)}, name="r3"))
    assert bench.who() == "candidate"
    assert (bench.answered[-1].versions, bench.canary.stable.versions) == ({"face_detector": 8}, {"face_detector": 7})


def test_a_process_starts_although_the_candidate_is_missing(tmp_path: Path) -> None:
    write_rollout(tmp_path, make_rollout())
    bench = Bench(tmp_path, missing={2})
    assert bench.who() == "stable"
    assert bench.breakers() == ["cannot use the versions: has no version {2}"]
    bench.canary.close()


def test_a_process_that_starts_during_a_rollout_takes_part(tmp_path: Path) -> None:
    write_rollout(tmp_path, make_rollout(SET))
    bench = Bench(tmp_path)
    assert bench.who() == "candidate"
    assert bench.answered[-1].versions == {model: pair[1] for model, pair in SET.items()}
    bench.canary.close()


def test_a_broken_or_removed_state_is_logged_once_and_changes_nothing(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())
    assert bench.who() == "candidate"
    write_text(bench.repository, "{")
    assert [bench.who(), bench.who()] == ["candidate"] * 2
    (bench.repository / ROUTES_NAME).unlink()
    assert [bench.who(), bench.who()] == ["candidate"] * 2
    assert [line.partition("rollout.json ")[2][:10] for line in bench.logged] == ["is not JSO", "is gone; i"]


def test_what_the_candidate_notes_reaches_the_log_and_who_answered(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())

    def noting() -> object:
        note(faces=2, timings_ms={"total": 1.0})
        return "ok"

    bench.candidate = noting
    with request_scope("mine") as scope:
        bench.ask()
    assert scope.facts == {"faces": 2, "timings_ms": {"total": 1.0}, "rollout": "r1", "arm": "candidate"}


def test_what_a_failed_candidate_notes_does_not_reach_the_log_and_the_failure_does(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())

    def failing() -> object:
        note(faces=99)
        raise StageFailedError("x" * 1000)

    bench.candidate = failing
    bench.stable = lambda: note(faces=1)
    with request_scope("mine") as scope:
        bench.ask()
    assert scope.facts == {"faces": 1, "rollout": "r1", "arm": "stable", "candidate_error": "x" * 300}


def test_the_candidate_works_under_the_id_of_the_request_and_without_its_trace(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(shadow=1.0))
    seen: list[tuple[str, Any, bool]] = []
    thread = threading.current_thread()

    def look() -> object:
        scope = current_scope()
        assert scope is not None
        seen.append((scope.request_id, scope.trace, threading.current_thread() is thread))
        return "ok"

    bench.candidate = bench.stable = look
    trace = object()
    with request_scope("mine", trace):
        assert bench.who() == "candidate"
        write_rollout(bench.repository, make_rollout(share=0.0))
        assert bench.who() == "stable"
    assert seen == [("mine", None, False), ("mine", trace, True)]


def test_a_second_look_comes_after_the_reply_and_is_observed(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=0.0, shadow=1.0))
    looked: list[tuple[bytes, dict[str, int], str, Any, int]] = []

    def look_again(arm: Arm, recorder: Recorder, rollout: Rollout) -> dict[str, float]:
        scope = current_scope()
        assert scope is not None
        looked.append((recorder.image, arm.versions, rollout.id, scope.trace, bench.canary.shadow._answering))
        return {"ssim": 0.5}

    bench.look_again = look_again
    with bench.canary.shadow:
        assert bench.ask() == ("stable", "ok")
        threading.Event().wait(0.1)
        assert looked == []
        assert observed(bench.repository, "shadow") == []
    (line,) = bench.wait_for("shadow")
    assert looked == [(b"recorded", {"face_detector": 2}, "r1", None, 0)]
    assert (line["measures"], line["error"]) == ({"ssim": 0.5}, None)
    assert line["ms"] >= 0
    assert line["live_ms"] >= 0


@pytest.mark.parametrize(
    ("error", "text"),
    [(StageFailedError("y" * 1000), "y" * 300), (ZeroDivisionError("what"), "what"), (KeyError(), "KeyError")],
)
def test_a_second_look_that_fails_is_observed_with_its_error(error: Exception, text: str, bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=0.0, shadow=1.0))

    def fail(*_: object) -> dict[str, float]:
        raise error

    bench.look_again = fail
    bench.ask()
    (line,) = bench.wait_for("shadow")
    assert (line["measures"], line["error"]) == ({}, text)
    bench.look_again = lambda *_: {"ssim": 1.0}
    bench.ask()
    assert [line["error"] for line in bench.wait_for("shadow", 2)] == [text, None]


def test_second_looks_that_nobody_has_time_for_are_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "LONGEST_WAIT_S", 10 * WAIT_S)
    write_rollout(bench.repository, make_rollout(share=0.0, shadow=1.0))
    with bench.canary.shadow:
        for _ in range(shadow_module.MAX_WAITING + 3):
            bench.ask()
        assert len(observed(bench.repository, "dropped")) == 3
    assert len(bench.wait_for("shadow", shadow_module.MAX_WAITING)) == shadow_module.MAX_WAITING


def test_what_the_candidate_or_nobody_answered_is_not_shown_again(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=1.0, shadow=1.0))
    assert bench.who() == "candidate"
    bench.candidate = raising(StageFailedError("broken"))
    assert bench.who() == "stable"
    write_rollout(bench.repository, make_rollout(share=0.0, shadow=1.0))
    bench.stable = raising(NoFaceError("nobody"))
    with pytest.raises(NoFaceError):
        bench.ask()
    assert bench.canary.shadow._thread is None


def test_a_second_look_of_a_rollout_that_is_over_is_left(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=0.0, shadow=1.0))
    looked: list[Arm] = []
    bench.look_again = lambda arm, *_: looked.append(arm) or {}  # type: ignore[func-returns-value]
    with bench.canary.shadow:
        bench.ask()
        write_rollout(bench.repository, make_rollout({"face_detector": (1, 3)}, name="r2", share=0.0, shadow=1.0))
        bench.ask()
    bench.wait_for("shadow")
    assert [arm.versions for arm in looked] == [{"face_detector": 3}]


def test_closing_gives_up_both_arms_and_the_thread(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout(share=0.0, shadow=1.0))
    bench.ask()
    bench.canary.close()
    assert all(arm.closed for arm in bench.built)
    assert len(bench.built) == 3
    thread = bench.canary.shadow._thread
    assert thread is not None
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_see_again_ends_where_it_leads_no_further() -> None:
    went: list[int] = []

    def look() -> None:
        went.append(1)
        raise SeenEnoughError

    see_again(look)
    assert went == [1]
    with pytest.raises(ZeroDivisionError):
        see_again(raising(ZeroDivisionError()))


def test_observations_without_a_folder_are_lost(tmp_path: Path) -> None:
    for observations in (
        Observations(None, "face_swap"),
        Observations.from_environment("face_swap", {}),
        Observations(tmp_path / "not there", "face_swap"),
    ):
        observations.write("r1", "dropped")
        observations.close()
    assert list(tmp_path.iterdir()) == []


def test_observations_go_into_a_file_per_rollout(tmp_path: Path) -> None:
    observations = Observations.from_environment("face_swap", {"WARMSWAP_ROLLOUT_FOLDER": str(tmp_path)})
    for rollout in ("r1", "r2", "r1"):
        observations.write(rollout, "dropped")
    observations.close()
    assert sorted((path.name.split(".")[0], len(path.read_text().splitlines())) for path in tmp_path.iterdir()) == [
        ("r1", 2),
        ("r2", 1),
    ]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_observations_end_at_their_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BYTES == 256 << 20
    monkeypatch.setattr("warmswap_ensemble.observations.MAX_BYTES", 100)
    observations = Observations(tmp_path, "face_swap")
    for _ in range(50):
        observations.write("r1", "dropped")
    (path,) = tmp_path.iterdir()
    assert 100 <= path.stat().st_size < 150
    observations.close()


def test_observations_of_two_threads_and_two_rollouts_all_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observations, count = Observations(tmp_path, "face_swap"), 100
    failures: list[BaseException] = []
    together = threading.Barrier(2)

    def write(rollout: str) -> None:
        try:
            together.wait(WAIT_S)
            for number in range(count):
                observations.write(rollout, "dropped", of=rollout, number=number)
        except BaseException as error:
            failures.append(error)

    def slow_write(descriptor: int, data: bytes) -> int:
        time.sleep(0.0005)  # the other thread's turn
        return really_write(descriptor, data)

    really_write = os.write
    monkeypatch.setattr(os, "write", slow_write)
    threads = [threading.Thread(target=write, args=(rollout,)) for rollout in ("r1", "r2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    observations.close()
    monkeypatch.undo()
    assert failures == []
    for rollout in ("r1", "r2"):
        (path,) = tmp_path.glob(f"{rollout}.*")
        lines = path.read_text().splitlines()
        assert len(lines) == count
        assert all(f'"of":"{rollout}"' in line for line in lines)


def test_a_rollout_has_only_what_a_canary_uses() -> None:
    """Whoever adds a field decides whether a change of it closes the breaker."""
    names = [value.name for value in dataclasses.fields(Rollout)]
    assert names == ["id", "versions", "share", "shadow", "expires_s", "patience_ms"]


def test_a_request_whose_versions_were_unloaded_under_it_is_answered_by_the_new_ones(bench: Bench) -> None:
    """A rollback unloads what no request is sent to any more; one under way meets that between two stages."""
    write_rollout(bench.repository, None, face_detector=2)
    assert bench.ask() == ("stable", "ok")

    def unloaded() -> str:
        if bench.answered[-1].versions["face_detector"] == 2:
            write_rollout(bench.repository, None, face_detector=1)
            raise errors.StageNotReadyError("face_detector 2 is not loaded now")
        return "answered by 1"

    bench.stable = unloaded
    assert bench.ask() == ("stable", "answered by 1")

    def absent() -> str:
        raise errors.StageNotReadyError("face_detector 1 is not loaded now")

    bench.stable = absent
    asked = len(bench.answered)
    with pytest.raises(errors.StageNotReadyError):
        bench.ask()
    assert len(bench.answered) == asked + 1, "with the same versions nothing would change"


def test_a_request_that_meets_none_of_the_candidates_has_no_part_in_the_rollout(bench: Bench) -> None:
    """A rollout of one swapper, and a request for another."""
    write_rollout(bench.repository, make_rollout({"face_swapper_512": (1, 2)}, shadow=1.0))

    def ask(*meets: str) -> str:
        work = Work(lambda arm, recorder: "candidate" if arm.rollout else "stable", bench.look_again, frozenset(meets))
        return bench.canary.answer("somebody", work)

    assert ask("face_swap", "face_detector", "face_swapper") == "stable"
    assert observed(bench.repository) == []
    assert ask("face_swap", "face_detector", "face_swapper_512") == "candidate"


def test_a_candidate_that_would_end_the_process_does_not(bench: Bench) -> None:
    write_rollout(bench.repository, make_rollout())

    def leave() -> object:
        raise SystemExit(3)

    bench.candidate = leave
    assert bench.who() == "stable"
    assert bench.requests() == [("candidate", "RuntimeError", True)]
