"""Where and with what a benchmark ran."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from warmswap_ops.errors import OpsError
from warmswap_ops.triton_install import find_triton

PACKAGES: Final = ("warmswap", "onnxruntime", "numpy", "opencv-python", "fastapi", "uvicorn", "aiohttp", "tritonclient")


def run_facts(benchmark: str, begin_s: float, commit: str | None) -> dict[str, Any]:
    """Return what stands at the head of every results file.

    Args:
        benchmark: Its name.
        begin_s: When it began, on the clock ``time.monotonic``.
        commit: ``git_commit`` at that time; the files may have changed since.
    """
    return {
        "benchmark": benchmark,
        "command": command_line(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - begin_s),
        "git_commit": commit,
        "machine": machine_facts(),
        "versions": version_facts(),
    }


def machine_facts() -> dict[str, Any]:
    """Return processor, cores that may be used, memory, kernel; no name of the machine."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(pages * page_bytes / 1e9, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
    }


def version_facts() -> dict[str, str]:
    """Return the versions of Python, Triton and the packages that matter."""
    facts = {"python": platform.python_version(), "triton": _triton()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def git_commit() -> str | None:
    """Return the commit of this checkout, with ``-dirty`` if files were changed; ``None`` outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def command_line() -> str:
    """Return how this process was called, without the folder of the program."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _triton() -> str:
    try:
        return find_triton().version
    except OpsError:
        return "none"
