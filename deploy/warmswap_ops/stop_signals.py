"""SIGTERM and SIGINT as events in a queue. Imports nothing heavy: process 1 must have its handlers first thing.

The kernel drops a signal that process 1 has no handler for, so until this runs a SIGTERM is lost.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

EventQueue = queue.SimpleQueue[Any]
"""What ``serve_loop`` waits for."""


@dataclass(frozen=True, slots=True)
class StopSignal:
    """One signal that came."""

    number: int

    @property
    def name(self) -> str:
        """Its name: ``SIGTERM``."""
        return signal.Signals(self.number).name


@contextmanager
def stop_signals() -> Iterator[EventQueue]:
    """Yield a queue that stop signals go to.

    Not from the Python handler: that runs in the main thread only, which is not woken when the kernel gives the signal
    to another thread. The C handler writes to the wake-up file whichever thread it runs in.
    """
    events: EventQueue = queue.SimpleQueue()
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)

    def forward() -> None:
        while number := os.read(receiver, 1):
            if number[0] in STOP_SIGNALS:
                events.put(StopSignal(number[0]))
        os.close(receiver)

    previous_fd = signal.set_wakeup_fd(sender)
    previous = {number: signal.signal(number, _do_nothing) for number in STOP_SIGNALS}
    threading.Thread(target=forward, name="signals", daemon=True).start()
    try:
        yield events
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        os.close(sender)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Be a handler, so that the C handler is installed."""
