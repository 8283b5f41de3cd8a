"""Leads a rollout through its phases, on all replicas, so that it can be stopped and taken up again anywhere.

What each phase is, ``record`` says; what happens on a replica, ``agent``; what a decision rests on, ``gates``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from warmswap_ensemble.contract import PIPELINE_STAGES, swapper_variant
from warmswap_ensemble.routes import CANDIDATE_SUFFIX, Routes
from warmswap_ops.errors import (
    CandidateStoppedError,
    ControlError,
    ModelLoadError,
    OpsError,
    RolloutBusyError,
    RolloutError,
)
from warmswap_ops.rollout.checks import Candidate
from warmswap_ops.rollout.fleet import Fleet
from warmswap_ops.rollout.gates import Arm, Decision, Verdict, alpha_of, decide, judge, judge_quality
from warmswap_ops.rollout.observed import Observed
from warmswap_ops.rollout.plan import Plan, Step, plan_from_values
from warmswap_ops.rollout.record import Phase, Record, parse_record, routes_for, without_needless_pins
from warmswap_ops.rollout.replica import UPLOAD_TIMEOUT_S, Replica, Seen
from warmswap_ops.rollout.state_file import StateChangedError
from warmswap_ops.rollout.statistics import fewest_values

DEFAULT_LEASE_S: Final = 15.0
WATCH_FACTOR: Final = 1.5
"""After so many leases without the tool, the pipelines give the candidate nothing more."""
RENEWALS: Final = 5
"""Of one lease."""
POLL_S: Final = 0.2
DRAIN_S: Final = 1.0
"""Requests under way may finish before what they use is unloaded; those that take longer are answered by the others."""
ATTEMPTS: Final = 5

Report = Callable[[str, Mapping[str, Any]], None]
"""Gets the name of an event and what there is to know of it."""


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
        self._owner = owner
        self._report = report
        self._load_timeout_s = load_timeout_s
        self._lease_s = lease_s
        self._watch_s = WATCH_FACTOR * lease_s
        self._seen: dict[Replica, Seen] = {}
        self._record: Record | None = None
        self._plan = Plan()
        self._observed = Observed()
        self._renewed_s = 0.0
        self._lost_since_s: float | None = None
        self._baseline: Arm | None = None

    # What the commands ask for

    def look(self) -> tuple[Record | None, dict[Replica, Seen]]:
        """Return the last rollout of the replicas, and what state each of them is in."""
        self._seen = self._fleet.all(lambda replica: replica.state(time.time))
        records = {replica: parse_record(seen.routes.record) for replica, seen in self._seen.items()}
        known = [record for record in records.values() if record is not None]
        running = {record.id: record for record in known if not record.is_over}
        if len(running) > 1:
            raise RolloutError(
                f"the replicas are in different rollouts, {', '.join(sorted(running))}: abort one by one"
            )
        of_it = [record for record in known if not running or record.id in running]
        return max(of_it, key=lambda record: (record.started_s, record.sequence), default=None), self._seen

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
            self._refuse_others(last, seen, digests)
            self._take_over(last)
        elif last is not None and last.phase is Phase.DONE and last.is_of(digests):
            self._report("already_served", {"versions": last.candidate, "rollout": last.id})
            return last
        else:
            self._plan = plan
            self._begin(candidates)
        return self._lead({candidate.model: candidate for candidate in candidates}, until)

    def promote(self) -> Record:
        """Let the candidate of the rollout under way answer everything, without waiting for its steps.

        Raises:
            RolloutError: no candidate is loaded.
        """
        record = self._must_run("promote")
        if record.phase not in (Phase.LOADED, Phase.SHADOW, Phase.CANARY, Phase.PROMOTED):
            raise RolloutError(f"rollout {record.id} is {record.phase}: nothing is loaded that could be promoted")
        self._take_over(record)
        self._promote(f"by {self._who}")
        return self._lead({}, Phase.DONE)

    def roll_back(self, reason: str, *, only_running: bool = False) -> Record:
        """Go back to the versions that served before, at once; also after the last rollout is done.

        Raises:
            RolloutError: there is nothing to go back to.
        """
        record, _ = self.look()
        if record is None or record.phase is Phase.ROLLED_BACK or (only_running and record.is_over):
            raise RolloutError("no rollout is under way; warmswap rollout history shows the last ones")
        was_done = record.phase is Phase.DONE
        self._take_over(record)
        if was_done:
            self._fleet.all(self._load_both_again)
        self._stop(reason)
        return self._current

    def history(self, last: int) -> list[dict[str, Any]]:
        """Return the last entries of the history, of all replicas together, the oldest first."""
        answers = self._fleet.all(lambda replica: replica.ask("history", last=last))
        entries = {entry["id"]: entry for answer in answers.values() for entry in answer["entries"]}
        return sorted(entries.values(), key=lambda entry: str(entry["time"]))[-last:]

    # The phases

    def _begin(self, candidates: Sequence[Candidate]) -> None:
        models = [candidate.model for candidate in candidates]
        hellos = self._fleet.all(lambda replica: replica.ask("hello", models=models))
        for replica, hello in hellos.items():
            self._refuse_unfit(replica, hello, models)
        versions: dict[str, tuple[int, int]] = {}
        for model in models:
            stable = {self._stable_version(replica, hello, model) for replica, hello in hellos.items()}
            if len(stable) > 1:
                raise RolloutError(f"the replicas serve different versions of {model}: {sorted(stable)}")
            used = [seen.routes.used.get(model, 0) for seen in self._seen.values()]
            there = [number for hello in hellos.values() for number in hello["versions"][model]]
            versions[model] = (stable.pop(), max(*used, *there) + 1)
        now_s = time.time()
        self._record = Record(
            id=time.strftime("r%Y%m%d-%H%M%S-", time.gmtime(now_s)) + self._owner[-4:],
            phase=Phase.BEGUN,
            versions=versions,
            candidates={candidate.model: candidate.facts for candidate in candidates},
            plan=self._plan.as_json(),
            who=self._who,
            owner=self._owner,
            since_s=now_s,
            started_s=now_s,
        )
        self._write()
        self._report("begun", {"rollout": self._record.id, "versions": self._versions_json()})
        self._remember("begun", versions=self._versions_json(), candidates=self._record.candidates)

    def _lead(self, candidates: Mapping[str, Candidate], until: Phase) -> Record:
        try:
            while not self._current.is_over and self._current.phase is not until:
                self._advance(candidates)
        except CandidateStoppedError as error:
            self._stop(str(error))
        if not self._current.is_over:  # left so on purpose: whoever goes on need not wait
            self._lease_s = 0.0
            self._write()
        if self._current.phase is Phase.ROLLED_BACK:
            raise CandidateStoppedError(f"rollout {self._current.id} was stopped: {self._current.reason}")
        return self._current

    def _advance(self, candidates: Mapping[str, Candidate]) -> None:
        match self._current.phase:
            case Phase.BEGUN:
                self._stage(candidates)
            case Phase.STAGED:
                self._prove()
            case Phase.PROVEN:
                self._load()
            case Phase.LOADED:
                self._enter(Phase.SHADOW if self._plan.shadow.share > 0 else Phase.CANARY)
            case Phase.SHADOW:
                self._shadow()
            case Phase.CANARY:
                self._step(self._plan.steps[self._current.step])
            case Phase.PROMOTED:
                self._soak()
            case Phase.ROLLING_BACK:
                self._stop(self._current.reason)

    def _stage(self, candidates: Mapping[str, Candidate]) -> None:
        record = self._current
        if not candidates:
            raise RolloutError(f"rollout {record.id} has not brought its candidates yet: run it again, or abort it")
        started_s = time.monotonic()

        def bring(replica: Replica) -> None:
            for model, candidate in candidates.items():
                for name in candidate.files:
                    with (candidate.folder / name).open("rb") as file:

                        def part(offset: int, size: int) -> bytes:
                            file.seek(offset)
                            return file.read(size)

                        size = (candidate.folder / name).stat().st_size
                        replica.upload(record.id, model, name, part, size)
                        self._renew()
                number = record.candidate[model]
                what = {"rollout": record.id, "model": model, "version": number, "files": dict(candidate.files)}
                replica.ask("settle", None, UPLOAD_TIMEOUT_S, **what)

        try:
            self._each_in_turn(bring)
        except RolloutError as error:
            if isinstance(error, RolloutBusyError):
                raise
            raise CandidateStoppedError(f"it cannot be staged: {error}") from error
        self._enter(Phase.STAGED, seconds=round(time.monotonic() - started_s, 2))

    def _prove(self) -> None:
        """Try the candidates on each replica in turn: on one machine the trials would disturb each other."""
        record, started_s = self._current, time.monotonic()
        limits = {
            "max_p50_ratio": self._plan.trial.max_p50_ratio,
            "min_slowdown_ms": self._plan.gates.min_slowdown_ms,
        }
        proofs: dict[str, Any] = {}
        for replica in self._fleet.replicas:
            replica.ask("prove", rollout=record.id, versions=self._versions_json(), limits=limits)
            found = {"done": False}
            deadline_s = time.monotonic() + self._plan.trial.timeout_s
            while not found["done"]:
                if time.monotonic() > deadline_s:
                    raise CandidateStoppedError(
                        f"its trial on {replica} has not ended in {self._plan.trial.timeout_s:g} s"
                    )
                time.sleep(POLL_S)
                self._renew()
                found = replica.ask("proved", rollout=record.id)
            proofs[replica.address] = found
            self._report("trial", {"replica": replica.address, **found})
            if not found["ok"]:
                raise CandidateStoppedError(f"its trial on {replica}: {found['reason']}")
        self._record = replace(self._current, proofs=proofs)
        self._enter(Phase.PROVEN, seconds=round(time.monotonic() - started_s, 2))

    def _load(self) -> None:
        started_s = time.monotonic()
        self._each_in_turn(self._serve_both)
        self._enter(Phase.LOADED, seconds=round(time.monotonic() - started_s, 2))

    def _shadow(self) -> None:
        shadow = self._plan.shadow
        since_s = self._current.since_s
        alpha = alpha_of(self._plan, self._plan.looks(shadow.max_duration_s))
        self._in_background(on=True)

        def judged() -> tuple[Decision, str, list[Verdict]]:
            looks = self._observed.looks_since(since_s)
            errors = self._observed.look_errors(since_s)
            if errors.total() >= 3 and errors.total() * 5 > looks:
                text, count = errors.most_common(1)[0]
                return Decision.ROLL_BACK, f"{errors.total()} of {looks} second looks failed, {count} with: {text}", []
            window = self._observed.window(since_s, measures_since_s=since_s)
            verdicts = judge_quality(window.measures, self._plan, alpha)
            elapsed_s = time.time() - since_s
            decision, reason = decide(
                verdicts,
                enough=looks >= max(shadow.min_samples, fewest_values(alpha)),
                soaked=elapsed_s >= shadow.duration_s,
                timed_out=elapsed_s >= shadow.max_duration_s,
            )
            return decision, reason, verdicts

        try:
            self._watch("shadow", judged)
        finally:
            self._in_background(on=False)
        self._enter(Phase.CANARY)

    def _step(self, step: Step) -> None:
        since_s, number = self._current.since_s, self._current.step
        is_late = number >= len(self._plan.steps) - 2
        looks = self._plan.looks(step.max_soak_s)

        def judged() -> tuple[Decision, str, list[Verdict]]:
            window, self._baseline = self._observed.step_window(
                self._current.started_s, since_s, step.weight, self._baseline
            )
            verdicts = judge(window, self._plan, looks=looks, baseline=self._baseline)
            elapsed_s = time.time() - since_s
            decision, reason = decide(
                verdicts,
                enough=window.candidate.requests >= step.min_samples,
                soaked=elapsed_s >= step.soak_s,
                timed_out=elapsed_s >= step.max_soak_s,
                needs_evidence=self._plan.gates.strict and is_late,
            )
            return decision, reason, verdicts

        self._watch(f"{step.weight_percent:g} %", judged)
        if number + 1 < len(self._plan.steps):
            self._enter(Phase.CANARY, step=number + 1)
        else:
            self._promote("all gates of the last step are passed")

    def _promote(self, why: str) -> None:
        if any(model in PIPELINE_STAGES for model in self._current.versions):
            # A version of a pipeline comes with its own stages, so it may take over before the others are pinned.
            self._fleet.all(self._serve_candidate_pipelines)
        self._enter(Phase.PROMOTED, why=why)

    def _soak(self) -> None:
        since_s = self._current.since_s
        self._fleet.all(self._serve_candidate_pipelines)

        def judged() -> tuple[Decision, str, list[Verdict]]:
            is_over = time.time() - since_s >= self._plan.soak_s
            return (Decision.ADVANCE if is_over else Decision.WAIT), "", []

        self._watch("soak", judged)
        self._finish(Phase.DONE, self._current.candidate)

    def _stop(self, reason: str) -> None:
        """Roll back: first nobody is sent to the candidate any more, then it is unloaded and removed."""
        if self._current.phase is not Phase.ROLLING_BACK:
            started_s = time.monotonic()
            self._record = replace(self._current, reason=reason)
            self._enter(Phase.ROLLING_BACK, reason=reason)
            self._fleet.reach(self._serve_stable_pipelines)
            self._report("flipped_back", {"ms": round((time.monotonic() - started_s) * 1e3, 1), "reason": reason})
        self._finish(Phase.ROLLED_BACK, self._current.stable)

    def _finish(self, phase: Phase, serving: Mapping[str, int]) -> None:
        """Leave nothing loaded but what serves; then nothing on disk of what was rolled back; then no needless pins."""
        time.sleep(DRAIN_S)

        def clean(replica: Replica) -> dict[str, int]:
            for model, version in serving.items():
                if version in replica.ready_versions(model):
                    replica.serve_versions(model, [version], self._load_timeout_s)
                replica.unload_model(f"{model}{CANDIDATE_SUFFIX}")
            hello = replica.ask("hello", models=list(serving))
            if phase is Phase.ROLLED_BACK:
                for model, version in self._current.candidate.items():
                    replica.ask("discard", rollout=self._current.id, model=model, version=version)
                hello = replica.ask("hello", models=list(serving))
            return {model: max(numbers, default=0) for model, numbers in hello["versions"].items()}

        answers = self._fleet.reach(clean)
        for replica, error in answers.lost.items():
            self._report("unreachable", {"replica": replica.address, "error": str(error)})
        if answers.lost:
            names = ", ".join(map(str, answers.lost))
            self._report("unfinished", {"replicas": names, "phase": self._current.phase.value})
            if phase is Phase.ROLLED_BACK:
                raise CandidateStoppedError(
                    f"rollout {self._current.id} was stopped: {self._current.reason}; {names} cannot be reached and "
                    f"gives the candidate nothing after {self._watch_s:g} s: run warmswap rollout abort when it is back"
                )
            raise ControlError(f"{names} cannot be reached: run the rollout again when it is back")
        highest = answers.found
        self._record = replace(self._current, phase=phase, since_s=time.time(), sequence=self._current.sequence + 1)
        self._write(lambda replica, routes: without_needless_pins(routes, highest[replica]))
        self._remember(phase.value, versions=self._versions_json(), reason=self._current.reason)
        self._fleet.reach(lambda replica: replica.ask("forget", rollout=self._current.id))
        self._report(phase.value, {"rollout": self._current.id, "versions": self._versions_json()})

    # What is done again and again

    def _watch(self, name: str, judged: Callable[[], tuple[Decision, str, list[Verdict]]]) -> None:
        """Look until a step may be left.

        Raises:
            CandidateStoppedError: it must be rolled back; says why.
        """
        since_s = self._current.since_s
        next_look_s = 0.0
        while True:
            self._observe()
            self._renew()
            reached = self._check_processes()
            breaker = self._observed.breaker_since(since_s)
            if breaker:
                raise CandidateStoppedError(f"a pipeline gave the candidate up: {breaker}")
            elapsed_s = time.time() - since_s
            if elapsed_s >= next_look_s:
                decision, reason, verdicts = judged()
                self._record = replace(self._current, gates=[verdict.as_json() for verdict in verdicts])
                self._report_look(name, verdicts, decision)
                if decision is Decision.ROLL_BACK:
                    raise CandidateStoppedError(reason)
                if decision is Decision.ADVANCE and reached:
                    return
                next_look_s = self._plan.next_look_s(elapsed_s) if decision is Decision.WAIT else 0.0
            time.sleep(min(self._plan.interval_s, max(0.05, next_look_s - elapsed_s)))

    def _observe(self) -> None:
        record = self._current
        answers = self._fleet.reach(lambda replica: self._observed.fetch(replica, record.id))
        for replica, lines in answers.found.items():
            self._observed.add(lines, self._seen[replica].clock_ahead_s)

    def _check_processes(self) -> bool:
        """Return whether all replicas can be reached; their candidates must be alive there, loaded again if need be.

        Raises:
            CandidateStoppedError: a candidate's process is gone, or a replica for too long.
        """
        record = self._current
        named = {self._served_name(model): version for model, version in record.candidate.items()}
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
        if time.monotonic() - self._lost_since_s > self._plan.unreachable_s:
            raise CandidateStoppedError(f"{lost} could not be reached for {self._plan.unreachable_s:g} s")
        return False

    def _load_again(self, replica: Replica, gone: list[str]) -> None:
        """Tell a candidate that died from a server that was started again, and has loaded nothing but what it must."""
        ready = {model: replica.ready_versions(model) for model in gone}
        if any(version not in replica.ready_versions(model) for model, version in self._current.stable.items()):
            return  # it is being started
        died = [model for model in gone if self._candidate_number(model) in ready[model]]
        if died:
            raise CandidateStoppedError(f"the process of {died[0]} {self._candidate_number(died[0])} on {replica} died")
        self._report("loading_again", {"replica": replica.address, "models": ", ".join(gone)})
        self._serve_both(replica)

    def _serve_both(self, replica: Replica) -> None:
        """Load the candidates beside the stable versions; what is there already is left alone."""
        record = self._current
        replica.ask("gently", models=list(record.versions))
        try:
            for model, pair in record.versions.items():
                if model in PIPELINE_STAGES:
                    replica.ask("make_candidate", pipeline=model, version=pair[1])
                    if pair[1] not in replica.ready_versions(f"{model}{CANDIDATE_SUFFIX}"):
                        replica.load_model(f"{model}{CANDIDATE_SUFFIX}", self._load_timeout_s)
                else:
                    replica.serve_versions(model, sorted(pair), self._load_timeout_s)
        except ModelLoadError as error:
            raise CandidateStoppedError(f"{replica} refuses it: {error}") from error
        finally:
            replica.ask("gently", models=[])

    def _load_both_again(self, replica: Replica) -> None:
        """Load the old versions, which are gone from memory when a rollout is done, beside the new ones."""
        for model, pair in self._current.versions.items():
            replica.serve_versions(model, sorted(pair), self._load_timeout_s)

    def _serve_candidate_pipelines(self, replica: Replica) -> None:
        pipelines = {model: pair for model, pair in self._current.versions.items() if model in PIPELINE_STAGES}
        if all(replica.ready_versions(model) == set(pair) for model, pair in pipelines.items()):
            return
        replica.ask("gently", models=list(pipelines))
        try:
            for model, pair in pipelines.items():
                replica.serve_versions(model, sorted(pair), self._load_timeout_s)
        except ModelLoadError as error:
            raise CandidateStoppedError(f"{replica} refuses it: {error}") from error
        finally:
            replica.ask("gently", models=[])

    def _serve_stable_pipelines(self, replica: Replica) -> None:
        for model, pair in self._current.versions.items():
            if model in PIPELINE_STAGES and pair[0] in replica.ready_versions(model):
                replica.serve_versions(model, [pair[0]], self._load_timeout_s)

    def _in_background(self, *, on: bool) -> None:
        named = {self._served_name(model): version for model, version in self._current.candidate.items()}
        self._fleet.reach(lambda replica: replica.ask("background", versions=named, on=on))

    def _each_in_turn(self, action: Callable[[Replica], None]) -> None:
        """Do what takes long to one replica after the other, so that never all of them are disturbed."""
        for replica in self._fleet.replicas:
            action(replica)
            self._renew()

    # The record

    @property
    def _current(self) -> Record:
        assert self._record is not None
        return self._record

    def _enter(self, phase: Phase, *, step: int = 0, **facts: Any) -> None:
        record = self._current
        self._record = replace(
            record, phase=phase, step=step, since_s=time.time(), sequence=record.sequence + 1, gates=[]
        )
        self._write()
        if phase is Phase.CANARY:
            facts["weight_percent"] = self._plan.steps[step].weight_percent
        self._remember(phase.value, **facts)
        self._report(phase.value, {"rollout": record.id, **facts})

    def _renew(self) -> None:
        if time.monotonic() - self._renewed_s >= self._lease_s / RENEWALS:
            self._record = replace(self._current, sequence=self._current.sequence + 1)
            self._write(needs_one=False)

    def _write(
        self,
        edit: Callable[[Replica, Routes], Routes] = lambda replica, routes: routes,
        *,
        needs_one: bool = True,
    ) -> None:
        """Bring the record, and the state that it stands for, to every replica that can be reached.

        Raises:
            RolloutBusyError: somebody else leads the rollout now.
            ControlError: no replica can be reached, and one must.
        """
        record = self._current
        share = self._plan.steps[min(record.step, len(self._plan.steps) - 1)].weight
        shares = (share, self._plan.shadow.share, self._plan.patience_ms)

        def write(replica: Replica) -> None:
            for _ in range(ATTEMPTS):
                before = self._seen[replica].routes
                routes = edit(replica, routes_for(record, before, *shares))
                try:
                    replica.ask(
                        "change",
                        routes=routes.as_json(),
                        expected=before.generation,
                        lease_s=self._lease_s,
                        watch_s=self._watch_s,
                    )
                except StateChangedError:
                    self._seen[replica] = replica.state(time.time)
                    self._refuse_new_owner(replica, parse_record(self._seen[replica].routes.record))
                else:
                    self._seen[replica] = replace(self._seen[replica], routes=routes)
                    return
            raise RolloutBusyError(f"{replica}: somebody else changes its state all the time")

        self._renewed_s = time.monotonic()
        answers = self._fleet.reach(write)
        if needs_one and len(answers.lost) == len(self._fleet.replicas):
            error = next(iter(answers.lost.values()))
            raise error if isinstance(error, OpsError) else ControlError(str(error))

    def _refuse_new_owner(self, replica: Replica, there: Record | None) -> None:
        if there is not None and there.owner != self._owner and there.started_s >= self._current.started_s:
            raise RolloutBusyError(
                f"{there.who} has taken rollout {there.id} over on {replica}; it is {there.phase} there"
            )

    def _take_over(self, record: Record) -> None:
        self._plan = plan_from_values(record.plan, f"the plan of rollout {record.id}")
        self._record = replace(record, who=self._who, owner=self._owner, sequence=record.sequence + 1)
        self._write()
        self._report("taken_over", {"rollout": record.id, "phase": record.phase.value, "from": record.who})

    def _refuse_others(self, last: Record, seen: Mapping[Replica, Seen], digests: Mapping[str, str]) -> None:
        left_s = max(state.lease_left_s for state in seen.values())
        where = f"rollout {last.id} of {', '.join(last.versions)} by {last.who} is {last.phase}"
        if not last.is_of(digests):
            raise RolloutBusyError(f"{where}: one rollout at a time; finish it, or warmswap rollout abort")
        if left_s > 0 and last.owner != self._owner:
            raise RolloutBusyError(
                f"{where}, and is led still, or was until lately: wait {left_s:.0f} s to go on with it, should "
                "nobody lead it any more"
            )

    def _must_run(self, what: str) -> Record:
        record, _ = self.look()
        if record is None or record.is_over:
            raise RolloutError(f"no rollout is under way that could {what}")
        return record

    def _refuse_unfit(self, replica: Replica, hello: Mapping[str, Any], models: Sequence[str]) -> None:
        if not hello["writable"]:
            raise RolloutError(
                f"{replica}: its repository {hello['repository']} cannot be written: roll out by replacing replicas"
            )
        if hello["compiled"]:
            raise RolloutError(
                f"{replica} serves a compiled repository, and {hello['compiled'][0]} was compiled for its machine: "
                "roll out by replacing replicas"
            )
        for model in models:
            if not hello["versions"].get(model):
                raise RolloutError(f"{replica} has no version of {model} that could be replaced")

    def _stable_version(self, replica: Replica, hello: Mapping[str, Any], model: str) -> int:
        pinned = self._seen[replica].routes.stable.get(model)
        if pinned is not None:
            return pinned
        ready = replica.ready_versions(model)
        if not ready:
            kind = "loaded on demand, and not loaded now" if swapper_variant(model) else "not loaded"
            raise RolloutError(f"{replica}: {model} is {kind}; it must serve while it is rolled out")
        return max(ready)

    def _served_name(self, model: str) -> str:
        return f"{model}{CANDIDATE_SUFFIX}" if model in PIPELINE_STAGES else model

    def _candidate_number(self, served: str) -> int:
        return self._current.candidate[served.removesuffix(CANDIDATE_SUFFIX)]

    def _versions_json(self) -> dict[str, list[int]]:
        return {model: list(pair) for model, pair in self._current.versions.items()}

    def _remember(self, event: str, **facts: Any) -> None:
        record = self._current
        entry = {
            "id": f"{record.id}/{record.sequence}",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "rollout": record.id,
            "event": event,
            "who": self._who,
            **facts,
            "gates": record.gates,
        }
        self._fleet.reach(lambda replica: replica.ask("remember", entry=entry))

    def _report_look(self, name: str, verdicts: Sequence[Verdict], decision: Decision) -> None:
        window = self._observed.window(self._current.since_s)
        facts: dict[str, Any] = {
            "step": name,
            "elapsed_s": round(time.time() - self._current.since_s, 1),
            "requests": [window.stable.requests, window.candidate.requests],
            "errors": [window.stable.errors, window.candidate.errors],
            "second_looks": self._observed.looks_since(self._current.started_s),
            "dropped": self._observed.dropped,
            "decision": decision.value,
            "verdicts": [verdict.as_json() for verdict in verdicts],
        }
        self._report("look", facts)
