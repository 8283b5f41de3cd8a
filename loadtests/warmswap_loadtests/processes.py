"""Memory of processes, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def peak_rss_mb(pids: Iterable[int]) -> float:
    """Return the sum of the largest resident sizes that the processes ever had; those that are gone count nothing."""
    return sum(_status_kb(pid, "VmHWM:") for pid in pids) / 1024


def rss_mb(pids: Iterable[int]) -> float:
    """Return the sum of the resident sizes now; pages that are shared count in each."""
    return sum(_status_kb(pid, "VmRSS:") for pid in pids) / 1024


def pss_mb(pids: Iterable[int]) -> float:
    """Return the sum of what the processes hold now, shared pages divided among those that share them."""
    return sum(_field_kb(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids) / 1024


def _status_kb(pid: int, field: str) -> int:
    return _field_kb(Path(f"/proc/{pid}/status"), field)


def _field_kb(path: Path, field: str) -> int:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)
