"""One pod, and what the kubelet does to it: start, probe, restart, drain, kill."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from warmswap_loadtests.contenders.contender import HOST
from warmswap_loadtests.kubelet.back_off import BackOff
from warmswap_loadtests.kubelet.events import EventLog, Kind
from warmswap_loadtests.kubelet.pod_spec import PodSpec
from warmswap_loadtests.kubelet.probe import ProbeWorker

LEAST_GRACE_S: Final = 2.0
"""Between SIGTERM and SIGKILL, even when preStop has used up the grace period."""
RELIST_S: Final = 1.0
"""The kubelet's period of asking the container runtime what runs (PLEG)."""


class Running(Protocol):
    """A container that runs, or did."""

    @property
    def exit_code(self) -> int | None:
        """As in ``Container``."""

    def terminate(self) -> None:
        """As in ``Container``."""

    def kill(self) -> None:
        """As in ``Container``."""

    def close(self) -> None:
        """As in ``Container``."""

    def log_tail(self) -> str:
        """As in ``Container``."""


class State(StrEnum):
    """Of the container of a pod."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"  # and is not started again


@dataclass(slots=True)
class Pod:
    """One pod. ``tick`` does what has become due; time is that of the caller.

    Attributes:
        name: Its name.
        revision: Of the Deployment that it was made from.
        node: Where it runs.
        spec: What it is told.
        ports: Name of a port to its number on this machine.
        start: Starts its container for the given time (0, 1, ...).
        log: Gets its events.
        pool: Runs its probes.
        created_s: When it was ordered.
        start_s: When its container starts: image and network are there.
        container: The last one.
        ready: Whether its condition Ready holds.
        ready_s: Since when.
        deleted_s: When its deletion was ordered.
        restarts: How often its container was started again.
        exit_codes: Of all its containers.
        relist_s: How often it is looked whether its container has ended.
        gone: Nothing of it is left.
    """

    name: str
    revision: int
    node: str
    spec: PodSpec
    ports: dict[str, int]
    start: Callable[[int], Running]
    log: EventLog
    pool: Executor
    created_s: float
    start_s: float
    back_off: BackOff = field(default_factory=BackOff)
    container: Running | None = None
    state: State = State.WAITING
    started: bool = False
    ready: bool = False
    ready_s: float | None = None
    deleted_s: float | None = None
    restarts: int = 0
    exit_codes: list[int] = field(default_factory=list)
    gone: bool = False
    startup: ProbeWorker | None = field(init=False)
    readiness: ProbeWorker | None = field(init=False)
    liveness: ProbeWorker | None = field(init=False)
    relist_s: float = RELIST_S
    _term_s: float | None = None
    _kill_s: float | None = None
    _relist_due_s: float = 0.0

    def __post_init__(self) -> None:
        """Set up its probes."""
        spec = self.spec
        self.startup = ProbeWorker(spec.startup, initial=False) if spec.startup else None
        self.readiness = ProbeWorker(spec.readiness, initial=False) if spec.readiness else None
        self.liveness = ProbeWorker(spec.liveness, initial=True) if spec.liveness else None
        self.log.add(self.created_s, Kind.CREATED, self.name, f"revision {self.revision} on {self.node}")

    @property
    def is_serving(self) -> bool:
        """Whether it belongs into the endpoints: ready, and nobody has ordered its deletion."""
        return self.ready and self.deleted_s is None

    def available(self, now_s: float, min_ready_s: float) -> bool:
        """Whether it has been ready for long enough."""
        return self.is_serving and self.ready_s is not None and now_s - self.ready_s >= min_ready_s

    def delete(self, now_s: float, reason: str, grace_s: float | None = None) -> None:
        """Order its deletion: out of the endpoints and preStop, at the same time. Again = nothing more."""
        if self.deleted_s is not None:
            return
        self.deleted_s = now_s
        self.log.add(now_s, Kind.DELETED, self.name, reason)
        if self.state is State.RUNNING:
            self._begin_kill(now_s, self.spec.grace_s if grace_s is None else grace_s)
        else:
            self._go(now_s)

    def tick(self, now_s: float) -> None:
        """Do what has become due."""
        if self.gone:
            return
        if self.state is State.WAITING and now_s >= self.start_s:
            self._start(now_s)
        if self.state is not State.RUNNING or self.container is None:
            return
        if now_s >= self._relist_due_s:
            self._relist_due_s = now_s + self.relist_s
            if (code := self.container.exit_code) is not None:
                self._ended(now_s, code)
                return
        self._signal(now_s)
        self._probe(now_s)

    def close(self) -> None:
        """Kill what is left."""
        if self.container is not None:
            self.container.close()

    def _start(self, now_s: float) -> None:
        self.container = self.start(self.restarts)
        self.state = State.RUNNING
        self.started = self.startup is None
        for worker in (self.startup, self.readiness, self.liveness):
            if worker is not None:
                worker.reset(now_s)
        self.log.add(now_s, Kind.STARTED, self.name, f"restart {self.restarts}" if self.restarts else "")

    def _begin_kill(self, now_s: float, grace_s: float) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace period, which began with preStop, is over."""
        if self._kill_s is not None:  # it is being killed already
            return
        pre_stop_s = min(self.spec.pre_stop_s, grace_s)
        if pre_stop_s:
            self.log.add(now_s, Kind.PRE_STOP, self.name, f"sleep {pre_stop_s:g}")
        self._term_s = now_s + pre_stop_s
        self._kill_s = max(now_s + grace_s, self._term_s + LEAST_GRACE_S)

    def _signal(self, now_s: float) -> None:
        assert self.container is not None
        if self._term_s is not None and now_s >= self._term_s:
            self._term_s = None
            self.log.add(now_s, Kind.SIGTERM, self.name)
            self.container.terminate()
        if self._kill_s is not None and now_s >= self._kill_s:
            self._kill_s = None
            self.log.add(now_s, Kind.SIGKILL, self.name, "the grace period is over")
            self.container.kill()

    def _probe(self, now_s: float) -> None:
        """Startup first, alone; of a pod that is being deleted only readiness goes on."""
        if self.startup is not None and not self.started and self.deleted_s is None:
            answer = self.startup.tick(now_s, HOST, self._port(self.startup), self.pool)
            if answer is not None and answer.succeeded:
                self.started = True
                self.log.add(now_s, Kind.STARTUP_OK, self.name)
                if self.readiness is not None:
                    self.readiness.hurry(now_s)
            elif answer is not None:
                self._fail(now_s, self.startup, "startup", answer.detail)
        if not self.started:
            return
        if self.liveness is not None and self.deleted_s is None:
            answer = self.liveness.tick(now_s, HOST, self._port(self.liveness), self.pool)
            if answer is not None and not answer.succeeded:
                self._fail(now_s, self.liveness, "liveness", answer.detail)
        if self.readiness is None:
            self._set_ready(now_s, True, "no readiness probe")
            return
        answer = self.readiness.tick(now_s, HOST, self._port(self.readiness), self.pool)
        if answer is not None:
            self._set_ready(now_s, answer.succeeded, answer.detail)

    def _fail(self, now_s: float, worker: ProbeWorker, name: str, detail: str) -> None:
        worker.on_hold = True
        self.log.add(now_s, Kind.KILLING, self.name, f"{name}: {detail}")
        self._begin_kill(now_s, self.spec.grace_s if worker.spec.grace_s is None else worker.spec.grace_s)

    def _set_ready(self, now_s: float, ready: bool, detail: str) -> None:
        if ready is self.ready:
            return
        self.ready, self.ready_s = ready, now_s if ready else None
        self.log.add(now_s, Kind.READY if ready else Kind.NOT_READY, self.name, "" if ready else detail)

    def _ended(self, now_s: float, code: int) -> None:
        assert self.container is not None
        self.exit_codes.append(code)
        self._term_s = self._kill_s = None
        words = self.container.log_tail() if code and self.deleted_s is None else ""
        self.log.add(now_s, Kind.EXITED, self.name, f"code {code}" + (f": {words}" if words else ""))
        self.container.close()
        self.started = False
        self._set_ready(now_s, False, "its container ended")
        if self.deleted_s is not None:
            self._go(now_s)
        elif not self.spec.restarts:
            self.state = State.ENDED
        else:
            self.state, self.restarts = State.WAITING, self.restarts + 1
            self.start_s = self.back_off.next_start_s(now_s)
            if self.start_s > now_s:
                self.log.add(now_s, Kind.BACK_OFF, self.name, f"CrashLoopBackOff: {self.start_s - now_s:g} s")

    def _go(self, now_s: float) -> None:
        self.gone = True
        self.log.add(now_s, Kind.GONE, self.name)

    def _port(self, worker: ProbeWorker) -> int:
        return self.ports[worker.spec.port]
