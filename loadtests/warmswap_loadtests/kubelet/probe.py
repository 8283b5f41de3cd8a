"""Probes as the kubelet runs them: thresholds, periods, a connection of its own for each."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from warmswap_loadtests.kubelet.pod_spec import ProbeSpec


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One answer: whether it counts as a success, and what it was."""

    succeeded: bool
    detail: str = ""


@dataclass(slots=True)
class ProbeWorker:
    """One probe of one container; time is that of the caller.

    Attributes:
        spec: The probe.
        initial: Its result before the first one is known: liveness ``True``, readiness and startup ``False``.
        result: What holds now.
        sent: Probes that were sent.
        failed: Those of them that failed.
        on_hold: Set when it made its container be killed: nothing more until the next one runs.
    """

    spec: ProbeSpec
    initial: bool
    result: bool = field(init=False)
    sent: int = 0
    failed: int = 0
    on_hold: bool = False
    _in_a_row: int = 0
    _last: bool | None = None
    _next_s: float | None = None
    _under_way: Future[ProbeAnswer] | None = None

    def __post_init__(self) -> None:
        """Begin with the initial result."""
        self.result = self.initial

    def reset(self, now_s: float) -> None:
        """Begin anew, for a container that has just started."""
        self.result, self.on_hold, self._in_a_row, self._last = self.initial, False, 0, None
        self._next_s = now_s + self.spec.initial_delay_s
        self._under_way = None  # what the last container still answers counts no more

    def hurry(self, now_s: float) -> None:
        """Be due at once; for the readiness of a container whose startup probe has just succeeded."""
        self._next_s = now_s

    def tick(self, now_s: float, host: str, port: int, pool: Executor) -> ProbeAnswer | None:
        """Send what is due, and take in what came back.

        Returns:
            The answer that changed ``result``; ``None`` = it stays as it was.
        """
        if self._under_way is not None:
            if not self._under_way.done():
                return None
            answer, self._under_way = self._under_way.result(), None
            return answer if self.take(answer.succeeded) else None
        if self._next_s is not None and now_s >= self._next_s and not self.on_hold:
            # A tick that comes while a probe is under way is dropped, as a Go ticker drops it.
            periods = int((now_s - self._next_s) / self.spec.period_s) + 1
            self._next_s += periods * self.spec.period_s
            self.sent += 1
            self._under_way = pool.submit(ask, host, port, self.spec.path, self.spec.timeout_s)
        return None

    def take(self, succeeded: bool) -> bool:
        """Count an answer; return whether ``result`` has changed, or has failed for good."""
        self.failed += not succeeded
        self._in_a_row = self._in_a_row + 1 if succeeded is self._last else 1
        self._last = succeeded
        needed = self.spec.success_threshold if succeeded else self.spec.failure_threshold
        if self._in_a_row < needed:
            return False
        failed_again = not succeeded and self._in_a_row == needed
        changed = self.result is not succeeded
        self.result = succeeded
        return changed or failed_again


def ask(host: str, port: int, path: str, timeout_s: float) -> ProbeAnswer:
    """Ask once, on a new connection; 200 to 399 is a success."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    deadline_s = time.monotonic() + timeout_s
    try:
        connection.request("GET", path, headers={"User-Agent": "kube-probe/1.29", "Connection": "close"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return ProbeAnswer(False, str(error) or type(error).__name__)
    finally:
        connection.close()
    if time.monotonic() > deadline_s:
        return ProbeAnswer(False, f"no answer within {timeout_s:g} s")
    return ProbeAnswer(200 <= status < 400, f"HTTP {status}")
