"""What is sent: the two demo pictures of the checkout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from warmswap_loadtests.errors import BenchError


@dataclass(frozen=True, slots=True)
class Payload:
    """One request: encoded source and target."""

    source: bytes
    target: bytes


def demo_payload(folder: Path | None = None) -> Payload:
    """Return Eileen Collins as source and Grace Hopper as target.

    Raises:
        BenchError: the pictures are not there (they are part of the checkout, not of the wheel).
    """
    examples = folder or Path(__file__).resolve().parents[2] / "examples"
    try:
        return Payload((examples / "eileen_collins.png").read_bytes(), (examples / "grace_hopper.jpg").read_bytes())
    except OSError as error:
        raise BenchError(f"the benchmarks need the pictures of the checkout: {error}") from error


def requests(payload: Payload, *, fresh_sources: bool) -> Iterator[Payload]:
    """Yield requests without end.

    Args:
        payload: What every request holds.
        fresh_sources: Make each source differ by some bytes behind its end, which decoders ignore, so that no cache
            knows it.
    """
    if not fresh_sources:
        while True:
            yield payload
    for number in count():
        yield Payload(payload.source + number.to_bytes(8, "big"), payload.target)
