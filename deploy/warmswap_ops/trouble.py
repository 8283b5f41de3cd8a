"""What can go wrong with a replica that is ready, and that a restart of its server mends."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import Final

from warmswap_ops.residency.manager import ResidencyManager
from warmswap_ops.stub_watch import UNKNOWN, StubWatch
from warmswap_ops.triton_server import TritonServer

CRASHES: Final = (-signal.SIGSEGV, -signal.SIGABRT)
WATCH_INTERVAL_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something happened after which the server must be started anew.

    Attributes:
        culprits: Models, and a word for what became of each.
        reason: The same as a sentence.
    """

    culprits: tuple[tuple[str, str], ...]
    reason: str


def next_trouble(
    server: TritonServer, residency: ResidencyManager, stubs: StubWatch | None, stopping: threading.Event
) -> Trouble | None:
    """Wait for trouble; ``None`` = the replica is being stopped.

    Raises:
        ServerError: the server died, and not over a load on demand.
    """
    while not stopping.is_set():
        code = server.process.wait(WATCH_INTERVAL_S)
        unfinished = residency.unfinished
        dead = stubs.dead() if stubs else []
        if stopping.is_set():
            return None
        if code is not None:
            if unfinished is None or code not in CRASHES:
                server.process.check_alive()
            reason = f"tritonserver crashed while it loaded {unfinished}"
            residency.crashed(str(unfinished), reason)
            return Trouble(((str(unfinished), "crashed"),), reason)
        if unfinished is not None:  # a process that dies while its model loads is the trouble of that load
            dead = [stub for stub in dead if stub.model not in (unfinished, UNKNOWN)]
        if dead:
            return Trouble(tuple((stub.model, stub.reason) for stub in dead), "; ".join(map(str, dead)))
    return None
