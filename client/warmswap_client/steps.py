"""What a client does, as data: a plan yields steps, a runner carries them out.

Plans are generators that know no protocol and no event loop, so that the synchronous and the asynchronous client share
every decision. A runner sends the answer of a step back into the plan, or throws its error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from warmswap_client.errors import WarmswapError
from warmswap_client.transport import AsyncTransport, Transport

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a transport.

    Attributes:
        method: Name of the transport's method.
        timeout_s: Seconds for this call alone.
        arguments: Its other arguments.
    """

    method: str
    timeout_s: float
    arguments: Mapping[str, object] = field(default_factory=dict)

    def send(self, transport: Transport | AsyncTransport) -> Any:
        """Make the call; the answer of an ``AsyncTransport`` is still to be awaited."""
        return getattr(transport, self.method)(**self.arguments, timeout_s=self.timeout_s)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait.

    Attributes:
        seconds: How long.
    """

    seconds: float


Plan = Generator[Call | Pause, Any, T]


def run(plan: Plan[T], transport: Transport, sleep: Callable[[float], object]) -> T:
    """Carry out a plan and return its result."""
    resume: Callable[[], Call | Pause] = partial(next, plan)
    while True:
        try:
            step = resume()
        except StopIteration as end:
            return cast(T, end.value)
        try:
            answer = sleep(step.seconds) if isinstance(step, Pause) else step.send(transport)
        except WarmswapError as error:
            resume = partial(plan.throw, error)
        else:
            resume = partial(plan.send, answer)


async def run_async(plan: Plan[T], transport: AsyncTransport, sleep: Callable[[float], Awaitable[object]]) -> T:
    """Carry out a plan in an event loop and return its result."""
    resume: Callable[[], Call | Pause] = partial(next, plan)
    while True:
        try:
            step = resume()
        except StopIteration as end:
            return cast(T, end.value)
        try:
            answer = await (sleep(step.seconds) if isinstance(step, Pause) else step.send(transport))
        except WarmswapError as error:
            resume = partial(plan.throw, error)
        else:
            resume = partial(plan.send, answer)
