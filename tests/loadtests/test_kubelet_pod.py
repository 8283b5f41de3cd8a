"""The kubelet's work on real processes: probes over real sockets, real signals, real namespaces where there are any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.loadtests.toy_pod import toy_command
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.kubelet.back_off import BackOff
from warmswap_loadtests.kubelet.container import Container, Machine, can_isolate
from warmswap_loadtests.kubelet.events import EventLog, Kind
from warmswap_loadtests.kubelet.memory_limit import MemoryGroup
from warmswap_loadtests.kubelet.pod import Pod, Running, State
from warmswap_loadtests.kubelet.pod_spec import PodSpec, ProbeSpec
from warmswap_ops.ports import Ports, choose_ports

STEP_S = 30.0
QUICK = ProbeSpec("/ready", period_s=0.1, timeout_s=2.0, failure_threshold=2)
SPEC = PodSpec(
    command=("python",),
    startup=replace(QUICK, failure_threshold=200),
    readiness=QUICK,
    liveness=replace(QUICK, path="/live"),
    grace_s=20.0,
)


@contextmanager
def running(spec: PodSpec, tmp_path: Path, **env: str) -> Iterator[Pod]:
    ports = choose_ports("127.0.0.1", Ports(0, 0, 0))
    spec = replace(spec, env=env)
    log = EventLog()

    def start(restart: int) -> Running:
        return Container(spec, toy_command(spec, ports, tmp_path), Machine(tmp_path, tmp_path), f"toy-{restart}")

    with ThreadPoolExecutor(4) as pool:
        now_s = time.monotonic()
        pod = Pod(
            name="toy",
            revision=1,
            node="node-a",
            spec=spec,
            ports={"http": ports.http},
            start=start,
            log=log,
            pool=pool,
            created_s=now_s,
            start_s=now_s,
            back_off=BackOff(scale=0.02),
            relist_s=0.02,
        )
        try:
            yield pod
        finally:
            pod.close()


def tick_until(pod: Pod, condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + STEP_S
    while not condition():
        assert time.monotonic() < deadline_s, pod.log.events
        pod.tick(time.monotonic())
        time.sleep(0.01)


def kinds(pod: Pod) -> list[Kind]:
    return [event.kind for event in pod.log.events]


def test_readiness_waits_for_the_startup_probe_and_a_deleted_pod_is_told_and_ends(tmp_path: Path) -> None:
    with running(replace(SPEC, pre_stop_s=0.5), tmp_path, TOY_STARTS_S="1.0") as pod:
        tick_until(pod, lambda: pod.ready)
        assert kinds(pod) == [Kind.CREATED, Kind.STARTED, Kind.STARTUP_OK, Kind.READY]
        assert pod.startup is not None
        assert pod.startup.failed > 0
        assert pod.readiness is not None
        assert pod.readiness.failed == 0  # it was not asked before
        sent = pod.readiness.sent
        pod.delete(time.monotonic(), "test")
        pod.delete(time.monotonic(), "again")
        assert not pod.is_serving
        tick_until(pod, lambda: pod.gone)
        assert pod.readiness.sent > sent  # goes on until the end
    assert kinds(pod)[4:] == [Kind.DELETED, Kind.PRE_STOP, Kind.SIGTERM, Kind.EXITED, Kind.NOT_READY, Kind.GONE]
    times = {event.kind: event.time_s for event in pod.log.events}
    assert times[Kind.SIGTERM] - times[Kind.DELETED] >= 0.5
    assert pod.exit_codes == [0]


def test_who_does_not_listen_is_killed_when_the_grace_period_is_over(tmp_path: Path) -> None:
    with running(replace(SPEC, grace_s=0.3), tmp_path, TOY_IGNORES_SIGTERM="1") as pod:
        tick_until(pod, lambda: pod.ready)
        pod.delete(time.monotonic(), "test")
        tick_until(pod, lambda: pod.gone)
    assert pod.exit_codes == [137], (pod.log.events, (tmp_path / "toy-0.log").read_text())
    times = {event.kind: event.time_s for event in pod.log.events}
    assert times[Kind.SIGKILL] - times[Kind.SIGTERM] >= 2.0  # the least that is given


def test_a_container_that_ends_is_started_again_with_growing_pauses(tmp_path: Path) -> None:
    with running(SPEC, tmp_path, TOY_DIES_S="0.2") as pod:
        tick_until(pod, lambda: len(pod.exit_codes) == 4)
        assert (pod.restarts, pod.state) == (4, State.WAITING)
    assert pod.exit_codes == [7, 7, 7, 7]
    assert [event.detail for event in pod.log.events if event.kind is Kind.BACK_OFF] == [
        "CrashLoopBackOff: 0.2 s",
        "CrashLoopBackOff: 0.4 s",
        "CrashLoopBackOff: 0.8 s",
    ]


def test_a_container_that_is_not_to_be_restarted_stays_ended(tmp_path: Path) -> None:
    with running(replace(SPEC, restarts=False), tmp_path, TOY_DIES_S="0.2") as pod:
        tick_until(pod, lambda: pod.state is State.ENDED)
        pod.tick(time.monotonic() + 1000)
        assert (pod.restarts, pod.exit_codes) == (0, [7])
        pod.delete(time.monotonic(), "test")
        assert pod.gone


def test_a_sick_container_is_killed_with_the_grace_of_its_probe_and_restarted(tmp_path: Path) -> None:
    liveness = replace(QUICK, path="/live", grace_s=0.1)
    with running(replace(SPEC, liveness=liveness), tmp_path, TOY_SICK_S="1.0", TOY_IGNORES_SIGTERM="1") as pod:
        tick_until(pod, lambda: pod.restarts == 1 and pod.state is State.RUNNING)
    events = {event.kind: event for event in pod.log.events}
    assert events[Kind.KILLING].detail == "liveness: HTTP 503"
    assert pod.exit_codes == [137], (pod.log.events, (tmp_path / "toy-0.log").read_text())
    assert events[Kind.SIGKILL].time_s - events[Kind.KILLING].time_s < SPEC.grace_s


def test_a_start_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    spec = replace(SPEC, startup=replace(QUICK, failure_threshold=3))
    with running(spec, tmp_path, TOY_STARTS_S="1000") as pod:
        tick_until(pod, lambda: pod.restarts == 1)
    assert Kind.READY not in kinds(pod)
    assert next(event.detail for event in pod.log.events if event.kind is Kind.KILLING).startswith("startup: ")


def test_a_pod_that_waits_is_gone_as_soon_as_it_is_deleted(tmp_path: Path) -> None:
    with running(SPEC, tmp_path) as pod:
        pod.delete(time.monotonic(), "test")
        assert pod.gone
        pod.tick(time.monotonic())
        assert pod.container is None


def test_nothing_of_a_container_is_left(tmp_path: Path) -> None:
    spec = replace(SPEC, memory_bytes=512 * 1024 * 1024)
    with running(spec, tmp_path) as pod:
        tick_until(pod, lambda: pod.ready)
        assert isinstance(pod.container, Container)
        family = pod.container._family()
        group = pod.container.group
        assert len(family) >= (2 if can_isolate() else 1)
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    assert group is None or not group.path.exists()


@pytest.mark.skipif(not can_isolate(), reason="this machine does not let us make namespaces")
def test_process_one_has_a_shared_memory_of_the_given_size(tmp_path: Path) -> None:
    spec = replace(SPEC, shared_memory_bytes=16 * 1024 * 1024)
    line = "import os; s = os.statvfs('/dev/shm'); print(os.getpid(), s.f_blocks * s.f_frsize, os.listdir('/dev/shm'))"
    container = Container(spec, ["python3", "-c", line], Machine(tmp_path, tmp_path), "look")
    try:
        deadline_s = time.monotonic() + STEP_S
        while container.exit_code is None and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert (container.exit_code, container.log_tail()) == (0, "1 16777216 []")
    finally:
        container.close()


def test_the_kernel_kills_who_is_over_the_limit(tmp_path: Path) -> None:
    with running(replace(SPEC, memory_bytes=256 * 1024 * 1024), tmp_path) as pod:
        tick_until(pod, lambda: pod.ready)
        assert isinstance(pod.container, Container)
        if pod.container.group is None:
            pytest.skip("this machine has no cgroup v1 that we may use")
        pod.container.group.leak_until_killed()
        tick_until(pod, lambda: pod.restarts == 1)
    assert pod.exit_codes == [137], (pod.log.events, (tmp_path / "toy-0.log").read_text())


def test_groups_that_cannot_be_made_are_none() -> None:
    assert MemoryGroup.create("no/such/parent", 1024) is None


def test_a_process_that_is_not_there_cannot_be_killed(tmp_path: Path) -> None:
    with running(SPEC, tmp_path) as pod:
        tick_until(pod, lambda: pod.ready)
        assert isinstance(pod.container, Container)
        with pytest.raises(BenchError, match="no process tritonserver"):
            pod.container.kill_server()
