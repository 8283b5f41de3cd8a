"""The open-loop generator: requests leave when they are due, whatever became of those before them.

A closed loop waits for slow answers and so never sends what would have come meanwhile (coordinated omission). Here the
times are fixed beforehand, each request is a task of its own, and latency counts from the time at which it was due.

One event loop sends them all. It must do nothing else that takes time: look at the answers afterwards.
``greatest_lag_s`` says how late it was at worst.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

A = TypeVar("A")

Send = Callable[[int], Awaitable[A]]
"""Sends the request of that number and returns its answer; raises ``RequestFailedError``."""


class RequestFailedError(Exception):
    """The server refused a request, broke the connection, or answered with something that cannot be read."""


class Outcome(StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    WRONG = "wrong"  # an answer, but not the right one; set by whoever looks at the answers
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    NOT_ROUTED = "not_routed"  # no replica was ready when it was due: never sent


@dataclass(slots=True)
class Record(Generic[A]):
    """One request.

    Attributes:
        index: Its number, from 0.
        due_s: When it was due, in seconds after the start.
        sent_s: When it left; ``None`` = never.
        done_s: When its answer was complete, or its failure was known.
        outcome: What became of it.
        detail: Why it failed.
        answer: What came back.
    """

    index: int
    due_s: float
    outcome: Outcome = Outcome.NOT_ROUTED
    sent_s: float | None = None
    done_s: float | None = None
    detail: str = ""
    answer: A | None = None

    @property
    def latency_s(self) -> float | None:
        """From the time at which it was due to its end; ``None`` when it was never sent."""
        return None if self.done_s is None else self.done_s - self.due_s


async def run_open_loop(
    due_s: Iterable[float],
    send: Send[A],
    *,
    timeout_s: float,
    start_s: float | None = None,
    is_routed: Callable[[], bool] = lambda: True,
) -> list[Record[A]]:
    """Send one request at each of the given times and return when the last has ended.

    Args:
        due_s: Seconds after the start, ascending.
        send: Sends a request. Called in the order of the times; whatever it raises but ``RequestFailedError`` is a bug
            and ends the run.
        timeout_s: The client's patience, from the time at which the request was due.
        start_s: The start on the clock ``time.monotonic``; ``None`` = now.
        is_routed: Asked when a request is due: whether there is a replica to send it to.
    """
    start_s = time.monotonic() if start_s is None else start_s
    records: list[Record[A]] = []
    async with asyncio.TaskGroup() as group:
        for index, due in enumerate(due_s):
            record: Record[A] = Record(index, due)
            records.append(record)
            wait_s = start_s + due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if is_routed():
                group.create_task(_send_one(record, send, start_s, timeout_s))
    return records


async def run_closed_loop(
    send: Send[A], *, timeout_s: float, requests: int, seconds: float, start_s: float | None = None
) -> list[Record[A]]:
    """Send one request after the other, until there were as many and as much time has passed.

    Each is due when the one before has ended. Nothing else runs meanwhile, so these are the latencies of a server at
    rest: the steady state that others are compared with. Stops at the first time-out. Times count from ``start_s``.
    """
    begin_s = time.monotonic()
    start_s = begin_s if start_s is None else start_s
    records: list[Record[A]] = []
    while len(records) < requests or time.monotonic() - begin_s < seconds:
        record: Record[A] = Record(len(records), time.monotonic() - start_s)
        records.append(record)
        await _send_one(record, send, start_s, timeout_s)
        if record.outcome is Outcome.TIMED_OUT:
            break
    return records


async def _send_one(record: Record[A], send: Send[A], start_s: float, timeout_s: float) -> None:
    record.sent_s = time.monotonic() - start_s
    try:
        async with asyncio.timeout_at(start_s + record.due_s + timeout_s):  # the loop's clock is time.monotonic
            record.answer = await send(record.index)
        record.outcome = Outcome.ANSWERED
    except TimeoutError:
        record.outcome, record.detail = Outcome.TIMED_OUT, f"no answer within {timeout_s:.3g} s"
    except RequestFailedError as error:
        record.outcome, record.detail = Outcome.FAILED, str(error)
    record.done_s = time.monotonic() - start_s


def constant_rate(rate_per_s: float, seconds: float) -> list[float]:
    """Return when requests are due at a constant rate, the first at once.

    Raises:
        ValueError: the rate is not above 0.
    """
    if not rate_per_s > 0:
        raise ValueError(f"the rate must be above 0 requests/s, got {rate_per_s:g}")
    due_s: list[float] = []
    while len(due_s) / rate_per_s < seconds:
        due_s.append(len(due_s) / rate_per_s)
    return due_s


def greatest_lag_s(records: Sequence[Record[A]]) -> float:
    """Return by how much the generator was late at worst: the machine was too busy for it."""
    return max((record.sent_s - record.due_s for record in records if record.sent_s is not None), default=0.0)
