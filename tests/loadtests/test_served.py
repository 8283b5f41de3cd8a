"""The closed loop of clients."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from warmswap_loadtests.served import Call, run_closed_loop


def test_every_piece_of_work_is_done_once() -> None:
    done: list[int] = []
    threads: set[int] = set()

    @contextlib.contextmanager
    def connect() -> Iterator[Call[int]]:
        threads.add(threading.get_ident())

        def call(number: int) -> dict[str, float]:
            done.append(number)
            return {"step": 2.0}

        yield call

    latencies, steps = run_closed_loop(connect, count(), concurrency=3, total=20)
    assert sorted(done) == list(range(20))
    assert len(latencies.values_ms) == 20
    assert steps == {"step": 2.0}


def test_the_error_that_comes_first_is_raised() -> None:
    number = count()

    @contextlib.contextmanager
    def connect() -> Iterator[Call[int]]:
        if next(number) == 1:
            raise ConnectionError("the second client is refused")
        yield lambda _: {}

    with pytest.raises(ConnectionError, match="second"):
        run_closed_loop(connect, count(), concurrency=4, total=8)
