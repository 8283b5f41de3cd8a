"""Memory of processes, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from warmswap_ops.residency.memory import pss_mb

__all__ = ["peak_rss_mb", "pss_mb"]


def peak_rss_mb(pids: Iterable[int]) -> float:
    """Return the sum of the largest resident sizes that the processes ever had; those that are gone count nothing."""
    return sum(_peak_kb(pid) for pid in pids) / 1024


def _peak_kb(pid: int) -> int:
    path = Path(f"/proc/{pid}/status")
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
