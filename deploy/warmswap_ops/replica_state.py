"""What is known of a replica's life, and its metric families."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from warmswap_ensemble.contract import ERROR_CODES
from warmswap_ops.errors import (
    LicenceError,
    LoadTimeoutError,
    MachineError,
    ModelLoadError,
    OpsError,
    PortInUseError,
    RepositoryError,
    ServerError,
)
from warmswap_ops.metrics_text import Family

_CODES: Final[tuple[tuple[type[OpsError], str], ...]] = (
    (LoadTimeoutError, "load_timeout"),
    (ModelLoadError, "load_failed"),
    (RepositoryError, "repository"),
    (MachineError, "machine"),
    (PortInUseError, "port_in_use"),
    (LicenceError, "licence"),
    (ServerError, "server_died"),
)
_CODE_IN_TEXT: Final = re.compile(rf"\b({'|'.join(sorted(ERROR_CODES))}): ")

PROCESS_DIED: Final = "process_died"


class Residency(Protocol):
    """What keeps models resident or on demand, as far as the metrics need it."""

    def snapshot(self) -> Mapping[str, Any]:
        """Return ``models``: for each its ``residency``, ``state``, ``loads``, ``unloads`` and so on."""


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """How long one load took.

    Attributes:
        total_ms: From the call to READY.
        session_ms: Until the model's ``initialize`` returned; None where the backend does not say (NVIDIA's own).
    """

    total_ms: float
    session_ms: float | None

    @property
    def warmup_ms(self) -> float | None:
        """The rest: warm-up."""
        return None if self.session_ms is None else max(0.0, self.total_ms - self.session_ms)


def load_details(times: Mapping[str, LoadTimes]) -> dict[str, Any]:
    """Return what a phase tells of loads, in milliseconds."""
    return {
        "models": {model: load.total_ms for model, load in times.items()},
        "load_ms": {model: load.session_ms for model, load in times.items()},
        "warmup_ms": {model: load.warmup_ms for model, load in times.items()},
    }


def reason_code(error: OpsError) -> str:
    """Return a word for a metric's label; the error codes of the pipelines where the text has one."""
    if isinstance(error, ModelLoadError) and (found := _CODE_IN_TEXT.search(error.reason)):
        return found[1]
    return next((code for kind, code in _CODES if isinstance(error, kind)), "error")


class ReplicaState:
    """Facts that the launcher records and the metrics port reads; safe to share between threads."""

    def __init__(self) -> None:
        """Nothing happened yet."""
        self._lock = threading.Lock()
        self._live_s: float | None = None
        self._ready_s: float | None = None
        self._loads: dict[str, LoadTimes] = {}
        self._reason: tuple[str, str] | None = None
        self._restarts: Counter[tuple[str, str]] = Counter()
        self._is_serving = False

    @property
    def is_serving(self) -> bool:
        """Whether everything is loaded, and no process is known to have died since."""
        return self._is_serving

    def live(self, seconds: float) -> None:
        """Record that the ports are open, so long after exec; only the first time counts."""
        with self._lock:
            self._live_s = seconds if self._live_s is None else self._live_s

    def loaded(self, times: Mapping[str, LoadTimes]) -> None:
        """Record loads."""
        with self._lock:
            self._loads.update(times)

    def ready(self, seconds: float) -> None:
        """Record that everything is loaded; of the time after exec only the first counts."""
        with self._lock:
            self._ready_s = seconds if self._ready_s is None else self._ready_s
            self._reason = None
            self._is_serving = True

    def not_ready(self, model: str, reason: str) -> None:
        """Record why nothing is served; ``reason`` is one of few words."""
        with self._lock:
            self._reason = (model, reason)
            self._is_serving = False

    def failed(self, error: OpsError) -> None:
        """Record a failure."""
        self.not_ready(str(getattr(error, "model", "")), reason_code(error))

    def stopping(self) -> None:
        """Record that the replica ends."""
        with self._lock:
            self._is_serving = False

    def restarted(self, model: str, reason: str) -> None:
        """Count a restart that a model made necessary."""
        with self._lock:
            self._restarts[model, reason] += 1

    def families(self, *, ready: bool) -> list[Family]:
        """Return the metrics.

        Args:
            ready: Whether the server itself says so.
        """
        with self._lock:
            families = [
                Family("warmswap_ready", "gauge", "Whether face_swap is READY after its golden request (1) or not (0)"),
                Family("warmswap_not_ready_reason", "gauge", "1 for what keeps the replica from being ready"),
                Family("warmswap_time_to_live_seconds", "gauge", "From exec to open ports"),
                Family("warmswap_time_to_ready_seconds", "gauge", "From exec to the golden answer"),
                _load_family(self._loads),
                Family(
                    "warmswap_stage_restarts_total",
                    "counter",
                    "Restarts because of a model: its process was killed, oom_killed, exited, or its load crashed",
                ),
            ]
            is_ready, reason, live, total, _, restarts = families
            is_ready.add(float(ready and self._is_serving))
            if self._reason is not None:
                reason.add(1, model=self._reason[0], reason=self._reason[1])
            for family, seconds in ((live, self._live_s), (total, self._ready_s)):
                if seconds is not None:
                    family.add(seconds)
            for (model, cause), count in sorted(self._restarts.items()):
                restarts.add(count, model=model, reason=cause)
            return families


def residency_families(residency: Residency | None) -> list[Family]:
    """Return the memory of all models, and what requests made of those that are loaded on demand."""
    memory = Family("warmswap_model_memory_bytes", "gauge", "Memory that a model takes, shared pages counted in part")
    state = Family("warmswap_on_demand_state", "gauge", "1 for the state that an on-demand model is in")
    figures: list[tuple[str, float, Family]] = [
        ("loads", 1, Family("warmswap_on_demand_loads_total", "counter", "Loads that requests caused")),
        ("load_ms", 1e-3, Family("warmswap_on_demand_load_seconds", "gauge", "How long the last load took")),
        ("failed_loads", 1, Family("warmswap_on_demand_failed_loads_total", "counter", "Loads that failed")),
        ("waits", 1, Family("warmswap_on_demand_waits_total", "counter", "Requests that waited for a load")),
        ("wait_ms_sum", 1e-3, Family("warmswap_on_demand_wait_seconds_total", "counter", "Time that they waited")),
    ]
    unloads = Family("warmswap_on_demand_unloads_total", "counter", "Unloads, and why")
    models: Mapping[str, Mapping[str, Any]] = residency.snapshot()["models"] if residency else {}
    for model, values in sorted(models.items()):
        if values["loaded"]:
            memory.add(values["memory_mb"] * 1e6, model=model)
        if values["residency"] != "on_demand":
            continue
        state.add(1, model=model, state=str(values["state"]))
        for key, unit, family in figures:
            if values[key] is not None:
                family.add(values[key] * unit, model=model)
        for reason, count in sorted(values["unloads"].items()):
            unloads.add(count, model=model, reason=reason)
    return [memory, state, *(family for _, _, family in figures), unloads]


def _load_family(loads: Mapping[str, LoadTimes]) -> Family:
    family = Family("warmswap_model_load_seconds", "gauge", "Last load of a model: session, then warmup, and both")
    for model, times in sorted(loads.items()):
        parts = {"session": times.session_ms, "warmup": times.warmup_ms, "total": times.total_ms}
        for phase, value_ms in parts.items():
            if value_ms is not None:
                family.add(value_ms / 1e3, model=model, phase=phase)
    return family
