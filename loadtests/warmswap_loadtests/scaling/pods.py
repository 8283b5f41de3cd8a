"""The life of pods: from the decision to the first request they are sent, in groups that were ordered together."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from warmswap_loadtests.scaling.hpa import CpuSample
from warmswap_loadtests.scaling.measured import Measured
from warmswap_loadtests.scaling.policy import Policy, Start
from warmswap_loadtests.scaling.slots import Slots


@dataclass(slots=True)
class Group:
    """Pods that go the same way.

    Attributes:
        created_s: When they were ordered.
        exec_s: When the process begins.
        ready_s: When a probe has found them ready.
        serving_s: When requests are sent to them.
        count: How many are left.
    """

    created_s: float
    exec_s: float
    ready_s: float
    serving_s: float
    count: int


def start_times(now_s: float, wait_s: float, start: Start, measured: Measured) -> tuple[float, float, float]:
    """Return when a pod executes, is ready and serves.

    Args:
        now_s: When it is created.
        wait_s: Until there is room for it.
        start: The phases that are assumed.
        measured: The phase that was measured, from exec to ready.
    """
    image_s = start.pre_pulled_s if start.pre_pulled else start.image_pull_s
    exec_s = now_s + wait_s + start.schedule_s + image_s + start.container_create_s
    probes = math.ceil(measured.ready_s / start.readiness_period_s - 1e-9)
    ready_s = exec_s + probes * start.readiness_period_s
    return exec_s, ready_s, ready_s + start.endpoints_s


class Pods:
    """All pods of one workload."""

    def __init__(self, policy: Policy, measured: Measured, replicas: int) -> None:
        """Begin with so many replicas that have served for long."""
        self._policy = policy
        self._measured = measured
        self._slots = Slots(policy.cluster, replicas)
        self._starting: list[Group] = []
        self._serving: list[Group] = []
        self.serving = 0
        self.total = 0
        if replicas:  # those that are there at the begin of the trace have been there for long
            long_ago_s = -1e9
            self._serving.append(Group(long_ago_s, long_ago_s, long_ago_s, long_ago_s, replicas))
            self.serving = self.total = replicas

    def scale(self, now_s: float, replicas: int) -> None:
        """Order or end pods.

        Those that do not serve end first, latest first, then the youngest, as the ReplicaSet controller chooses.
        """
        if replicas > self.total:
            for wait_s, count in self._slots.take(now_s, replicas - self.total):
                exec_s, ready_s, serving_s = start_times(now_s, wait_s, self._policy.start, self._measured)
                group = Group(now_s, exec_s, ready_s, serving_s, count)
                bisect.insort(self._starting, group, key=lambda other: other.serving_s)
        elif replicas < self.total:
            left = self.total - replicas
            left -= _end(self._starting, left)
            self.serving -= _end(self._serving, left)
            self._slots.release(now_s, self.total - replicas, replicas)
        self.total = replicas

    def advance(self, now_s: float) -> int:
        """Let time pass and return how many pods began to serve."""
        fresh = 0
        while self._starting and self._starting[0].serving_s <= now_s + 1e-9:
            group = self._starting.pop(0)
            self._serving.append(group)
            fresh += group.count
        self.serving += fresh
        return fresh

    def paid(self, now_s: float) -> int:
        """Return the nodes that are paid for: replicas, idle nodes, placeholders."""
        return self.total + self._slots.idle(now_s) + self._policy.cluster.placeholders

    def cpu_sample(self, now_s: float, sample_s: float, utilisation: float) -> CpuSample:
        """Return what the controller makes of the pods.

        A pod that has no readiness yet, or whose sample covers time before it was ready, is set aside for
        ``cpu_initialization_period_s`` after its creation; pods without a sample are missing. Pods of this simulator
        become ready once and stay so, which leaves nothing for ``--horizontal-pod-autoscaler-initial-readiness-delay``.

        Args:
            now_s: Time.
            sample_s: When the last sample was taken; it covers ``scrape_s`` before.
            utilisation: Of every pod that serves, by its request.
        """
        scaler = self._policy.autoscaler
        ready = unready = missing = 0
        for group in (*self._starting, *self._serving):
            young = now_s < group.created_s + scaler.cpu_initialization_period_s
            if now_s < group.exec_s:
                unready += group.count
            elif sample_s < group.exec_s + scaler.scrape_s:
                missing += group.count
            elif now_s < group.ready_s or (young and sample_s < group.ready_s + scaler.scrape_s):
                unready += group.count
            else:
                ready += group.count
        self._merge_old(now_s - scaler.cpu_initialization_period_s)
        return CpuSample(utilisation * ready, ready, unready, missing)

    def _merge_old(self, before_s: float) -> None:
        """Keep old groups as one: nothing tells them apart any more."""
        while len(self._serving) > 1 and self._serving[1].serving_s < before_s:
            self._serving[1].count += self._serving.pop(0).count


def _end(groups: list[Group], wanted: int) -> int:
    ended = 0
    while groups and ended < wanted:
        moved = min(groups[-1].count, wanted - ended)
        groups[-1].count -= moved
        ended += moved
        if groups[-1].count == 0:
            groups.pop()
    return ended
