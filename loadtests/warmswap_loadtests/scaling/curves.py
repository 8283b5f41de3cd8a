"""The shipped traces, as curves. With factor 1 they need a handful of replicas that swap with the twin pack."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from warmswap_loadtests.scaling.trace import DEFAULT_BEGIN, Trace

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0


def daily() -> Trace:
    """A working day: a quiet night (14 requests an hour), a rise from 7 on, peaks at noon and at 20 h."""
    times_s = np.arange(0.0, DAY_S + 1, 300.0)
    hours = times_s / HOUR_S
    rates = 0.004 + 2.6 * _hill(hours, 12.5, 2.6) + 3.4 * _hill(hours, 20.0, 1.7)
    return Trace("daily", DEFAULT_BEGIN, times_s, rates.round(4))


def flash_crowd() -> Trace:
    """From 11 h: an even hour, then fifteen times as much within a minute, for twenty minutes, and back."""
    minutes = np.array([0.0, 60.0, 61.0, 81.0, 91.0, 150.0])
    return Trace(
        "flash-crowd", DEFAULT_BEGIN + timedelta(hours=11), minutes * 60.0, np.array([0.4, 0.4, 6.0, 6.0, 0.4, 0.4])
    )


def silence_then_burst() -> Trace:
    """From 5 h: silence, ten minutes of work at 7, 9 and 11:30 h, and silence in between."""
    times_s: list[float] = [0.0]
    rates: list[float] = [0.0]
    for begin_h in (2.0, 4.0, 6.5):
        begin_s = begin_h * HOUR_S
        times_s += [begin_s, begin_s + 1.0, begin_s + 600.0, begin_s + 601.0]
        rates += [0.0, 1.5, 1.5, 0.0]
    return Trace(
        "silence-then-burst",
        DEFAULT_BEGIN + timedelta(hours=5),
        np.array([*times_s, 8.0 * HOUR_S]),
        np.array([*rates, 0.0]),
    )


CURVES: Final[dict[str, Callable[[], Trace]]] = {
    "daily": daily,
    "flash-crowd": flash_crowd,
    "silence-then-burst": silence_then_burst,
}


def _hill(hours: NDArray[np.float64], middle: float, width: float) -> NDArray[np.float64]:
    hill: NDArray[np.float64] = np.exp(-(((hours - middle) / width) ** 2))
    return hill
