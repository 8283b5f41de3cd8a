"""Starts the trial of a candidate, ``scratch_worker``, in a process of its own, and reads what came of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import ON_DEMAND_VARIABLE, RESIDENCY_SOCKET_VARIABLE
from warmswap_ensemble.routes import ROLLOUT_FOLDER_VARIABLE, SERVED_REPOSITORY_VARIABLE
from warmswap_ops.access import TOKEN_FILE_VARIABLE

WORKER: Final = "warmswap_ops.rollout.scratch_worker"
_IN_BACKGROUND: Final = (
    "import os, sys; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Before anything is imported: that alone takes a core for half a second."""
_OF_THIS_SERVER: Final = (
    ON_DEMAND_VARIABLE,
    RESIDENCY_SOCKET_VARIABLE,
    ROLLOUT_FOLDER_VARIABLE,
    SERVED_REPOSITORY_VARIABLE,
    TOKEN_FILE_VARIABLE,
)
LONGEST_REASON: Final = 600


def start_proof(
    python: str,
    repository: Path,
    outcome: Path,
    versions: Mapping[str, tuple[int, int]],
    limits: Mapping[str, float],
) -> subprocess.Popen[bytes]:
    """Begin.

    Args:
        python: Interpreter with this package.
        repository: What is served.
        outcome: File for what comes of it; beside it goes what the trial writes.
        versions: Model to (stable, candidate).
        limits: See ``scratch_worker``.
    """
    job = {
        "repository": str(repository),
        "outcome": str(outcome),
        "versions": {model: list(pair) for model, pair in versions.items()},
        "limits": dict(limits),
    }
    env = {name: value for name, value in os.environ.items() if name not in _OF_THIS_SERVER}
    outcome.unlink(missing_ok=True)
    with outcome.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [python, "-S", "-c", _IN_BACKGROUND, python, "-m", WORKER, json.dumps(job)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def read_proof(outcome: Path, code: int) -> dict[str, Any]:
    """Return what came of a trial that has ended with an exit code: ``ok``, ``reason`` and what was measured."""
    try:
        found: dict[str, Any] = json.loads(outcome.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return {"ok": False, "reason": f"the trial ended with {how}: {_last_line(outcome.with_suffix('.log'))}"}
    return found


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return (lines or [""])[-1][:LONGEST_REASON]
