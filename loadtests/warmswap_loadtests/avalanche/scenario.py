"""What happens in a run, and when; pure functions of time, so that both set-ups meet the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from warmswap_loadtests.open_loop import constant_rate

STEADY: Final = "steady"
SCALE_OUT: Final = "scale-out"
SCALE_IN: Final = "scale-in"
KILL: Final = "kill"

SHARES: Final = {STEADY: 0.2, SCALE_OUT: 0.4, SCALE_IN: 0.15, KILL: 0.25}
"""Of the run: one replica at the base rate; the spike begins, replicas are added; one is drained; one is killed."""

BASE_SHARE: Final = 0.15
SPIKE_SHARE: Final = 0.5
"""Of what one replica can do alone, when no rate is given.

The replicas of a run share the cores of one machine, so together they can do no more than one, and a replica that
starts takes the others' cores for a while. The rest is for that: the spike is there to make new replicas be started
and given traffic, not to overload the machine.
"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run.

    Attributes:
        seconds: Length of the load.
        base_rate: Requests per second before the spike.
        spike_rate: Requests per second from then on.
        timeout_s: The client's patience.
        max_replicas: What the autoscaler may ask for.
        target_in_flight: Requests in work per replica that the autoscaler aims at.
        window_s: Over which it takes the mean.
        scale_up_period_s: It asks for one replica more in this time at most.
        pod_start_s: From its decision to exec: scheduling, image, container.
        drain_s: From the removal of an endpoint to SIGTERM (``preStop: sleep``).
        endpoint_lag_s: From the death of a replica to the removal of its endpoint.
    """

    seconds: float
    base_rate: float
    spike_rate: float
    timeout_s: float = 5.0
    max_replicas: int = 3
    target_in_flight: float = 0.3
    window_s: float = 1.0
    scale_up_period_s: float = 5.0
    pod_start_s: float = 2.0
    drain_s: float = 2.0
    endpoint_lag_s: float = 1.0

    def phase_starts(self) -> dict[str, float]:
        """Return when each phase begins, in seconds after the start."""
        ends = accumulate(SHARES.values())
        return dict(zip(SHARES, (round(self.seconds * end, 3) for end in (0.0, *ends)), strict=False))

    def due_s(self) -> list[float]:
        """Return when requests are due: at a constant rate before and in the spike."""
        spike_s = self.phase_starts()[SCALE_OUT]
        later = constant_rate(self.spike_rate, self.seconds - spike_s)
        return [*constant_rate(self.base_rate, spike_s), *(spike_s + due for due in later)]


def wants_one_more(scenario: Scenario, in_flight: Sequence[float], wanted: int) -> bool:
    """Whether the autoscaler wants another replica: by the formula of Kubernetes' own.

    Args:
        scenario: Target and limit.
        in_flight: Requests in work at all replicas together, at some moments of the window.
        wanted: Replicas wanted so far.
    """
    if not in_flight:
        return False
    mean = sum(in_flight) / len(in_flight)
    return min(scenario.max_replicas, math.ceil(mean / scenario.target_in_flight)) > wanted
