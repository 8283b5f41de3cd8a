"""Which processes load in the CPU time that nobody else wants, and for how long; with processes of our own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.ops.serve_process import eventually
from warmswap_ops.residency.background import SIBLING_WATCH_S, loading_in_background, may_reschedule

pytestmark = pytest.mark.skipif(not may_reschedule(), reason="no right to bring a process back from SCHED_IDLE")


class Loads:
    """Child processes that count as those of a model."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.pids: set[int] = set()

    def start(self) -> int:
        process = self._stack.enter_context(subprocess.Popen(["sleep", "60"]))
        self._stack.callback(process.kill)
        self.pids.add(process.pid)
        return process.pid

    def includes(self, pid: int) -> bool:
        return pid in self.pids


@pytest.fixture
def loads() -> Iterator[Loads]:
    with ExitStack() as stack:
        yield Loads(stack)


def is_quiet(pid: int) -> bool:
    return os.sched_getscheduler(pid) == os.SCHED_IDLE


def test_a_process_that_comes_long_after_the_first_is_found_too(loads: Loads) -> None:
    with loading_in_background(os.getpid(), loads.includes, watch_s=30.0, longest_s=30.0):
        first = loads.start()
        assert eventually(lambda: is_quiet(first))
        time.sleep(SIBLING_WATCH_S + 0.5)
        second = loads.start()
        assert eventually(lambda: is_quiet(second))
        assert is_quiet(first)
    assert [is_quiet(first), is_quiet(second)] == [False, False]


def test_a_load_that_takes_too_long_gets_its_share(loads: Loads) -> None:
    with loading_in_background(os.getpid(), loads.includes, watch_s=30.0, longest_s=1.0):
        pid = loads.start()
        assert eventually(lambda: is_quiet(pid))
        assert eventually(lambda: not is_quiet(pid))


def test_processes_of_others_are_left_alone(loads: Loads) -> None:
    before = loads.start()
    with loading_in_background(os.getpid(), loads.includes, watch_s=30.0):
        first = loads.start()
        assert eventually(lambda: is_quiet(first))
        assert not is_quiet(before), "it was there already"
        assert not is_quiet(os.getpid())
