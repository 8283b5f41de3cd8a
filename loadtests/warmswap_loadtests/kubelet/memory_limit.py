"""A memory limit of the kernel for one container (cgroup v1), and a leak that reaches it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_loadtests.errors import BenchError

ROOT: Final = Path("/sys/fs/cgroup/memory")
SCORE: Final = 900
"""``oom_score_adj`` of a Burstable pod that asks for a tenth of its node's memory."""
HEADROOM_BYTES: Final = 48 * 1024 * 1024
LEAK_TIMEOUT_S: Final = 20.0
_LEAK: Final = "kept = []\nwhile True: kept.append(bytearray(b'x' * 4_000_000))"


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """One control group; its processes may together use no more than its limit."""

    path: Path

    @classmethod
    def create(cls, name: str, limit_bytes: int) -> MemoryGroup | None:
        """Return a new group; ``None`` = this machine does not let us make one."""
        group = cls(ROOT / name)
        try:
            group.path.mkdir()
            group.path.joinpath("memory.limit_in_bytes").write_text(str(limit_bytes))
        except OSError:
            group.remove()
            return None
        return group

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        fields = (self.path / "memory.oom_control").read_text().split()
        return int(fields[fields.index("oom_kill") + 1]) if "oom_kill" in fields else 0

    @property
    def procs(self) -> Path:
        """File that a process writes its id to in order to join."""
        return self.path / "cgroup.procs"

    @property
    def join(self) -> str:
        """A shell's words for becoming a member that is killed before others, as the kubelet makes its pods."""
        return f"echo $$ > {self.procs} && echo {SCORE} > /proc/self/oom_score_adj"

    def leak_until_killed(self) -> None:
        """Use up what is left with a process of our own, which the kernel spares, until it kills another.

        Raises:
            BenchError: it kills none.
        """
        before = self.kills
        used = int((self.path / "memory.usage_in_bytes").read_text())
        (self.path / "memory.limit_in_bytes").write_text(str(used + HEADROOM_BYTES))
        line = f'echo $$ > {self.procs} && exec "$@"'
        leak = subprocess.Popen(["sh", "-c", line, "sh", sys.executable, "-c", _LEAK])
        try:
            deadline_s = time.monotonic() + LEAK_TIMEOUT_S
            while self.kills == before:
                if time.monotonic() > deadline_s or leak.poll() is not None:
                    raise BenchError(f"the kernel killed nothing over the memory limit of {self.path}")
                time.sleep(0.002)
        finally:
            leak.kill()
            leak.wait()
            with contextlib.suppress(OSError):
                (self.path / "memory.limit_in_bytes").write_text("-1")

    def remove(self) -> None:
        """Remove it; its processes must be gone."""
        for _ in range(50):
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)
            else:
                return
