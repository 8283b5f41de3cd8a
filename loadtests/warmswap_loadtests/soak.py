"""Warm for minutes at half load: does latency stay close together, and does memory stay flat?"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.cold.calibration import (
    LEAST_TIMEOUT_S,
    LOAD_SHARE,
    REQUESTS,
    SECONDS,
    TIMEOUT_FACTOR,
    WARM_UP_REQUESTS,
)
from warmswap_loadtests.cold.run import READY_PATIENCE_S, judge, started, wait_until_ready
from warmswap_loadtests.contenders.contender import ContenderProcess
from warmswap_loadtests.contenders.registry import make_contenders
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.machine import command_line, git_commit, machine_facts, version_facts
from warmswap_loadtests.open_loop import Outcome, constant_rate, greatest_lag_s, run_closed_loop, run_open_loop
from warmswap_loadtests.payloads import golden_payload
from warmswap_loadtests.processes import rss_mb

SAMPLE_PERIOD_S: Final = 1.0
SETTLING_SHARE: Final = 0.2
"""Memory of the first fifth is not looked at: pools and caches still fill up."""

FLAT_MB_PER_MIN: Final = 1.0
GREATEST_SPREAD: Final = 1.5


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What is measured.

    Attributes:
        repository: Model repository.
        minutes: Length.
        rate_per_s: Arrivals a second; ``None`` = half of what the server can do, measured before.
        contender: What is served with.
    """

    repository: Path
    minutes: float = 5.0
    rate_per_s: float | None = None
    contender: str = "warmswap"


def measure_soak(options: SoakOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Load a warm server and return latencies, failures and the slope of its memory.

    Raises:
        BenchError: it does not start, or does not answer.
    """
    return asyncio.run(_measure_soak(options, progress))


async def _measure_soak(options: SoakOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    payload = golden_payload(options.repository)
    with tempfile.TemporaryDirectory(prefix="warmswap-soak-") as folder:
        (contender,) = make_contenders([options.contender], progress)
        progress(f"starting {contender.name}")
        contender.prepare(options.repository, Path(folder))
        async with started(contender, payload, SAMPLE_PERIOD_S, Path(folder) / "log") as (process, probe, send):
            await wait_until_ready(process, probe)
            await run_closed_loop(send, timeout_s=READY_PATIENCE_S, requests=WARM_UP_REQUESTS, seconds=0)
            rest = await run_closed_loop(send, timeout_s=READY_PATIENCE_S, requests=REQUESTS, seconds=SECONDS)
            if any(record.outcome is not Outcome.ANSWERED for record in rest):
                raise BenchError(f"{contender.name} does not answer: {rest[-1].detail}")
            steady_s = statistics.median(record.done_s - record.due_s for record in rest if record.done_s is not None)
            check = AnswerCheck(payload.target, rest[-1].answer or b"")
            rate = options.rate_per_s or LOAD_SHARE / steady_s
            seconds = options.minutes * 60
            progress(f"{rate:.3g} requests/s for {options.minutes:g} minutes")
            memory: list[tuple[float, float]] = []
            sampling = asyncio.create_task(_sample(process, memory))
            records = await run_open_loop(
                constant_rate(rate, seconds), send, timeout_s=max(LEAST_TIMEOUT_S, TIMEOUT_FACTOR * steady_s)
            )
            sampling.cancel()
            process.check_alive()
    for record in records:
        judge(record, check)
    latencies = [s * 1e3 for record in records if (s := record.latency_s) and record.outcome is not Outcome.FAILED]
    p50_ms, p99_ms = (float(np.percentile(latencies, share)) for share in (50, 99))
    return {
        "benchmark": "soak",
        "command": command_line(),
        "git_commit": git_commit(),
        "machine": machine_facts(),
        "versions": version_facts(),
        "contender": contender.name,
        "minutes": options.minutes,
        "rate_per_s": rate,
        "steady_ms": steady_s * 1e3,
        "requests": len(records),
        **{outcome.value: sum(record.outcome is outcome for record in records) for outcome in Outcome},
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "max_ms": max(latencies),
        "p99_over_p50": p99_ms / p50_ms,
        "rss_mb": [mb for _, mb in memory],
        "rss_slope_mb_per_min": slope_mb_per_min(memory),
        "generator_lag_ms": greatest_lag_s(records) * 1e3,
    }


async def _sample(process: ContenderProcess, memory: list[tuple[float, float]]) -> None:
    pids = process.pids()  # looked for once: that reads all of /proc
    clock = asyncio.get_running_loop()
    while True:
        memory.append((clock.time(), rss_mb(pids)))
        await asyncio.sleep(SAMPLE_PERIOD_S)


def slope_mb_per_min(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a line through (seconds, MB), without the first fifth; 0 for fewer than two samples."""
    settled = np.array(samples[int(len(samples) * SETTLING_SHARE) :], float)
    if len(settled) < 2:
        return 0.0
    return float(np.polyfit(settled[:, 0] - settled[0, 0], settled[:, 1], 1)[0]) * 60


def soak_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    lost = [f"{figures[key]} {key.replace('_', ' ')}" for key in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.WRONG)]
    slope, spread = figures["rss_slope_mb_per_min"], figures["p99_over_p50"]
    flat = "flat" if abs(slope) <= FLAT_MB_PER_MIN else "not flat"
    close = "within" if spread <= GREATEST_SPREAD else "above"
    return [
        f"{figures['contender']}, {figures['rate_per_s']:.3g} requests/s for {figures['minutes']:g} minutes "
        f"(half load: at rest a swap takes {figures['steady_ms']:.0f} ms), {figures['machine']['cores']} cores",
        f"{figures['requests']} requests: {', '.join(lost)}",
        f"p50 {figures['p50_ms']:.0f} ms, p99 {figures['p99_ms']:.0f} ms, max {figures['max_ms']:.0f} ms; "
        f"p99/p50 {spread:.2f}, {close} {GREATEST_SPREAD:g}",
        f"RSS {figures['rss_mb'][0]:.0f} to {figures['rss_mb'][-1]:.0f} MB, slope {slope:+.2f} MB/min after the first "
        f"fifth: {flat} (up to {FLAT_MB_PER_MIN:g})",
    ]
