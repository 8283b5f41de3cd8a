"""The Unix socket at which pipeline processes ask for models; ``warmswap_ensemble.residency_client`` has the protocol.

A thread for each connection; there are as many as pipeline processes, which keep theirs for life. The folder of the
socket is private to the user.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from warmswap_ensemble.contract import ON_DEMAND_VARIABLE, RESIDENCY_SOCKET_VARIABLE
from warmswap_ops.errors import MachineError

LONGEST_WAIT_S: Final = 60.0
MAX_LINE_BYTES: Final = 4096
MAX_PATH_BYTES: Final = 100
"""The kernel takes 107."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a pipeline is told.

    Attributes:
        state: ``ready``, ``loading``, ``refused``, ``busy`` or ``unmanaged``.
        estimate_ms: With ``loading``: when to try again.
        reason: With ``refused`` and ``busy``: why.
    """

    state: str
    estimate_ms: float | None = None
    reason: str | None = None


class Leases(Protocol):
    """Who decides; see ``manager``."""

    def connect(self, pipeline: str) -> None:
        """Count a process of a pipeline."""

    def disconnect(self, pipeline: str, leases: Iterable[str]) -> None:
        """Forget a process and what it held."""

    def acquire(self, name: str, wait_s: float, pipeline: str) -> Answer:
        """Lease a model."""

    def release(self, name: str, *, lost: bool) -> None:
        """Give back a lease."""


class LeaseSocket:
    """Answers until it is closed."""

    def __init__(self, leases: Leases) -> None:
        """Open the socket.

        Raises:
            MachineError: it cannot be made.
        """
        self._leases = leases
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._folder = _private_folder()
        self.path = self._folder / "leases"
        try:
            self._listener.bind(str(self.path))
            self._listener.listen(64)
        except OSError as error:
            self.close()
            raise MachineError(
                f"cannot make the socket {self.path}: {error}; set TMPDIR to a writable folder"
            ) from error
        threading.Thread(target=self._accept, name="leases", daemon=True).start()

    def environment(self, on_demand: Iterable[str]) -> dict[str, str]:
        """Return what pipeline processes must find in their environment.

        Args:
            on_demand: Models that must be asked for.
        """
        return {RESIDENCY_SOCKET_VARIABLE: str(self.path), ON_DEMAND_VARIABLE: ",".join(on_demand)}

    def close(self) -> None:
        """Break all connections and remove the socket. Safe to call again."""
        with self._lock:
            self._closed = True
            connections = list(self._connections)
        for each in (self._listener, *connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self._lock:
                if self._closed:
                    connection.close()
                    return
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="lease", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as lines, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                self._converse(connection, lines)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _converse(self, connection: socket.socket, lines: BinaryIO) -> None:
        """Answer line by line until the other side is gone, or says something that is no question."""
        pipeline = str(_read(lines)["pipeline"])
        held: dict[int, str] = {}
        self._leases.connect(pipeline)
        try:
            _send(connection, {"state": "hello"})
            while True:
                question = _read(lines)
                if "release" in question:
                    self._leases.release(held.pop(int(question["release"])), lost=bool(question.get("lost")))
                    _send(connection, {"state": "released"})
                    continue
                name = str(question["acquire"])
                wait_s = min(LONGEST_WAIT_S, max(0.0, float(question.get("wait_ms", 0)) / 1e3))
                answer = self._leases.acquire(name, wait_s, pipeline)
                lease = max(held, default=0) + 1
                if answer.state == "ready":
                    held[lease] = name
                values = {"estimate_ms": answer.estimate_ms, "reason": answer.reason}
                _send(connection, {"state": answer.state, "lease": lease, **values})
        finally:
            self._leases.disconnect(pipeline, held.values())


def _private_folder() -> Path:
    """Return a new folder with mode 0700, where the temporary folder's path is too long, under ``/tmp``."""
    for parent in (None, "/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="warmswap-residency-", dir=parent))
        if len(str(folder)) < MAX_PATH_BYTES - len("/leases"):
            return folder
        folder.rmdir()
    raise MachineError("the path of the temporary folder is too long for a socket; set TMPDIR to a short one")


def _read(lines: BinaryIO) -> dict[str, Any]:
    line = lines.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise ConnectionResetError
    question: dict[str, Any] = json.loads(line)
    return question


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")
