"""Which requests are cold, and how seldom a metric is set."""

from __future__ import annotations

from warmswap_ensemble.request_metrics import (
    COLD,
    FIRST,
    FIRST_REQUESTS,
    LAST,
    MEDIAN,
    WINDOW,
    RequestTimes,
    warmup_requests,
)


def run(times: RequestTimes, seconds: list[float], interval_s: float = 0.1) -> dict[str, list[float]]:
    changes: dict[str, list[float]] = {}
    for number, value in enumerate(seconds):
        for name, changed in times.add(value, 1000.0 + number * interval_s):
            changes.setdefault(name, []).append(changed)
    return changes


def test_warm_ups_are_not_requests() -> None:
    changes = run(RequestTimes(warmups=2), [9.0, 8.0, 0.1])
    assert changes[FIRST] == [0.1]
    assert changes[MEDIAN] == [0.1]


def test_cold_requests_are_those_far_over_the_median_of_the_first_ones() -> None:
    slow_start = [5.0, 0.21, 0.19] + [0.1] * (FIRST_REQUESTS - 3)
    assert run(RequestTimes(0), slow_start)[COLD] == [2.0]
    assert COLD not in run(RequestTimes(0), slow_start[:-1])  # the median is not known yet
    assert run(RequestTimes(0), [0.1] * FIRST_REQUESTS)[COLD] == [0.0]


def test_later_requests_are_not_judged() -> None:
    assert run(RequestTimes(0), [0.1] * FIRST_REQUESTS + [9.0] * 50)[COLD] == [0.0]


def test_median_follows_the_last_requests() -> None:
    changes = run(RequestTimes(0), [0.1] * WINDOW + [0.5] * WINDOW)
    assert changes[MEDIAN] == [0.1, 0.5]


def test_few_metrics_are_set() -> None:
    """Each costs a call to another process."""
    changes = run(RequestTimes(0), [0.1 + 0.0001 * (number % 7) for number in range(1000)], interval_s=0.05)
    assert len(changes[LAST]) == 50  # one a second
    assert sum(len(values) for values in changes.values()) <= 53


def test_a_clock_that_is_set_back_does_not_stop_the_time_of_the_last_request() -> None:
    times = RequestTimes(0)
    now_s = [1000.0, 1000.5, 2000.0, 900.0, 900.5, 901.5]
    told = [dict(times.add(0.1, moment_s)).get(LAST) for moment_s in now_s]
    assert told == [1000.0, None, 2000.0, 900.0, None, 901.5]


def test_requests_of_a_warm_up_are_counted_as_triton_sends_them() -> None:
    assert warmup_requests([]) == 0
    assert warmup_requests([{"name": "golden", "batch_size": 1, "count": 0}]) == 1
    assert warmup_requests([{"batch_size": 1, "count": 3}, {"batch_size": 2, "count": 2}]) == 7
