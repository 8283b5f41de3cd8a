"""Watches a candidate beside live traffic: what it does is fetched, judged, and reported, until it is decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from warmswap_ensemble.routes import CANDIDATE_SUFFIX
from warmswap_ops.errors import CandidateStoppedError
from warmswap_ops.rollout.fleet import Fleet
from warmswap_ops.rollout.gates import (
    Arm,
    Decision,
    Verdict,
    alpha_of,
    decide,
    judge,
    judge_quality,
    missing_looks,
    missing_requests,
)
from warmswap_ops.rollout.journal import Journal, Report
from warmswap_ops.rollout.loading import Loading, served_candidates
from warmswap_ops.rollout.observed import Observed
from warmswap_ops.rollout.record import Phase
from warmswap_ops.rollout.replica import Replica

Judgement = tuple[Decision, str, list[Verdict]]
"""What follows, why, and from what."""


class Watch:
    """Watches the candidates of the rollout that a journal keeps."""

    def __init__(self, fleet: Fleet, journal: Journal, loading: Loading, report: Report) -> None:
        """Prepare."""
        self._fleet = fleet
        self._journal = journal
        self._loading = loading
        self._report = report
        self._observed = Observed()
        self._baseline: Arm | None = None
        self._lost_since_s: float | None = None

    def shadow(self) -> None:
        """Watch while the candidate is shown requests, and answers none.

        Raises:
            CandidateStoppedError: it must be rolled back; says why.
            RolloutBusyError: somebody else leads the rollout now.
        """
        plan, since_s = self._journal.plan, self._journal.record.since_s
        shadow = plan.shadow
        alpha = alpha_of(plan, plan.looks(shadow.max_duration_s))

        def judged() -> Judgement:
            looks = self._observed.looks_since(since_s)
            errors = self._observed.look_errors(since_s)
            if errors.total() >= 3 and errors.total() * 5 > looks:
                text, count = errors.most_common(1)[0]
                return Decision.ROLL_BACK, f"{errors.total()} of {looks} second looks failed, {count} with: {text}", []
            window = self._observed.window(since_s, measures_since_s=since_s)
            verdicts = judge_quality(window.measures, plan, alpha)
            elapsed_s = time.time() - since_s
            decision, reason = decide(
                verdicts,
                missing=missing_looks(verdicts, looks, shadow.min_samples, alpha),
                soaked=elapsed_s >= shadow.duration_s,
                timed_out=elapsed_s >= shadow.max_duration_s,
            )
            return decision, reason, verdicts

        self._until_decided("shadow", judged)

    def step(self) -> None:
        """Watch while the candidate answers the share of the step that the record is in.

        Raises:
            CandidateStoppedError: it must be rolled back; says why.
            RolloutBusyError: somebody else leads the rollout now.
        """
        plan, record = self._journal.plan, self._journal.record
        since_s, step = record.since_s, plan.steps[record.step]
        is_late = record.step >= len(plan.steps) - 2
        looks = plan.looks(step.max_soak_s)

        def judged() -> Judgement:
            window, self._baseline = self._observed.step_window(record.started_s, since_s, step.weight, self._baseline)
            verdicts = judge(window, plan, looks=looks, baseline=self._baseline)
            elapsed_s = time.time() - since_s
            decision, reason = decide(
                verdicts,
                missing=missing_requests(window.candidate, step.min_samples),
                soaked=elapsed_s >= step.soak_s,
                timed_out=elapsed_s >= step.max_soak_s,
                needs_evidence=plan.gates.strict and is_late,
                more_looks=step.weight < 1,  # a candidate that answers all requests is shown none
            )
            return decision, reason, verdicts

        self._until_decided(f"{step.weight_percent:g} %", judged)

    def soak(self) -> None:
        """Watch for a while after the promotion, when the way back is still short.

        Raises:
            CandidateStoppedError: it must be rolled back; says why.
            RolloutBusyError: somebody else leads the rollout now.
        """
        plan, since_s = self._journal.plan, self._journal.record.since_s

        def judged() -> Judgement:
            is_over = time.time() - since_s >= plan.soak_s
            return (Decision.ADVANCE if is_over else Decision.WAIT), "", []

        self._until_decided("soak", judged)

    def _until_decided(self, name: str, judged: Callable[[], Judgement]) -> None:
        """Look until the step may be left.

        Raises:
            CandidateStoppedError: it must be rolled back; says why.
        """
        plan, since_s = self._journal.plan, self._journal.record.since_s
        next_look_s = 0.0
        while True:
            self._observe()
            self._journal.renew()
            reached = self._check_processes()
            breaker = self._observed.breaker_since(since_s)
            if breaker:
                raise CandidateStoppedError(f"a pipeline gave the candidate up: {breaker}")
            elapsed_s = time.time() - since_s
            if elapsed_s >= next_look_s:
                decision, reason, verdicts = judged()
                self._journal.note(gates=[verdict.as_json() for verdict in verdicts])
                self._report_look(name, verdicts, decision)
                if decision is Decision.ROLL_BACK:
                    raise CandidateStoppedError(reason)
                if decision is Decision.ADVANCE and reached:
                    return
                next_look_s = plan.next_look_s(elapsed_s) if decision is Decision.WAIT else 0.0
            time.sleep(min(plan.interval_s, max(0.05, next_look_s - elapsed_s)))

    def _observe(self) -> None:
        rollout, seen = self._journal.record.id, self._journal.seen
        answers = self._fleet.reach(lambda replica: self._observed.fetch(replica, rollout))
        for replica, lines in answers.found.items():
            self._observed.add(lines, seen[replica].clock_ahead_s)

    def _check_processes(self) -> bool:
        """Return whether all replicas can be reached; their candidates must be alive there, loaded again if need be.

        Raises:
            CandidateStoppedError: a candidate's process is gone, or a replica for too long.
        """
        record, unreachable_s = self._journal.record, self._journal.plan.unreachable_s
        named = served_candidates(record)
        answers = self._fleet.reach(lambda replica: replica.ask("alive", versions=named))
        for replica, answer in answers.found.items():
            gone = [model for model, count in answer["processes"].items() if not count]
            if gone and record.phase is not Phase.PROMOTED:
                self._load_again(replica, gone)
        if not answers.lost:
            self._lost_since_s = None
            return True
        lost = ", ".join(map(str, answers.lost))
        self._lost_since_s = self._lost_since_s or time.monotonic()
        self._report("unreachable", {"replica": lost})
        if time.monotonic() - self._lost_since_s > unreachable_s:
            raise CandidateStoppedError(f"{lost} could not be reached for {unreachable_s:g} s")
        return False

    def _load_again(self, replica: Replica, gone: list[str]) -> None:
        """Tell a candidate that died from a server that was started again, and has loaded nothing but what it must."""
        record = self._journal.record
        ready = {model: replica.ready_versions(model) for model in gone}
        if any(version not in replica.ready_versions(model) for model, version in record.stable.items()):
            return  # it is being started
        numbers = {model: record.candidate[model.removesuffix(CANDIDATE_SUFFIX)] for model in gone}
        died = [model for model in gone if numbers[model] in ready[model]]
        if died:
            raise CandidateStoppedError(f"the process of {died[0]} {numbers[died[0]]} on {replica} died")
        self._report("loading_again", {"replica": replica.address, "models": ", ".join(gone)})
        with self._journal.kept():
            self._loading.serve_both(replica)

    def _report_look(self, name: str, verdicts: Sequence[Verdict], decision: Decision) -> None:
        record = self._journal.record
        window = self._observed.window(record.since_s)
        facts: dict[str, Any] = {
            "step": name,
            "elapsed_s": round(time.time() - record.since_s, 1),
            "requests": [window.stable.requests, window.candidate.requests],
            "errors": [window.stable.errors, window.candidate.errors],
            "second_looks": self._observed.looks_since(record.started_s),
            "dropped": self._observed.dropped,
            "restarts": len(self._observed.restarts),
            "decision": decision.value,
            "verdicts": [verdict.as_json() for verdict in verdicts],
        }
        self._report("look", facts)
