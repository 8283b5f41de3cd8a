"""The same request to one replica of each of two groups, open loop: when it is due is fixed beforehand.

Every request has a time of its own, whatever became of those before; latency counts from that time. The two of a pair
are half a period apart, in random order, so neither group finds the machine in another state than the other does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from warmswap_client.errors import WarmswapError
from warmswap_client.results import SwapResult

Swap = Callable[[bytes, bytes], Awaitable[SwapResult]]
"""Sends a source and a target to one replica, once; raises ``WarmswapError``."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is sent.

    Attributes:
        name: For messages.
        source: Encoded.
        target: Encoded.
    """

    name: str
    source: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        ms: From the time at which it was due.
        outcome: The answer, or why there is none.
    """

    ms: float
    outcome: SwapResult | WarmswapError


@dataclass(frozen=True, slots=True)
class Pair:
    """What both groups made of the same request."""

    stable: Answer
    candidate: Answer


class PairLoad:
    """Sends pairs at a constant rate until it is stopped."""

    def __init__(
        self,
        stable: Sequence[Swap],
        candidate: Sequence[Swap],
        pictures: Sequence[Pictures],
        rate_per_s: float,
        rng: random.Random,
    ) -> None:
        """Prepare.

        Args:
            stable: Replicas of the old version.
            candidate: Replicas of the new one.
            pictures: Sent in turn.
            rate_per_s: Pairs a second: each group gets as many requests.
            rng: Chooses replicas and the order.
        """
        self.pairs: list[Pair] = []
        self._groups = (stable, candidate)
        self._pictures = pictures
        self._period_s = 1 / rate_per_s
        self._rng = rng
        self._stopped = False

    async def run(self) -> None:
        """Send until ``stop``, and return when everything that was sent has ended."""
        start_s = time.monotonic()
        index = 0
        async with asyncio.TaskGroup() as group:
            while True:
                due_s = start_s + index * self._period_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                if self._stopped:
                    return
                swaps = [self._rng.choice(replicas) for replicas in self._groups]
                first = self._rng.randrange(2)
                due = [due_s if side == first else due_s + self._period_s / 2 for side in range(2)]
                group.create_task(self._pair(swaps, due, self._pictures[index % len(self._pictures)]))
                index += 1

    def stop(self) -> None:
        """Send no more pairs."""
        self._stopped = True

    async def _pair(self, swaps: Sequence[Swap], due_s: Sequence[float], pictures: Pictures) -> None:
        stable, candidate = await asyncio.gather(
            *(_timed(swap, due, pictures) for swap, due in zip(swaps, due_s, strict=True))
        )
        self.pairs.append(Pair(stable, candidate))


async def _timed(swap: Swap, due_s: float, pictures: Pictures) -> Answer:
    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    outcome: SwapResult | WarmswapError
    try:
        outcome = await swap(pictures.source, pictures.target)
    except WarmswapError as error:
        outcome = error
    return Answer(1000 * (time.monotonic() - due_s), outcome)
