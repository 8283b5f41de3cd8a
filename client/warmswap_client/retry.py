"""When to try again, and how long to wait before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from warmswap_client.errors import ModelLoadingError, WarmswapError
from warmswap_client.steps import Call, Pause, Plan


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Only errors with ``retryable`` are tried again: no connection, UNAVAILABLE or 503, and the "no available versions"
    of a server that drains. Never time-outs, refused inputs or faults of the server. All attempts share one deadline.
    While the server loads a model for the request (``ModelLoadingError``), the pause is what it says itself, and only
    the deadline bounds the attempts.

    Attributes:
        max_attempts: Attempts in total, those not counted that found a model being loaded; 1 turns retries off.
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


MIN_LOADING_PAUSE_S: Final = 0.1
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
    retries = policy.max_attempts > 1
    attempt = 1
    while True:
        try:
            return (yield Call(method, remaining_s, arguments))
        except WarmswapError as error:
            pause_s = policy.backoff_s(attempt)
            if isinstance(error, ModelLoadingError) and retries:
                pause_s += max(MIN_LOADING_PAUSE_S, error.retry_after_s or 0.0)  # the backoff spreads a crowd
            elif error.retryable and attempt < policy.max_attempts:
                attempt += 1
            else:
                raise
            if clock() + pause_s >= deadline_s:
                raise
        yield Pause(pause_s)
        remaining_s = max(deadline_s - clock(), 0.001)  # the pause may have run over; 0 would mean "no limit" to some
