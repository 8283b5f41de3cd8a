"""The command ``warmswap`` as processes of their own, with bounded waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.repositories import REPOSITORY
from tests.ops.serve_process import eventually, processes_with, shared_memory

WARMSWAP = Path(sys.executable).parent / "warmswap"
WAIT_S = 180.0
ANY_PORTS = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")


class Serve:
    """``warmswap serve --json``; gone at the end of the ``with`` block, whatever happened.

    Whatever still has the repository's path in its command line is killed then: give it a copy, since the shipped
    repository is served to other tests by the session's server. Its output goes to files, so that no pipe can fill up.
    """

    def __init__(self, repository: Path, folder: Path, *options: str) -> None:
        assert repository != REPOSITORY, "serve a copy"
        self.repository = repository
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [WARMSWAP, "serve", "--json", f"--repository={repository}", *ANY_PORTS, *options],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(WAIT_S)
        for pid in processes_with(str(self.repository)):
            os.kill(pid, signal.SIGKILL)

    def phases(self) -> list[dict[str, Any]]:
        lines = self._stdout.read_text().split("\n")[:-1]  # the last may be in the making
        return [json.loads(line) for line in lines]

    def phase(self, name: str) -> dict[str, Any]:
        """Wait for a phase; fail when the launcher ends without it."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            ended = self._process.poll() is not None
            found = [phase for phase in self.phases() if phase["phase"] == name]
            if found:
                return found[0]
            assert not ended, f"ended without phase {name}: {self.errors()}"
            assert time.monotonic() < deadline_s, f"no phase {name}: {self.phases()}"
            time.sleep(0.02)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self._process.wait(WAIT_S)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def errors(self) -> str:
        return self._stderr.read_text()

    def assert_nothing_left(self) -> None:
        assert eventually(lambda: processes_with(str(self.repository)) == [])
        assert shared_memory(self.pid) == []


def warmswap(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([WARMSWAP, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False)
