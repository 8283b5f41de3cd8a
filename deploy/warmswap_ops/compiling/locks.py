"""One process at a time; the others say that they wait, and wait no longer than they were told."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from warmswap_ops.errors import CompileError

POLL_INTERVAL_S: Final = 0.1

Say = Callable[[str], None]
IsCancelled = Callable[[], bool]


@contextlib.contextmanager
def exclusive(path: Path, timeout_s: float, say: Say, is_cancelled: IsCancelled) -> Iterator[None]:
    """Hold a lock file.

    The file stays: to remove it would let two processes lock two files of one name.

    Args:
        path: The lock file; its folder must exist.
        timeout_s: How long to wait for another process.
        say: Gets one line when there is something to wait for.
        is_cancelled: Asked while waiting.

    Raises:
        CompileError: the time is up, or the wait was cancelled.
        OSError: the file cannot be opened or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait(descriptor, path, time.monotonic() + timeout_s, timeout_s, say, is_cancelled)
        yield
    finally:
        os.close(descriptor)


def _wait(
    descriptor: int, path: Path, deadline_s: float, timeout_s: float, say: Say, is_cancelled: IsCancelled
) -> None:
    said = False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        if is_cancelled():
            raise CompileError("stopped while another process compiled")
        if time.monotonic() > deadline_s:
            raise CompileError(
                f"another process has held {path} for {timeout_s:g} s: wait for it, stop it, or give more time with "
                "--wait"
            )
        if not said:
            say(f"another process is compiling the same (lock {path}): waiting for it, at most {timeout_s:g} s")
            said = True
        time.sleep(POLL_INTERVAL_S)
