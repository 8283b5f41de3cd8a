"""Which pods get traffic, and how late load balancers learn of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from warmswap_loadtests.kubelet.events import EventLog, Kind
from warmswap_loadtests.kubelet.pod import Pod


@dataclass(slots=True)
class Endpoints:
    """Ready pods, as the load balancer knows them: what was true some time ago.

    Attributes:
        lag_s: From a change in a pod to the change in the load balancer: API server, controller, proxies.
        publish: Tells the load balancer who there is.
        log: Gets the changes.
    """

    lag_s: float
    publish: Callable[[Sequence[Pod]], None]
    log: EventLog
    _wanted: tuple[str, ...] = ()
    _published: tuple[str, ...] = ()
    _under_way: deque[tuple[float, tuple[str, ...]]] = field(default_factory=deque)

    @property
    def published(self) -> tuple[str, ...]:
        """Names of the pods that get traffic."""
        return self._published

    def tick(self, now_s: float, pods: Sequence[Pod]) -> None:
        """Take in the state of the pods, and publish what was seen ``lag_s`` ago."""
        wanted = tuple(pod.name for pod in pods if pod.is_serving)
        if wanted != self._wanted:
            self._wanted = wanted
            self._under_way.append((now_s + self.lag_s, wanted))
        due: tuple[str, ...] | None = None
        while self._under_way and now_s >= self._under_way[0][0]:
            due = self._under_way.popleft()[1]
        if due is None or due == self._published:
            return
        before, self._published = self._published, due
        self.publish([pod for pod in pods if pod.name in due])
        for kind, one, other in ((Kind.ROUTED, due, before), (Kind.UNROUTED, before, due)):
            for name in one:
                if name not in other:
                    self.log.add(now_s, kind, name)
