"""Keeps the record of a rollout on all replicas: whoever finds it there can go on, and only one tool leads at a time.

A replica takes a new state only from whoever knew the last one. The lease that comes with each tells others to wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from warmswap_ensemble.routes import Routes, RoutesError
from warmswap_ops.errors import ControlError, OpsError, RolloutBusyError, RolloutError
from warmswap_ops.rollout.fleet import Fleet
from warmswap_ops.rollout.plan import Plan, plan_from_values
from warmswap_ops.rollout.record import Phase, Record, parse_record, routes_for, without_needless_pins
from warmswap_ops.rollout.replica import Replica, Seen
from warmswap_ops.rollout.state_file import StateChangedError

DEFAULT_LEASE_S: Final = 15.0
WATCH_FACTOR: Final = 1.5
"""After so many leases without the tool, the pipelines give the candidate nothing more."""
RENEWALS: Final = 5
"""Of one lease."""
ATTEMPTS: Final = 5

Report = Callable[[str, Mapping[str, Any]], None]
"""Gets the name of an event and what there is to know of it."""


class Journal:
    """The record of one rollout, and its plan.

    Attributes:
        plan: Of the rollout under way.
        seen: What state each replica was in when it was last looked at, or written to.
        watch_s: After that time without the tool, the pipelines give the candidate nothing more.
    """

    def __init__(self, fleet: Fleet, who: str, owner: str, report: Report, lease_s: float) -> None:
        """Prepare.

        Args:
            fleet: The replicas.
            who: Leads the rollout, for people.
            owner: The same for programs, another one for each run of the tool.
            report: Gets events.
            lease_s: Nobody else may take the rollout over before that time has passed without a word of ours.
        """
        self.plan = Plan()
        self.seen: dict[Replica, Seen] = {}
        self.watch_s = WATCH_FACTOR * lease_s
        self._fleet = fleet
        self._who = who
        self._owner = owner
        self._report = report
        self._lease_s = lease_s
        self._record: Record | None = None
        self._renewed_s = 0.0
        self._lost: RolloutBusyError | None = None

    # What the replicas know

    def look(self) -> tuple[Record | None, dict[Replica, Seen]]:
        """Return the last rollout of the replicas, and what state each of them is in.

        Raises:
            RolloutError: they are in different rollouts.
            OpsError: a replica cannot be reached, or its state cannot be understood.
        """
        self.seen = self._fleet.all(lambda replica: replica.state(time.time))
        records = {replica: parse_record(seen.routes.record) for replica, seen in self.seen.items()}
        known = [record for record in records.values() if record is not None]
        running = {record.id: record for record in known if not record.is_over}
        if len(running) > 1:
            raise RolloutError(
                f"the replicas are in different rollouts, {', '.join(sorted(running))}: abort one by one"
            )
        of_it = [record for record in known if not running or record.id in running]
        return max(of_it, key=lambda record: (record.started_s, record.sequence), default=None), self.seen

    def history(self, last: int) -> list[dict[str, Any]]:
        """Return the last entries of the history, of all replicas together, the oldest first."""
        answers = self._fleet.all(lambda replica: replica.ask("history", last=last))
        entries = {entry["id"]: entry for answer in answers.values() for entry in answer["entries"]}
        return sorted(entries.values(), key=lambda entry: str(entry["time"]))[-last:]

    def refuse_others(self, last: Record, digests: Mapping[str, str]) -> None:
        """Refuse to go on with a rollout, as ``look`` has found it, that is not ours.

        Args:
            last: The rollout.
            digests: Of the candidates that we bring, by model.

        Raises:
            RolloutBusyError: it brings other candidates, or somebody leads it.
        """
        left_s = max(state.lease_left_s for state in self.seen.values())
        where = f"rollout {last.id} of {', '.join(last.versions)} by {last.who} is {last.phase}"
        if not last.is_of(digests):
            raise RolloutBusyError(f"{where}: one rollout at a time; finish it, or warmswap rollout abort")
        if left_s > 0 and last.owner != self._owner:
            raise RolloutBusyError(
                f"{where}, and is led still, or was until lately: wait {left_s:.0f} s to go on with it, should "
                "nobody lead it any more"
            )

    # Our record; each of these may find that somebody else leads the rollout now: RolloutBusyError

    @property
    def record(self) -> Record:
        """The rollout that we lead, as it is now."""
        assert self._record is not None
        return self._record

    def begin(
        self, versions: Mapping[str, tuple[int, int]], candidates: Mapping[str, Mapping[str, str]], plan: Plan
    ) -> None:
        """Begin a rollout.

        Args:
            versions: Model to (stable, candidate).
            candidates: Model to what the history tells of what was brought.
            plan: How.

        Raises:
            RolloutBusyError: another one was begun, or has ended with other versions, since ``look``.
        """
        self.plan, self._lost = plan, None
        now_s = time.time()
        self._record = Record(
            id=time.strftime("r%Y%m%d-%H%M%S-", time.gmtime(now_s)) + self._owner[-4:],
            phase=Phase.BEGUN,
            versions=versions,
            candidates=candidates,
            plan=plan.as_json(),
            who=self._who,
            owner=self._owner,
            since_s=now_s,
            started_s=now_s,
        )
        self._write()
        self._report("begun", {"rollout": self.record.id, "versions": self.record.versions_json})
        self._remember("begun", versions=self.record.versions_json, candidates=candidates)

    def take_over(self, record: Record) -> None:
        """Lead a rollout from now on."""
        self._lost = None
        self.plan = plan_from_values(record.plan, f"the plan of rollout {record.id}")
        self._record = replace(record, who=self._who, owner=self._owner, sequence=record.sequence + 1)
        self._write()
        self._report("taken_over", {"rollout": record.id, "phase": record.phase.value, "from": record.who})

    def note(self, **facts: Any) -> None:
        """Change fields of the record; the replicas get them with the next phase, or the next renewal."""
        self._record = replace(self.record, **facts)

    def enter(self, phase: Phase, *, step: int = 0, **facts: Any) -> None:
        """Begin a phase, or a step of the plan; facts are for the history."""
        record = self.record
        self.note(phase=phase, step=step, since_s=time.time(), sequence=record.sequence + 1, gates=[])
        self._write()
        if phase is Phase.CANARY:
            facts["weight_percent"] = self.plan.steps[step].weight_percent
        self._remember(phase.value, **facts)
        self._report(phase.value, {"rollout": record.id, **facts})

    def end(self, phase: Phase, highest: Mapping[Replica, Mapping[str, int]]) -> None:
        """Write down that nothing is left to do; ``highest`` versions answer without a pin."""
        self.note(phase=phase, since_s=time.time(), sequence=self.record.sequence + 1)
        self._write(lambda replica, routes: without_needless_pins(routes, highest[replica]))
        record = self.record
        self._remember(phase.value, versions=record.versions_json, reason=record.reason)
        self._fleet.reach(lambda replica: replica.ask("forget", rollout=record.id))
        self._report(phase.value, {"rollout": record.id, "versions": record.versions_json})

    def renew(self) -> None:
        """Let the replicas know that we are at work, should it be time to."""
        if time.monotonic() - self._renewed_s >= self._lease_s / RENEWALS:
            self.note(sequence=self.record.sequence + 1)
            self._write(needs_one=False)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease while something takes long, a load for example; nothing else may be written meanwhile.

        A renewal that fails is tried again: should it matter, the next phase will say so.

        Raises:
            RolloutBusyError: somebody else leads the rollout now, whatever came of what took long.
        """
        done = threading.Event()

        def keep() -> None:
            while self._lost is None and not done.wait(self._lease_s / RENEWALS):
                with suppress(OpsError, RoutesError):
                    self.renew()

        keeper = threading.Thread(target=keep, name="lease", daemon=True)
        keeper.start()
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        finally:
            done.set()
            keeper.join()
        if self._lost is not None:
            raise self._lost from failure
        if failure is not None:
            raise failure

    def give_back(self) -> None:
        """End the lease: whoever goes on need not wait."""
        self._lease_s = 0.0
        self.note(sequence=self.record.sequence + 1)  # what is written already would not be written again
        self._write()

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
        if self._lost is not None:
            raise self._lost
        record = self.record
        share = self.plan.steps[min(record.step, len(self.plan.steps) - 1)].weight
        shares = (share, self.plan.shadow.share, self.plan.patience_ms)

        def write(replica: Replica) -> None:
            for _ in range(ATTEMPTS):
                before = self.seen[replica].routes
                routes = edit(replica, routes_for(record, before, *shares))
                try:
                    replica.ask(
                        "change",
                        routes=routes.as_json(),
                        expected=before.generation,
                        lease_s=self._lease_s,
                        watch_s=self.watch_s,
                    )
                except StateChangedError:
                    there = replica.state(time.time)
                    self._refuse_new_owner(replica, parse_record(there.routes.record))
                    self.seen[replica] = there
                else:
                    self.seen[replica] = replace(self.seen[replica], routes=routes)
                    return
            raise RolloutBusyError(f"{replica}: somebody else changes its state all the time")

        self._renewed_s = time.monotonic()
        answers = self._fleet.reach(write)
        if needs_one and len(answers.lost) == len(self._fleet.replicas):
            error = next(iter(answers.lost.values()))
            raise error if isinstance(error, OpsError) else ControlError(str(error))

    def _refuse_new_owner(self, replica: Replica, there: Record | None) -> None:
        """Give way to whoever has changed the state meanwhile; what was written of us is theirs from then on."""
        if there is None or there.owner == self._owner:
            return
        seen = parse_record(self.seen[replica].routes.record)
        is_newer = there.started_s >= self.record.started_s
        is_new_here = seen is None or (seen.id, seen.owner) != (there.id, there.owner)
        is_in_the_way = is_new_here and there.id != self.record.id and there.phase is not Phase.ROLLED_BACK
        if is_newer or is_in_the_way:
            done = f"taken rollout {there.id} over" if there.id == self.record.id else f"begun rollout {there.id}"
            self._lost = RolloutBusyError(f"{there.who} has {done} on {replica}; it is {there.phase} there")
            raise self._lost

    def _remember(self, event: str, **facts: Any) -> None:
        record = self.record
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
