"""Memory of processes, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from warmswap_ops.residency.memory import pss_mb

__all__ = ["peak_rss_mb", "pss_mb", "rss_mb"]


def peak_rss_mb(pids: Iterable[int]) -> float:
    """Return the sum of the largest resident sizes that the processes ever had; those that are gone count nothing."""
    return sum(_status_kb(pid, "VmHWM:") for pid in pids) / 1024


def rss_mb(pids: Iterable[int]) -> float:
    """Return the sum of the resident sizes now; pages that are shared count in each."""
    return sum(_status_kb(pid, "VmRSS:") for pid in pids) / 1024


def _status_kb(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)
