"""Asks the launcher for stages that are loaded on demand, and tells it when they are no longer in use.

The launcher keeps a Unix socket, whose path the stub processes inherit in ``WARMSWAP_RESIDENCY_SOCKET``, and names the
models that may be absent in ``WARMSWAP_ON_DEMAND``. One JSON object a line, one answer to each question:

    {"pipeline": "face_swap"}                        -> {"state": "hello"}
    {"acquire": "face_swapper_512", "wait_ms": 2000} -> {"state": "ready", "lease": 7}
                                                     or {"state": "loading", "estimate_ms": 800}
                                                     or {"state": "refused", "reason": "..."}
                                                     or {"state": "busy", "reason": "..."}
                                                     or {"state": "unmanaged"}
    {"release": 7, "lost": false}                    -> {"state": "released"}

A connection that closes gives back its leases. Standard library only; every wait is bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from warmswap_ensemble.contract import ON_DEMAND_VARIABLE, RESIDENCY_SOCKET_VARIABLE
from warmswap_ensemble.errors import ModelLoadingError, OverloadedError, StageFailedError, StageNotReadyError

ANSWER_TIMEOUT_S: Final = 2.0
"""Beyond the wait that was asked for."""
MAX_LINE_BYTES: Final = 65536


@dataclass(slots=True)
class ResidencyClient:
    """One connection of one pipeline process. One thread asks at a time: during a rollout there may be several.

    Attributes:
        pipeline: Who asks: ``face_swap``. The launcher lets all processes of a pipeline but one wait at a time.
        path: The launcher's socket; empty where there is none, for example under another launcher.
        on_demand: Models that may be absent.
    """

    pipeline: str
    path: str
    on_demand: frozenset[str] = frozenset()
    _socket: socket.socket | None = field(default=None, repr=False)
    _buffer: bytes = field(default=b"", repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    @classmethod
    def from_environment(
        cls, pipeline: str, environ: Mapping[str, str] = MappingProxyType(os.environ)
    ) -> ResidencyClient:
        """Return a client for the launcher that started this process."""
        on_demand = frozenset(filter(None, environ.get(ON_DEMAND_VARIABLE, "").split(",")))
        return cls(pipeline, environ.get(RESIDENCY_SOCKET_VARIABLE, ""), on_demand)

    @contextlib.contextmanager
    def hold(self, model: str, wait_ms: int) -> Iterator[None]:
        """Keep a model loaded during the block; nothing is asked of a model that is always there.

        Args:
            model: Stage that is about to be called.
            wait_ms: How long to wait for its load at most, should the launcher have a place to wait.

        Raises:
            ModelLoadingError: it is being loaded; the text says when to try again.
            StageFailedError: it could not be loaded, or does not fit into memory.
            OverloadedError: the launcher does not answer, or has no room for the model now.
        """
        if not self.path or model not in self.on_demand:
            yield
            return
        lease = self._acquire(model, wait_ms)
        lost = False
        try:
            yield
        except StageNotReadyError:  # somebody else unloaded it
            lost = True
            raise
        finally:
            if lease is not None:
                with contextlib.suppress(OSError, ValueError):  # a broken connection gives the lease back too
                    self._ask({"release": lease, "lost": lost}, ANSWER_TIMEOUT_S)

    def connect(self) -> None:
        """Say hello early, so that the launcher knows how many processes there are; no answer is no reason to stop."""
        if self.path and self.on_demand:
            with self._lock, contextlib.suppress(OSError, ValueError):
                self._connection()

    def close(self) -> None:
        """Give back all leases."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket, self._buffer = None, b""

    def _acquire(self, model: str, wait_ms: int) -> int | None:
        """Return the lease, or None where the launcher does not manage the model."""
        try:
            answer = self._ask({"acquire": model, "wait_ms": wait_ms}, wait_ms / 1e3 + ANSWER_TIMEOUT_S)
            handler = _ANSWERS[answer["state"]]
            return handler(model, answer)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.close()
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise OverloadedError(f"{model}: the launcher does not say whether it is loaded ({reason})") from error

    def _ask(self, question: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a line and read one.

        Raises:
            OSError: no connection, or no answer in time; the connection is closed.
            ValueError: the answer is not JSON.
        """
        with self._lock:
            try:
                connection = self._connection()
                connection.settimeout(timeout_s)
                connection.sendall(json.dumps(question).encode() + b"\n")
                return self._read_answer(connection)
            except BaseException:
                self.close()  # whatever comes late must not be taken for the next answer
                raise

    def _connection(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(ANSWER_TIMEOUT_S)
                connection.connect(self.path)
                connection.sendall(json.dumps({"pipeline": self.pipeline}).encode() + b"\n")
                self._read_answer(connection)
            except BaseException:
                connection.close()
                raise
            self._socket = connection
        return self._socket

    def _read_answer(self, connection: socket.socket) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = connection.recv(4096)
            if not data:
                raise ConnectionResetError("the launcher closed the connection")
            self._buffer += data
            if len(self._buffer) > MAX_LINE_BYTES:
                raise ValueError("the answer is too long")
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _ready(_model: str, answer: dict[str, Any]) -> int:
    return int(answer["lease"])


def _loading(model: str, answer: dict[str, Any]) -> int:
    seconds = max(0.1, float(answer["estimate_ms"]) / 1e3)
    raise ModelLoadingError(f"{model} is being loaded, ready in about {seconds:.1f} s; try again")


def _refused(_model: str, answer: dict[str, Any]) -> int:
    raise StageFailedError(str(answer["reason"]))


def _busy(_model: str, answer: dict[str, Any]) -> int:
    raise OverloadedError(str(answer["reason"]))


def _unmanaged(_model: str, _answer: dict[str, Any]) -> None:
    return None


_ANSWERS: Final[dict[str, Callable[[str, dict[str, Any]], int | None]]] = {
    "ready": _ready,
    "loading": _loading,
    "refused": _refused,
    "busy": _busy,
    "unmanaged": _unmanaged,
}
