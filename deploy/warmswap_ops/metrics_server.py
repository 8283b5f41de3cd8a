"""The public metrics port: open before anything else, and of no consequence to serving.

The listening socket is bound by whoever makes the server, so a taken port is known at once. ``http.server`` is imported
by the first request: 35 ms that a start would have to pay.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Final

MAX_CONNECTIONS: Final = 8
"""More at a time are closed unanswered: a scraper that hangs must not pile up threads."""


class MetricsServer:
    """Answers ``GET /metrics`` in threads of its own."""

    def __init__(self, listener: socket.socket, metrics: Callable[[], str]) -> None:
        """Start to answer.

        Args:
            listener: A listening socket, which is closed with the server.
            metrics: Makes the text; called for every request.
        """
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._metrics = metrics
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        threading.Thread(target=self._accept, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Close the port; safe to call again."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        except OSError:
            return
        finally:
            self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                threading.Event().wait(0.1)  # out of file descriptors, perhaps: not for ever
                continue
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._answer, args=(connection,), name="scrape", daemon=True).start()
            else:
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        from warmswap_ops.metrics_handler import answer

        try:
            answer(connection, self._metrics)
        except OSError:  # the scraper went away
            return
        finally:
            connection.close()
            self._free.release()
