"""Leads a rollout through its phases, on all replicas, so that it can be stopped and taken up again anywhere.

What each phase is, ``record`` says; how that is kept on the replicas, ``journal``; what is loaded in it, ``loading``;
what is done before anything is loaded, ``prepare``; how a candidate is watched beside live traffic, ``watch``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from warmswap_ensemble.contract import PIPELINE_STAGES
from warmswap_ops.errors import CandidateStoppedError, ControlError, RolloutBusyError, RolloutError
from warmswap_ops.rollout.checks import Candidate
from warmswap_ops.rollout.fleet import Fleet
from warmswap_ops.rollout.journal import DEFAULT_LEASE_S, Journal, Report
from warmswap_ops.rollout.loading import Loading
from warmswap_ops.rollout.plan import Plan
from warmswap_ops.rollout.prepare import send_candidates, try_candidates
from warmswap_ops.rollout.record import Phase, Record
from warmswap_ops.rollout.replica import Replica, Seen
from warmswap_ops.rollout.versions import choose_versions
from warmswap_ops.rollout.watch import Watch

DRAIN_S: Final = 1.0
"""Requests under way may finish before what they use is unloaded; those that take longer are answered by the others."""


class Leader:
    """Leads one rollout at a time."""

    def __init__(
        self,
        fleet: Fleet,
        who: str,
        owner: str,
        report: Report,
        *,
        load_timeout_s: float = 300.0,
        lease_s: float = DEFAULT_LEASE_S,
    ) -> None:
        """Prepare.

        Args:
            fleet: The replicas.
            who: Leads it, for people.
            owner: The same for programs, another one for each run of the tool.
            report: Gets events.
            load_timeout_s: How long one load may take.
            lease_s: Nobody else may take the rollout over before that time has passed without a word of ours.
        """
        self._fleet = fleet
        self._who = who
        self._report = report
        self._journal = Journal(fleet, who, owner, report, lease_s)
        self._loading = Loading(self._journal, load_timeout_s)
        self._watch = Watch(fleet, self._journal, self._loading, report)

    # What the commands ask for

    def look(self) -> tuple[Record | None, dict[Replica, Seen]]:
        """Return the last rollout of the replicas, and what state each of them is in.

        Raises:
            RolloutError: they are in different rollouts.
            OpsError: a replica cannot be reached, or its state cannot be understood.
        """
        return self._journal.look()

    def history(self, last: int) -> list[dict[str, Any]]:
        """Return the last entries of the history, of all replicas together, the oldest first."""
        return self._journal.history(last)

    def run(self, candidates: Sequence[Candidate], plan: Plan, *, until: Phase = Phase.DONE) -> Record:
        """Roll candidates out, or go on with that.

        Args:
            candidates: Together they are one set.
            plan: How.
            until: Stop there, and leave it so.

        Raises:
            CandidateStoppedError: they were refused, or rolled back.
            RolloutBusyError: another rollout, or somebody else, is at work.
            OpsError: it cannot go on; another run may.
        """
        last, seen = self.look()
        digests = {candidate.model: candidate.digest for candidate in candidates}
        if last is not None and not last.is_over:
            self._journal.refuse_others(last, digests)
            self._journal.take_over(last)
        elif last is not None and last.phase is Phase.DONE and last.is_of(digests):
            self._report("already_served", {"versions": last.candidate, "rollout": last.id})
            return last
        else:
            versions = choose_versions(self._fleet, seen, [candidate.model for candidate in candidates])
            self._journal.begin(versions, {candidate.model: candidate.facts for candidate in candidates}, plan)
        return self._lead({candidate.model: candidate for candidate in candidates}, until)

    def promote(self) -> Record:
        """Let the candidate of the rollout under way answer everything, without waiting for its steps.

        Raises:
            RolloutError: no candidate is loaded.
            CandidateStoppedError: a replica refuses it, so it was rolled back.
        """
        record, _ = self.look()
        if record is None or record.is_over:
            raise RolloutError("no rollout is under way that could promote")
        if record.phase not in (Phase.LOADED, Phase.SHADOW, Phase.CANARY, Phase.PROMOTED):
            raise RolloutError(f"rollout {record.id} is {record.phase}: nothing is loaded that could be promoted")
        self._journal.take_over(record)
        return self._lead({}, Phase.DONE, begin=lambda: self._promote(f"by {self._who}"))

    def roll_back(self, reason: str, *, only_running: bool = False) -> Record:
        """Go back to the versions that served before, at once; also after the last rollout is done.

        Raises:
            RolloutError: there is nothing to go back to.
        """
        record, _ = self.look()
        if record is None or record.phase is Phase.ROLLED_BACK or (only_running and record.is_over):
            raise RolloutError("no rollout is under way; warmswap rollout history shows the last ones")
        was_done = record.phase is Phase.DONE
        self._journal.take_over(record)
        if was_done:
            with self._journal.kept():
                self._fleet.all(self._loading.load_both_again)
        self._stop(reason)
        return self._journal.record

    # The phases

    def _lead(
        self, candidates: Mapping[str, Candidate], until: Phase, *, begin: Callable[[], None] = lambda: None
    ) -> Record:
        journal = self._journal
        try:
            begin()
            while not journal.record.is_over and journal.record.phase is not until:
                self._advance(candidates)
        except CandidateStoppedError as error:
            self._stop(str(error))
        if not journal.record.is_over:  # left so on purpose
            journal.give_back()
        record = journal.record
        if record.phase is Phase.ROLLED_BACK:
            raise CandidateStoppedError(f"rollout {record.id} was stopped: {record.reason}")
        return record

    def _advance(self, candidates: Mapping[str, Candidate]) -> None:
        match self._journal.record.phase:
            case Phase.BEGUN:
                self._stage(candidates)
            case Phase.STAGED:
                self._prove()
            case Phase.PROVEN:
                self._load()
            case Phase.LOADED:
                self._journal.enter(Phase.SHADOW if self._journal.plan.shadow.share > 0 else Phase.CANARY)
            case Phase.SHADOW:
                self._shadow()
            case Phase.CANARY:
                self._step()
            case Phase.PROMOTED:
                self._soak()
            case Phase.ROLLING_BACK:
                self._stop(self._journal.record.reason)

    def _stage(self, candidates: Mapping[str, Candidate]) -> None:
        started_s = time.monotonic()
        try:
            self._each_in_turn(lambda replica: send_candidates(replica, self._journal.record, candidates))
        except RolloutError as error:
            if isinstance(error, RolloutBusyError):
                raise
            raise CandidateStoppedError(f"it cannot be staged: {error}") from error
        self._journal.enter(Phase.STAGED, seconds=round(time.monotonic() - started_s, 2))

    def _prove(self) -> None:
        """Try the candidates on each replica in turn: on one machine the trials would disturb each other."""
        started_s = time.monotonic()
        proofs: dict[str, Any] = {}
        for replica in self._fleet.replicas:
            found = try_candidates(replica, self._journal)
            proofs[replica.address] = found
            self._report("trial", {"replica": replica.address, **found})
            if not found["ok"]:
                raise CandidateStoppedError(f"its trial on {replica}: {found['reason']}")
        self._journal.note(proofs=proofs)
        self._journal.enter(Phase.PROVEN, seconds=round(time.monotonic() - started_s, 2))

    def _load(self) -> None:
        started_s = time.monotonic()
        self._each_in_turn(self._loading.serve_both)
        self._journal.enter(Phase.LOADED, seconds=round(time.monotonic() - started_s, 2))

    def _shadow(self) -> None:
        self._set_background(on=True)
        try:
            self._watch.shadow()
        finally:
            self._set_background(on=False)
        self._journal.enter(Phase.CANARY)

    def _step(self) -> None:
        following = self._journal.record.step + 1
        self._watch.step()
        if following < len(self._journal.plan.steps):
            self._journal.enter(Phase.CANARY, step=following)
        else:
            self._promote("all gates of the last step are passed")

    def _promote(self, why: str) -> None:
        if any(model in PIPELINE_STAGES for model in self._journal.record.versions):
            # A version of a pipeline comes with its own stages, so it may take over before the others are pinned.
            self._serve_candidate_pipelines()
        self._journal.enter(Phase.PROMOTED, why=why)

    def _soak(self) -> None:
        self._serve_candidate_pipelines()
        self._watch.soak()
        self._finish(Phase.DONE, self._journal.record.candidate)

    def _stop(self, reason: str) -> None:
        """Roll back: first nobody is sent to the candidate any more, then it is unloaded and removed."""
        if self._journal.record.phase is not Phase.ROLLING_BACK:
            started_s = time.monotonic()
            self._journal.note(reason=reason)
            self._journal.enter(Phase.ROLLING_BACK, reason=reason)
            self._fleet.reach(self._loading.serve_stable_pipelines)
            self._report("flipped_back", {"ms": round((time.monotonic() - started_s) * 1e3, 1), "reason": reason})
        self._finish(Phase.ROLLED_BACK, self._journal.record.stable)

    def _finish(self, phase: Phase, serving: Mapping[str, int]) -> None:
        """Leave nothing loaded but what serves; then nothing on disk of what was rolled back; then no needless pins."""
        time.sleep(DRAIN_S)
        is_back = phase is Phase.ROLLED_BACK
        with self._journal.kept():
            answers = self._fleet.reach(lambda replica: self._loading.clean_up(replica, serving, discard=is_back))
        for replica, error in answers.lost.items():
            self._report("unreachable", {"replica": replica.address, "error": str(error)})
        if answers.lost:
            record, names = self._journal.record, ", ".join(map(str, answers.lost))
            self._report("unfinished", {"replicas": names, "phase": record.phase.value})
            if is_back:
                raise CandidateStoppedError(
                    f"rollout {record.id} was stopped: {record.reason}; {names} cannot be reached and gives the "
                    f"candidate nothing after {self._journal.watch_s:g} s: run warmswap rollout abort when it is back"
                )
            raise ControlError(f"{names} cannot be reached: run the rollout again when it is back")
        self._journal.end(phase, answers.found)

    def _serve_candidate_pipelines(self) -> None:
        with self._journal.kept():
            self._fleet.all(self._loading.serve_candidate_pipelines)

    def _set_background(self, *, on: bool) -> None:
        self._fleet.reach(lambda replica: self._loading.set_background(replica, on=on))

    def _each_in_turn(self, action: Callable[[Replica], None]) -> None:
        """Do what takes long to one replica after the other, so that never all of them are disturbed."""
        for replica in self._fleet.replicas:
            with self._journal.kept():
                action(replica)
