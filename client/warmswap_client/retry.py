"""When to try again, and how long to wait before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from warmswap_client.errors import WarmswapError
from warmswap_client.steps import Call, Pause, Plan


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Only errors with ``retryable`` are tried again: no connection, UNAVAILABLE or 503, and the "no available versions"
    of a server that drains. Never time-outs, refused inputs or faults of the server. All attempts share one deadline.

    Attributes:
        max_attempts: Attempts in total; 1 turns retries off.
        initial_backoff_s: Longest pause before the second attempt.
        max_backoff_s: Longest pause ever.
        multiplier: How fast the longest pause grows.
        random: Draws from [0, 1); tests replace it.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    max_attempts: int = 3
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 2.0
    multiplier: float = 2.0
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")
        if not 0 <= self.initial_backoff_s <= self.max_backoff_s:
            got = f"{self.initial_backoff_s} and {self.max_backoff_s}"
            raise ValueError(f"expected 0 <= initial_backoff_s <= max_backoff_s, got {got}")
        if self.multiplier < 1:
            raise ValueError(f"multiplier must be at least 1, got {self.multiplier}")

    def backoff_s(self, attempt: int) -> float:
        """Draw the pause after the given attempt (1 = the first), in seconds."""
        longest_s = min(self.max_backoff_s, self.initial_backoff_s * self.multiplier ** (attempt - 1))
        return longest_s * self.random()


NO_RETRIES: Final = RetryPolicy(max_attempts=1)
DEFAULT_RETRY: Final = RetryPolicy()


def call_with_retries(
    policy: RetryPolicy, timeout_s: float, clock: Callable[[], float], method: str, **arguments: object
) -> Plan[Any]:
    """Make one transport call, again if that may help, within one deadline.

    An inference changes nothing on the server, so a call may be repeated even if the connection broke after it
    was sent.

    Args:
        policy: How often and how fast.
        timeout_s: Seconds for everything, pauses included.
        clock: Monotonic seconds.
        method: Method of the transport.
        arguments: Its arguments without ``timeout_s``.
    """
    deadline_s = clock() + timeout_s
    remaining_s = timeout_s
    attempt = 1
    while True:
        try:
            return (yield Call(method, remaining_s, arguments))
        except WarmswapError as error:
            pause_s = policy.backoff_s(attempt)
            if not error.retryable or attempt >= policy.max_attempts or clock() + pause_s >= deadline_s:
                raise
        yield Pause(pause_s)
        attempt += 1
        remaining_s = max(deadline_s - clock(), 0.001)  # the pause may have run over; 0 would mean "no limit" to some
