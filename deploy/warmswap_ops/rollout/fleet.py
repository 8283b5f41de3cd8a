"""Several replicas at once: what is done to one is done to all, and whoever does not answer is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from warmswap_ops.errors import ControlError
from warmswap_ops.rollout.replica import Replica, is_lost

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """What replicas said.

    Attributes:
        found: By replica.
        lost: Those that cannot be reached, and why.
    """

    found: dict[Replica, T] = field(default_factory=dict)
    lost: dict[Replica, Exception] = field(default_factory=dict)


class Fleet:
    """The replicas of a rollout."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        """Take over replicas; they are closed with this."""
        self.replicas = tuple(replicas)
        workers = 2 * max(1, len(self.replicas))  # what takes long, and the renewal of the lease beside it
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="replica")

    def close(self) -> None:
        """Close all connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for replica in self.replicas:
            replica.close()

    def reach(self, action: Callable[[Replica], T]) -> Answers[T]:
        """Do something to all at once; a replica that cannot be reached is left out.

        Raises:
            OpsError: a replica says no.
        """
        futures = {replica: self._pool.submit(action, replica) for replica in self.replicas}
        answers: Answers[T] = Answers()
        refusal: Exception | None = None
        for replica, future in futures.items():
            error = future.exception()
            if error is None:
                answers.found[replica] = future.result()
            elif isinstance(error, Exception) and is_lost(error):
                answers.lost[replica] = error
            elif isinstance(error, Exception):
                refusal = refusal or error
            else:
                raise error
        if refusal is not None:
            raise refusal
        return answers

    def all(self, action: Callable[[Replica], T]) -> dict[Replica, T]:
        """Do something to all at once.

        Raises:
            OpsError: a replica says no, or cannot be reached.
        """
        answers = self.reach(action)
        for replica, error in answers.lost.items():
            raise error if isinstance(error, ControlError) else ControlError(f"{replica}: {error}")
        return answers.found
