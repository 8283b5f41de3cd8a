"""``python -m warmswap_ops`` in a process of its own, watched with bounded waits."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

WAIT_S = 30.0


class ServeProcess:
    """A launcher; always killed at the end of the ``with`` block."""

    def __init__(
        self, repository: Path, *options: str, wrapper: tuple[str, ...] = (), env: Mapping[str, str] | None = None
    ) -> None:
        ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
        command = [*wrapper, sys.executable, "-m", "warmswap_ops", "--json", f"--repository={repository}"]
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            [*command, *ports, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=repository.parent,
            env={**os.environ, **(env or {})},
        )
        self.repository = repository
        self.pid = self._process.pid
        self._phases: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._read_phases), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

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
        for reader in self._readers:
            reader.join(WAIT_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()

    def phase(self, name: str) -> dict[str, Any]:
        """Wait for a phase; fail when the launcher ends without it."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            phase = self._phases.get(timeout=max(0.1, deadline_s - time.monotonic()))
            if phase is None:
                raise AssertionError(f"ended without phase {name}: {self.stderr()}")
            if phase["phase"] == name:
                return phase

    def send(self, number: int) -> None:
        """Signal the launcher itself, below the wrapper if there is one."""
        os.kill(self.launcher_pid(), number)

    def launcher_pid(self) -> int:
        pids = [pid for pid in (self.pid, *children(self.pid)) if "python" in program(pid)]
        return pids[0]

    def wait(self, timeout_s: float = WAIT_S) -> int:
        return self._process.wait(timeout_s)

    def stderr(self) -> str:
        self._process.wait(WAIT_S)
        self._readers[1].join(WAIT_S)
        return "".join(self._errors)

    def _read_phases(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._phases.put(json.loads(line))
        self._phases.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)


def program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def processes_with(text: str) -> list[int]:
    """Return the tritonservers and stubs whose command line has this text."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        is_triton = any(word.endswith((b"tritonserver", b"triton_python_backend_stub")) for word in words)
        if is_triton and text.encode() in b"\0".join(words):
            found.append(int(path.parent.name))
    return found


def stub_of(repository: Path, model: str) -> int:
    """Return the process of a model's first instance."""
    return min(processes_with(f"{repository}/{model}/1/"))


def shared_memory(launcher_pid: int) -> list[str]:
    return sorted(path.name for path in Path("/dev/shm").glob(f"warmswap-{launcher_pid}-*"))


def eventually(condition: Any, timeout_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
