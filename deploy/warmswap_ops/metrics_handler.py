"""What the metrics port answers, and how it asks Triton; imported by the first request only."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

from warmswap_ops.metrics_text import CONTENT_TYPE

PATH: Final = "/metrics"
CONNECTION_TIMEOUT_S: Final = 5.0
TRITON_TIMEOUT_S: Final = 1.0


def answer(connection: socket.socket, metrics: Callable[[], str]) -> None:
    """Answer one request of a connection.

    Raises:
        OSError: the other side went away.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = CONNECTION_TIMEOUT_S

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(404, explain=f"metrics are at {PATH}")
                return
            body = metrics().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Write nothing: standard error is for what an operator must see."""

    Handler(connection, connection.getpeername(), None)  # type: ignore[arg-type]


def get(host: str, port: int, path: str) -> tuple[int, str] | None:
    """Return status and body of a GET to Triton, or None if it does not answer in time."""
    connection = http.client.HTTPConnection(host, port, timeout=TRITON_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
