"""Probes, back-off, endpoints, victims and verdicts: what follows from time and state alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.loadtests.upstreams import PROBE, Upstream
from warmswap_loadtests.kubelet.back_off import BackOff
from warmswap_loadtests.kubelet.clients import GATEWAY, PLAIN, RETRYING
from warmswap_loadtests.kubelet.deployment import Deployment, victims
from warmswap_loadtests.kubelet.endpoints import Endpoints
from warmswap_loadtests.kubelet.events import EventLog, Kind
from warmswap_loadtests.kubelet.figures import ELSEWHERE, IN_FLIGHT, SENT_TO_DEAD, verdict, whereabouts
from warmswap_loadtests.kubelet.lanes import PENDING, READY, STARTING, TERMINATING, Bar, pod_bars, traffic_spans
from warmswap_loadtests.kubelet.pod import Pod, Running, State
from warmswap_loadtests.kubelet.pod_spec import DeploymentSpec, PodSpec, ProbeSpec
from warmswap_loadtests.kubelet.probe import ProbeWorker, ask
from warmswap_loadtests.kubelet.scenarios import Sort


@pytest.mark.parametrize(
    ("answers", "results"),
    [
        ("++--+", "-++++"),
        ("++---+", "-+++--"),
        ("++--+---", "-++++++-"),
        ("+-+-", "----"),
        ("++---++", "-+++--+"),
    ],
)
def test_results_change_after_two_successes_and_three_failures(answers: str, results: str) -> None:
    worker = ProbeWorker(ProbeSpec("/", success_threshold=2, failure_threshold=3), initial=False)
    seen = ""
    for answer in answers:
        worker.take(answer == "+")
        seen += "+" if worker.result else "-"
    assert seen == results
    assert worker.failed == answers.count("-")


def test_a_probe_that_has_failed_for_good_says_so_though_nothing_changes() -> None:
    startup = ProbeWorker(ProbeSpec("/", failure_threshold=3), initial=False)
    assert [startup.take(False) for _ in range(4)] == [False, False, True, False]
    startup.reset(0.0)
    assert [startup.take(False) for _ in range(3)] == [False, False, True]


def test_probes_keep_to_their_period_and_begin_after_the_delay() -> None:
    sent: list[float] = []
    with Upstream() as upstream, ThreadPoolExecutor(1) as pool:
        worker = ProbeWorker(ProbeSpec(PROBE, initial_delay_s=3, period_s=2), initial=False)
        worker.reset(0.0)
        for now_s in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0):
            before = worker.sent
            if worker._under_way is not None:
                worker._under_way.result(10.0)
            worker.tick(now_s, upstream.endpoint.host, upstream.endpoint.port, pool)  # takes in
            worker.tick(now_s, upstream.endpoint.host, upstream.endpoint.port, pool)  # sends
            sent += [now_s] * (worker.sent - before)
        worker.on_hold = True
        for now_s in (20.0, 21.0):
            if worker._under_way is not None:
                worker._under_way.result(10.0)
            worker.tick(now_s, upstream.endpoint.host, upstream.endpoint.port, pool)
    assert sent == [3.0, 5.0, 7.0]
    assert worker.sent == 3
    assert worker.result


def test_answers_of_real_servers() -> None:
    with Upstream(takes_s=0.5) as upstream:
        host, port = upstream.endpoint.host, upstream.endpoint.port
        assert ask(host, port, PROBE, 5.0).succeeded
        upstream.is_ready = False
        refused = ask(host, port, PROBE, 5.0)
        assert (refused.succeeded, refused.detail) == (False, "HTTP 400")
        slow = ask(host, port, "/slow", 0.05)
        assert (slow.succeeded, "timed out" in slow.detail) == (False, True)
    gone = ask(host, port, PROBE, 5.0)
    assert (gone.succeeded, "refused" in gone.detail) == (False, True)


def test_pauses_before_restarts_double_up_to_five_minutes() -> None:
    back_off = BackOff()
    now_s, pauses = 100.0, []
    for _ in range(8):
        start_s = back_off.next_start_s(now_s)
        pauses.append(start_s - now_s)
        now_s = start_s + 1
    assert pauses == [0, 10, 20, 40, 80, 160, 300, 300]
    assert back_off.next_start_s(now_s + 601) == now_s + 601  # it ran for more than ten minutes
    assert BackOff(scale=0.01, _pause_s=10).next_start_s(5.0) == pytest.approx(5.1)


class Toy:
    """A container that does as it is told; the real ones are in ``test_kubelet_pod``."""

    exit_code: int | None = None

    def terminate(self) -> None:
        self.exit_code = 0

    def kill(self) -> None:
        self.exit_code = 137

    def close(self) -> None:
        pass

    def log_tail(self) -> str:
        return "words"


def make_pod(name: str, created_s: float = 0.0, spec: PodSpec | None = None, **values: Any) -> Pod:
    def start(_: int) -> Running:
        return Toy()

    pod = Pod(
        name=name,
        revision=values.pop("revision", 1),
        node=values.pop("node", "node-a"),
        spec=spec or PodSpec(("python",)),
        ports={"http": 1},
        start=start,
        log=values.pop("log", EventLog()),
        pool=ThreadPoolExecutor(1),
        created_s=created_s,
        start_s=created_s,
        relist_s=0.0,
    )
    for key, value in values.items():
        setattr(pod, key, value)
    return pod


def test_victims_are_chosen_as_a_replica_set_does() -> None:
    old = make_pod("old", 0.0, state=State.RUNNING, ready=True, ready_s=2.0)
    new = make_pod("new", 50.0, state=State.RUNNING, ready=True, ready_s=95.0)
    twin = make_pod("twin", 1.0, state=State.RUNNING, ready=True, ready_s=3.0)
    restarted = make_pod("restarted", 0.5, state=State.RUNNING, ready=True, ready_s=3.0, restarts=2)
    unready = make_pod("unready", 0.0, state=State.RUNNING)
    waiting = make_pod("waiting", 0.0)
    fresh = make_pod("fresh", 2.0, state=State.RUNNING, ready=True, ready_s=100.0, restarts=9)
    pods = [old, twin, new, unready, restarted, waiting, fresh]
    order = ["waiting", "unready", "fresh", "new", "restarted", "twin", "old"]
    for shuffled in itertools.islice(itertools.permutations(pods), 0, None, 37):
        assert [pod.name for pod in victims(list(shuffled), 7, 100.0)] == order
    assert victims(pods, 0, 100.0) == []
    assert victims(pods, -1, 100.0) == []


def test_the_load_balancer_learns_late_and_in_order() -> None:
    published: list[list[str]] = []
    log = EventLog()

    def publish(pods: Sequence[Pod]) -> None:
        published.append([pod.name for pod in pods])

    endpoints = Endpoints(1.5, publish, log)
    pods = [make_pod("a"), make_pod("b")]
    pods[0].ready = True
    endpoints.tick(10.0, pods)
    pods[1].ready = True
    endpoints.tick(11.0, pods)
    assert published == []
    endpoints.tick(11.6, pods)
    endpoints.tick(12.4, pods)
    assert published == [["a"]]
    endpoints.tick(12.5, pods)
    assert published == [["a"], ["a", "b"]]
    pods[0].delete(13.0, "scaled in")
    endpoints.tick(13.0, pods)
    endpoints.tick(14.4, pods)
    assert len(published) == 2
    endpoints.tick(14.5, pods)
    assert published[2:] == [["b"]]
    kinds = [(event.kind, event.pod) for event in log.events if event.kind in (Kind.ROUTED, Kind.UNROUTED)]
    assert kinds == [(Kind.ROUTED, "a"), (Kind.ROUTED, "b"), (Kind.UNROUTED, "a")]


def test_deletion_counts_the_grace_period_from_the_beginning_of_prestop() -> None:
    log = EventLog()
    pod = make_pod("a", 0.0, PodSpec(("python",), pre_stop_s=10.0, grace_s=45.0), log=log)
    pod.tick(0.0)
    container = pod.container
    assert isinstance(container, Toy)
    container.terminate = lambda: None  # type: ignore[method-assign]  # it does not listen
    pod.delete(100.0, "test")
    assert not pod.is_serving
    for now_s in (100.0, 109.9):
        pod.tick(now_s)
    assert [event.kind for event in log.events][-1] is Kind.PRE_STOP
    pod.tick(110.0)
    pod.tick(144.9)
    assert [event.kind for event in log.events][-1] is Kind.SIGTERM
    pod.tick(145.0)
    pod.tick(145.1)
    assert (pod.gone, pod.exit_codes) == (True, [137])


def test_prestop_is_cut_at_the_grace_period_and_two_seconds_are_always_left() -> None:
    log = EventLog()
    pod = make_pod("a", 0.0, PodSpec(("python",), pre_stop_s=10.0, grace_s=1.0), log=log)
    pod.tick(0.0)
    container = pod.container
    assert isinstance(container, Toy)
    container.terminate = lambda: None  # type: ignore[method-assign]
    pod.delete(100.0, "test")
    for now_s in (101.0, 102.9, 103.0, 103.1):
        pod.tick(now_s)
    times = {event.kind: event.time_s for event in log.events}
    assert (times[Kind.SIGTERM], times[Kind.SIGKILL]) == (101.0, 103.0)


class Pods:
    """Makes toy pods for a Deployment; they get ready when told."""

    def __init__(self, spec: DeploymentSpec, replicas: int) -> None:
        self.log = EventLog()
        self.now_s = 0.0
        self.deployment = Deployment(spec, replicas, self._create, self.log, ["node-a", "node-b"])

    def _create(self, revision: int, node: str) -> Pod:
        name = f"r{revision}-{len(self.deployment.pods)}"
        return make_pod(name, self.now_s, revision=revision, node=node, log=self.log, state=State.RUNNING)

    def tick(self, now_s: float, ready: Sequence[int] = (), gone: bool = True) -> list[str]:
        self.now_s = now_s
        for pod in self.deployment.active:
            if pod.revision in ready and not pod.ready:
                pod.ready, pod.ready_s = True, now_s
        for pod in self.deployment.pods:
            pod.gone = pod.gone or (gone and pod.deleted_s is not None)
        self.deployment.tick(now_s)
        return [pod.name for pod in self.deployment.active]


TEMPLATE = PodSpec(("python",))


def test_a_rollout_goes_on_only_as_new_pods_become_available() -> None:
    pods = Pods(DeploymentSpec(TEMPLATE, 1, 0, min_ready_s=5.0), 2)
    assert pods.tick(0.0) == ["r1-0", "r1-1"]
    pods.tick(1.0, ready=[1])
    assert pods.deployment.is_settled(10.0)
    pods.deployment.roll_out(10.0)
    assert pods.tick(10.0) == ["r1-0", "r1-1", "r2-2"]
    assert pods.tick(60.0) == ["r1-0", "r1-1", "r2-2"]  # never ready: nothing goes
    assert pods.tick(61.0, ready=[2]) == ["r1-0", "r1-1", "r2-2"]
    assert pods.tick(65.9, ready=[2]) == ["r1-0", "r1-1", "r2-2"]  # not for long enough
    assert len(pods.tick(66.0)) == 2
    assert len(pods.tick(66.1)) == 3
    assert not pods.deployment.is_settled(66.1)
    pods.tick(70.0, ready=[2])
    pods.tick(75.0)
    assert pods.tick(75.1) == ["r2-2", "r2-3"]
    pods.tick(75.2)
    assert pods.deployment.is_settled(76.0)


def test_a_sick_old_pod_is_not_taken_for_room_while_a_new_one_is_not_available() -> None:
    pods = Pods(DeploymentSpec(TEMPLATE, 1, 0), 2)
    pods.tick(0.0)
    pods.deployment.pods[0].ready, pods.deployment.pods[0].ready_s = True, 1.0
    pods.deployment.roll_out(10.0)
    for now_s in (10.0, 11.0, 12.0):
        assert pods.tick(now_s) == ["r1-0", "r1-1", "r2-2"]
    pods.tick(13.0, ready=[2])
    assert "r1-1" not in pods.tick(13.1)


def test_a_rollout_that_gets_nowhere_is_reported_and_undone_without_losing_a_pod() -> None:
    pods = Pods(DeploymentSpec(TEMPLATE, 1, 0, progress_deadline_s=100.0), 2)
    pods.tick(0.0)
    pods.tick(1.0, ready=[1])
    pods.deployment.roll_out(10.0)
    pods.tick(11.0)
    assert "ProgressDeadlineExceeded" not in str(pods.log.events)
    assert pods.tick(112.0) == ["r1-0", "r1-1", "r2-2"]
    assert pods.deployment.failed_s == 112.0
    pods.deployment.undo(113.0)
    pods.tick(113.0)
    assert pods.tick(113.1) == ["r1-0", "r1-1"]


def test_a_drain_keeps_to_the_budget() -> None:
    pods = Pods(DeploymentSpec(TEMPLATE, 1, 0, budget_unavailable=1), 2)
    pods.deployment.nodes.remove("node-b")
    pods.tick(0.0)
    pods.tick(1.0, ready=[1])
    pods.deployment.nodes.append("node-b")
    pods.deployment.drain(10.0, "node-a")
    assert pods.tick(10.0) == ["r1-1", "r1-2"]
    refused = [event for event in pods.log.events if "429" in event.detail]
    assert [event.pod for event in refused] == ["r1-1"]
    pods.tick(14.9, ready=[1])
    assert "r1-1" in [pod.name for pod in pods.deployment.active]  # asked again after five seconds only
    pods.tick(15.1)
    assert [(pod.name, pod.node) for pod in pods.deployment.active] == [("r1-2", "node-b"), ("r1-3", "node-b")]


@pytest.mark.parametrize("evicts_unready", [True, False])
def test_who_is_not_ready_is_evicted_as_the_policy_says(evicts_unready: bool) -> None:
    pods = Pods(DeploymentSpec(TEMPLATE, 1, 0, budget_unavailable=1, evicts_unready=evicts_unready), 3)
    pods.tick(0.0)
    for pod in pods.deployment.pods[:2]:
        pod.ready, pod.ready_s = pod.name == "r1-1", 1.0
    pods.deployment.drain(10.0, "node-a")  # two of three are not ready: one less than there should be
    assert [pod.node for pod in pods.deployment.pods] == ["node-a", "node-b", "node-a"]
    pods.tick(10.0)
    assert all(pod.deleted_s is not None for pod in pods.deployment.pods[:3:2]) is evicts_unready
    assert pods.deployment.pods[1].deleted_s is None


@pytest.mark.parametrize(
    ("sort", "losses", "wrong"),
    [
        (Sort.PLANNED, [], ""),
        (Sort.PLANNED, [(PLAIN, IN_FLIGHT)], "lost 1 that should not be lost (plain: in flight"),
        (Sort.UNPLANNED, [(PLAIN, IN_FLIGHT), (PLAIN, SENT_TO_DEAD), (GATEWAY, IN_FLIGHT)], ""),
        (Sort.UNPLANNED, [(PLAIN, ELSEWHERE)], "plain: elsewhere"),
        (Sort.UNPLANNED, [(PLAIN, IN_FLIGHT), (RETRYING, IN_FLIGHT)], "lost 1 that should not be lost (retrying"),
        (Sort.NAIVE, [], "lost nothing"),
        (Sort.NAIVE, [(RETRYING, ELSEWHERE)], ""),
    ],
)
def test_verdicts(sort: Sort, losses: list[tuple[str, str]], wrong: str) -> None:
    found = verdict(sort, losses)
    assert wrong in found
    assert bool(found) is bool(wrong)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], ELSEWHERE),
        ([{"pod": None, "sent_s": 4.0}], ELSEWHERE),
        ([{"pod": "alive", "sent_s": 4.0}], ELSEWHERE),
        ([{"pod": "dead", "sent_s": 4.0}], IN_FLIGHT),
        ([{"pod": "dead", "sent_s": 5.1}], SENT_TO_DEAD),
        ([{"pod": "dead", "sent_s": 7.3}], ELSEWHERE),  # nobody should have sent it there any more
        ([{"pod": "dead", "sent_s": 4.0}, {"pod": "alive", "sent_s": 5.1}], ELSEWHERE),
    ],
)
def test_where_a_lost_request_was(attempts: list[dict[str, Any]], expected: str) -> None:
    times = (("dead", 1.0), ("alive", 6.0), ("dead", 7.0))
    events = [{"time_s": time_s, "kind": Kind.UNROUTED, "pod": pod} for pod, time_s in times]
    assert whereabouts({"attempts": attempts}, {"faults": {"dead": 5.0}, "events": events}) == expected


def test_bars_follow_the_events() -> None:
    events = [
        {"time_s": time_s, "kind": kind, "pod": "a", "detail": ""}
        for time_s, kind in (
            (-3.0, Kind.CREATED),
            (-2.0, Kind.STARTED),
            (1.0, Kind.READY),
            (2.0, Kind.ROUTED),
            (4.0, Kind.DELETED),
            (5.0, Kind.UNROUTED),
            (6.0, Kind.NOT_READY),
            (8.0, Kind.EXITED),
            (8.0, Kind.GONE),
        )
    ]
    assert pod_bars(events, "a", 10.0) == [Bar(STARTING, 0, 1), Bar(READY, 1, 4), Bar(TERMINATING, 4, 8)]
    assert traffic_spans(events, "a", 10.0) == [(2.0, 5.0)]
    assert pod_bars(events[:1], "a", 10.0) == [Bar(PENDING, 0, 10)]
    assert pod_bars(events, "b", 10.0) == []
