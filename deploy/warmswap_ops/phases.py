"""What a start is made of, told line by line while it happens: for a human, or as JSON for a script."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_FOR_SCRIPTS: Final = ("load_ms", "warmup_ms")


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of a replica's life.

    Attributes:
        name: ``compiled``, ``preflight``, ``server``, ``stages``, ``pipelines``, ``ready``, ``restart``,
            ``recovering``, ``on_demand_load``, ``on_demand_unload``, ``over_budget``, ``draining``, ``stopped`` or
            ``failed``.
        ms: How long it took, ``None`` for what is only announced.
        details: What else there is to know; JSON values. Lists and the parts of load times are for scripts: the text
            leaves them out.
    """

    name: str
    ms: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """Return one line of JSON."""
        values: dict[str, Any] = {"phase": self.name}
        if self.ms is not None:
            values["ms"] = round(self.ms, 1)
        return json.dumps(values | self.details)

    def as_text(self) -> str:
        """Return one line for a human."""
        duration = "" if self.ms is None else f"{self.ms:7.0f} ms"
        shown = {k: v for k, v in self.details.items() if k not in _FOR_SCRIPTS and not isinstance(v, list)}
        details = "  ".join(_show(key, value) for key, value in shown.items())
        return f"{self.name:<10}{duration:>10}  {details}".rstrip()


Report = Callable[[Phase], None]


class Stopwatch:
    """Milliseconds since it was made, or since the last lap."""

    def __init__(self, started_s: float | None = None) -> None:
        """Start now, or at a moment of ``time.monotonic()``."""
        self._started_s = self._lap_s = time.monotonic() if started_s is None else started_s

    def lap_ms(self) -> float:
        """Return the time since the last lap, and begin the next one."""
        now_s = time.monotonic()
        lap_ms, self._lap_s = (now_s - self._lap_s) * 1e3, now_s
        return lap_ms

    def total_ms(self) -> float:
        """Return the time since the start."""
        return (time.monotonic() - self._started_s) * 1e3


def process_start_s() -> float:
    """Return when this process was executed, in ``time.monotonic()`` seconds, to about 10 ms."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return time.monotonic()
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, age_s)


def _show(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(_show(name, inner) for name, inner in value.items())
    if isinstance(value, float):
        return f"{key} {value:.0f} ms"
    return str(value) if key in ("error", "reason") else f"{key} {value}"
