"""A replica in a few lines, and a contender made of it: ``python toy_replica.py PORT COLD_S PICTURE``."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from warmswap_loadtests.contenders.contender import HOST, Command, contender_environment
from warmswap_loadtests.contenders.wire import Wire
from warmswap_loadtests.payloads import Payload

PROBE = "/ready"


class ToyWire:
    path = "/swap"

    def encode(self, payload: Payload) -> tuple[bytes, Mapping[str, str]]:
        return payload.source, {}

    def decode(self, headers: Mapping[str, str], body: bytes) -> bytes:
        return body


class Toy:
    """Always ready; its first request takes long."""

    name, summary, live_path, ready_path = "naive", "a toy", PROBE, PROBE

    def __init__(self, cold_s: float, picture: Path) -> None:
        self.wire: Wire = ToyWire()
        self._cold_s, self._picture = cold_s, picture

    def prepare(self, repository: Path, work: Path) -> dict[str, Any]:
        return {}

    def command(self, port: int) -> Command:
        return Command(
            [sys.executable, __file__, str(port), str(self._cold_s), str(self._picture)], contender_environment()
        )

    def files(self) -> list[Path]:
        return []


def main() -> None:
    port, cold_s, picture = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]).read_bytes()
    lock = threading.Lock()
    is_cold = True

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b"ok")

        def do_POST(self) -> None:
            nonlocal is_cold
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:  # all wait for the first, as for a model that is being loaded
                time.sleep(cold_s if is_cold else 0.0)
                is_cold = False
            time.sleep(0.02)
            self._answer(picture)

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer((HOST, port), Handler).serve_forever()


if __name__ == "__main__":
    main()
