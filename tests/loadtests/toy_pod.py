"""A pod's process in a few lines, with the faults of its environment: probed, drained and killed like a real one."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

from warmswap_loadtests.kubelet.pod_spec import PodSpec
from warmswap_ops.ports import Ports


def toy_command(_: PodSpec, ports: Ports, __: Path) -> list[str]:
    return [sys.executable, __file__, str(ports.http)]


def main() -> None:
    begin_s = time.monotonic()
    starts_s = float(os.environ.get("TOY_STARTS_S", "0"))
    dies_s = float(os.environ.get("TOY_DIES_S", "inf"))
    sick_s = float(os.environ.get("TOY_SICK_S", "inf"))  # from then on its liveness fails

    def stop(_number: int, _frame: FrameType | None) -> None:
        if "TOY_IGNORES_SIGTERM" not in os.environ:
            os._exit(0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            age_s = time.monotonic() - begin_s
            good = age_s < sick_s if self.path == "/live" else age_s >= starts_s
            self.send_response(200 if good else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    signal.signal(signal.SIGTERM, stop)
    if dies_s < float("inf"):
        threading.Timer(dies_s, lambda: os._exit(7)).start()
    sys.stderr.write("the toy listens\n")
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
