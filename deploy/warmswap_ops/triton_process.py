"""The tritonserver process: start, wait for its ports, stop, leave nothing behind.

The thread that reads the server's output is also the one that starts it, because the kernel ties the parent-death
signal (``setpriv --pdeathsig``) to the thread that started the child: this one lives as long as the server does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from warmswap_ops.errors import ServerError
from warmswap_ops.triton_log import TritonLog

POLL_INTERVAL_S: Final = 0.005
KILL_WAIT_S: Final = 10.0


class TritonProcess:
    """One tritonserver and the stubs that it starts."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: TritonLog) -> None:
        """Start the server; returns once the process exists.

        Raises:
            ServerError: the program cannot be started.
        """
        self._log = log
        # Empty, because the stub puts it before the backend's folder on sys.path: a model.py there would be taken.
        self._cwd = tempfile.TemporaryDirectory(prefix="warmswap-cwd-")
        self._process: subprocess.Popen[bytes] | None = None
        self._spawn_error: OSError | None = None
        self._is_gone = False
        spawned = threading.Event()
        self._reader = threading.Thread(
            target=self._spawn_and_read, args=(list(command), dict(env), spawned), name="triton-log", daemon=True
        )
        self._reader.start()
        spawned.wait()
        if self._process is None:
            self._cwd.cleanup()
            raise ServerError(f"cannot start {command[0]}: {self._spawn_error}")

    @property
    def pid(self) -> int:
        """Process id of the server, which is its session and process group too."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, ``None`` while it runs."""
        return self._popen.poll()

    def processes(self) -> list[int]:
        """Return the ids of the living processes of the server's session: the server and its stubs."""
        return sorted(_session_members(self.pid))

    def check_alive(self) -> None:
        """Refuse a dead server.

        Raises:
            ServerError: it died; the text has its decisive line.
        """
        if self.returncode is not None:
            self._reader.join(timeout=1.0)
            raise ServerError(f"tritonserver {describe_exit(self.returncode)}: {self._log.decisive_line()}")

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end of the server; return its exit code, or ``None`` when the time is up."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """Ask the server to finish what it has and to exit."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server and its stubs at once; returns when they are gone. Safe to call again."""
        if self._is_gone:
            return
        self._kill_session()
        self.wait(KILL_WAIT_S)
        deadline = time.monotonic() + KILL_WAIT_S
        while _session_members(self.pid) and time.monotonic() < deadline:
            self._kill_session()
            time.sleep(POLL_INTERVAL_S)
        self._reader.join(timeout=1.0)
        self._cwd.cleanup()
        self._is_gone = True

    def _kill_session(self) -> None:
        for pid in _session_members(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def _popen(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _spawn_and_read(self, command: list[str], env: dict[str, str], spawned: threading.Event) -> None:
        setpriv = shutil.which("setpriv")
        if setpriv:  # when the launcher is killed, the server drains and goes too
            command = [setpriv, "--pdeathsig", "TERM", *command]
        try:
            self._process = subprocess.Popen(
                command,
                env=env,
                cwd=self._cwd.name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._spawn_error = error
            return
        finally:
            spawned.set()
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._log.add(line.decode(errors="replace").rstrip("\n"))


def describe_exit(returncode: int) -> str:
    """Return how a process ended, in words."""
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"exited with code {returncode}"


def _session_members(session: int) -> list[int]:
    """Return the processes of a session that still run; a zombie does not."""
    members: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in ("Z", "X"):
                members.append(int(stat.parent.name))
    return members
