"""Shows a candidate what the stable version has already answered; a thread of its own, for what time is left over.

Nobody waits for a second look. It begins after the reply has been sent, while this process answers no other request;
at a busy moment it is dropped and counted, and at most ``MAX_WAITING`` wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_WAITING: Final = 2
REPLY_S: Final = 0.02
"""After a request was answered here, Triton still has to send the reply."""
LONGEST_WAIT_S: Final = 2.0
POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class SecondLook:
    """Something to do later.

    Attributes:
        run: Does it; must not raise.
        dropped: Told when it is not done.
    """

    run: Callable[[], None]
    dropped: Callable[[], None]


class Shadow:
    """The thread; started by the first second look."""

    def __init__(self) -> None:
        """Prepare."""
        self._waiting: deque[tuple[float, SecondLook]] = deque()
        self._changed = threading.Condition()
        self._answering = 0
        self._answered_s = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> None:
        """Note that this process answers requests now."""
        with self._changed:
            self._answering += 1

    def __exit__(self, *_: object) -> None:
        """Note that it has answered them."""
        with self._changed:
            self._answering -= 1
            self._answered_s = time.monotonic()
            self._changed.notify()

    def offer(self, look: SecondLook) -> None:
        """Take a second look later, if there is time."""
        with self._changed:
            if self._closed or len(self._waiting) >= MAX_WAITING:
                look.dropped()
                return
            self._waiting.append((time.monotonic(), look))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread after what it does now; what waits is dropped."""
        with self._changed:
            self._closed = True
            while self._waiting:
                self._waiting.popleft()[1].dropped()
            self._changed.notify()

    def _run(self) -> None:
        while (look := self._next()) is not None:
            look.run()

    def _next(self) -> SecondLook | None:
        """Wait for something to do, and for a quiet moment; None = the end."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return None
                asked_s, look = self._waiting[0]
                now_s = time.monotonic()
                if not self._answering and now_s - self._answered_s >= REPLY_S:
                    self._waiting.popleft()
                    return look
                if now_s - asked_s > LONGEST_WAIT_S:
                    self._waiting.popleft()
                    look.dropped()
                    continue
                self._changed.wait(POLL_S)
