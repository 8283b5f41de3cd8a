"""How much memory is left for one more model: of the machine, and of the container that this runs in."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")


def available_mb(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> float:
    """Return the megabytes that processes could take without anything being swapped or ended."""
    left_mb = [_machine_mb(meminfo)]
    files = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit, used in files:
        with contextlib.suppress(OSError, ValueError):
            left_mb.append((int((cgroup / limit).read_text()) - int((cgroup / used).read_text())) / 2**20)
    return max(0.0, min(left_mb))


def _machine_mb(meminfo: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    return float("inf")
