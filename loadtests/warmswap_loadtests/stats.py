"""Figures of a row of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Latencies:
    """Latencies of one way of doing it.

    Attributes:
        values_ms: One per request.
        elapsed_s: Wall time of all of them together.
    """

    values_ms: list[float]
    elapsed_s: float

    @property
    def rps(self) -> float:
        """Requests per second."""
        return len(self.values_ms) / self.elapsed_s

    def percentile_ms(self, share: float) -> float:
        """Return a percentile, 0 to 100."""
        return float(np.percentile(self.values_ms, share))


def pool(rounds: Sequence[Latencies]) -> Latencies:
    """Put several rounds together."""
    return Latencies([value for item in rounds for value in item.values_ms], sum(item.elapsed_s for item in rounds))


def median_of_ratios(measured: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median over rounds of measured / baseline; both of a round saw the same machine."""
    return float(np.median([a / b for a, b in zip(measured, baseline, strict=True)]))
