"""One set-up: a warm replica behind Envoy, measured at rest; then the load, and what happens to the fleet meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.avalanche.fleet import SERVICE, Fleet
from warmswap_loadtests.avalanche.scenario import KILL, SCALE_IN, SCALE_OUT, Scenario, wants_one_more
from warmswap_loadtests.avalanche.sending import Answer, BalancedSender, described_requests
from warmswap_loadtests.contenders.contender import Contender
from warmswap_loadtests.contenders.wire import new_session
from warmswap_loadtests.envoy import FLUSH_INTERVAL_MS, Envoy
from warmswap_loadtests.envoy_config import Service
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.open_loop import Outcome, Record, greatest_lag_s, run_closed_loop, run_open_loop
from warmswap_loadtests.payloads import Payload

TICK_S: Final = 0.1
START_TIMEOUT_S: Final = 180.0
REST_TIMEOUT_S: Final = 60.0
WARM_UP_REQUESTS: Final = 8
REST_REQUESTS: Final = 10
CLIENTS: Final = 4
CLIENT_REQUESTS: Final = 10
BUSY_WAIT_S: Final = 2.0
"""How long the kill waits for a moment at which its victim has something in work."""
LEAD_S: Final = 0.2
"""From here to the first arrival: the generator gets ready."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What one warm replica does when nothing happens.

    Attributes:
        median_s: Of one request at a time.
        capacity_per_s: Requests per second for some clients at once.
        answer: A picture.
    """

    median_s: float
    capacity_per_s: float
    answer: bytes


class RunningSetUp:
    """A contender with its first replica, warm, behind Envoy; for a ``with`` block, which ends everything."""

    def __init__(self, contender: Contender, scenario: Scenario, payload: Payload, folder: Path) -> None:
        """Prepare; nothing is started yet.

        Args:
            contender: What the replicas are; it is prepared.
            scenario: What will happen.
            payload: What the requests hold.
            folder: A folder of its own that does not exist yet; gets the logs.
        """
        folder.mkdir(parents=True)
        self._contender, self._scenario, self._payload, self._folder = contender, scenario, payload, folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the balancer and the first replica, and let it answer some requests.

        Raises:
            BenchError: Envoy or the replica does not start, or does not answer.
        """
        with ExitStack() as stack:
            service = Service(SERVICE, self._contender.ready_path)
            self._envoy = stack.enter_context(Envoy([service], self._folder))
            self._fleet = stack.enter_context(Fleet(self._contender, self._envoy, self._scenario, self._folder))
            self._fleet.start_first(START_TIMEOUT_S)
            asyncio.run(self._at_rest(1, WARM_UP_REQUESTS))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self._stack.close()

    def measure_rest(self) -> Rest:
        """Return what the first replica does without the load.

        Raises:
            BenchError: it does not answer.
        """
        alone = asyncio.run(self._at_rest(1, REST_REQUESTS))
        begin_s = time.monotonic()
        together = asyncio.run(self._at_rest(CLIENTS, CLIENT_REQUESTS))
        capacity_per_s = len(together) / (time.monotonic() - begin_s)
        median_s = statistics.median(record.latency_s or 0.0 for record in alone)
        return Rest(median_s, capacity_per_s, alone[-1].answer.picture if alone[-1].answer else b"")

    def measure_load(self, check: AnswerCheck) -> dict[str, Any]:
        """Apply the load, let the fleet follow, and return what was seen.

        Raises:
            BenchError: replicas die and die again.
        """
        records = self._load()
        for record in records:
            if record.answer is not None and (fault := check.fault(record.answer.picture)):
                record.outcome, record.detail = Outcome.WRONG, fault
        time.sleep(2 * FLUSH_INTERVAL_MS / 1e3)
        counters = self._envoy.counters(SERVICE)
        names = {replica.endpoint.address: replica.name for replica in self._fleet.replicas}
        return {
            "requests": described_requests(records, self._envoy.access_log(), names),
            "events": [asdict(event) for event in sorted(self._fleet.events, key=lambda event: event.time_s)],
            "samples": [asdict(sample) for sample in self._fleet.samples],
            "generator_lag_ms": round(greatest_lag_s(records) * 1e3, 1),
            "envoy_retries": counters.get("upstream_rq_retry", 0),
        }

    def _load(self) -> list[Record[Answer]]:
        loop = asyncio.new_event_loop()
        start_s = time.monotonic() + LEAD_S
        self._fleet.begin(start_s)
        task = loop.create_task(self._arrivals(start_s))
        with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
            done = pool.submit(loop.run_until_complete, task)
            try:
                _Director(self._fleet, self._scenario).run_until(done)
            except BaseException:
                loop.call_soon_threadsafe(task.cancel)
                raise
        loop.close()
        return done.result()

    async def _arrivals(self, start_s: float) -> list[Record[Answer]]:
        async with new_session() as session:
            scenario = self._scenario
            send = BalancedSender(session, self._url, self._contender.wire, self._payload)
            return await run_open_loop(scenario.due_s(), send, timeout_s=scenario.timeout_s, start_s=start_s)

    async def _at_rest(self, clients: int, requests: int) -> list[Record[Answer]]:
        async with new_session() as session:
            send = BalancedSender(session, self._url, self._contender.wire, self._payload)
            loops = [
                run_closed_loop(send, timeout_s=REST_TIMEOUT_S, requests=requests, seconds=0.0) for _ in range(clients)
            ]
            records = [record for found in await asyncio.gather(*loops) for record in found]
        self._refuse_failures(records)
        return records

    def _refuse_failures(self, records: Sequence[Record[Answer]]) -> None:
        for record in records:
            if record.outcome is not Outcome.ANSWERED:
                raise BenchError(f"{self._contender.name} does not swap even at rest: {record.detail}")

    @property
    def _url(self) -> str:
        return f"http://{self._envoy.address(SERVICE)}"


class _Director:
    """Lets the scale-out, the planned scale-in and the kill happen while the load runs."""

    def __init__(self, fleet: Fleet, scenario: Scenario) -> None:
        self._fleet, self._scenario = fleet, scenario
        self._starts = scenario.phase_starts()
        self._drained = self._killed = False
        self._scaled_s = -scenario.scale_up_period_s

    def run_until(self, done: Future[list[Record[Answer]]]) -> None:
        """Act until the load has ended."""
        while not done.done():
            self._fleet.tick()
            now_s = self._fleet.now_s
            if self._starts[SCALE_OUT] <= now_s < self._starts[SCALE_IN]:
                self._scale_out(now_s)
            if now_s >= self._starts[SCALE_IN] and not self._drained:
                self._drained = self._fleet.drain_newest()
            if now_s >= self._starts[KILL] and not self._killed:
                patient = now_s < self._starts[KILL] + BUSY_WAIT_S
                self._killed = self._fleet.kill_oldest(busy_only=patient)
            time.sleep(TICK_S)

    def _scale_out(self, now_s: float) -> None:
        if now_s < self._scaled_s + self._scenario.scale_up_period_s:
            return
        recent = [s.in_flight for s in self._fleet.samples if s.time_s > now_s - self._scenario.window_s]
        if wants_one_more(self._scenario, recent, self._fleet.wanted):
            self._fleet.wanted += 1
            self._scaled_s = now_s
