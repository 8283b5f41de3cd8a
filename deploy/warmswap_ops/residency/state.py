"""What the manager knows of one model."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from warmswap_ops.residency.policy import ON_DEMAND, RESIDENT, ModelPolicy

FIRST_BACKOFF_S: Final = 5.0
LONGEST_BACKOFF_S: Final = 60.0
CRASH_BACKOFF_S: Final = 600.0
"""After a load that crashed the server: once in the time in which restarts are counted."""
FIRST_ESTIMATE_MS: Final = 700.0
ESTIMATE_MS_PER_MB: Final = 3.0
LEAST_ESTIMATE_MS: Final = 100.0
FIRST_USE_S: Final = 10.0
"""How long a loaded model waits for its first request: whoever was told to come back is on the way."""


class LoadState(StrEnum):
    """Where a model is between disk and memory."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass(slots=True)
class ModelRecord:
    """One model; guarded by the manager's lock.

    Attributes:
        name: Model.
        policy: How it is kept.
        memory_mb: What it takes: estimated until ``measured``.
        file_mb: Size of its files, for the first guess how long its load takes.
        used: Whether a request has used it since its load.
        leases: Requests that use it now.
        waiting: Requests that wait for its load.
        load_ms: What its last load took.
        failure: Why its last load failed.
        retry_at_s: Not loaded again before this moment of ``time.monotonic()``.
    """

    name: str
    policy: ModelPolicy
    memory_mb: float
    file_mb: float = 0.0
    state: LoadState = LoadState.ABSENT
    measured: bool = False
    wanted: bool = False
    suspect: bool = False
    used: bool = False
    leases: int = 0
    waiting: int = 0
    loads: int = 0
    load_ms: float | None = None
    load_started_s: float = 0.0
    failed_loads: int = 0
    failures_in_a_row: int = 0
    failure: str | None = None
    retry_at_s: float = 0.0
    waits: int = 0
    wait_ms_sum: float = 0.0
    unloads: Counter[str] = field(default_factory=Counter)
    last_used_s: float = field(default_factory=time.monotonic)

    @property
    def loaded(self) -> bool:
        """Whether it takes memory: ready, or on its way in or out."""
        return self.state is not LoadState.ABSENT

    @property
    def ready(self) -> bool:
        """Whether it answers requests."""
        return self.state is LoadState.READY

    @property
    def leaves(self) -> bool:
        """Whether it is on its way out."""
        return self.state is LoadState.UNLOADING

    @property
    def idle(self) -> bool:
        """Whether it could be unloaded now."""
        return self.policy.on_demand and self.ready and not self.leases and not self.waiting

    def idle_left_s(self) -> float:
        """Return how long it stays loaded if nobody comes."""
        idle_s = self.policy.idle_s if self.used else max(self.policy.idle_s, FIRST_USE_S)
        return self.last_used_s + idle_s - time.monotonic()

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """Count a request that waits for its load, and how long."""
        started_s = time.monotonic()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
            self.waits += 1
            self.wait_ms_sum += (time.monotonic() - started_s) * 1e3

    def recent_failure(self) -> str | None:
        """Return why it is not loaded now, and when it may be, if its last load failed not long ago."""
        wait_s = self.retry_at_s - time.monotonic()
        if self.failure is None or wait_s <= 0:
            return None
        return f"{self.name} could not be loaded ({self.failure}); the next attempt is possible in {wait_s:.1f} s"

    def promised_s(self) -> float:
        """Return how long it must stay for those who were told to come back; 0 = nobody needs to be waited for."""
        if not self.ready or self.used:
            return 0.0
        return max(0.0, self.last_used_s + FIRST_USE_S - time.monotonic())

    def estimate_ms(self) -> float:
        """Return how long it will take until it is ready, as far as anybody can tell."""
        whole_ms = self.load_ms or FIRST_ESTIMATE_MS + ESTIMATE_MS_PER_MB * self.file_mb
        if self.state is LoadState.LOADING:
            whole_ms -= (time.monotonic() - self.load_started_s) * 1e3
        return max(LEAST_ESTIMATE_MS, whole_ms)

    def start_loading(self) -> None:
        """Note that a load begins."""
        self.state = LoadState.LOADING
        self.load_started_s = time.monotonic()

    def server_is_new(self) -> None:
        """Forget what was true of the server before; why the model could not be loaded stays, and who waits for it."""
        self.state = LoadState.ABSENT
        self.wanted, self.suspect = self.waiting > 0, False

    def fail(self, reason: str, least_backoff_s: float = 0.0) -> None:
        """Note a failed load."""
        self.state, self.wanted = LoadState.ABSENT, False
        self.failure = reason
        self.failed_loads += 1
        backoff_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**self.failures_in_a_row)
        self.failures_in_a_row += 1
        self.retry_at_s = max(self.retry_at_s, time.monotonic() + max(backoff_s, least_backoff_s))

    def succeed(self, load_ms: float) -> None:
        """Note a load that worked."""
        self.state, self.wanted = LoadState.READY, False
        self.load_ms = load_ms
        self.loads += 1
        self.used = False
        self.failure, self.failures_in_a_row, self.suspect = None, 0, False
        self.last_used_s = time.monotonic()

    def snapshot(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "residency": ON_DEMAND if self.policy.on_demand else RESIDENT,
            "state": self.state.value,
            "loaded": self.loaded,
            "leases": self.leases,
            "memory_mb": round(self.memory_mb, 1),
            "memory_measured": self.measured,
            "loads": self.loads,
            "load_ms": None if self.load_ms is None else round(self.load_ms, 1),
            "failed_loads": self.failed_loads,
            "failure": self.failure,
            "waits": self.waits,
            "wait_ms_sum": round(self.wait_ms_sum, 1),
            "unloads": dict(self.unloads),
            "idle_for_s": round(time.monotonic() - self.last_used_s, 3),
        }


def victims(models: Iterable[ModelRecord], wanted: ModelRecord) -> list[ModelRecord]:
    """Return what could be unloaded to make room for a model, the first to go first."""
    return sorted(
        (model for model in models if model.idle and model is not wanted and not model.promised_s()),
        key=lambda model: (model.policy.priority, model.last_used_s),
    )


def memory_parts_mb(
    models: Iterable[ModelRecord], only: ModelRecord | None, beside: ModelRecord | None
) -> dict[str, float]:
    """Return what each loaded model takes.

    Args:
        models: All.
        only: Counted as if it were the only one of those that are loaded on demand.
        beside: Counted as if it were loaded too.
    """
    return {
        model.name: model.memory_mb
        for model in models
        if model in (only, beside) or (model.loaded and (only is None or not model.policy.on_demand))
    }
