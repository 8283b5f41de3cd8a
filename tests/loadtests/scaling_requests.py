"""The queue of the simulator, request by request: the slow truth that the fast one is compared with."""

import heapq
import random
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Exact:
    waits: list[float] = field(default_factory=list)
    lost: int = 0
    cold: int = 0
    came_to_nobody: int = 0

    @property
    def mean_s(self) -> float:
        return sum(self.waits) / len(self.waits)

    def quantile_s(self, share: float) -> float:
        return sorted(self.waits)[min(len(self.waits) - 1, int(share * len(self.waits)))]


def simulate_requests(
    arrivals: list[int],
    serving: list[int],
    step_s: float,
    service_s: float,
    timeout_s: float,
    first_s: float | None = None,
    seed: int = 1,
) -> Exact:
    """One place per replica, FIFO, a random idle replica; ``serving`` replicas in each step, those at first warm."""
    chance = random.Random(seed)
    result = Exact()
    times = [
        (step + place) * step_s
        for step, count in enumerate(arrivals)
        for place in sorted(chance.random() for _ in range(count))
    ]
    events: list[tuple[float, int, int]] = [(time_s, 2, 0) for time_s in times]
    events += [(step * step_s, 1, count) for step, count in enumerate(serving)]
    heapq.heapify(events)
    idle: list[bool] = [False] * serving[0]  # whether its first request will be slow
    busy = 0
    to_end = 0
    queue: deque[float] = deque()
    while events:
        now_s, kind, value = heapq.heappop(events)
        if kind == 0:  # a replica is done
            busy -= 1
            if to_end:
                to_end -= 1
            else:
                idle.append(False)
        elif kind == 1:  # replicas come and go
            change = value - (len(idle) + busy - to_end)
            for _ in range(change):
                if to_end:
                    to_end -= 1
                else:
                    idle.append(first_s is not None)
            for _ in range(-change):
                if idle:
                    idle.pop()
                else:
                    to_end += 1
        else:
            queue.append(now_s)
            result.came_to_nobody += len(idle) + busy - to_end == 0
        while queue and queue[0] < now_s - timeout_s:
            queue.popleft()
            result.lost += 1
        while queue and idle:
            came_s = queue.popleft()
            place = chance.randrange(len(idle))
            slow = idle[place]
            idle[place] = idle[-1]
            idle.pop()
            busy += 1
            result.cold += slow
            extra_s = first_s - service_s if slow and first_s is not None else 0.0
            result.waits.append(now_s - came_s + extra_s)
            heapq.heappush(events, (now_s + service_s + extra_s, 0, 0))
    return result
