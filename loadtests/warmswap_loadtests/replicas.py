"""What a second replica of the same repository adds to the memory of a machine, and what a start costs in CPU time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from warmswap_ops.launcher import LocalTriton

FIRST, SECOND = "first", "second"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def measure_replicas(repository: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Start two replicas, one after the other; PSS counts a page that several processes share in parts."""
    progress("first replica")
    with LocalTriton(repository) as first:
        cpu_s = {FIRST: _cpu_s(first.processes)}
        alone_mb = _pss_mb(first.processes)
        progress("second replica")
        with LocalTriton(repository) as second:
            cpu_s[SECOND] = _cpu_s(second.processes)
            together_mb = _pss_mb(first.processes) + _pss_mb(second.processes)
    added_mb = together_mb - alone_mb
    return {
        "repository": str(repository),
        "exec_to_ready_cpu_s": cpu_s,
        "first_pss_mb": alone_mb,
        "added_pss_mb": added_mb,
        "added_share": added_mb / alone_mb,
    }


def replicas_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    cpu_s = figures["exec_to_ready_cpu_s"]
    return [
        f"CPU time of the server from exec to ready: first {cpu_s[FIRST]:.1f} s, second {cpu_s[SECOND]:.1f} s",
        f"PSS: the first replica {figures['first_pss_mb']:.0f} MB, the second adds {figures['added_pss_mb']:.0f} MB "
        f"= {figures['added_share']:.0%}",
    ]


def _pss_mb(processes: list[int]) -> float:
    return sum(_pss_kb(pid) for pid in processes) / 1024


def _pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _cpu_s(processes: list[int]) -> float:
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes)
    return sum(int(values[11]) + int(values[12]) for values in fields) / _TICKS_PER_S
