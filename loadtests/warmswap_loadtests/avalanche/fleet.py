"""The replicas of one set-up, and what Kubernetes would do to them: order, start, route, drain, replace.

One thread drives it: ``tick`` does what has become due and returns at once; only stopping a process takes time, and has
threads of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from warmswap_loadtests.avalanche.scenario import Scenario
from warmswap_loadtests.contenders.contender import HOST, Contender, ContenderProcess
from warmswap_loadtests.envoy import Envoy, UpstreamState
from warmswap_loadtests.envoy_config import Endpoint
from warmswap_loadtests.errors import BenchError
from warmswap_ops.ports import Ports, choose_ports

SERVICE: Final = "swap"
MAX_STARTS: Final = 12
"""Of one run: a replica that dies by itself is replaced, but not for ever."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a replica, in seconds after the start of the load."""

    time_s: float
    kind: str
    replica: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """The fleet at a moment: processes, replicas that get traffic, requests in work."""

    time_s: float
    running: int
    routed: int
    in_flight: int


@dataclass(slots=True)
class Replica:
    """One replica, from exec to its end.

    Attributes:
        name: ``r0`` was there before; the others were started in the run.
        endpoint: Where it listens.
        process: Its processes.
        routed: Whether Envoy has given it traffic.
        planned_end: Whether we drained or killed it.
        remove_s: When its endpoint goes, if that is planned.
        stop_s: When it is sent SIGTERM, if that is planned.
        ended: Set while and after it is stopped.
    """

    name: str
    endpoint: Endpoint
    process: ContenderProcess
    routed: bool = False
    planned_end: bool = False
    remove_s: float | None = None
    stop_s: float | None = None
    ended: Future[None] | None = None
    is_gone: bool = False


@dataclass(slots=True)
class Fleet:
    """All replicas of one contender behind one Envoy; for a ``with`` block, which ends them all.

    Attributes:
        contender: What to start; it is prepared.
        envoy: Runs; has the service ``SERVICE``.
        scenario: The delays.
        folder: Gets the replicas' logs.
        wanted: How many replicas there should be.
    """

    contender: Contender
    envoy: Envoy
    scenario: Scenario
    folder: Path
    wanted: int = 1
    events: list[Event] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    start_s: float = field(default_factory=time.monotonic)
    _ordered_s: list[float] = field(default_factory=list)
    _stopper: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="stop"))

    def __enter__(self) -> Self:
        """Return it; nothing runs yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop all replicas."""
        for replica in self.replicas:
            if replica.ended is None:
                replica.ended = self._stopper.submit(replica.process.stop)
        self._stopper.shutdown(wait=True)

    @property
    def now_s(self) -> float:
        """Seconds after the start of the load."""
        return time.monotonic() - self.start_s

    def start_first(self, timeout_s: float) -> Replica:
        """Start the replica that is there before the load, and wait until it gets traffic.

        Raises:
            BenchError: it died, or was not ready in time.
        """
        replica = self._start()
        deadline_s = time.monotonic() + timeout_s
        while not any(upstream.healthy for upstream in self.envoy.upstreams(SERVICE)):
            replica.process.check_alive()
            if time.monotonic() > deadline_s:
                raise BenchError(
                    f"{self.contender.name} was not ready after {timeout_s:g} s: {replica.process.log_tail()}"
                )
            time.sleep(0.05)
        replica.routed = True
        return replica

    def begin(self, start_s: float) -> None:
        """Count time from this moment on the clock ``time.monotonic``; what happened before is left out."""
        self.start_s = start_s
        self.events.clear()
        self.samples.clear()

    def tick(self) -> Sample:
        """Do what has become due, and return how things stand.

        Raises:
            BenchError: replicas die and die again.
        """
        upstreams = {upstream.address: upstream for upstream in self.envoy.upstreams(SERVICE)}
        self._note_routed(upstreams)
        self._end_those_due()
        self._notice_deaths()
        self._replace()
        sample = Sample(
            time_s=self.now_s,
            running=sum(not replica.is_gone for replica in self.replicas),
            routed=sum(upstream.healthy for upstream in upstreams.values()),
            in_flight=sum(upstream.active for upstream in upstreams.values()),
        )
        self.samples.append(sample)
        return sample

    def drain_newest(self) -> bool:
        """Begin a planned scale-in: endpoint first, SIGTERM later. False = none can be spared.

        Kubernetes too takes the newest first.
        """
        routed = self._routed()
        if len(routed) < 2:
            return False
        replica = routed[-1]
        self.wanted -= 1
        replica.planned_end = True
        replica.stop_s = self.now_s + self.scenario.drain_s
        self._event("endpoint removed", replica)
        self._publish()
        return True

    def kill_oldest(self, *, busy_only: bool) -> bool:
        """SIGKILL the replica that has been there longest, unplanned.

        Returns:
            False = not now: there is no other, or it has nothing in work.
        """
        routed = self._routed()
        if len(routed) < 2:
            return False
        replica = routed[0]
        active = {state.address: state.active for state in self.envoy.upstreams(SERVICE)}
        in_work = active.get(replica.endpoint.address, 0)
        if busy_only and not in_work:
            return False
        for pid in reversed(replica.process.pids()):  # children first, or they would be told to drain
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._event("SIGKILL", replica, f"{in_work} in work")
        replica.planned_end = True
        replica.remove_s = self.now_s + self.scenario.endpoint_lag_s
        self._stop(replica)
        return True

    def _routed(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.routed and not replica.planned_end]

    def _note_routed(self, upstreams: dict[str, UpstreamState]) -> None:
        for replica in self.replicas:
            state = upstreams.get(replica.endpoint.address)
            if state is not None and state.healthy and not replica.routed:
                replica.routed = True
                self._event("in rotation", replica)

    def _end_those_due(self) -> None:
        for replica in self.replicas:
            if replica.remove_s is not None and self.now_s >= replica.remove_s:
                replica.remove_s = None
                self._event("endpoint removed", replica)
                self._publish()
            if replica.stop_s is not None and self.now_s >= replica.stop_s:
                replica.stop_s = None
                self._event("SIGTERM", replica)
                self._stop(replica)
            if replica.ended is not None and replica.ended.done() and not replica.is_gone:
                replica.ended.result()
                replica.is_gone = True
                self._event("gone", replica)

    def _notice_deaths(self) -> None:
        for replica in self.replicas:
            if replica.planned_end:
                continue
            try:
                replica.process.check_alive()
            except BenchError as error:
                self._event("died", replica, str(error))
                replica.planned_end = True
                replica.remove_s = self.now_s + self.scenario.endpoint_lag_s
                self._stop(replica)

    def _replace(self) -> None:
        """Order what is wanted, and start what was ordered long enough ago."""
        there = sum(not replica.planned_end for replica in self.replicas)
        for _ in range(self.wanted - there - len(self._ordered_s)):
            self._ordered_s.append(self.now_s)
            self.events.append(Event(self.now_s, "ordered", self._next_name(len(self._ordered_s) - 1)))
        while self._ordered_s and self.now_s >= self._ordered_s[0] + self.scenario.pod_start_s:
            self._ordered_s.pop(0)
            self._start()

    def _start(self) -> Replica:
        if len(self.replicas) == MAX_STARTS:
            raise BenchError(
                f"{self.contender.name} was started {MAX_STARTS} times, and replicas still die: see events"
            )
        name = self._next_name(0)
        port = choose_ports(HOST, Ports(0, 0, 0)).http
        process = ContenderProcess(self.contender, port, self.folder / f"{name}.log")
        replica = Replica(name, Endpoint(HOST, port), process)
        self.replicas.append(replica)
        self.events.append(Event(process.start_s - self.start_s, "exec", name))
        self._publish()
        return replica

    def _publish(self) -> None:
        """A pod's endpoint is there from the start and until it is taken away; its probe decides on traffic."""
        listed = [
            replica.endpoint for replica in self.replicas if not replica.planned_end or replica.remove_s is not None
        ]
        self.envoy.set_endpoints(SERVICE, listed)

    def _stop(self, replica: Replica) -> None:
        replica.ended = self._stopper.submit(replica.process.stop)

    def _next_name(self, ahead: int) -> str:
        return f"r{len(self.replicas) + ahead}"

    def _event(self, kind: str, replica: Replica, detail: str = "") -> None:
        self.events.append(Event(self.now_s, kind, replica.name, detail))
