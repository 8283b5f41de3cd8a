"""When a container that ended is started again: at once, then after 10 s, 20 s, ... 300 s (CrashLoopBackOff)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_S: Final = 10.0
LONGEST_S: Final = 300.0
FORGET_FACTOR: Final = 2.0
"""A container that ran for twice the longest pause begins with none again."""


@dataclass(slots=True)
class BackOff:
    """The pauses of one container.

    Attributes:
        scale: Factor of all times, for short tests.
    """

    scale: float = 1.0
    _pause_s: float = 0.0
    _grown_s: float | None = None

    def next_start_s(self, ended_s: float) -> float:
        """Return when the container may start again that ended at ``ended_s``."""
        if self._grown_s is not None and ended_s - self._grown_s > FORGET_FACTOR * LONGEST_S * self.scale:
            self._pause_s = 0.0
        pause_s = self._pause_s
        self._pause_s = min(LONGEST_S, 2 * pause_s or FIRST_S)
        start_s = ended_s + pause_s * self.scale
        self._grown_s = start_s
        return start_s
