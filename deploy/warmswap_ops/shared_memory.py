"""The shared memory of Triton's Python backend, which nobody else removes when the server is killed.

Every launcher gives its server a prefix of its own and holds a lock on ``/dev/shm/<prefix>lock``. The kernel drops
the lock with the process, so a prefix whose lock can be taken belongs to a dead launcher: true across PID namespaces
and container restarts too, where a process id in the name would say nothing.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

SHM_DIR: Final = Path("/dev/shm")
FAMILY: Final = "warmswap-"
_LOCK: Final = "lock"


class SharedMemory:
    """The regions of one server.

    Attributes:
        prefix: For ``--backend-config=python,shm-region-prefix-name=``.
    """

    def __init__(self, shm_dir: Path = SHM_DIR) -> None:
        """Take a new prefix, and remove what dead launchers left."""
        self._dir = shm_dir
        remove_leftovers(shm_dir)
        self.prefix = f"{FAMILY}{os.getpid()}-{secrets.token_hex(8)}-"
        self._lock_fd = self._take_lock()

    def _take_lock(self) -> int | None:
        path = self._dir / f"{self.prefix}{_LOCK}"
        try:
            lock_fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None  # no /dev/shm: Triton will say so in its own words
        return lock_fd

    def clear(self) -> None:
        """Remove all regions, and keep the prefix for the next server; this one must be dead."""
        for path in self._dir.glob(f"{self.prefix}*"):
            if path.name != f"{self.prefix}{_LOCK}":
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all regions and give the prefix up; the server must be dead."""
        self.clear()
        (self._dir / f"{self.prefix}{_LOCK}").unlink(missing_ok=True)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def remove_leftovers(shm_dir: Path = SHM_DIR) -> list[str]:
    """Remove the regions of dead launchers, and return their prefixes."""
    removed: list[str] = []
    for lock in shm_dir.glob(f"{FAMILY}*-{_LOCK}"):
        prefix = lock.name.removesuffix(_LOCK)
        try:
            lock_fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another launcher was faster, or it is another user's
            continue
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its launcher lives
            continue
        else:
            for path in shm_dir.glob(f"{prefix}*"):
                path.unlink(missing_ok=True)
            removed.append(prefix)
        finally:
            os.close(lock_fd)
    return removed
