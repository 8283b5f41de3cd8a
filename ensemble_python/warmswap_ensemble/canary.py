"""Who answers a request while a rollout is under way: the stable versions, or the candidates.

The candidate never costs anybody an answer. What fails on it, or takes too long, the stable versions answer; after
some failures in a row this process gives it nothing more until the state of the rollout changes. Whoever leads the
rollout reads of all that in the observations, and decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from warmswap_ensemble.arms import Role
from warmswap_ensemble.errors import (
    ImageTooLargeError,
    InvalidImageError,
    InvalidOptionError,
    InvalidTensorError,
    PipelineError,
    RequestCancelledError,
    StageNotReadyError,
)
from warmswap_ensemble.observations import Observations
from warmswap_ensemble.recording import Recorder, SeenEnoughError
from warmswap_ensemble.request_scope import current_scope, finish_helpers, note, request_scope
from warmswap_ensemble.routes import Rollout, RouteFile
from warmswap_ensemble.shadow import SecondLook, Shadow

FAILURES_IN_A_ROW: Final = 3
"""After so many, or one that took too long, a process gives the candidate nothing more."""

_ASKERS_FAULT: Final = (InvalidImageError, ImageTooLargeError, InvalidOptionError, InvalidTensorError)
"""Refused before a stage is asked: any version would."""

STABLE: Final = "stable"
CANDIDATE: Final = "candidate"


class CandidateError(Exception):
    """A candidate of the pipeline itself gave an error; sent to nobody.

    Attributes:
        code: Its code, to be compared with what the version that serves says.
    """

    def __init__(self, message: str, code: str = "stage_failed") -> None:
        """Take over what it said."""
        super().__init__(message)
        self.code = code


class CandidateTooSlowError(Exception):
    """The candidate has not answered in time."""


class Arm(Protocol):
    """The versions that answer one request."""

    def close(self) -> None:
        """Give up what it holds."""


A = TypeVar("A", bound=Arm)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work(Generic[A, T]):
    """One request.

    Attributes:
        answer: Answers it with the versions of an arm; with a recorder, what the stages say is kept.
        look_again: Lets the candidate see it, given what was recorded; returns the measures.
        meets: Models that it is answered with; a rollout of others is none to it. ``None`` = any may be.
    """

    answer: Callable[[A, Recorder | None], T]
    look_again: Callable[[A, Recorder, Rollout], dict[str, float]]
    meets: frozenset[str] | None = None

    def is_of(self, rollout: Rollout) -> bool:
        """Whether a candidate of the rollout could have a part in the answer."""
        return self.meets is None or not self.meets.isdisjoint(rollout.versions)


class Canary(Generic[A]):
    """Shares the requests of one pipeline process out. One request at a time."""

    def __init__(
        self,
        role: Role,
        routes: RouteFile,
        build: Callable[[dict[str, int], Rollout | None], A],
        observations: Observations,
        log_error: Callable[[str], None],
    ) -> None:
        """Build the stable arm.

        Args:
            role: What this process is in a rollout.
            routes: The state that rules.
            build: Returns the arm of versions; with a rollout, that of its candidates.
            observations: Gets what is seen of a rollout.
            log_error: Gets what is wrong with a new state.
        """
        self.shadow = Shadow()
        self._role = role
        self._routes = routes
        self._build = build
        self._observations = observations
        self._log_error = log_error
        self._state = routes.routes
        self._stable_versions = role.stable(self._state)
        self._stable = build(self._stable_versions, None)
        self._candidate_versions: dict[str, int] | None = None
        self._candidate: A | None = None
        self._failures = 0
        self._broken = False
        self._told: object = None
        self._follow()

    @property
    def stable(self) -> A:
        """The versions that answer when no rollout says otherwise."""
        return self._stable

    def close(self) -> None:
        """End the second looks and give up both arms."""
        self.shadow.close()
        self._observations.close()
        for arm in (self._stable, self._candidate):
            if arm is not None:
                arm.close()

    def answer(self, key: str, work: Work[A, T]) -> T:
        """Answer a request.

        Args:
            key: Shares the requests out: those of one key are answered by one version.
            work: What to do.

        Raises:
            PipelineError: what the stable versions say of it.
        """
        self._look()
        rollout, candidate = self._role.rollout(self._state), self._candidate
        if rollout is None or candidate is None or not rollout.is_watched() or not work.is_of(rollout):
            return self._answer_stable(work, None)
        failure: Exception | None = None
        if not self._broken and rollout.is_candidates(key):
            started_s = time.monotonic()
            try:
                answered = self._try(candidate, work, rollout)
            except (RequestCancelledError, *_ASKERS_FAULT):
                raise
            except Exception as error:
                failure, took_ms = error, _ms_since(started_s)
            else:
                self._failures = 0
                self._observe(rollout, "request", arm=CANDIDATE, ms=_ms_since(started_s), outcome="ok", failed=False)
                return answered
        recorder = Recorder() if failure is None and not self._broken and rollout.is_shadowed(key) else None
        started_s = time.monotonic()
        try:
            answered = self._answer_stable(work, recorder)
        except Exception as error:
            if failure is not None:  # it was the candidate's turn, and must not count for the stable versions
                self._note_failure(rollout, failure, took_ms, stable=error)
            else:
                failed = not (isinstance(error, PipelineError) and error.category in ("INVALID_ARG", "CANCELLED"))
                ms = _ms_since(started_s)
                self._observe(rollout, "request", arm=STABLE, ms=ms, outcome=_outcome(error), failed=failed)
            raise
        live_ms = _ms_since(started_s)
        if failure is not None:
            self._note_failure(rollout, failure, took_ms, stable=None)
        else:
            self._observe(rollout, "request", arm=STABLE, ms=live_ms, outcome="ok", failed=False)
        if recorder is not None:
            self._offer(rollout, candidate, work, recorder, live_ms)
        return answered

    def _answer_stable(self, work: Work[A, T], recorder: Recorder | None) -> T:
        """Answer with the stable versions; with the new ones, should these have been unloaded meanwhile.

        A rollout that ends unloads what no request is sent to any more. One that is under way may meet that between
        two stages.
        """
        arm = self._stable
        try:
            return work.answer(arm, recorder)
        except StageNotReadyError:
            self._look()
            if self._stable is arm:
                raise
            return work.answer(self._stable, None)

    def _look(self) -> None:
        """Follow a new state; where it cannot be followed, stay with the old one."""
        problem = self._routes.look()
        if problem:
            self._log_error(problem)
        state = self._routes.routes
        if state is self._state:
            return
        before = self._state
        self._state = state
        if (before.rollout and before.rollout.id) != (state.rollout and state.rollout.id) or (
            before.rollout and state.rollout and before.rollout.share != state.rollout.share
        ):
            self._failures, self._broken = 0, False
        self._follow()

    def _follow(self) -> None:
        """Make the arms what the state says; what keeps them from it is said once for each step of a rollout.

        Each renewal of the lease is a new state, so that is tried again every few seconds.
        """
        state, rollout = self._state, self._role.rollout(self._state)
        try:
            if (versions := self._role.stable(state)) != self._stable_versions:
                stable = self._build(versions, None)
                self._stable.close()
                self._stable, self._stable_versions = stable, versions
            if (other := self._role.candidate(state)) != self._candidate_versions:
                self._drop_candidate()
                if other is not None:
                    self._candidate = self._build(other, rollout)
                self._candidate_versions = other
            self._told = None
        except Exception as error:
            self._broken = True
            if (step := self._step()) == self._told:
                return
            self._told = step
            self._log_error(f"cannot follow the rollout's state: {error}")
            if state.rollout is not None:
                self._observe(state.rollout, "breaker", reason=f"cannot use the versions: {error}")

    def _step(self) -> object:
        """Return what all states of a step share: whoever leads a rollout asks what was seen since the step began."""
        rollout = self._state.rollout
        shares = (rollout.id, rollout.share, rollout.shadow) if rollout else None
        return shares, self._role.stable(self._state), self._role.candidate(self._state)

    def _drop_candidate(self) -> None:
        if self._candidate is not None:
            self._candidate.close()
        self._candidate, self._candidate_versions = None, None

    def _try(self, candidate: A, work: Work[A, T], rollout: Rollout) -> T:
        """Let the candidate answer, in a thread that can be left alone with it.

        Without the trace of the request: Triton frees that with the reply, and whoever is left alone goes on.
        """
        scope = current_scope()
        request_id = scope.request_id if scope else ""
        result: Future[T] = Future()
        facts: dict[str, object] = {}

        def run() -> None:
            try:
                with request_scope(request_id) as own:
                    answered = work.answer(candidate, None)
                    facts.update(own.facts)
            except BaseException as error:  # one that ends a process must not end this one
                result.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            else:
                result.set_result(answered)

        threading.Thread(target=run, name="candidate", daemon=True).start()
        try:
            answered = result.result(rollout.patience_ms / 1e3)
        except TimeoutError as error:
            if result.done():
                raise
            raise CandidateTooSlowError(f"no answer in {rollout.patience_ms:g} ms") from error
        note(**facts, rollout=rollout.id, arm=CANDIDATE)
        return answered

    def _note_failure(self, rollout: Rollout, failure: Exception, ms: float, stable: Exception | None) -> None:
        """Hold a failure against the candidate, unless the stable versions say the same of the request."""
        outcome = _outcome(failure)
        is_fault = stable is None or outcome != _outcome(stable)
        text = str(failure)[:300]
        note(rollout=rollout.id, arm=STABLE, candidate_error=text)
        self._observe(rollout, "request", arm=CANDIDATE, ms=ms, outcome=outcome, failed=is_fault, error=text)
        if not is_fault:
            return
        self._failures += 1
        if isinstance(failure, CandidateTooSlowError):
            self._break(rollout, text)
        elif self._failures >= FAILURES_IN_A_ROW:
            self._break(rollout, f"{self._failures} failures in a row, the last: {text}")

    def _break(self, rollout: Rollout, reason: str) -> None:
        self._broken = True
        self._log_error(f"rollout {rollout.id}: the candidate gets no more requests of this process: {reason}")
        self._observe(rollout, "breaker", reason=reason)

    def _offer(self, rollout: Rollout, candidate: A, work: Work[A, T], recorder: Recorder, live_ms: float) -> None:
        def run() -> None:
            if self._candidate is not candidate:  # that rollout is over
                return
            started_s = time.monotonic()
            error, measures = None, {}
            try:
                with request_scope(""):
                    measures = work.look_again(candidate, recorder, rollout)
            except Exception as problem:
                error = str(problem)[:300] or type(problem).__name__  # an empty one would count as none
            facts = {"live_ms": live_ms, "ms": _ms_since(started_s), "measures": measures, "error": error}
            self._observe(rollout, "shadow", **facts)

        self.shadow.offer(SecondLook(run, lambda: self._observe(rollout, "dropped")))

    def _observe(self, rollout: Rollout, kind: str, **facts: object) -> None:
        self._observations.write(rollout.id, kind, pipeline=self._role.pipeline, **facts)


def see_again(look: Callable[[], object]) -> None:
    """Take a second look as far as it leads.

    A step that leads no further does not end the one beside it, whose answer is a measure, too.
    """
    try:
        look()
    except SeenEnoughError:
        for error in finish_helpers():
            if not isinstance(error, SeenEnoughError):
                raise error from None


def _outcome(error: Exception) -> str:
    return error.code if isinstance(error, PipelineError | CandidateError) else type(error).__name__


def _ms_since(started_s: float) -> float:
    return round((time.monotonic() - started_s) * 1e3, 2)
