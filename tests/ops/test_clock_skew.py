"""A compile and the names of shared memory do not depend on the wall clock.

The server itself is not run so: under libfaketime it was not ready a year ahead, and its sleeps failed a day behind.
Whether that is the server or the tool was not found out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ops.toys import write_repository
from warmswap_ops.shared_memory import SharedMemory

SKEWS = {"a year ahead": 365, "a day behind": -1, "long ago": -9000}
REAL_REST = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
"""A wrong wall clock does not touch the monotonic one."""


@pytest.fixture(params=list(SKEWS.values()), ids=list(SKEWS))
def skew_days(request: pytest.FixtureRequest) -> int:
    if shutil.which("faketime") is None:
        assert not os.environ.get("CI"), "apt-get install faketime"
        pytest.skip("needs Debian's faketime")
    return int(request.param)


def wrapper(days: int) -> tuple[str, ...]:
    return ("faketime", "-m", "-f", f"{days:+d}d")


def test_a_compiled_repository_stays_up_to_date_when_the_clock_jumps(tmp_path: Path, skew_days: int) -> None:
    repository, out = write_repository(tmp_path / "repository"), tmp_path / "out"
    command = [str(Path(sys.executable).parent / "warmswap"), "compile", f"--repository={repository}", f"--out={out}"]
    command += [f"--cache={tmp_path / 'cache'}"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert first.returncode == 0, first.stderr
    again = [*wrapper(skew_days), *command]
    second = subprocess.run(again, capture_output=True, text=True, timeout=300, check=False, env=os.environ | REAL_REST)
    assert second.returncode == 0, second.stderr
    assert "up to date" in second.stdout


def test_two_prefixes_of_one_moment_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    first, second = SharedMemory(tmp_path), SharedMemory(tmp_path)
    try:
        assert first.prefix != second.prefix
    finally:
        first.remove()
        second.remove()
