"""The Deployment controller, the choice of a ReplicaSet's victims, and evictions that keep to the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from warmswap_loadtests.kubelet.events import EventLog, Kind
from warmswap_loadtests.kubelet.pod import Pod, State
from warmswap_loadtests.kubelet.pod_spec import DeploymentSpec

EVICTION_RETRY_S: Final = 5.0
"""How long ``kubectl drain`` waits after the budget has refused an eviction."""

Create = Callable[[int, str], Pod]
"""Makes a pod of a revision on a node."""


@dataclass(slots=True)
class Deployment:
    """Keeps the wanted number of pods of the wanted revision.

    Attributes:
        spec: Limits.
        replicas: How many are wanted.
        create: Makes a pod.
        log: Gets what concerns all pods.
        nodes: Where pods may run; a node that is drained is taken out.
        revision: What is wanted.
        pods: All, those that are gone included.
        failed_s: When the rollout ran over its progress deadline.
    """

    spec: DeploymentSpec
    replicas: int
    create: Create
    log: EventLog
    nodes: list[str]
    revision: int = 1
    pods: list[Pod] = field(default_factory=list)
    failed_s: float | None = None
    _progress_s: float = 0.0
    _seen: tuple[int, int] = (0, 0)
    _drained: dict[str, float] = field(default_factory=dict)

    @property
    def active(self) -> list[Pod]:
        """Pods that count: neither gone nor being deleted."""
        return [pod for pod in self.pods if pod.deleted_s is None and not pod.gone]

    def available(self, now_s: float) -> list[Pod]:
        """Pods that have been ready for long enough."""
        return [pod for pod in self.active if pod.available(now_s, self.spec.min_ready_s)]

    def is_settled(self, now_s: float) -> bool:
        """Whether all is as wanted, and nothing of what was before is left."""
        active = self.active
        return (
            len(active) == self.replicas
            and len(self.available(now_s)) == self.replicas
            and all(pod.revision == self.revision for pod in active)
            and all(pod.gone for pod in self.pods if pod.deleted_s is not None)
        )

    def roll_out(self, now_s: float) -> None:
        """Want a new revision."""
        self.revision += 1
        self.failed_s, self._progress_s = None, now_s
        self.log.add(now_s, Kind.NOTE, "", f"rollout of revision {self.revision}")

    def undo(self, now_s: float) -> None:
        """Want the revision before again (``kubectl rollout undo``)."""
        self.revision -= 1
        self.failed_s, self._progress_s = None, now_s
        self.log.add(now_s, Kind.NOTE, "", f"rollout undone: revision {self.revision}")

    def scale(self, now_s: float, replicas: int) -> None:
        """Want another number of replicas."""
        self.replicas = replicas
        self.log.add(now_s, Kind.NOTE, "", f"scaled to {replicas}")

    def drain(self, now_s: float, node: str) -> None:
        """Let no pod start on a node, and evict those that are there, one after the other as the budget allows."""
        self.nodes.remove(node)
        self._drained[node] = now_s
        self.log.add(now_s, Kind.NOTE, "", f"drain of {node}")

    def tick(self, now_s: float) -> None:
        """Do what the state of the pods asks for."""
        self._evict(now_s)
        new = [pod for pod in self.active if pod.revision == self.revision]
        old = [pod for pod in self.active if pod.revision != self.revision]
        room = self.replicas + (self.spec.surge(self.replicas) if old else 0) - len(new) - len(old)
        for _ in range(min(self.replicas - len(new), room)):
            self.pods.append(self.create(self.revision, self._node()))
        for pod in victims(new, len(new) - self.replicas, now_s):
            pod.delete(now_s, "scaled in")
        if old:
            self._retire(now_s, new, old)
            self._watch_progress(now_s)

    def _retire(self, now_s: float, new: list[Pod], old: list[Pod]) -> None:
        """Delete old pods as far as enough remain available; unready ones first."""
        least = self.replicas - self.spec.unavailable(self.replicas)
        new_unavailable = sum(not pod.available(now_s, self.spec.min_ready_s) for pod in new)
        spare = len(new) + len(old) - least - new_unavailable
        if spare <= 0:
            return
        broken = [pod for pod in old if not pod.available(now_s, self.spec.min_ready_s)][:spare]
        for pod in broken:
            pod.delete(now_s, "replaced; it was not available")
        healthy = [pod for pod in old if pod not in broken]
        for pod in victims(healthy, min(len(self.available(now_s)) - least, len(healthy)), now_s):
            pod.delete(now_s, "replaced")

    def _watch_progress(self, now_s: float) -> None:
        new = [pod for pod in self.active if pod.revision == self.revision]
        seen = (len(new), len([pod for pod in new if pod.available(now_s, self.spec.min_ready_s)]))
        if seen != self._seen:
            self._seen, self._progress_s = seen, now_s
        if self.failed_s is None and now_s - self._progress_s > self.spec.progress_deadline_s:
            self.failed_s = now_s
            self.log.add(now_s, Kind.NOTE, "", f"ProgressDeadlineExceeded: revision {self.revision}")

    def _evict(self, now_s: float) -> None:
        for node, due_s in self._drained.items():
            for pod in [pod for pod in self.active if pod.node == node]:
                if now_s < due_s:
                    break
                healthy = sum(other.ready for other in self.active)
                budget = self.spec.budget_unavailable
                # One that is not ready takes nothing from the healthy ones, but they must be enough without it.
                left = healthy - pod.ready
                if budget is None or left >= self.replicas - budget or (self.spec.evicts_unready and not pod.ready):
                    pod.delete(now_s, f"evicted from {node}")
                else:
                    self.log.add(now_s, Kind.NOTE, pod.name, "eviction refused by the budget (429)")
                    self._drained[node] = due_s = now_s + EVICTION_RETRY_S

    def _node(self) -> str:
        """Return the node with the fewest pods: the spread over nodes."""
        return min(self.nodes, key=lambda node: sum(pod.node == node for pod in self.active))


def victims(pods: list[Pod], count: int, now_s: float) -> list[Pod]:
    """Return which pods a ReplicaSet gives up: those that never started first, then unready ones, then the newest.

    As ``ActivePodsWithRanks``: waiting before running, unready before ready, ready for a short time before ready for
    long, more restarts before fewer, created later before earlier. How long a pod has been ready is compared by order
    of magnitude, as in Kubernetes since 1.22.
    """

    def rank(pod: Pod) -> tuple[int, bool, int, int, float]:
        ready_for = 0 if pod.ready_s is None else _magnitude(now_s - pod.ready_s)
        return (pod.state is not State.WAITING, pod.ready, ready_for, -pod.restarts, -pod.created_s)

    return sorted(pods, key=rank)[: max(0, count)]


def _magnitude(seconds: float) -> int:
    return int(seconds).bit_length()
