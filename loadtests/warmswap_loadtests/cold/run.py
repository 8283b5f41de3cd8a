"""One start of one contender under a constant open-loop load, from exec on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.contenders.contender import HOST, Contender, ContenderProcess
from warmswap_loadtests.contenders.probes import ReadinessProbe
from warmswap_loadtests.contenders.wire import HttpSender, new_session
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.open_loop import (
    Outcome,
    Record,
    constant_rate,
    greatest_lag_s,
    run_closed_loop,
    run_open_loop,
)
from warmswap_loadtests.payloads import Payload, fresh_source
from warmswap_loadtests.processes import peak_rss_mb, pss_mb
from warmswap_ops.ports import Ports, choose_ports

READY_PATIENCE_S: Final = 300.0
"""How long after the window a contender may still become ready."""

STEADY_REQUESTS: Final = 5
STEADY_S: Final = 3.0
"""The closed loop after the window has at least so many requests and takes at least so long."""


@dataclass(frozen=True, slots=True)
class Load:
    """What every contender is given.

    Attributes:
        payload: The two pictures; each request has a source of its own, so that no cache knows it.
        rate_per_s: Arrivals a second, equally far apart.
        seconds: How long they come, from exec on.
        timeout_s: The clients' patience.
        probe_period_s: From one readiness probe to the next.
    """

    payload: Payload
    rate_per_s: float
    seconds: float
    timeout_s: float
    probe_period_s: float


def measure_run(contender: Contender, load: Load, check: AnswerCheck, log: Path) -> dict[str, Any]:
    """Start a contender, load it from exec on, stop it, and return what happened.

    Raises:
        BenchError: it died, or did not become ready long after the window.
    """
    return asyncio.run(_measure_run(contender, load, check, log))


async def _measure_run(contender: Contender, load: Load, check: AnswerCheck, log: Path) -> dict[str, Any]:
    async with started(contender, load.payload, load.probe_period_s, log) as (process, probe, send):
        due_s = constant_rate(load.rate_per_s, load.seconds)
        window = await run_open_loop(
            due_s, send, timeout_s=load.timeout_s, start_s=process.start_s, is_routed=lambda: probe.is_ready
        )
        await wait_until_ready(process, probe)
        steady = await run_closed_loop(
            send,
            timeout_s=max(load.timeout_s, READY_PATIENCE_S),
            requests=STEADY_REQUESTS,
            seconds=STEADY_S,
            start_s=process.start_s,
        )
        process.check_alive()
        pids = process.pids()
        memory = {"peak_rss_mb": peak_rss_mb(pids), "pss_mb": pss_mb(pids), "processes": len(pids)}
    for record in [*window, *steady]:
        judge(record, check)
    return {
        "live_s": probe.live_s,
        "ready_s": probe.ready_s,
        "routing": [[at_s, ready] for at_s, ready in probe.changes],
        "requests": [request_facts(record) for record in window],
        "steady": [request_facts(record) for record in steady],
        "generator_lag_ms": greatest_lag_s(window) * 1e3,
        **memory,
    }


@contextlib.asynccontextmanager
async def started(
    contender: Contender, payload: Payload, probe_period_s: float, log: Path
) -> AsyncIterator[tuple[ContenderProcess, ReadinessProbe, HttpSender]]:
    """Start a contender, probe it, and connect to it; all ends with the ``async with`` block."""
    port = choose_ports(HOST, Ports(0, 0, 0)).http
    async with new_session() as session:
        with ContenderProcess(contender, port, log) as process:
            base = process.base_url
            probe = ReadinessProbe(
                base + contender.live_path, base + contender.ready_path, process.start_s, probe_period_s
            )
            probing = asyncio.create_task(probe.run())
            try:
                yield process, probe, HttpSender(session, base, contender.wire, _numbered(payload))
            finally:
                probing.cancel()


async def wait_until_ready(process: ContenderProcess, probe: ReadinessProbe) -> None:
    """Wait for readiness.

    Raises:
        BenchError: it died, or it takes too long.
    """
    deadline_s = time.monotonic() + READY_PATIENCE_S
    while not probe.is_ready:
        process.check_alive()
        if time.monotonic() > deadline_s:
            raise BenchError(f"not ready after {READY_PATIENCE_S:g} s: {process.log_tail()}")
        await asyncio.sleep(probe.period_s / 2)


def judge(record: Record[bytes], check: AnswerCheck) -> None:
    """Turn an answer that is not the right picture into a wrong one."""
    if record.outcome is Outcome.ANSWERED:
        record.detail = check.fault(record.answer or b"")
        if record.detail:
            record.outcome = Outcome.WRONG


def request_facts(record: Record[bytes]) -> dict[str, Any]:
    """Return a request for JSON: times in seconds after exec, rounded to 10 microseconds."""
    facts: dict[str, Any] = {"due_s": round(record.due_s, 5), "outcome": record.outcome.value}
    if record.sent_s is not None and record.done_s is not None:
        facts |= {"sent_s": round(record.sent_s, 5), "done_s": round(record.done_s, 5)}
    return facts | ({"detail": record.detail} if record.detail else {})


def _numbered(payload: Payload) -> Callable[[int], Payload]:
    numbers = count()  # of its own, since the closed loop counts from 0 again
    return lambda _: fresh_source(payload, next(numbers))
