"""One scenario: a warm Deployment, the load, what is done to it, and what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.envoy import FLUSH_INTERVAL_MS
from warmswap_loadtests.kubelet.clients import Stream
from warmswap_loadtests.kubelet.cluster import Cluster, Delays
from warmswap_loadtests.kubelet.described import described_requests
from warmswap_loadtests.kubelet.events import Kind
from warmswap_loadtests.kubelet.load import Load
from warmswap_loadtests.kubelet.pod import Pod
from warmswap_loadtests.kubelet.pod_spec import DeploymentSpec
from warmswap_loadtests.open_loop import Outcome, greatest_lag_s
from warmswap_loadtests.payloads import Payload

SETTLE_TIMEOUT_S: Final = 150.0
BEFORE_S: Final = 3.0
AFTER_S: Final = 2.5
VOLLEY_WAIT_S: Final = 5.0
BUSY_REQUESTS: Final = 2
BURST_KINDS: Final = (Kind.DELETED, Kind.UNROUTED, Kind.SIGTERM)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all scenarios have in common.

    Attributes:
        spec: The Deployment of the manifest.
        repository: What is served.
        streams: The clients.
        payload: What they send.
        rate_per_s: How many requests a second, all clients together.
        timeout_s: How long a client waits.
        delays: What takes time in a cluster.
        check: Looks at the answers; ``None`` = nobody does.
    """

    spec: DeploymentSpec
    repository: Path
    streams: Sequence[Stream]
    payload: Payload
    rate_per_s: float
    timeout_s: float
    delays: Delays = field(default_factory=Delays)
    check: AnswerCheck | None = None


@dataclass(slots=True)
class Stage:
    """What a script has to work with.

    Attributes:
        cluster: The pods.
        load: Runs.
        setting: As given.
        folder: For files of the script.
        faults: Pods that something was done to from outside, and when, on the clock ``time.monotonic``.
        notes: What the script wants in the report.
    """

    cluster: Cluster
    load: Load
    setting: Setting
    folder: Path
    faults: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    _seen: int = 0

    def settle(self) -> None:
        """Wait until all is as wanted; a pod that is being taken away meets a burst at every step."""

        def settled(now_s: float) -> bool:
            self._burst()
            return self.cluster.is_settled(now_s)

        self.cluster.run_until(settled, SETTLE_TIMEOUT_S, "the wanted pods are not available")

    def _burst(self) -> None:
        events = self.cluster.log.events
        new, self._seen = events[self._seen :], len(events)
        if any(event.kind in BURST_KINDS for event in new):
            self.load.volley(len(self.setting.streams))

    def strike(self, what: str, act: Callable[[Pod], None]) -> Pod:
        """Do something to the oldest pod while it has requests in work, which a volley sees to."""
        pod = self.cluster.deployment.active[0]
        self.load.volley(2 * len(self.setting.streams))
        end_s = time.monotonic() + VOLLEY_WAIT_S
        self.cluster.run_until(
            lambda now_s: now_s > end_s or self.cluster.active_requests(pod) >= BUSY_REQUESTS,
            VOLLEY_WAIT_S + 1,
            "a busy pod",
        )
        in_work = self.cluster.active_requests(pod)
        self.faults[pod.name] = time.monotonic()
        self.cluster.fault(pod, f"{what}, {in_work} requests in work")
        act(pod)
        self.notes["in_work"] = in_work
        return pod


Script = Callable[[Stage], None]


def measure(
    setting: Setting, spec: DeploymentSpec, script: Script, folder: Path, *, replicas: int = 2, nodes: Sequence[str]
) -> dict[str, Any]:
    """Run a scenario and return what was seen.

    Args:
        setting: Load and delays.
        spec: The Deployment.
        script: What happens.
        folder: A folder that does not exist yet.
        replicas: How many there are at first.
        nodes: Where they may run.

    Raises:
        BenchError: something that the script waits for does not happen.
    """
    with Cluster(spec, setting.repository, folder, setting.delays, replicas=replicas, nodes=nodes) as cluster:
        cluster.wait_settled(SETTLE_TIMEOUT_S)
        probes_before = _probes(cluster)
        with Load(cluster.envoy, setting.streams, setting.payload, setting.rate_per_s, setting.timeout_s) as load:
            epoch_s = load.start_s + time.time() - time.monotonic()
            cluster.log.start_s = load.start_s
            cluster.run_for(load.start_s - time.monotonic() + BEFORE_S)
            stage = Stage(cluster, load, setting, folder)
            event_s = time.monotonic() - load.start_s
            script(stage)
            cluster.run_for(AFTER_S)
            done = load.finish()
            cluster.run_until(lambda _: done.done(), 3 * setting.timeout_s, "the last answers")
            end_s = time.monotonic() - load.start_s
            cluster.run_for(2 * FLUSH_INTERVAL_MS / 1e3)
            records = done.result()
        probes = [after - before for after, before in zip(_probes(cluster), probes_before, strict=True)]
        log, names = cluster.envoy.access_log(), cluster.names_by_address()
        pods = [_described(pod) for pod in cluster.pods]
    for record in records:
        if record.answer is not None and setting.check and (fault := setting.check.fault(record.answer)):
            record.outcome, record.detail = Outcome.WRONG, fault
    streams = list(setting.streams)
    return {
        "event_s": round(event_s, 3),
        "seconds": round(end_s, 3),
        "requests": described_requests(records, lambda i: streams[i % len(streams)], log, names, epoch_s),
        "events": [
            _portable(asdict(event), (setting.repository.parent, folder)) for event in cluster.log.since_start()
        ],
        "pods": pods,
        "faults": {name: round(time_s - load.start_s, 3) for name, time_s in stage.faults.items()},
        "notes": stage.notes,
        "probes_sent": probes[0],
        "probes_failed": probes[1],
        "generator_lag_ms": round(greatest_lag_s(records) * 1e3, 1),
    }


def _portable(event: dict[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """Return an event whose words, which may be those of a log, have no path of this machine."""
    for folder in folders:
        event["detail"] = event["detail"].replace(f"{folder}/", "")
    return event


def _probes(cluster: Cluster) -> tuple[int, int]:
    workers = [
        worker for pod in cluster.pods for worker in (pod.startup, pod.readiness, pod.liveness) if worker is not None
    ]
    return sum(worker.sent for worker in workers), sum(worker.failed for worker in workers)


def _described(pod: Pod) -> dict[str, Any]:
    return {
        "name": pod.name,
        "revision": pod.revision,
        "node": pod.node,
        "restarts": pod.restarts,
        "exit_codes": pod.exit_codes,
    }
