"""What is sent: the two pictures of the golden request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from warmswap_ensemble.contract import FACE_SWAP
from warmswap_loadtests.errors import BenchError

ONE_FACE: Final = "largest"
"""The ``face_selector`` where one face is to be swapped: random detectors of twins see more in the picture."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One request: encoded source and target."""

    source: bytes
    target: bytes


def golden_payload(repository: Path) -> Payload:
    """Return the pictures of the golden request: Eileen Collins onto Grace Hopper, as JPEG.

    Raises:
        BenchError: the repository has no warm-up pictures of ``face_swap``.
    """
    folder = repository / FACE_SWAP.name / "warmup"
    try:
        # Triton's form of a string: its length in four bytes, then the string.
        return Payload(*((folder / f"{name}.raw").read_bytes()[4:] for name in ("source_image", "target_image")))
    except OSError as error:
        raise BenchError(f"the benchmarks send the golden pictures of the repository: {error}") from error


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
        yield fresh_source(payload, number)


def fresh_source(payload: Payload, number: int) -> Payload:
    """Return the same pictures with a source that no cache knows."""
    return Payload(payload.source + number.to_bytes(8, "big"), payload.target)
