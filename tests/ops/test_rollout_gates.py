"""What the gates say of simulated requests: false alarms, power, and what follows."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from warmswap_ops.rollout.gates import Arm, Decision, Outcome, Verdict, Window, decide, judge, judge_quality
from warmswap_ops.rollout.plan import Gates, Plan
from warmswap_ops.rollout.statistics import Interval

PLAN = Plan(gates=Gates(strict=False))
LOOKS = PLAN.looks(60.0)


def arm(generator: np.random.Generator, count: int, *, slowdown: float = 1.0, errors: float = 0.0) -> Arm:
    """Latencies as they are here: a bulk and a long tail."""
    failed = generator.random(count) < errors
    times = slowdown * (40 + generator.gamma(2.0, 6.0, count) + 80 * (generator.random(count) < 0.02))
    return Arm(count, int(failed.sum()), times[~failed].tolist())


def outcomes(verdicts: list[Verdict]) -> dict[str, Outcome]:
    return {verdict.gate: verdict.outcome for verdict in verdicts}


def test_a_candidate_that_is_as_good_is_hardly_ever_stopped() -> None:
    """300 steps of 30 looks each: at most 5 % may end by chance."""
    generator = np.random.default_rng(1)
    stopped = 0
    for _ in range(300):
        stable, candidate = arm(generator, 600, errors=0.01), arm(generator, 150, errors=0.01)
        for look in range(1, 31):
            part = look / 30
            window = Window(_first(stable, part), _first(candidate, part))
            if (
                decide(judge(window, PLAN, looks=30), enough=True, soaked=False, timed_out=False)[0]
                is Decision.ROLL_BACK
            ):
                stopped += 1
                break
    assert stopped <= 15


def _first(of: Arm, part: float) -> Arm:
    count = int(part * len(of.latencies_ms))
    return Arm(int(part * of.requests), int(part * of.errors), of.latencies_ms[:count])


@pytest.mark.parametrize("seed", range(20))
def test_ten_times_as_slow_is_seen_within_thirty_requests(seed: int) -> None:
    generator = np.random.default_rng(seed)
    window = Window(arm(generator, 30), arm(generator, 30, slowdown=10))
    verdicts = judge(window, PLAN, looks=LOOKS)
    assert outcomes(verdicts)["p50"] is Outcome.FAIL
    decision, reason = decide(verdicts, enough=False, soaked=False, timed_out=False)
    assert decision is Decision.ROLL_BACK
    assert "p50" in reason
    assert "limit 1.25, 30 and 30 answers" in reason


@pytest.mark.parametrize("seed", range(20))
def test_every_fifth_request_failing_is_seen_within_sixty(seed: int) -> None:
    generator = np.random.default_rng(seed)
    candidate = replace(arm(generator, 60), errors=12)
    verdicts = judge(Window(arm(generator, 60), candidate), PLAN, looks=LOOKS)
    assert outcomes(verdicts)["errors"] is Outcome.FAIL


def test_a_small_slowdown_is_never_held_against_it() -> None:
    fast, slow = [2.0] * 500, [4.0] * 500
    verdicts = judge(Window(Arm(500, 0, fast), Arm(500, 0, slow)), PLAN, looks=1)
    assert outcomes(verdicts) == {"errors": Outcome.PASS, "p50": Outcome.PASS, "p99": Outcome.PASS}
    strict = replace(PLAN, gates=replace(PLAN.gates, min_slowdown_ms=0.0))
    assert outcomes(judge(Window(Arm(500, 0, fast), Arm(500, 0, slow)), strict, looks=1))["p50"] is Outcome.FAIL


def test_few_answers_decide_nothing() -> None:
    generator = np.random.default_rng(3)
    verdicts = judge(Window(arm(generator, 5), arm(generator, 5)), PLAN, looks=LOOKS)
    assert set(outcomes(verdicts).values()) == {Outcome.UNDECIDED}
    nothing = judge(Window(), PLAN, looks=LOOKS)
    assert set(outcomes(nothing).values()) == {Outcome.UNDECIDED}
    for verdict in (*verdicts, *nothing):
        json.dumps(verdict.as_json(), allow_nan=False)


def test_a_step_without_stable_requests_is_compared_with_the_one_before() -> None:
    generator = np.random.default_rng(4)
    baseline = arm(generator, 400)
    window = Window(Arm(), arm(generator, 400, slowdown=3))
    (p50,) = [verdict for verdict in judge(window, PLAN, looks=1, baseline=baseline) if verdict.gate == "p50"]
    assert p50.outcome is Outcome.FAIL
    assert "(of the step before)" in p50.sentence
    assert outcomes(judge(window, PLAN, looks=1))["p50"] is Outcome.UNDECIDED


def verdict(gate: str, outcome: Outcome) -> Verdict:
    return Verdict(gate, outcome, 1.0, Interval(0, 2), 1.25, 9, f"{gate} says {outcome}")


@pytest.mark.parametrize(
    ("gates", "enough", "soaked", "timed_out", "needs", "expected"),
    [
        ({"p99": Outcome.FAIL}, True, True, False, False, (Decision.ROLL_BACK, "p99 says fail")),
        ({"p50": Outcome.UNDECIDED}, True, True, False, False, (Decision.ADVANCE, "")),
        ({"p50": Outcome.UNDECIDED}, True, True, False, True, (Decision.WAIT, "")),
        ({"p99": Outcome.UNDECIDED}, True, True, False, True, (Decision.ADVANCE, "")),
        ({"p50": Outcome.PASS}, True, False, False, False, (Decision.WAIT, "")),
        ({"p50": Outcome.PASS}, False, True, False, False, (Decision.WAIT, "")),
    ],
)
def test_what_follows(
    gates: dict[str, Outcome], enough: bool, soaked: bool, timed_out: bool, needs: bool, expected: object
) -> None:
    verdicts = [verdict(name, outcome) for name, outcome in gates.items()]
    found = decide(verdicts, enough=enough, soaked=soaked, timed_out=timed_out, needs_evidence=needs)
    assert found == expected


def test_time_that_is_up_rolls_back_and_says_what_was_missing() -> None:
    few = decide([verdict("p50", Outcome.PASS)], enough=False, soaked=True, timed_out=True)
    assert few[0] is Decision.ROLL_BACK
    assert "too few requests reached the candidate" in few[1]
    undecided = [verdict("p50", Outcome.UNDECIDED)]
    late = decide(undecided, enough=True, soaked=True, timed_out=True, needs_evidence=True)
    assert late[0] is Decision.ROLL_BACK
    assert "p50 says undecided" in late[1]


def test_quality_is_the_mean_of_second_looks() -> None:
    generator = np.random.default_rng(5)

    def noisy(mean: float, count: int = 60) -> list[float]:
        values: list[float] = (mean + generator.normal(0, 0.01, count)).tolist()
        return values

    good = {"recall": noisy(0.98), "kps_error": noisy(0.02), "identity_gain": noisy(0.0)}
    assert set(outcomes(judge_quality(good, PLAN, 0.01)).values()) == {Outcome.PASS}
    bad = {"recall": noisy(0.5), "kps_error": noisy(0.4), "identity_gain": noisy(-0.3)}
    assert set(outcomes(judge_quality(bad, PLAN, 0.01)).values()) == {Outcome.FAIL}
    (once,) = judge_quality({"recall": [0.0]}, PLAN, 0.01)
    assert once.outcome is Outcome.UNDECIDED
    assert judge_quality({}, PLAN, 0.01) == []
    assert math.isinf(once.interval.high)
