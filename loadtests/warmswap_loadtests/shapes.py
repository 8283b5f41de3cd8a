"""Shapes of load: how many users there are when."""

from __future__ import annotations

from typing import Final

RAMP: Final = "ramp"
SPIKE: Final = "spike"
SOAK: Final = "soak"
SHAPES: Final = (RAMP, SPIKE, SOAK)

BASE_SHARE: Final = 0.1
SOAK_START_SHARE: Final = 0.05


def users_at(shape: str, elapsed_s: float, users: int, seconds: float) -> int | None:
    """Return how many users there should be, at least one; ``None`` = the test is over.

    Args:
        shape: ``ramp`` from one user to all over the whole time; ``spike`` from a tenth of them to all for the middle
            third and back; ``soak`` all of them after a short ramp.
        elapsed_s: Since the start.
        users: The most.
        seconds: Length of the test.
    """
    if elapsed_s >= seconds:
        return None
    share = elapsed_s / seconds
    if shape == RAMP:
        level = share
    elif shape == SPIKE:
        level = 1.0 if 1 / 3 <= share < 2 / 3 else BASE_SHARE
    else:
        level = min(1.0, share / SOAK_START_SHARE)
    return max(1, round(level * users))
