"""What a contender is, and its process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import psutil

from warmswap_loadtests.contenders.wire import Wire
from warmswap_loadtests.errors import BenchError

HOST: Final = "127.0.0.1"
STOP_PATIENCE_S: Final = 10.0
LOG_TAIL_LINES: Final = 8


@dataclass(frozen=True, slots=True)
class Command:
    """One start of a contender.

    Attributes:
        argv: Program and arguments.
        env: Environment.
        clean_up: Called when all its processes are gone.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    clean_up: Callable[[], None] = lambda: None


class Contender(Protocol):
    """A way to serve the models of a repository over HTTP.

    Attributes:
        name: As on the command line.
        summary: What it is, in one sentence.
        live_path: Answers 200 while the server lives.
        ready_path: Answers 200 while the server wants requests.
        wire: The form of its requests.
    """

    name: str
    summary: str
    live_path: str
    ready_path: str
    wire: Wire

    def prepare(self, repository: Path, work: Path) -> dict[str, Any]:
        """Do once what is done before a deployment, not at the start of a replica; return facts for the report.

        Args:
            repository: Model repository to serve.
            work: A folder of its own.

        Raises:
            BenchError: it cannot be done.
        """

    def command(self, port: int) -> Command:
        """Return how to start it, listening on ``HOST`` and ``port``."""

    def files(self) -> list[Path]:
        """Return the folders with the models that it reads."""


class ContenderProcess:
    """A contender that was just started; all its processes are gone at the end of the ``with`` block.

    Attributes:
        start_s: The moment of exec on the clock ``time.monotonic``.
        base_url: ``http://host:port``.
    """

    def __init__(self, contender: Contender, port: int, log: Path) -> None:
        """Start it.

        Args:
            contender: What to start; it is prepared.
            port: Port for HTTP.
            log: Gets what it writes.
        """
        self.base_url = f"http://{HOST}:{port}"
        self._name, self._log = contender.name, log
        self._command = contender.command(port)
        self._cwd = tempfile.TemporaryDirectory(prefix="warmswap-bench-")  # empty: Triton's stub imports from there
        setpriv = shutil.which("setpriv")  # so that it goes when the benchmark is killed
        prefix = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        with log.open("wb") as output:
            self.start_s = time.monotonic()
            self._process = subprocess.Popen(
                [*prefix, *self._command.argv],
                env=dict(self._command.env),
                cwd=self._cwd.name,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def pids(self) -> list[int]:
        """Return the ids of its living processes."""
        return [process.pid for process in self._family() if process.is_running()]

    def check_alive(self) -> None:
        """Refuse a dead contender.

        Raises:
            BenchError: it ended; the text has the end of its log.
        """
        if self._process.poll() is not None:
            raise BenchError(f"{self._name} ended with code {self._process.returncode}: {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines that it wrote, as one."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-LOG_TAIL_LINES:] if line.strip()) or f"nothing in {self._log}"

    def stop(self) -> None:
        """Ask it to end, then kill what is left."""
        family = self._family()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_PATIENCE_S)
        for process in family:  # psutil knows a process by its time of birth too
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(STOP_PATIENCE_S)
        psutil.wait_procs(family, timeout=STOP_PATIENCE_S)
        self._command.clean_up()
        self._cwd.cleanup()

    def _family(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def contender_environment() -> dict[str, str]:
    """Return the environment of every contender: no telemetry, and no OpenBLAS threads of NumPy that wait busily."""
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
