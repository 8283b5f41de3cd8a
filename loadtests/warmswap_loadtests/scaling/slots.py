"""Room on nodes: who is placed at once, who waits for a node, and which nodes are paid for."""

from __future__ import annotations

from collections import deque

from warmswap_loadtests.scaling.policy import Cluster


class Slots:
    """Nodes that hold one replica each.

    A new replica takes, in this order: a shared slot, a node that stands idle, the node of a placeholder (which
    orders a new one), a new node. A node without a replica is first given to a placeholder that waits, and then kept
    for ``node_idle_s``. Every replica is paid from its creation on, that is while its node is made too; so are idle
    nodes and all placeholders.
    """

    def __init__(self, cluster: Cluster, replicas: int) -> None:
        """Begin with a node for each replica, and all placeholders in place."""
        self._cluster = cluster
        self._shared_free = max(0, cluster.shared_slots - replicas)
        self._shared_used = cluster.shared_slots - self._shared_free
        self._idle: deque[tuple[float, int]] = deque()
        self._placeholders = cluster.placeholders
        self._ordered: deque[tuple[float, int]] = deque()

    def take(self, now_s: float, count: int) -> list[tuple[float, int]]:
        """Place replicas.

        Returns:
            Seconds until there is room, and for how many replicas; 0 s first.
        """
        self._settle(now_s)
        shared = min(count, self._shared_free)
        self._shared_free -= shared
        self._shared_used += shared
        at_once = shared + self._take_idle(count - shared)
        displaced = min(count - at_once, self._placeholders)
        if displaced:
            self._placeholders -= displaced
            self._ordered.append((now_s + self._cluster.node_provision_s, displaced))
            at_once += displaced
        found = [(0.0, at_once), (self._cluster.node_provision_s, count - at_once)]
        return [(wait_s, number) for wait_s, number in found if number]

    def release(self, now_s: float, count: int, replicas_left: int) -> None:
        """Take back the room of replicas that end; those on shared slots are the last to go."""
        self._settle(now_s)
        shared = max(0, self._shared_used - replicas_left)
        self._shared_used -= shared
        self._shared_free += shared
        count -= shared
        while self._ordered and count:  # a placeholder that waits for its node takes this one
            due_s, number = self._ordered.pop()
            moved = min(number, count)
            self._placeholders += moved
            count -= moved
            if moved < number:
                self._ordered.append((due_s, number - moved))
        if count:
            self._idle.append((now_s, count))

    def idle(self, now_s: float) -> int:
        """Return the paid nodes without a replica, placeholders left out."""
        self._settle(now_s)
        return sum(count for _, count in self._idle)

    def _take_idle(self, wanted: int) -> int:
        taken = 0
        while self._idle and taken < wanted:
            since_s, count = self._idle.pop()
            moved = min(count, wanted - taken)
            taken += moved
            if moved < count:
                self._idle.append((since_s, count - moved))
        return taken

    def _settle(self, now_s: float) -> None:
        while self._idle and self._idle[0][0] + self._cluster.node_idle_s <= now_s:
            self._idle.popleft()
        while self._ordered and self._ordered[0][0] <= now_s:
            self._placeholders += self._ordered.popleft()[1]
