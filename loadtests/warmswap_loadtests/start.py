"""How long from exec to a replica that has just swapped a face correctly?"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from warmswap_loadtests.errors import BenchError

COMMAND = [sys.executable, "-m", "warmswap_ops", "--json", "--http-port", "0", "--grpc-port", "0"]


def measure_start(repository: Path, runs: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Start ``warmswap serve`` several times, one after the other, and time every phase from outside.

    Raises:
        BenchError: a start failed.
    """
    totals: list[float] = []
    phases: dict[str, list[float]] = {}
    for number in range(runs):
        progress(f"start {number + 1} of {runs}")
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*COMMAND, "--metrics-port", "0", "--repository", str(repository)], stdout=subprocess.PIPE, text=True
        )
        try:
            for phase in _phases(process):
                phases.setdefault(phase["phase"], []).append(phase["ms"])
                if phase["phase"] == "ready":
                    totals.append((time.perf_counter() - begin) * 1e3)
                    break
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    return {
        "runs": runs,
        "exec_to_ready_ms": totals,
        "median_ms": statistics.median(totals),
        "phases_median_ms": {name: statistics.median(values) for name, values in phases.items()},
    }


def _phases(process: subprocess.Popen[str]) -> list[dict[str, Any]] | Any:
    assert process.stdout is not None
    for line in process.stdout:
        phase = json.loads(line)
        if phase["phase"] == "failed":
            raise BenchError(f"warmswap serve failed: {phase['error']}")
        yield phase
    raise BenchError("warmswap serve ended before it was ready")


def start_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    values = figures["exec_to_ready_ms"]
    lines = [
        f"exec to ready over {figures['runs']} runs: median {figures['median_ms']:.0f} ms, "
        f"least {min(values):.0f}, most {max(values):.0f}"
    ]
    return lines + [f"  {name:12}{ms:8.0f} ms" for name, ms in figures["phases_median_ms"].items()]
