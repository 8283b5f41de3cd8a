"""What can go wrong with a replica that is ready, and that a restart of its server mends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from warmswap_ops.residency.manager import ResidencyManager
from warmswap_ops.stub_watch import UNKNOWN, DeadStub, StubWatch
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
    server: TritonServer,
    residency: ResidencyManager,
    stubs: StubWatch | None,
    stopping: threading.Event,
    may_be_missed: Callable[[DeadStub], bool] = lambda stub: False,
) -> Trouble | None:
    """Wait for trouble; ``None`` = the replica is being stopped.

    Args:
        server: The server.
        residency: What it loads on demand.
        stubs: Its model processes.
        stopping: Set when the replica is being stopped.
        may_be_missed: Whether nobody needs the process that died: a candidate's.

    Raises:
        ServerError: the server died, and not over a load on demand.
    """
    while not stopping.is_set():
        code = server.process.wait(WATCH_INTERVAL_S)
        unfinished = residency.unfinished
        dead = [stub for stub in (stubs.dead() if stubs else []) if not may_be_missed(stub)]
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
