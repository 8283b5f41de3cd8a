"""The queue in front of the replicas, in steps, for any number of requests.

First come, first served, to whichever replica has room (what least-requests routing comes to when all replicas are
alike). Service takes a fixed time s, so the cumulative number of starts S obeys, with c places at time t,

    S(t) = min(requests that are there, c + S(t - s))

which is exact for a D service in c places; here it is evaluated once a step and everything is linear within a step.
Approximations, all below one step: requests of a step are spread evenly over it, places become free evenly too. With
s below the step, c * step / s is what c places can do in it, and waits shorter than a step are not seen.
Whoever has waited ``timeout_s`` gives up and takes no place. A replica that loads with its first request serves it for
``first_s``, all of its places blocked until it has loaded; each start picks among the idle replicas at random, which
gives the expected number of such first requests, made whole by carrying the fraction on. ``tests/loadtests`` compares
with a simulation of every single request.
"""

from __future__ import annotations

from warmswap_loadtests.scaling.measured import Measured
from warmswap_loadtests.scaling.policy import Replica


class Delayed:
    """A cumulative curve, linear within steps, and its past."""

    def __init__(self, step_s: float) -> None:
        """Begin at zero."""
        self._step_s = step_s
        self.values = [0.0]

    def append(self, value: float) -> None:
        """Add the value at the end of the next step."""
        self.values.append(value)

    def before(self, delay_s: float, ahead: int = 0) -> float:
        """Return the value ``delay_s`` before the last point plus ``ahead`` steps (which must not be later)."""
        place = len(self.values) - 1 + ahead - delay_s / self._step_s
        if place <= 0:
            return 0.0
        left = min(int(place), len(self.values) - 1)
        if left == len(self.values) - 1:
            return self.values[left]
        return self.values[left] + (place - left) * (self.values[left + 1] - self.values[left])


class Queue:
    """State after each step.

    Attributes:
        arrived: Requests that joined the queue, cumulative, one more entry than steps.
        heads: Requests that left it, served or lost, cumulative: where service begins in each step.
        served_to: Where it ends; what lies between this and the next head gave up.
        cold: First requests of replicas that load with them, in each step.
        in_flight: Requests in work at the end of the last step.
        lost_at_once: Requests that found nobody.
    """

    def __init__(self, replica: Replica, measured: Measured, step_s: float) -> None:
        """Begin empty."""
        self._places = replica.concurrency
        self._timeout_s = replica.timeout_s
        self._activator = replica.activator
        self._service_s = measured.steady_s
        self._first_s = measured.first_s if measured.first_is_cold else measured.steady_s
        self._step_s = step_s
        self._arrived = Delayed(step_s)
        self._started = Delayed(step_s)
        self._cold = Delayed(step_s)
        self._tickets = 0
        self._carry = 0.0
        self.heads: list[float] = [0.0]
        self.served_to: list[float] = []
        self.cold: list[int] = []
        self.in_flight = 0.0
        self.lost_at_once = 0

    @property
    def arrived(self) -> list[float]:
        """Cumulative arrivals, those that were lost at once left out."""
        return self._arrived.values

    @property
    def started(self) -> list[float]:
        """Cumulative starts of service."""
        return self._started.values

    @property
    def backlog(self) -> float:
        """Requests that wait for a place."""
        return self._arrived.values[-1] - self.heads[-1]

    def step(self, arrivals: int, serving: int, fresh: int) -> None:
        """Let one step pass.

        Args:
            arrivals: Requests that come within it.
            serving: Replicas that serve, all through it.
            fresh: How many of them are new.
        """
        if serving == 0 and not self._activator:
            self.lost_at_once += arrivals
            arrivals = 0
        if self._first_s > self._service_s:
            self._tickets = min(self._tickets + fresh, serving)
        self._arrived.append(self._arrived.values[-1] + arrivals)
        head, there = self.heads[-1], self._arrived.values[-1]
        starts = min(there - head, self._room(serving))
        end = there if starts == there - head else head + starts
        self.served_to.append(end)
        self.cold.append(self._meet_fresh(starts, serving))
        self._started.append(self._started.values[-1] + starts)
        self._cold.append(self._cold.values[-1] + self.cold[-1])
        self.in_flight = self._started.values[-1] - self._started.before(self._service_s) + self._blocked()
        self.heads.append(max(end, self._arrived.before(self._timeout_s)))

    def _room(self, serving: int) -> float:
        places = serving * self._places - self._blocked(ahead=1)
        if places <= 0:
            return 0.0
        if self._service_s < self._step_s:
            return places * self._step_s / self._service_s
        done = self._started.before(self._service_s, ahead=1)
        return max(0.0, places + done - self._started.values[-1])

    def _blocked(self, ahead: int = 0) -> float:
        """Return the places that replicas which load keep from others, beyond those of requests in their usual time."""
        if not self._cold.values[-1]:
            return 0.0
        extra_s = self._first_s - self._service_s
        longer = self._cold.before(self._service_s, ahead) - self._cold.before(self._first_s, ahead)
        return longer + (self._places - 1) * (self._cold.values[-1] - self._cold.before(extra_s, ahead))

    def _meet_fresh(self, starts: float, serving: int) -> int:
        if not self._tickets or starts <= 0:
            return 0
        idle = max(self._tickets, serving - self.in_flight / self._places)
        self._carry += self._tickets * min(1.0, starts / idle)
        met = min(int(self._carry + 1e-9), self._tickets)
        self._carry -= met
        self._tickets -= met
        return met
