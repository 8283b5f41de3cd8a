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
    pipe = subprocess.PIPE
    with subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            answer, complaints = _communicate(process, json.dumps(job).encode(), is_cancelled)
        finally:
            process.kill()
    return _read(process.returncode, answer, complaints)


def _communicate(process: subprocess.Popen[bytes], job: bytes, is_cancelled: IsCancelled) -> tuple[bytes, bytes]:
    deadline_s = time.monotonic() + TIMEOUT_S
    given: bytes | None = job
    while True:
        try:
            return process.communicate(given, timeout=POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            given = None  # what is left of it is remembered
        if is_cancelled():
            raise CompileError("stopped while compiling")
        if time.monotonic() > deadline_s:
            raise CompileError(f"the compiler is not done after {TIMEOUT_S:g} s")


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
