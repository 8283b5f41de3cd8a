"""Runs ``worker`` and says in one line what became of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from warmswap_ops.compiling.locks import POLL_INTERVAL_S, IsCancelled
from warmswap_ops.errors import CompileError

TIMEOUT_S: Final = 600.0
COMMAND: Final = (sys.executable, "-m", "warmswap_ops.compiling.worker")


def run_worker(job: Mapping[str, Any], is_cancelled: IsCancelled) -> dict[str, Any]:
    """Compile one graph in a process of its own.

    Args:
        job: See ``worker.compile_graph``.
        is_cancelled: Asked while it runs.

    Returns:
        Its answer.

    Raises:
        CompileError: it failed, was killed, took longer than ``TIMEOUT_S``, or was cancelled.
    """
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline_s = time.monotonic() + TIMEOUT_S
    given: bytes | None = json.dumps(job).encode()
    try:
        while True:
            try:
                answer, complaints = process.communicate(given, timeout=POLL_INTERVAL_S)
                break
            except subprocess.TimeoutExpired:
                given = None
            if is_cancelled():
                raise CompileError("stopped while compiling")
            if time.monotonic() > deadline_s:
                raise CompileError(f"the compiler is not done after {TIMEOUT_S:g} s")
    finally:
        process.kill()
        process.wait()
    return _read(process.returncode, answer, complaints)


def _read(returncode: int, answer: bytes, complaints: bytes) -> dict[str, Any]:
    if returncode < 0:
        name = signal.Signals(-returncode).name
        raise CompileError(f"the compiler was killed by {name}{': out of memory?' if name == 'SIGKILL' else ''}")
    try:
        values: dict[str, Any] = json.loads(answer)
    except ValueError:
        last = complaints.decode(errors="replace").strip().rpartition("\n")[2]
        raise CompileError(f"the compiler ended with exit code {returncode}: {last or 'it said nothing'}") from None
    if "error" in values:
        raise CompileError(values["error"])
    return values
