"""Pods, nodes and whole runs."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest

from warmswap_loadtests.scaling.autoscaler import Autoscaler, Seen
from warmswap_loadtests.scaling.bench import scaled_policy
from warmswap_loadtests.scaling.cron import CronTrigger
from warmswap_loadtests.scaling.curves import CURVES, silence_then_burst
from warmswap_loadtests.scaling.figures import course, summarise
from warmswap_loadtests.scaling.hpa import CpuSample
from warmswap_loadtests.scaling.measured import Measured, find_measured
from warmswap_loadtests.scaling.pods import Pods, start_times
from warmswap_loadtests.scaling.policy import Cluster, Metric, Policy, Replica, Scaler, Start
from warmswap_loadtests.scaling.policy_file import shipped_policies
from warmswap_loadtests.scaling.scrapes import Sample, Scrapes
from warmswap_loadtests.scaling.simulation import Run, simulate
from warmswap_loadtests.scaling.slots import Slots
from warmswap_loadtests.scaling.trace import DEFAULT_BEGIN, Trace

WARM = Measured(9.2, 1.6, 1.63, "test")
LAZY = Measured(0.6, 1.5, 4.9, "test")
PENDING = Policy("pending", metric=(Metric("pending", 0.7),))


def constant(rate: float, seconds: float) -> Trace:
    return Trace("constant", DEFAULT_BEGIN, np.array([0.0, seconds]), np.array([rate, rate]))


def run(policy: Policy, trace: Trace, measured: Measured = WARM, seed: int = 0) -> Run:
    return simulate(policy, measured, trace, 1.0, seed)


def test_phases_of_a_start_add_up_and_ready_waits_for_a_probe() -> None:
    start = Start(schedule_s=1.0, pre_pulled=False, image_pull_s=20.0, container_create_s=2.0, endpoints_s=0.5)
    assert start_times(100.0, 90.0, start, WARM) == (213.0, 223.0, 223.5)  # 9.2 s: found by the tenth probe
    assert start_times(100.0, 0.0, replace(start, pre_pulled=True), WARM) == (103.5, 113.5, 114.0)
    assert start_times(0.0, 0.0, replace(start, readiness_period_s=5.0), WARM)[1] == 23.0 + 10.0


def test_pods_serve_when_their_phases_are_over_and_the_youngest_end_first() -> None:
    pods = Pods(PENDING, WARM, 1)
    pods.scale(0.0, 2)
    assert (pods.total, pods.serving) == (2, 1)
    assert pods.advance(101.0) == 0  # no room: a node comes first, after 90 s
    assert pods.advance(104.0) == 1
    pods.scale(104.0, 4)
    pods.scale(110.0, 3)
    assert (pods.total, pods.serving) == (3, 2)
    pods.scale(110.0, 1)
    assert (pods.total, pods.serving) == (1, 1)
    assert pods.advance(1000.0) == 0


def test_what_the_controller_makes_of_young_pods() -> None:
    policy = replace(PENDING, cluster=Cluster(shared_slots=10))
    pods = Pods(policy, WARM, 2)
    pods.scale(100.0, 5)  # exec at 103, ready at 113, serving at 114
    assert pods.cpu_sample(101.0, 90.0, 0.5) == CpuSample(1.0, 2, unready=3)  # pending
    assert pods.cpu_sample(105.0, 105.0, 0.5) == CpuSample(1.0, 2, missing=3)  # no sample yet
    assert pods.cpu_sample(121.0, 120.0, 0.5) == CpuSample(1.0, 2, unready=3)  # sampled before they were ready
    pods.advance(121.0)
    assert pods.cpu_sample(136.0, 135.0, 0.5) == CpuSample(2.5, 5)


def test_room_comes_from_shared_slots_then_idle_nodes_then_placeholders_then_new_nodes() -> None:
    slots = Slots(Cluster(placeholders=2, shared_slots=1, node_provision_s=90.0, node_idle_s=600.0), 0)
    assert slots.take(0.0, 5) == [(0.0, 3), (90.0, 2)]
    assert slots.take(10.0, 1) == [(90.0, 1)]  # the placeholders wait for their own nodes
    assert slots.take(90.0, 3) == [(0.0, 2), (90.0, 1)]  # and are back
    slots.release(100.0, 4, 5)
    assert slots.idle(100.0) == 2  # two were given to placeholders
    assert slots.take(101.0, 1) == [(0.0, 1)]
    assert slots.idle(699.0) == 1
    assert slots.idle(700.0) == 0


def test_the_last_replicas_to_go_are_those_that_nobody_pays_for() -> None:
    slots = Slots(Cluster(shared_slots=2), 3)
    slots.release(0.0, 1, 2)
    assert slots.idle(0.0) == 1
    slots.release(0.0, 2, 0)
    assert slots.idle(0.0) == 1
    assert slots.take(0.0, 3) == [(0.0, 3)]


def test_several_metrics_and_the_clock_want_the_most() -> None:
    night = CronTrigger("UTC", "0 8 * * *", "0 18 * * *", 7)
    policy = replace(PENDING, cron=(night,), metric=(Metric("pending", 2.0), Metric("cpu", 70)))
    midnight = datetime(2026, 1, 5, tzinfo=UTC)

    def synced(hour: float, pending: float, cpu: float) -> int:
        autoscaler = Autoscaler(policy, midnight, 86_400.0, 4)
        return autoscaler.sync(hour * 3600.0, 4, Seen(pending, lambda: CpuSample(cpu * 4, 4)))

    assert synced(1.0, 8.0, 0.70) == 4
    assert synced(1.0, 12.0, 0.70) == 6
    assert synced(1.0, 8.0, 0.90) == 6
    assert synced(9.0, 12.0, 0.90) == 7
    assert synced(9.0, 16.0, 0.0) == 8


@pytest.mark.parametrize("name", list(CURVES))
@pytest.mark.parametrize("policy", shipped_policies(), ids=lambda policy: policy.name)
def test_every_request_is_served_or_lost_or_still_waits(policy: Policy, name: str) -> None:
    full = CURVES[name]()
    trace = replace(full, times_s=full.times_s / 4)  # the same shape, faster
    measured = find_measured(policy.replica.pack, policy.replica.contender)
    result = simulate(policy, measured, trace, seed=3)
    figures = summarise(result, 1.0)
    assert (
        figures["requests"]
        == result.arrivals.sum()
        == figures["served"] + figures["lost"] + figures["waiting_at_the_end"]
    )
    assert figures["waiting_at_the_end"] == result.waiting
    assert 0 <= figures["served_cold"] <= figures["served"]
    assert figures["wait_p50_s"] <= figures["wait_p99_s"] <= figures["wait_max_s"]
    assert figures["paid_hours"] >= figures["replica_hours"]
    assert np.all(np.diff(result.lost) >= -1e-9)
    assert np.all(result.serving <= np.maximum.accumulate(result.wanted).max())


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    trace = constant(2.0, 1800.0)
    assert summarise(run(PENDING, trace, seed=1), 1.0) == summarise(run(PENDING, trace, seed=1), 1.0)
    assert summarise(run(PENDING, trace, seed=1), 1.0) != summarise(run(PENDING, trace, seed=2), 1.0)


def test_a_quiet_day_needs_nothing_and_zero_goes_to_zero() -> None:
    result = run(PENDING, constant(0.0, 3600.0))
    assert result.wanted.tolist() == [1] * 3600
    asleep = replace(PENDING, autoscaler=Scaler(min_replicas=0), replica=Replica(activator=True))
    result = run(asleep, constant(0.0, 3600.0))
    assert result.wanted.sum() == 0
    assert summarise(result, 1.0)["cost"] == 0.0


def test_scale_to_zero_wakes_for_the_first_request_and_sleeps_again() -> None:
    asleep = replace(PENDING, autoscaler=Scaler(min_replicas=0), replica=Replica(activator=True, timeout_s=60.0))
    result = run(asleep, silence_then_burst())
    figures = summarise(result, 1.0)
    burst_s = 2 * 3600
    assert result.wanted[burst_s - 1] == 0
    assert result.wanted[burst_s : burst_s + 45].max() == 1
    awake_s = int(np.flatnonzero(result.serving > 0)[0])
    assert 13 <= awake_s - burst_s <= 45  # at most one poll and the phases of a start
    assert figures["waited_for_a_start"] > 0
    assert figures["cold_first_requests"] == 0  # woken late, but warm
    assert result.wanted[burst_s + 1800] == 0


def test_without_an_activator_requests_to_zero_replicas_are_lost() -> None:
    asleep = replace(PENDING, autoscaler=Scaler(min_replicas=0))
    figures = summarise(run(asleep, silence_then_burst()), 1.0)
    assert figures["lost"] > figures["waited_for_a_start"] == 0


def test_a_higher_floor_never_serves_more_cold_or_lost() -> None:
    trace = silence_then_burst()
    bad = []
    for floor in (0, 1, 2, 4):
        policy = replace(PENDING, autoscaler=Scaler(min_replicas=floor), replica=Replica(activator=True))
        for measured in (WARM, LAZY):
            figures = summarise(run(policy, trace, measured), 1.0)
            bad.append((figures["served_cold"], figures["lost"], figures["wait_total_s"]))
    for warm_or_lazy in (bad[0::2], bad[1::2]):
        for lower, higher in pairwise(warm_or_lazy):
            assert higher[0] <= lower[0]
            assert higher[1] <= lower[1]
    assert bad[-2][1] == 0 < bad[0][1]


def test_a_floor_by_the_clock_is_there_in_time() -> None:
    trigger = CronTrigger("UTC", "0 1 * * *", "0 2 * * *", 5)
    result = run(replace(PENDING, cron=(trigger,)), constant(0.0, 4 * 3600.0))
    assert result.wanted[3599] == 1
    assert result.wanted[3600] == 5
    assert result.serving[3600 + 200] == 5
    assert result.wanted[7200 + 330] == 1  # after the stabilisation window of scaling down


def test_placeholders_save_the_time_of_a_node() -> None:
    trace = CURVES["flash-crowd"]()
    plain = run(PENDING, trace)
    ahead = run(replace(PENDING, cluster=Cluster(placeholders=4)), trace)
    assert ahead.lost[-1] < plain.lost[-1]
    assert ahead.paid[0] == plain.paid[0] + 4


def test_naive_replicas_serve_cold_once_each() -> None:
    policy = replace(PENDING, metric=(Metric("cpu", 70),))
    crowd = CURVES["flash-crowd"]()
    lazy, warm = run(policy, crowd, LAZY), run(policy, crowd, WARM)
    assert warm.cold.sum() == 0
    started = int(np.maximum(np.diff(lazy.serving), 0).sum())
    assert 0 < lazy.cold.sum() <= started


def test_steady_cpu_load_settles_at_its_target() -> None:
    policy = replace(PENDING, metric=(Metric("cpu", 70),))
    result = run(policy, constant(70.0, 3600.0), Measured(5.0, 1.0, 1.0, "test"))
    assert 90 <= result.wanted[-1] <= 112  # 70 requests in work, within the tolerance of 100 replicas


def test_thousands_of_replicas() -> None:
    daily = CURVES["daily"]()
    trace = replace(daily, times_s=daily.times_s / 24).scaled(700)
    result = run(PENDING, trace)
    figures = summarise(result, 1.0)
    assert figures["peak_serving"] > 3000
    assert figures["requests"] == figures["served"] + figures["lost"] + figures["waiting_at_the_end"]


def test_floors_and_placeholders_grow_with_the_traffic_and_the_least_does_not() -> None:
    cron = CronTrigger("UTC", "0 1 * * *", "0 2 * * *", 4)
    policy = scaled_policy(replace(PENDING, cron=(cron,), cluster=Cluster(placeholders=2)), 50.0)
    assert (policy.cron[0].replicas, policy.cluster.placeholders) == (200, 100)
    assert policy.autoscaler.min_replicas == 1


def test_a_course_keeps_what_is_summed() -> None:
    result = run(PENDING, CURVES["flash-crowd"]())
    pieces = course(result)
    assert len({len(values) for values in pieces.values()}) == 1
    assert sum(pieces["lost"]) == pytest.approx(result.lost[-1], rel=1e-3)
    assert max(pieces["backlog"]) == pytest.approx(result.backlog.max(), rel=1e-3)


def test_a_sample_is_a_mean_and_comes_late() -> None:
    scrapes = Scrapes(Scaler(scrape_s=3.0, metrics_delay_s=2.0), 1.0, Sample(0.0, 9.0, 0.9))
    seen = []
    for step, waiting in enumerate([0.0, 3.0, 6.0, 8.0, 8.0, 8.0]):
        seen.append(scrapes.look(float(step)).pending)
        scrapes.add(waiting, 1.0, 2)
    assert seen == [9.0, 9.0, 9.0, 9.0, 9.0, 4.0]
    assert scrapes.look(6.0) == Sample(3.0, 4.0, 0.5)


def test_those_who_gave_up_have_waited_too() -> None:
    result = run(replace(PENDING, autoscaler=Scaler(max_replicas=1)), constant(3.0, 1200.0))
    figures = summarise(result, 1.0)
    assert figures["lost"] > 2000
    assert figures["wait_total_s"] == pytest.approx(figures["lost"] * 30.0 + result.waits.total_s, rel=1e-3)
