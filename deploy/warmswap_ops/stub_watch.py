"""Which model processes of a tritonserver have died?

Triton 24.10 gives every model instance of its Python backend a process, the stub, and goes on calling the model ready
when that process is gone (server#8604): its requests fail after a second each. Triton waits for a stub that it ends
itself, so a stub that stays a zombie was ended by something else.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

UNKNOWN: Final = "unknown"
STUB_NAME: Final = b"triton_python_backend_stub"
MODEL_PATH_ARGUMENT: Final = 1
_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeadStub:
    """A model process that died.

    Attributes:
        pid: Its process id.
        model: Whose it was; ``unknown`` if it died before it was first seen.
        version: Of the model; 0 if unknown.
        reason: ``oom_killed``, ``killed`` or ``exited``.
        cause: The same in words.
    """

    pid: int
    model: str
    reason: str
    cause: str
    version: int = 0

    def __str__(self) -> str:
        """Return what happened, in words."""
        return f"model {self.model}: its process {self.pid} {self.cause}"


class StubWatch:
    """The stubs of one server; ask ``dead`` again and again."""

    def __init__(self, server_pid: int) -> None:
        """Look at the stubs for the first time."""
        self._server_pid = server_pid
        self._models: dict[int, tuple[str, int]] = {}
        self._zombies: set[int] = set()
        self._oom_kills = oom_kills()
        self.dead()

    def dead(self) -> list[DeadStub]:
        """Return the stubs that are zombies now and were when this was asked before.

        One that Triton has just ended is a zombie too, for a moment.
        """
        children = _children(self._server_pid)
        zombies: set[int] = set()
        for pid in children:
            state = _stat(pid)[:1]
            if state in (["Z"], ["X"]):
                zombies.add(pid)
            elif pid not in self._models and (model := stub_version(pid)) is not None:
                self._models[pid] = model
        self._models = {pid: model for pid, model in self._models.items() if pid in children}
        confirmed, self._zombies = sorted(zombies & self._zombies), zombies
        if not confirmed:
            return []
        was_oom = oom_kills() > self._oom_kills
        known = [(pid, *self._models.get(pid, (UNKNOWN, 0))) for pid in confirmed]
        return [replace(_describe(pid, model, was_oom=was_oom), version=version) for pid, model, version in known]


def has_dead_stub(server_pid: int) -> bool:
    """Whether a stub of the server is a zombie now."""
    return any(_stat(pid)[:1] == ["Z"] for pid in _children(server_pid))


def oom_kills() -> int:
    """Return how many processes of this one's memory cgroup the kernel has killed for want of memory."""
    for path in _memory_events():
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def _memory_events() -> list[Path]:
    """Return where the kernel counts: in a container its own cgroup is the root of what it sees."""
    paths: list[Path] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "memory":  # version 1
                paths += [_CGROUP_ROOT / "memory" / path.lstrip("/") / "memory.oom_control"]
                paths += [_CGROUP_ROOT / "memory/memory.oom_control"]
            elif not controllers:
                paths += [_CGROUP_ROOT / path.lstrip("/") / "memory.events", _CGROUP_ROOT / "memory.events"]
    return paths


def _describe(pid: int, model: str, *, was_oom: bool) -> DeadStub:
    fields = _stat(pid)
    with contextlib.suppress(ValueError, IndexError):
        status = int(fields[49])  # field 52 of proc(5): the wait status; 0 where we may not know it
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            name = signal.Signals(number).name
            if number == signal.SIGKILL and was_oom:
                return DeadStub(pid, model, "oom_killed", "was killed by the kernel: out of memory")
            return DeadStub(pid, model, "killed", f"was killed by {name}")
        return DeadStub(pid, model, "exited", f"exited with code {os.WEXITSTATUS(status)}")
    return DeadStub(pid, model, "exited", "is gone")


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat`` from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _children(pid: int) -> set[int]:
    """Return the children of all threads of a process."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(child) for child in path.read_text().split())
    return found


def stub_version(pid: int) -> tuple[str, int] | None:
    """Return model and version of a stub: its first argument is ``<repository>/<model>/<version>/<file>``."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if not words[0].endswith(STUB_NAME) or len(words) <= MODEL_PATH_ARGUMENT:
        return None
    parts = PurePosixPath(os.fsdecode(words[MODEL_PATH_ARGUMENT])).parts
    return (parts[-3], int(parts[-2])) if len(parts) >= 3 and parts[-2].isdecimal() else None
