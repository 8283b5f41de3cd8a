"""All of it together: Envoy, endpoints, the Deployment and its pods on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from warmswap_loadtests.contenders.contender import HOST
from warmswap_loadtests.envoy import Envoy
from warmswap_loadtests.envoy_config import Endpoint
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.kubelet.back_off import BackOff
from warmswap_loadtests.kubelet.clients import PROTOCOLS, service_name, services
from warmswap_loadtests.kubelet.container import Container, Machine, local_command
from warmswap_loadtests.kubelet.deployment import Deployment
from warmswap_loadtests.kubelet.endpoints import Endpoints
from warmswap_loadtests.kubelet.events import EventLog, Kind
from warmswap_loadtests.kubelet.pod import Pod, Running
from warmswap_loadtests.kubelet.pod_spec import DeploymentSpec, PodSpec
from warmswap_ops.ports import Ports, choose_ports

TICK_S: Final = 0.02
PROBE_THREADS: Final = 16

Command = Callable[[PodSpec, Ports, Path], list[str]]
"""Returns what a pod runs, given its ports and its repository."""


@dataclass(frozen=True, slots=True)
class Delays:
    """What takes time in a cluster, and is not in the manifest.

    Attributes:
        endpoint_lag_s: From a change of a pod to the load balancer's knowing it.
        pod_start_s: From the order to the start of the container: scheduling, network; the image is there.
        back_off_scale: Factor of CrashLoopBackOff.
    """

    endpoint_lag_s: float = 1.5
    pod_start_s: float = 1.0
    back_off_scale: float = 1.0


class Cluster:
    """A Deployment behind Envoy; for a ``with`` block, which ends everything. One thread drives it."""

    def __init__(
        self,
        spec: DeploymentSpec,
        repository: Path,
        folder: Path,
        delays: Delays,
        *,
        replicas: int = 2,
        nodes: Sequence[str] = ("node-a", "node-b", "node-c"),
        command: Command = local_command,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            spec: The Deployment.
            repository: What its first revision serves.
            folder: A folder that does not exist yet, for logs.
            delays: What takes time.
            replicas: How many are wanted.
            nodes: Where pods may run.
            command: What a pod runs; tests replace it.
        """
        folder.mkdir(parents=True)
        self._folder, self._delays, self._command = folder, delays, command
        self.log = EventLog()
        self.repositories: dict[int, Path] = {1: repository}
        """Revision to what it serves; that of the last one before it, if it has none of its own."""
        self.specs: dict[int, PodSpec] = {1: spec.pod}
        self.deployment = Deployment(spec, replicas, self._create, self.log, list(nodes))
        self._endpoints = Endpoints(delays.endpoint_lag_s, self._publish, self.log)
        self._pool = ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="probe")

    def __enter__(self) -> Self:
        """Start Envoy.

        Raises:
            BenchError: it does not start.
        """
        self.envoy = Envoy(list(services()), self._folder)
        self.envoy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill all pods, and stop Envoy."""
        for pod in self.pods:
            pod.close()
        self._pool.shutdown(wait=True)
        self.envoy.stop()

    @property
    def pods(self) -> list[Pod]:
        """All pods, those that are gone included."""
        return self.deployment.pods

    @property
    def routed(self) -> tuple[str, ...]:
        """Names of the pods that get traffic."""
        return self._endpoints.published

    def tick(self) -> float:
        """Do what has become due; return the time."""
        now_s = time.monotonic()
        self.deployment.tick(now_s)
        for pod in self.pods:
            pod.tick(now_s)
        self._endpoints.tick(now_s, self.pods)
        return now_s

    def run_until(self, condition: Callable[[float], bool], timeout_s: float, what: str) -> None:
        """Tick until a condition, which is given the time, holds.

        Raises:
            BenchError: the time is up.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition(now_s := self.tick()):
            if now_s > deadline_s:
                last = "; ".join(f"{event.kind} {event.pod} {event.detail}" for event in self.log.events[-5:])
                raise BenchError(f"{what}: not after {timeout_s:g} s; last: {last}")
            time.sleep(TICK_S)

    def run_for(self, seconds: float) -> None:
        """Tick for some time."""
        end_s = time.monotonic() + seconds
        self.run_until(lambda now_s: now_s >= end_s, seconds + 10, "waiting")

    def is_settled(self, now_s: float) -> bool:
        """Whether all is as wanted, and Envoy knows it."""
        return self.deployment.is_settled(now_s) and len(self.routed) == self.deployment.replicas

    def wait_settled(self, timeout_s: float) -> None:
        """Tick until all is as wanted."""
        self.run_until(self.is_settled, timeout_s, "the wanted pods are not available")

    def container(self, pod: Pod) -> Container:
        """Return the container that a pod runs.

        Raises:
            BenchError: it runs none.
        """
        if not isinstance(pod.container, Container) or pod.container.exit_code is not None:
            raise BenchError(f"{pod.name} runs no container")
        return pod.container

    def fault(self, pod: Pod, detail: str) -> None:
        """Note what was done to a pod from outside."""
        self.log.add(time.monotonic(), Kind.FAULT, pod.name, detail)

    def active_requests(self, pod: Pod) -> int:
        """Return how many requests Envoy waits for from a pod."""
        addresses = {f"{HOST}:{pod.ports[protocol]}" for protocol in PROTOCOLS}
        states = [state for service in services() for state in self.envoy.upstreams(service.name)]
        return sum(state.active for state in states if state.address in addresses)

    def names_by_address(self) -> dict[str, str]:
        """Return ``host:port`` of every pod that ever was, to its name."""
        return {f"{HOST}:{pod.ports[protocol]}": pod.name for pod in self.pods for protocol in PROTOCOLS}

    def _create(self, revision: int, node: str) -> Pod:
        now_s = time.monotonic()
        spec = self.specs.get(revision, self.specs[max(self.specs)])
        ports = choose_ports(HOST, Ports(0, 0, 0))
        name = f"r{revision}-{sum(pod.revision == revision for pod in self.pods)}"
        repository = self.repositories.get(revision, self.repositories[max(self.repositories)])
        machine = Machine(repository, self._folder)
        command = self._command(spec, ports, repository)

        def start(restart: int) -> Running:
            return Container(spec, command, machine, f"{name}-{restart}")

        return Pod(
            name=name,
            revision=revision,
            node=node,
            spec=spec,
            ports={"http": ports.http, "grpc": ports.grpc, "metrics": ports.metrics},
            start=start,
            log=self.log,
            pool=self._pool,
            created_s=now_s,
            start_s=now_s + self._delays.pod_start_s,
            back_off=BackOff(self._delays.back_off_scale),
        )

    def _publish(self, pods: Sequence[Pod]) -> None:
        for protocol in PROTOCOLS:
            endpoints = [Endpoint(HOST, pod.ports[protocol]) for pod in pods]
            for gateway in (False, True):
                self.envoy.set_endpoints(service_name(protocol, gateway=gateway), endpoints)


def with_pod(spec: DeploymentSpec, **changes: object) -> DeploymentSpec:
    """Return a Deployment whose pods differ in some fields."""
    return replace(spec, pod=replace(spec.pod, **changes))  # type: ignore[arg-type]
