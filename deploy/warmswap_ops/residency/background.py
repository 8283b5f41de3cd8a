"""Lets a model load in the CPU time that nobody else wants, so that requests do not wait for it.

A load is a new stub process: Python starts, imports, reads the graph, warms up, on every core it gets. Under
``SCHED_IDLE`` the kernel gives it a core only where no other process asks for one. Going back to normal needs a
privilege (CAP_SYS_NICE): without it nothing is done, and a load takes its share of the cores.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

POLL_INTERVAL_S: Final = 0.01
"""Until the first process is found; its siblings, of a model with several instances, come soon after."""
SIBLING_INTERVAL_S: Final = 0.1
SIBLING_WATCH_S: Final = 1.0
LONGEST_S: Final = 5.0
"""On cores that are always busy a load in the background might never end: after this it takes its share."""


def may_reschedule() -> bool:
    """Whether this process may put others into the background and bring them back; tried on a thread of its own."""
    allowed: list[bool] = []

    def probe() -> None:
        try:
            _set_policy(threading.get_native_id(), os.SCHED_IDLE)
            _set_policy(threading.get_native_id(), os.SCHED_OTHER)
        except OSError:
            allowed.append(False)
        else:
            allowed.append(True)

    thread = threading.Thread(target=probe, name="sched-probe")
    thread.start()
    thread.join()
    return allowed == [True]


@contextlib.contextmanager
def loading_in_background(
    parent: int,
    is_loading: Callable[[int], bool],
    *,
    watch_s: float = SIBLING_WATCH_S,
    longest_s: float = LONGEST_S,
) -> Iterator[None]:
    """Keep new child processes of tritonserver in the background while a model loads.

    Args:
        parent: Process id of tritonserver.
        is_loading: Whether a child is one of the model that is being loaded.
        watch_s: For how long to look for more processes after the last one was found.
        longest_s: After this they take their share of the cores.
    """
    before = set(child_pids(parent))
    found: set[int] = set()
    ended = threading.Event()

    def watch() -> None:
        deadline_s = time.monotonic() + longest_s
        looks_until_s = deadline_s
        while time.monotonic() < looks_until_s:  # every look costs some milliseconds of CPU that requests want
            if ended.wait(SIBLING_INTERVAL_S if found else POLL_INTERVAL_S):
                return
            for pid in child_pids(parent):
                if pid not in before and pid not in found and is_loading(pid):
                    found.add(pid)
                    looks_until_s = min(deadline_s, time.monotonic() + watch_s)
                    _set_all_threads(pid, os.SCHED_IDLE)
        if not ended.wait(max(0.0, deadline_s - time.monotonic())):
            for pid in found:
                _set_all_threads(pid, os.SCHED_OTHER)

    watcher = threading.Thread(target=watch, name="background-load", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        for pid in found:
            _set_all_threads(pid, os.SCHED_OTHER)


def child_pids(parent: int) -> list[int]:
    """Return the children of a process, whichever of its threads started them."""
    children: list[int] = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += map(int, path.read_text(encoding="ascii").split())
    return children


def set_background(pid: int, *, on: bool) -> None:
    """Let a process run in CPU time that nobody else wants, or as all others do."""
    _set_all_threads(pid, os.SCHED_IDLE if on else os.SCHED_OTHER)


def _set_all_threads(pid: int, policy: int) -> None:
    """Set every thread of a process; a thread that is started meanwhile inherits from the one that starts it."""
    for _ in range(2):
        for path in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                _set_policy(int(path.name), policy)


def _set_policy(thread_id: int, policy: int) -> None:
    os.sched_setscheduler(thread_id, policy, os.sched_param(0))
