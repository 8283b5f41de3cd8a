"""What is done to a Deployment under load, and what may be lost over it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.kubelet.container import Container
from warmswap_loadtests.kubelet.pod import Pod
from warmswap_loadtests.kubelet.pod_spec import DeploymentSpec, PodSpec
from warmswap_loadtests.kubelet.run import SETTLE_TIMEOUT_S, Script, Stage

INTO_LOAD_S: Final = 0.8
"""From the start of a container to a moment in which it loads models."""
BROKEN_ENDS: Final = 3
"""How often a broken revision ends before its rollout is undone: the third start has waited for the back-off."""
LIVE_PATH: Final = "/v2/health/live"


class Sort(StrEnum):
    """What a scenario may lose."""

    PLANNED = "planned"  # nothing
    UNPLANNED = "unplanned"  # what was on the dead replica, or sent to it until the endpoints were changed
    NAIVE = "naive"  # a contrast with other settings: it must lose something, or the harness sees nothing


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario.

    Attributes:
        name: A word.
        text: What happens, in a sentence.
        sort: What it may lose.
        script: Does it, and returns when all is as wanted again.
        change: Makes the Deployment of the manifest another one.
        nodes: Where pods may run at first.
    """

    name: str
    text: str
    sort: Sort
    script: Script
    change: Callable[[DeploymentSpec], DeploymentSpec] = lambda spec: spec
    nodes: tuple[str, ...] = ("node-a", "node-b", "node-c")


def _rolling_update(stage: Stage) -> None:
    stage.cluster.deployment.roll_out(stage.cluster.tick())
    stage.settle()


def _broken_update(stage: Stage) -> None:
    """A revision with a corrupt model: it must stop, and be taken back."""
    cluster = stage.cluster
    cluster.repositories[2] = corrupt_repository(stage.setting.repository, stage.folder / "corrupt")
    cluster.deployment.roll_out(cluster.tick())
    cluster.run_until(
        lambda _: any(pod.revision == 2 and len(pod.exit_codes) >= BROKEN_ENDS for pod in cluster.pods),
        SETTLE_TIMEOUT_S,
        f"the broken revision ends {BROKEN_ENDS} times",
    )
    serving = [pod.name for pod in cluster.deployment.active if pod.revision == 1 and pod.is_serving]
    stage.notes["old_pods_serving"] = len(serving)
    if len(serving) != cluster.deployment.replicas:
        raise BenchError(f"a broken revision took pods away: only {', '.join(serving) or 'none'} of the old ones serve")
    cluster.deployment.undo(cluster.tick())
    stage.settle()


def _scale_in(stage: Stage) -> None:
    stage.cluster.deployment.scale(stage.cluster.tick(), 1)
    stage.settle()


def _scale_out(stage: Stage) -> None:
    stage.cluster.deployment.scale(stage.cluster.tick(), 3)
    stage.settle()


def _loading_pod(stage: Stage) -> Pod:
    """Order one more pod, and return it while it loads its models."""
    cluster = stage.cluster
    cluster.deployment.scale(cluster.tick(), 3)
    cluster.run_until(lambda _: len(cluster.pods) == 3 and cluster.pods[-1].container is not None, 30, "a third pod")
    cluster.run_for(INTO_LOAD_S)
    pod = cluster.pods[-1]
    if pod.started:
        raise BenchError(f"{pod.name} is ready already after {INTO_LOAD_S:g} s: too late to meet its load")
    return pod


def _delete_during_start(stage: Stage) -> None:
    pod = _loading_pod(stage)
    stage.cluster.deployment.scale(stage.cluster.tick(), 2)
    stage.settle()
    if not pod.gone:
        raise BenchError(f"{pod.name}, which was not ready, should have gone first")


def _kill_during_start(stage: Stage) -> None:
    pod = _loading_pod(stage)
    stage.cluster.fault(pod, "SIGKILL while it loads models")
    stage.cluster.container(pod).kill()
    stage.settle()


def _node_drain(stage: Stage) -> None:
    cluster = stage.cluster
    cluster.deployment.nodes.append("node-b")
    cluster.deployment.drain(cluster.tick(), "node-a")
    stage.settle()


def _struck(what: str, act: Callable[[Container], None]) -> Script:
    def script(stage: Stage) -> None:
        pod = stage.strike(what, lambda pod: act(stage.cluster.container(pod)))
        # A replica may mend itself before a probe finds out: wait for the death first, then for the mending.
        sent = pod.readiness.sent if pod.readiness else 0
        stage.cluster.run_until(lambda _: pod.readiness is None or pod.readiness.sent >= sent + 3, 60, "more probes")
        stage.settle()

    return script


def _oom(stage: Stage) -> None:
    def leak(pod: Pod) -> None:
        container = stage.cluster.container(pod)
        if container.group is None:
            stage.notes["memory_limit"] = (
                "this machine has no cgroup v1 that we may use: SIGKILL of all processes instead"
            )
            container.kill()
        else:
            container.group.leak_until_killed()
            stage.notes["memory_limit"] = "the kernel's own, by a cgroup: one process was killed"

    pod = stage.strike("memory limit reached", leak)
    sent = pod.readiness.sent if pod.readiness else 0
    stage.cluster.run_until(lambda _: pod.readiness is None or pod.readiness.sent >= sent + 3, 60, "more probes")
    stage.settle()


def _pod(**changes: object) -> Callable[[DeploymentSpec], DeploymentSpec]:
    return lambda spec: replace(spec, pod=replace(spec.pod, **changes))  # type: ignore[arg-type]


def _live_probes(spec: DeploymentSpec) -> DeploymentSpec:
    """Let startup and readiness ask what liveness asks."""

    def asking(pod: PodSpec) -> PodSpec:
        startup = replace(pod.startup, path=LIVE_PATH) if pod.startup else None
        readiness = replace(pod.readiness, path=LIVE_PATH) if pod.readiness else None
        return replace(pod, startup=startup, readiness=readiness)

    return replace(spec, pod=asking(spec.pod), min_ready_s=0.0)


_ALL_KILLED: Final = _struck("SIGKILL of all its processes", Container.kill)
_SERVER_KILLED: Final = _struck("SIGKILL of tritonserver", Container.kill_server)
_STUB_KILLED: Final = _struck("SIGKILL of a face_swap process", lambda container: container.kill_stub("face_swap"))

SCENARIOS: Final = (
    Scenario("rolling-update", "a new revision replaces both pods", Sort.PLANNED, _rolling_update),
    Scenario(
        "broken-update",
        "a new revision with a corrupt model never gets ready; the rollout stops and is undone",
        Sort.PLANNED,
        _broken_update,
    ),
    Scenario("scale-out", "from two pods to three", Sort.PLANNED, _scale_out),
    Scenario("scale-in", "from two pods to one", Sort.PLANNED, _scale_in),
    Scenario(
        "delete-during-start",
        "a third pod is deleted while it loads models; without preStop, so that SIGTERM meets the load",
        Sort.PLANNED,
        _delete_during_start,
        _pod(pre_stop_s=0.0),
    ),
    Scenario(
        "kill-during-start",
        "a third pod is killed while it loads models, and restarted",
        Sort.PLANNED,
        _kill_during_start,
    ),
    Scenario(
        "node-drain",
        "both pods are on a node that is drained; the budget lets one go at a time",
        Sort.PLANNED,
        _node_drain,
        nodes=("node-a",),
    ),
    Scenario("crash", "all processes of a busy pod get SIGKILL", Sort.UNPLANNED, _ALL_KILLED),
    Scenario("server-killed", "tritonserver of a busy pod gets SIGKILL", Sort.UNPLANNED, _SERVER_KILLED),
    Scenario("stub-killed", "a model process of a busy pod gets SIGKILL", Sort.UNPLANNED, _STUB_KILLED),
    Scenario("oom-kill", "a busy pod reaches its memory limit, and the kernel kills", Sort.UNPLANNED, _oom),
    Scenario("naive-no-prestop", "a rolling update without preStop", Sort.NAIVE, _rolling_update, _pod(pre_stop_s=0.0)),
    Scenario(
        "naive-live-probe",
        f"a rolling update with startup and readiness on {LIVE_PATH}, no minReadySeconds",
        Sort.NAIVE,
        _rolling_update,
        _live_probes,
    ),
    Scenario(
        "naive-short-grace",
        "a rolling update with terminationGracePeriodSeconds 1, which cuts preStop short",
        Sort.NAIVE,
        _rolling_update,
        _pod(grace_s=1.0),
    ),
)


def find_scenarios(names: list[str] | None) -> list[Scenario]:
    """Return the named ones; all if none is named.

    Raises:
        BenchError: there is none of that name.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names or ():
        if name not in known:
            raise BenchError(f"there is no scenario {name!r}, expected one of {', '.join(known)}")
    return [scenario for scenario in SCENARIOS if not names or scenario.name in names]


def corrupt_repository(repository: Path, folder: Path, model: str = "face_swapper") -> Path:
    """Make a repository that differs in one byte of each graph of a model; the rest are links."""
    folder.mkdir()
    for entry in repository.resolve().iterdir():
        if entry.name == model:
            shutil.copytree(entry, folder / model, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / entry.name).symlink_to(entry)
    for graph in (folder / model).rglob("*.onnx"):
        content = bytearray(graph.read_bytes())
        content[len(content) // 2] ^= 0xFF
        graph.write_bytes(content)
    return folder
