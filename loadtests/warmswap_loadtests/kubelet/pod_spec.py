"""What a pod is told by its manifest, with the defaults of Kubernetes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.kubelet.fields import ManifestError, Node, percentage, quantity_bytes

GRACE_S: Final = 30.0
PROGRESS_DEADLINE_S: Final = 600.0
SHARED_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Of a container that mounts nothing at ``/dev/shm``."""


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """A probe over HTTP.

    Attributes:
        path: What is asked for.
        port: Name of the container's port.
        initial_delay_s: From the start of the container to the first probe.
        period_s: From one probe to the next.
        timeout_s: No answer by then is a failure.
        success_threshold: Successes in a row that make it succeed.
        failure_threshold: Failures in a row that make it fail.
        grace_s: What a container is given that it kills; ``None`` = the pod's.
    """

    path: str
    port: str = "http"
    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class PodSpec:
    """One pod with one container.

    Attributes:
        command: Entry point.
        args: Arguments.
        env: Values; what comes from elsewhere in a cluster is not here.
        ports: Name to number.
        startup: Until it succeeded, the others are not asked.
        readiness: Whether it gets traffic; ``None`` = always.
        liveness: Whether it is let live.
        pre_stop_s: Sleep before SIGTERM.
        grace_s: From the deletion to SIGKILL, ``pre_stop_s`` included.
        restarts: Whether a container that ended is started again (``restartPolicy``).
        memory_bytes: Its limit; ``None`` = none.
        shared_memory_bytes: Size of ``/dev/shm``.
    """

    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    startup: ProbeSpec | None = None
    readiness: ProbeSpec | None = None
    liveness: ProbeSpec | None = None
    pre_stop_s: float = 0.0
    grace_s: float = GRACE_S
    restarts: bool = True
    memory_bytes: int | None = None
    shared_memory_bytes: int = SHARED_MEMORY_BYTES


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """A Deployment and the budget of its pods.

    Attributes:
        pod: Its template.
        max_surge: Pods beyond the wanted ones in a rollout: a number, or a share (rounded up).
        max_unavailable: Pods that may be missing in a rollout: a number, or a share (rounded down).
        min_ready_s: For how long a pod must have been ready to count.
        progress_deadline_s: A rollout that gets nowhere for so long has failed.
        budget_unavailable: Pods that evictions may take away (``PodDisruptionBudget``); ``None`` = no budget.
        evicts_unready: Whether pods that are not ready may be taken away beyond it (``unhealthyPodEvictionPolicy``).
    """

    pod: PodSpec
    max_surge: float | str = "25%"
    max_unavailable: float | str = "25%"
    min_ready_s: float = 0.0
    progress_deadline_s: float = PROGRESS_DEADLINE_S
    budget_unavailable: int | None = None
    evicts_unready: bool = False

    def surge(self, replicas: int) -> int:
        """Return how many pods there may be beyond ``replicas``."""
        return _share(self.max_surge, replicas, math.ceil)

    def unavailable(self, replicas: int) -> int:
        """Return how many of ``replicas`` may be missing; at least one if nothing may be added either."""
        found = _share(self.max_unavailable, replicas, math.floor)
        return 1 if found == 0 and self.surge(replicas) == 0 else found


def read_manifest(path: Path, container: str = "warmswap") -> DeploymentSpec:
    """Return the Deployment of a rendered manifest.

    Args:
        path: YAML with one Deployment, and possibly a PodDisruptionBudget.
        container: Name of the container that is the server.

    Raises:
        BenchError: it cannot be read, or has what cannot be run here; the text names file and field.
    """
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BenchError(f"cannot read the manifest {path}: {reason}; give --manifest FILE") from error
    except yaml.YAMLError as error:
        raise BenchError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return _deployment(documents, container)
    except ManifestError as error:
        raise BenchError(f"{path}: {error}") from error


def _deployment(documents: list[Any], container: str) -> DeploymentSpec:
    found = [document for document in documents if isinstance(document, dict) and document.get("kind") == "Deployment"]
    if len(found) != 1:
        raise ManifestError(f"has {len(found)} objects of the kind Deployment, expected one")
    spec = Node(found[0], "Deployment").node("spec")
    strategy = spec.node("strategy", {})
    if (kind := strategy.text("type", "RollingUpdate")) != "RollingUpdate":
        raise ManifestError(f"{strategy.path}.type is {kind}, only RollingUpdate can be run")
    rolling = strategy.node("rollingUpdate", {})
    budget_unavailable, evicts_unready = _budget(documents)
    return DeploymentSpec(
        pod=_pod(spec.node("template").node("spec"), container),
        max_surge=percentage(rolling, "maxSurge", "25%"),
        max_unavailable=percentage(rolling, "maxUnavailable", "25%"),
        min_ready_s=spec.number("minReadySeconds", 0),
        progress_deadline_s=spec.number("progressDeadlineSeconds", PROGRESS_DEADLINE_S),
        budget_unavailable=budget_unavailable,
        evicts_unready=evicts_unready,
    )


def _budget(documents: list[Any]) -> tuple[int | None, bool]:
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "PodDisruptionBudget":
            spec = Node(document, "PodDisruptionBudget").node("spec")
            value = spec.get("maxUnavailable")
            if not isinstance(value, int) or isinstance(value, bool):
                raise ManifestError(f"{spec.path}.maxUnavailable is {value!r}, only a number can be run")
            return value, spec.text("unhealthyPodEvictionPolicy", "IfHealthyBudget") == "AlwaysAllow"
    return None, False


def _pod(spec: Node, container: str) -> PodSpec:
    containers = [Node(value, f"{spec.path}.containers[{i}]") for i, value in enumerate(spec.items("containers"))]
    chosen = [node for node in containers if node.text("name", "") == container]
    if not chosen:
        names = ", ".join(node.text("name", "?") for node in containers) or "none"
        raise ManifestError(f"{spec.path}.containers has no {container!r}, but {names}")
    node = chosen[0]
    policy = spec.text("restartPolicy", "Always")
    if policy not in ("Always", "OnFailure", "Never"):
        raise ManifestError(f"{spec.path}.restartPolicy is {policy!r}, expected Always, OnFailure or Never")
    if policy == "OnFailure":
        raise ManifestError(f"{spec.path}.restartPolicy is OnFailure, a Deployment wants Always")
    ports = dict(_ports(node))
    limits = node.node("resources", {}).node("limits", {})
    return PodSpec(
        command=_words(node, "command"),
        args=_words(node, "args") if node.get("args") else (),
        env=_environment(node),
        ports=ports,
        startup=_probe(node, "startupProbe", ports),
        readiness=_probe(node, "readinessProbe", ports),
        liveness=_probe(node, "livenessProbe", ports),
        pre_stop_s=_pre_stop_s(node.node("lifecycle", {})),
        grace_s=spec.number("terminationGracePeriodSeconds", GRACE_S),
        restarts=policy == "Always",
        memory_bytes=quantity_bytes(limits, "memory"),
        shared_memory_bytes=_shared_memory_bytes(spec, node),
    )


def _words(node: Node, key: str) -> tuple[str, ...]:
    values = node.items(key)
    if not values or not all(isinstance(value, str) for value in values):
        raise ManifestError(f"{node.path}.{key} must be a list of strings, got {node.get(key)!r}")
    return tuple(values)


def _environment(node: Node) -> dict[str, str]:
    entries = [Node(value, f"{node.path}.env[{i}]") for i, value in enumerate(node.items("env"))]
    return {entry.text("name"): str(entry.get("value")) for entry in entries if entry.get("value") is not None}


def _ports(node: Node) -> Iterator[tuple[str, int]]:
    for i, value in enumerate(node.items("ports")):
        port = Node(value, f"{node.path}.ports[{i}]")
        yield port.text("name", str(port.get("containerPort"))), int(port.number("containerPort"))


def _probe(node: Node, key: str, ports: Mapping[str, int]) -> ProbeSpec | None:
    if node.get(key) is None:
        return None
    probe = node.node(key)
    if probe.get("httpGet") is None:
        raise ManifestError(f"{probe.path} is no httpGet, the only kind that can be run here")
    request = probe.node("httpGet")
    if (scheme := request.text("scheme", "HTTP")) != "HTTP":
        raise ManifestError(f"{request.path}.scheme is {scheme!r}, only HTTP can be run here")
    port = request.get("port")
    names = {number: name for name, number in ports.items()}
    name = names.get(port) if isinstance(port, int) else port
    if name not in ports:
        raise ManifestError(f"{request.path}.port is {port!r}, but the container's ports are {dict(ports)}")
    if key != "readinessProbe" and (successes := probe.number("successThreshold", 1)) != 1:
        raise ManifestError(f"{probe.path}.successThreshold must be 1, got {successes:g}")
    return ProbeSpec(
        path=request.text("path", "/"),
        port=str(name),
        initial_delay_s=probe.number("initialDelaySeconds", 0),
        period_s=probe.number("periodSeconds", 10, least=1),
        timeout_s=probe.number("timeoutSeconds", 1, least=1),
        success_threshold=int(probe.number("successThreshold", 1, least=1)),
        failure_threshold=int(probe.number("failureThreshold", 3, least=1)),
        grace_s=None
        if probe.get("terminationGracePeriodSeconds") is None
        else probe.number("terminationGracePeriodSeconds", least=1),
    )


def _pre_stop_s(lifecycle: Node) -> float:
    if lifecycle.get("preStop") is None:
        return 0.0
    hook = lifecycle.node("preStop")
    if hook.get("sleep") is not None:
        return hook.node("sleep").number("seconds")
    if hook.get("exec") is not None:
        match hook.node("exec").items("command"):
            case ["sleep" | "/bin/sleep", str(seconds)] if seconds.isdigit():
                return float(seconds)
            case ["sh" | "/bin/sh", "-c", str(line)] if line.startswith("sleep ") and line[6:].strip().isdigit():
                return float(line[6:])
    raise ManifestError(f"{hook.path} is {hook.value!r}, only a sleep can be run here")


def _shared_memory_bytes(spec: Node, node: Node) -> int:
    mounts = [Node(value, f"{node.path}.volumeMounts[{i}]") for i, value in enumerate(node.items("volumeMounts"))]
    names = {mount.text("name") for mount in mounts if mount.get("mountPath") == "/dev/shm"}
    for i, value in enumerate(spec.items("volumes")):
        volume = Node(value, f"{spec.path}.volumes[{i}]")
        if volume.text("name") in names and volume.get("emptyDir") is not None:
            size = quantity_bytes(volume.node("emptyDir"), "sizeLimit")
            if size is not None:
                return size
    return SHARED_MEMORY_BYTES


def _share(value: float | str, replicas: int, rounded: Any) -> int:
    if isinstance(value, str):
        return int(rounded(replicas * float(value.removesuffix("%")) / 100))
    return int(value)
