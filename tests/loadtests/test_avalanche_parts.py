"""Scenario, figures and descriptions of the avalanche: pure functions."""

from __future__ import annotations

from typing import Any

import pytest

from warmswap_loadtests.avalanche.figures import FIRST_REQUESTS, cold_requests, summarise
from warmswap_loadtests.avalanche.scenario import KILL, SCALE_IN, SCALE_OUT, SHARES, STEADY, Scenario, wants_one_more
from warmswap_loadtests.avalanche.sending import BROKEN, NO_ANSWER, WRONG, Answer, described_requests
from warmswap_loadtests.avalanche.table import failures
from warmswap_loadtests.open_loop import Outcome, Record

SCENARIO = Scenario(seconds=100.0, base_rate=1.0, spike_rate=2.0)
PHASES = SCENARIO.phase_starts()
A, B = "127.0.0.1:1", "127.0.0.1:2"


def request(due_s: float, latency_ms: float = 100.0, replica: str = "r0", failure: str | None = None) -> dict[str, Any]:
    return {
        "due_s": due_s,
        "sent_s": due_s,
        "latency_ms": latency_ms,
        "failure": failure,
        "detail": "",
        "replica": replica,
        "attempts": 1,
    }


def event(time_s: float, kind: str, replica: str = "r1") -> dict[str, Any]:
    return {"time_s": time_s, "kind": kind, "replica": replica, "detail": ""}


def test_phases_follow_each_other_and_fill_the_run() -> None:
    assert {STEADY: 0.0, SCALE_OUT: 20.0, SCALE_IN: pytest.approx(60.0), KILL: pytest.approx(75.0)} == PHASES
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_arrivals_come_at_the_base_rate_and_then_at_that_of_the_spike() -> None:
    due_s = SCENARIO.due_s()
    assert len([due for due in due_s if due < 20.0]) == 20
    assert len([due for due in due_s if due >= 20.0]) == 160
    assert due_s == sorted(due_s)
    assert due_s[-1] < 100.0


@pytest.mark.parametrize(
    ("in_flight", "wanted", "more"),
    [
        ([], 1, False),  # nothing is known yet
        ([0, 0, 0], 1, False),
        ([0, 1, 0, 0], 1, False),  # 0.25 on average, 0.3 are aimed at
        ([1, 0, 1, 0], 1, True),
        ([1, 0, 1, 0], 2, False),
        ([9, 9], 2, True),
        ([9, 9], 3, False),  # as many as it may ask for
    ],
)
def test_the_autoscaler_asks_for_more_when_more_is_in_work(in_flight: list[float], wanted: int, more: bool) -> None:
    assert wants_one_more(SCENARIO, in_flight, wanted) is more


def test_nothing_was_sent() -> None:
    figures = summarise([], [], PHASES)
    assert figures["requests"] == figures["failed"] == 0
    assert figures["steady_median_ms"] is figures["p50_ms"] is None
    assert figures["replicas"] == []


def test_cold_are_the_slow_ones_among_the_first_of_a_new_replica() -> None:
    alone = [request(20.0 + number) for number in range(2 * FIRST_REQUESTS)]
    fresh = [request(40.0 + number, 900.0 if number < 2 else 110.0, "r1") for number in range(8)]
    later = [request(50.0, 900.0, "r1"), request(51.0, 900.0, "r0")]  # slow, but not cold
    events = [event(35.0, "exec"), event(38.0, "in rotation"), event(33.0, "ordered")]
    requests = [*alone, *fresh, *later]

    figures = summarise(requests, events, PHASES)
    assert figures["steady_median_ms"] == 100.0
    assert figures["cold"] == {"requests": FIRST_REQUESTS, "slow": 2, "share": 0.4}
    assert figures["others_as_slow"]["slow"] == 2
    assert cold_requests(requests, events, 100.0) == fresh[:2]
    assert figures["replicas"] == [
        {
            "name": "r1",
            "ordered_s": 33.0,
            "exec_s": 35.0,
            "exec_to_rotation_s": 3.0,
            "exec_to_first_answer_s": 5.9,
            "first_request_ms": 900.0,
            "slowest_of_first_ms": 900.0,
            "cold": 2,
            "requests": 9,
        }
    ]


def test_the_steady_median_is_that_of_the_first_replica_while_it_is_alone_at_the_rate_of_the_spike() -> None:
    before = [request(number, 50.0) for number in range(10)]
    alone = [request(20.0 + number, 70.0) for number in range(12)]
    crowded = [request(40.0 + number, 400.0) for number in range(40)]
    figures = summarise([*before, *alone, *crowded], [event(35.0, "exec")], PHASES)
    assert figures["steady_median_ms"] == 70.0
    too_short = summarise([*before, *alone[:3], *crowded], [event(23.0, "exec")], PHASES)
    assert too_short["steady_median_ms"] == 50.0


def test_failures_are_counted_by_phase_and_kind() -> None:
    requests = [
        request(1.0),
        request(30.0, 5000.0, failure=NO_ANSWER),
        request(31.0, 5000.0, failure=NO_ANSWER),
        request(80.0, 3.0, failure=BROKEN),
    ]
    figures = summarise(requests, [], PHASES)
    assert failures(figures) == [(SCALE_OUT, NO_ANSWER, 2), (KILL, BROKEN, 1)]
    assert figures["failed"] == 3
    # One that timed out took at least that long; one that broke at once was not fast.
    assert figures["phases"][SCALE_OUT]["p50_ms"] == 5000.0
    assert figures["phases"][KILL]["max_ms"] is None


@pytest.mark.parametrize(
    ("record", "entry", "failure", "replica", "attempts"),
    [
        (Record(0, 1.0, Outcome.ANSWERED, 1.0, 1.5, "", Answer(b"", A, 2)), {}, None, "r0", 2),
        (Record(0, 1.0, Outcome.WRONG, 1.0, 1.5, "grey", Answer(b"", A, 1)), {}, WRONG, "r0", 1),
        (
            Record(0, 1.0, Outcome.TIMED_OUT, 1.0, 6.0),
            {"upstream": B, "flags": "DC", "status": 0, "attempts": 1},
            NO_ANSWER,
            "r1",
            1,
        ),
        (
            Record(0, 1.0, Outcome.FAILED, 1.0, 1.1),
            {"upstream": None, "flags": "UH", "status": 503, "attempts": 1},
            "503: no replica ready",
            None,
            1,
        ),
        (
            Record(0, 1.0, Outcome.FAILED, 1.0, 1.1),
            {"upstream": B, "flags": "URX,UF", "status": 503, "attempts": 6},
            "503: retries used up",
            "r1",
            6,
        ),
        (
            Record(0, 1.0, Outcome.FAILED, 1.0, 1.1),
            {"upstream": A, "flags": "-", "status": 500, "attempts": 1},
            "500 from the replica",
            "r0",
            1,
        ),
        (Record(0, 1.0, Outcome.FAILED, 1.0, 1.1), {"upstream": A, "flags": "UC", "status": 200}, BROKEN, "r0", 0),
        (Record(0, 1.0, Outcome.FAILED, 1.0, 1.1), {}, BROKEN, None, 0),  # Envoy itself was gone
    ],
)
def test_what_became_of_a_request(
    record: Record[Answer], entry: dict[str, Any], failure: str | None, replica: str | None, attempts: int
) -> None:
    log: list[dict[str, Any]] = [{"request": "7"}, {"request": None}, {"request": "0", **entry}] if entry else []
    [described] = described_requests([record], log, {A: "r0", B: "r1"})
    assert (described["failure"], described["replica"], described["attempts"]) == (failure, replica, attempts)
    assert record.done_s is not None
    assert described["latency_ms"] == pytest.approx((record.done_s - 1.0) * 1e3)
    assert bool(described["detail"]) is (failure is not None and bool(entry or record.detail))
