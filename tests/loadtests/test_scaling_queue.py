"""The queue in steps against one that follows every request, and against the theory of queues."""

from dataclasses import dataclass

import numpy as np
import pytest

from tests.loadtests.scaling_requests import Exact, simulate_requests
from warmswap_loadtests.scaling.measured import Measured
from warmswap_loadtests.scaling.policy import Replica
from warmswap_loadtests.scaling.queueing import Queue
from warmswap_loadtests.scaling.waits import Waits, measure_waits


@dataclass
class Fast:
    waits: Waits
    lost: float
    cold: int
    queue: Queue


def simulate_steps(
    arrivals: list[int],
    serving: list[int],
    service_s: float,
    timeout_s: float = 30.0,
    first_s: float | None = None,
    step_s: float = 1.0,
    activator: bool = True,
) -> Fast:
    measured = Measured(1.0, service_s, first_s or service_s, "test")
    queue = Queue(Replica(timeout_s=timeout_s, activator=activator), measured, step_s)
    before, lost = serving[0], 0.0
    for count, replicas in zip(arrivals, serving, strict=True):
        queue.step(count, replicas, max(0, replicas - before))
        before = replicas
        lost += queue.heads[-1] - queue.served_to[-1]
    extra_s = (first_s or service_s) - service_s
    return Fast(measure_waits(queue, step_s, np.asarray(serving), timeout_s, extra_s), lost, sum(queue.cold), queue)


def poisson(rates: list[float], seed: int = 5) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).poisson(rates).tolist()
    return drawn


def both(
    rates: list[float], serving: list[int], service_s: float, first_s: float | None = None, timeout_s: float = 30.0
) -> tuple[Fast, Exact]:
    arrivals = poisson(rates)
    return (
        simulate_steps(arrivals, serving, service_s, timeout_s, first_s),
        simulate_requests(arrivals, serving, 1.0, service_s, timeout_s, first_s),
    )


@pytest.mark.parametrize(
    ("replicas", "use"), [(1, 0.5), (1, 0.8), (2, 0.7), (4, 0.5), (4, 0.7), (4, 0.9), (16, 0.9), (40, 0.95)]
)
def test_steady_load(replicas: int, use: float) -> None:
    """Mean and 99th percentile: within a tenth, or a quarter of the service time."""
    service_s = 1.6
    fast, exact = both([use * replicas / service_s] * 10_000, [replicas] * 10_000, service_s)
    assert fast.waits.mean_s == pytest.approx(exact.mean_s, rel=0.1, abs=0.25 * service_s)
    assert fast.waits.p99_s == pytest.approx(exact.quantile_s(0.99), rel=0.1, abs=0.4 * service_s)
    assert fast.lost == pytest.approx(exact.lost, rel=0.1, abs=3)


def test_one_replica_against_the_formula_of_pollaczek_and_khinchine() -> None:
    """M/D/1 at 80 %: a mean wait of use / (2 (1 - use)) service times."""
    service_s, use = 5.0, 0.8
    fast = simulate_steps(poisson([use / service_s] * 100_000), [1] * 100_000, service_s, timeout_s=1e6)
    assert fast.waits.mean_s == pytest.approx(service_s * use / (2 * (1 - use)), rel=0.1)


def test_a_crowd_that_replicas_are_added_for() -> None:
    rates = [1.0] * 500 + [5.0] * 1000 + [1.0] * 1500
    fast, exact = both(rates, [2] * 1000 + [10] * 1000 + [3] * 1000, 1.6, first_s=5.0)
    assert exact.lost > 1000
    assert fast.lost == pytest.approx(exact.lost, rel=0.02)
    assert fast.waits.mean_s == pytest.approx(exact.mean_s, rel=0.05)
    assert fast.waits.p99_s == pytest.approx(exact.quantile_s(0.99), rel=0.02)
    assert fast.cold == exact.cold == 8


def test_from_nothing_to_four_replicas() -> None:
    fast, exact = both([1.5] * 1000, [0] * 20 + [1] * 180 + [4] * 800, 1.6, first_s=5.0)
    assert fast.lost == pytest.approx(exact.lost, rel=0.03, abs=3)
    assert fast.waits.mean_s == pytest.approx(exact.mean_s, rel=0.05)
    assert fast.cold == exact.cold == 4
    assert exact.came_to_nobody - exact.lost <= fast.waits.waited_for_start.sum() <= exact.came_to_nobody


def test_service_shorter_than_a_step() -> None:
    fast, exact = both([30.0] * 2000, [2] * 1000 + [3] * 1000, 0.077)
    assert fast.lost == pytest.approx(exact.lost, rel=0.02)
    assert fast.waits.mean_s == pytest.approx(exact.mean_s, rel=0.02)


def test_first_requests_hit_new_replicas_only_as_requests_come() -> None:
    fast, exact = both([0.05] * 4000, [1] * 100 + [6] * 3900, 1.6, first_s=5.0)
    assert fast.cold == exact.cold == 5
    few = simulate_steps([0] * 100 + [1] + [0] * 50, [1] * 50 + [6] * 101, 1.6, first_s=5.0)
    assert few.cold <= 1


def test_a_first_request_waits_for_the_models_and_so_do_those_behind_it() -> None:
    fast = simulate_steps([0, 1, 0, 1] + [0] * 10, [0] + [1] * 13, 1.0, first_s=5.0)
    assert fast.cold == 1
    assert fast.waits.max_s == pytest.approx(4.0)
    assert fast.waits.total_s == pytest.approx(4.0 + 3.0)


def test_without_anybody_to_hold_them_requests_are_lost_at_once() -> None:
    fast = simulate_steps([3] * 10, [0] * 5 + [4] * 5, 1.0, activator=False)
    assert fast.queue.lost_at_once == 15
    assert fast.queue.started[-1] == 15


def test_nobody_waits_longer_than_the_time_out() -> None:
    fast = simulate_steps([5] * 200, [1] * 200, 1.0, timeout_s=7.0)
    assert fast.waits.max_s <= 7.0
    assert fast.lost == pytest.approx(200 * 5 - 200 - 4 * 7, abs=10)


@pytest.mark.parametrize("timeout_s", [3.0, 30.0])
def test_what_arrived_was_started_or_lost_or_still_waits(timeout_s: float) -> None:
    arrivals = poisson([2.0] * 3000)
    serving = [1 + step // 100 % 4 for step in range(3000)]
    fast = simulate_steps(arrivals, serving, 1.6, timeout_s, first_s=5.0)
    assert fast.queue.started[-1] + fast.lost + fast.queue.backlog == pytest.approx(sum(arrivals))
    assert min(np.diff(fast.queue.started)) >= 0


def test_four_places_in_one_replica_are_as_good_as_four_replicas() -> None:
    arrivals = poisson([2.0] * 3000)
    one, four = (Queue(Replica(concurrency=places), Measured(1.0, 1.6, 1.6, "test"), 1.0) for places in (4, 1))
    for count in arrivals:
        one.step(count, 1, 0)
        four.step(count, 4, 0)
    assert one.started == four.started


def test_a_replica_that_loads_blocks_all_of_its_places() -> None:
    queue = Queue(Replica(concurrency=4), Measured(1.0, 2.0, 8.0, "test"), 1.0)
    for step in range(20):
        queue.step(1 if step in (0, 1) else 0, 1, 1 if step == 0 else 0)
    assert queue.cold[0] == 1
    assert queue.started[:8] == [0.0, *[1.0] * 6, 2.0]  # 6 s of loading, then both run


def test_an_empty_queue_has_no_waits() -> None:
    assert simulate_steps([0] * 5, [1] * 5, 1.0).waits.max_s == 0.0
