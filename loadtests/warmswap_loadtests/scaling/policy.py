"""What a policy says: replica, start of a pod, cluster, autoscaler."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal

from warmswap_loadtests.scaling.behaviour import DEFAULT_DOWN, DEFAULT_UP, ScalingRules
from warmswap_loadtests.scaling.cron import CronTrigger
from warmswap_loadtests.scaling.errors import PolicyError
from warmswap_loadtests.scaling.hpa import DEFAULT_TOLERANCE
from warmswap_loadtests.scaling.keda import KedaOptions

MAY_BE_ZERO: Final = frozenset({
    "min_replicas", "schedule_s", "image_pull_s", "pre_pulled_s", "container_create_s", "endpoints_s", "placeholders",
    "node_provision_s", "shared_slots", "node_idle_s", "tolerance", "cooldown_period_s", "activation",
    "metrics_delay_s",
    "cpu_initialization_period_s",
})  # fmt: skip
"""Of all figures of a policy, those that may be 0; the others must be above."""


KEDA_DEFAULTS: Final = KedaOptions()


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica can do.

    Attributes:
        contender: Whose measured start and service times hold.
        pack: Models they were measured with.
        concurrency: Requests at a time, each taking the service time.
        cpu_when_busy: CPU it uses by the CPU it requests, when all of ``concurrency`` is in work.
        timeout_s: How long a client waits for its turn before it gives up.
        activator: Whether somebody holds requests while no replica is ready; without, they are lost at once.
    """

    contender: str = "warmswap"
    pack: str = "twin"
    concurrency: int = 1
    cpu_when_busy: float = 1.0
    timeout_s: float = 30.0
    activator: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """How long a pod takes, apart from what was measured. Assumptions, to be replaced by those of a cluster.

    Attributes:
        schedule_s: Until it is bound to a node with room.
        pre_pulled: Whether the images are on every node.
        image_pull_s: Pulling them, if they are not.
        pre_pulled_s: Finding them there, if they are.
        container_create_s: Sandbox, volumes and container, until exec.
        readiness_period_s: Of the probe; ready is noticed at the first one after it is true.
        endpoints_s: Until the load balancer knows.
    """

    schedule_s: float = 1.0
    pre_pulled: bool = True
    image_pull_s: float = 25.0
    pre_pulled_s: float = 0.5
    container_create_s: float = 1.5
    readiness_period_s: float = 1.0
    endpoints_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Room for replicas. A node holds one.

    Attributes:
        placeholders: Pause pods that hold a node each, and give way to a replica at once.
        node_provision_s: From a pod without room to its node.
        shared_slots: Replicas that find room on nodes which are there anyway; free room is not paid for.
        node_idle_s: How long a node without a replica is kept, and paid.
    """

    placeholders: int = 0
    node_provision_s: float = 90.0
    shared_slots: int = 1
    node_idle_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Scaler:
    """The HorizontalPodAutoscaler.

    Attributes:
        min_replicas: 0 only with KEDA or Knative, which are then what goes to zero and back.
        max_replicas: The most.
        sync_period_s: ``--horizontal-pod-autoscaler-sync-period``.
        tolerance: ``--horizontal-pod-autoscaler-tolerance``.
        scrape_s: Between two samples of a metric, each the mean since the one before.
        metrics_delay_s: From a sample until the autoscaler can read it.
        cpu_initialization_period_s: ``--horizontal-pod-autoscaler-cpu-initialization-period``.
    """

    min_replicas: int = 1
    max_replicas: int = 10_000
    sync_period_s: float = 15.0
    tolerance: float = DEFAULT_TOLERANCE
    scrape_s: float = 15.0
    metrics_delay_s: float = 5.0
    cpu_initialization_period_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Metric:
    """What is scaled on.

    Attributes:
        kind: ``cpu``: utilisation of ready pods; ``pending``: requests waiting and in work, summed.
        target: Per cent of the request, or requests per replica (``AverageValue``).
        activation: More than this wakes from zero (``activationThreshold``); of ``pending``.
    """

    kind: Literal["cpu", "pending"]
    target: float
    activation: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy.

    Attributes:
        name: How it is called in tables and charts.
        summary: One line for people.
        replica: What one replica can do.
        start: Phases of a start.
        cluster: Room.
        autoscaler: Limits and periods.
        metric: What is scaled on; the one that wants most wins.
        cron: Floors by the clock.
        scale_up: Speed limits up.
        scale_down: Speed limits down.
        keda: Zero to one and back.
    """

    name: str
    summary: str = ""
    replica: Replica = Replica()
    start: Start = Start()
    cluster: Cluster = Cluster()
    autoscaler: Scaler = Scaler()
    metric: tuple[Metric, ...] = ()
    cron: tuple[CronTrigger, ...] = ()
    scale_up: ScalingRules = DEFAULT_UP
    scale_down: ScalingRules = DEFAULT_DOWN
    keda: KedaOptions = KEDA_DEFAULTS

    def __post_init__(self) -> None:
        """Refuse what no cluster would accept.

        Raises:
            PolicyError: a figure is out of its range, or parts do not fit together.
        """
        for part in (self.replica, self.start, self.cluster, self.autoscaler, self.keda, *self.metric):
            _check_range(self.name, part)
        limits = (*self.scale_up.policies, *self.scale_down.policies)
        for limit in limits:
            _check_range(self.name, limit)
        for metric in self.metric:
            if metric.kind == "cpu" and metric.target != round(metric.target):
                raise PolicyError(
                    f"policy {self.name!r}: target of cpu must be a whole number of per cent, got {metric.target:g}"
                )
        if not self.metric and not self.cron:
            raise PolicyError(f"policy {self.name!r}: nothing to scale on: give [[policy.metric]] or [[policy.cron]]")
        least, most = self.autoscaler.min_replicas, self.autoscaler.max_replicas
        if least > most:
            raise PolicyError(f"policy {self.name!r}: min_replicas {least} is above max_replicas {most}")
        if least == 0 and not any(metric.kind == "pending" for metric in self.metric) and not self.cron:
            raise PolicyError(
                f"policy {self.name!r}: min_replicas 0 needs something that wakes it: a metric of kind 'pending' or a "
                "cron trigger (CPU cannot: without pods there is none)"
            )


def _check_range(policy: str, part: object) -> None:
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        least_text = "0 or more" if field.name in MAY_BE_ZERO else "above 0"
        if not (0 <= value < float("inf")) or (value == 0 and field.name not in MAY_BE_ZERO):
            raise PolicyError(f"policy {policy!r}: {field.name} must be {least_text}, got {value:g}")
