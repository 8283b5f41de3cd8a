"""What is fixed before the contenders start, on the preloading server: rate, patience, the right answer."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.cold.run import READY_PATIENCE_S, started, wait_until_ready
from warmswap_loadtests.contenders.contender import Contender
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.open_loop import Outcome, run_closed_loop
from warmswap_loadtests.payloads import Payload

WARM_UP_REQUESTS: Final = 3
REQUESTS: Final = 10
SECONDS: Final = 3.0
LOAD_SHARE: Final = 0.5
TIMEOUT_FACTOR: Final = 10.0
LEAST_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result.

    Attributes:
        steady_s: Median of the server, one request at a time.
        check: Knows the right answer.
    """

    steady_s: float
    check: AnswerCheck

    @property
    def rate_per_s(self) -> float:
        """Half of what the server can do, to two digits."""
        return float(f"{LOAD_SHARE / self.steady_s:.2g}")

    @property
    def timeout_s(self) -> float:
        """Ten times the median, at least a second."""
        return max(LEAST_TIMEOUT_S, round(TIMEOUT_FACTOR * self.steady_s, 1))

    def facts(self) -> dict[str, Any]:
        """Return it for the report."""
        return {
            "steady_ms": self.steady_s * 1e3,
            "unswapped_target_differs_by_levels": round(self.check.unswapped_levels, 1),
        }


def calibrate(contender: Contender, payload: Payload, probe_period_s: float, log: Path) -> Calibration:
    """Measure a server at rest and take its answer as the reference.

    Raises:
        BenchError: it does not start, or does not answer.
    """
    return asyncio.run(_calibrate(contender, payload, probe_period_s, log))


async def _calibrate(contender: Contender, payload: Payload, probe_period_s: float, log: Path) -> Calibration:
    async with started(contender, payload, probe_period_s, log) as (process, probe, send):
        await wait_until_ready(process, probe)
        await run_closed_loop(send, timeout_s=READY_PATIENCE_S, requests=WARM_UP_REQUESTS, seconds=0)
        records = await run_closed_loop(send, timeout_s=READY_PATIENCE_S, requests=REQUESTS, seconds=SECONDS)
    failed = [record for record in records if record.outcome is not Outcome.ANSWERED]
    if failed:
        raise BenchError(f"calibration: {contender.name} did not answer: {failed[0].detail}")
    steady_s = statistics.median(record.done_s - record.due_s for record in records if record.done_s is not None)
    return Calibration(steady_s, AnswerCheck(payload.target, records[-1].answer or b""))
