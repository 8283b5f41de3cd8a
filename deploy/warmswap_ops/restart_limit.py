"""How often is too often?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 600.0


class RestartLimit:
    """Allows so many restarts within any ten minutes."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow ``most`` restarts; ``clock`` gives seconds."""
        self.most = most
        self._clock = clock
        self._at_s: deque[float] = deque(maxlen=max(1, most))

    def allow(self) -> bool:
        """Count one more restart and return True, unless there were too many."""
        now_s = self._clock()
        recent = [at_s for at_s in self._at_s if now_s - at_s < WINDOW_S]
        if len(recent) >= self.most:
            return False
        self._at_s.append(now_s)
        return True
