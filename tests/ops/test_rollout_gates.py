"""Gates: what they let through, what they hold back, and how often they are wrong."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from warmswap_ops.rollout.gates import (
    BEST,
    ERRORS,
    P50,
    P99,
    Arm,
    Decision,
    Outcome,
    Verdict,
    Window,
    decide,
    judge,
    judge_quality,
    missing_looks,
    missing_requests,
)
from warmswap_ops.rollout.plan import Gates, Plan
from warmswap_ops.rollout.statistics import Interval

PLAN = Plan()
LOOKS = PLAN.looks(900.0)
AT_THE_LIMIT = replace(
    PLAN, gates=Gates(max_error_increase=0.0, max_p50_ratio=1.0, max_p99_ratio=1.0, min_slowdown_ms=0)
)
"""By which a version that is as good as the other lies just at every limit."""
STEPS = 300
STEP_S = 120.0


def arm(requests: int, ms: float | Sequence[float], errors: int = 0) -> Arm:
    """Return an arm whose latencies are spread a little, or given."""
    if not isinstance(ms, Sequence):
        ms = [ms * (1 + 0.001 * (number % 20)) for number in range(requests - errors)]
    return Arm(requests, errors, ms)


def outcomes(window: Window, plan: Plan = PLAN, looks: int = LOOKS) -> dict[str, str]:
    return {verdict.gate: verdict.outcome.value for verdict in judge(window, plan, looks=looks)}


def decided(
    window: Window, plan: Plan = PLAN, *, soaked: bool = True, timed_out: bool = False, needs_evidence: bool = False
) -> tuple[Decision, str]:
    verdicts = judge(window, plan, looks=LOOKS)
    missing = "" if window.candidate.requests >= 10 else "too few requests reached the candidate"
    return decide(verdicts, missing=missing, soaked=soaked, timed_out=timed_out, needs_evidence=needs_evidence)


def test_a_good_candidate_passes_everything() -> None:
    window = Window(arm(4000, 90.0, 4), arm(4000, 90.0, 4))
    assert outcomes(window) == {ERRORS: "pass", P50: "pass", P99: "pass"}
    assert decided(window, needs_evidence=True) == (Decision.ADVANCE, "")


def test_nothing_is_known_without_requests() -> None:
    for window in (Window(), Window(arm(500, 90.0)), Window(candidate=arm(500, 90.0))):
        assert set(outcomes(window).values()) <= {"undecided"}
        assert decided(window, soaked=False) == (Decision.WAIT, "")


def steps_that_fail(
    seed: int, cause: Callable[[np.random.Generator, int], tuple[NDArray[np.float64], NDArray[np.bool_]]]
) -> int:
    """Return how many of ``STEPS`` steps are rolled back; all looks of a step see the same requests, ever more."""
    random = np.random.default_rng(seed)
    plan, failed = AT_THE_LIMIT, 0
    looks = plan.looks(STEP_S)
    for _ in range(STEPS):
        (stable_ms, stable_failed), (candidate_ms, candidate_failed) = cause(random, 480), cause(random, 120)
        at_s = 0.0
        while at_s < STEP_S:
            at_s = min(STEP_S, plan.next_look_s(at_s))
            arms = []
            for ms, is_failed, rate in ((stable_ms, stable_failed, 4), (candidate_ms, candidate_failed, 1)):
                seen = int(at_s * rate)
                errors = is_failed[:seen]
                arms.append(Arm(seen, int(errors.sum()), ms[:seen][~errors].tolist()))
            verdicts = judge(Window(arms[0], arms[1]), plan, looks=looks)
            decision, _ = decide(verdicts, missing="", soaked=False, timed_out=False)
            if decision is Decision.ROLL_BACK:
                failed += 1
                break
    return failed


def test_a_version_as_good_as_the_other_is_seldom_rolled_back() -> None:
    def same(random: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return random.lognormal(4.5, 0.4, count), random.random(count) < 0.05

    assert steps_that_fail(7, same) <= 0.05 * STEPS


def test_a_version_as_good_as_the_other_is_seldom_rolled_back_where_latencies_have_two_humps() -> None:
    def same(random: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        slow = random.random(count) < 0.3
        return np.where(slow, 300.0, 80.0) * random.lognormal(0.0, 0.05, count), random.random(count) < 0.2

    assert steps_that_fail(8, same) <= 0.05 * STEPS


def test_measures_at_their_limit_are_seldom_held_against_a_version() -> None:
    random, alpha = np.random.default_rng(9), 0.05 / PLAN.looks(STEP_S)
    failed = 0
    for _ in range(STEPS):
        values = random.normal(PLAN.quality.min_ssim, 0.05, 120).tolist()
        looks = (judge_quality({"ssim": values[:count]}, PLAN, alpha) for count in range(2, 120, 6))
        failed += any(verdict.outcome is Outcome.FAIL for (verdict,) in looks)
    assert failed <= 0.05 * STEPS


@pytest.mark.parametrize("rare", [0.02, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("measure", "limit"), [("recall", "min_recall"), ("kps_error", "max_kps_error")])
def test_measures_of_two_values_are_seldom_held_against_a_version(measure: str, limit: str, rare: float) -> None:
    """Such as one face found, or none: equal ones have an interval of no width, and the others may be rare."""
    random, alpha = np.random.default_rng(10), 0.05 / PLAN.looks(STEP_S)
    best, mean = BEST[measure], getattr(PLAN.quality, limit)
    other = (mean - rare * best) / (1 - rare)
    failed = 0
    for _ in range(STEPS):
        values = np.where(random.random(120) < rare, best, other).tolist()
        looks = (judge_quality({measure: values[:count]}, PLAN, alpha) for count in range(1, 120, 3))
        failed += any(verdict.outcome is Outcome.FAIL for (verdict,) in looks)
    assert failed <= 0.05 * STEPS


def test_few_measures_are_undecided_however_clear() -> None:
    for level in (0.1, 0.99):
        (few,), (more,) = (judge_quality({"recall": [level] * count}, PLAN, 0.001) for count in (10, 11))
        assert (few.outcome, more.outcome) == (Outcome.UNDECIDED, Outcome.PASS if level > 0.5 else Outcome.FAIL)
        assert few.sentence == f"recall {level} ({level} to {level}) over 10, too few to be sure, at least 0.95"
        assert more.sentence == f"recall {level} ({level} to {level}) over 11, at least 0.95"


def test_values_that_nobody_has_seen_yet_may_be_better() -> None:
    """Nine in ten a little too low, and one that makes up for it: 70 equal ones do not show which it is."""
    outcomes_of = [judge_quality({"recall": [0.944] * count}, PLAN, 0.001)[0].outcome.value for count in (70, 100)]
    assert outcomes_of == ["undecided", "fail"]
    spread = [judge_quality({"recall": [0.6, 1.0] * (count // 2)}, PLAN, 0.001)[0] for count in (30, 40)]
    assert [verdict.outcome.value for verdict in spread] == ["undecided", "fail"]
    assert spread[0].interval.high < PLAN.quality.min_recall  # by Student's t alone it would fail


@pytest.mark.parametrize("seed", range(5))
def test_a_candidate_ten_times_slower_is_rolled_back_within_30_requests(seed: int) -> None:
    random = np.random.default_rng(seed)
    stable = random.lognormal(4.5, 0.3, 600).tolist()
    slow = (10 * random.lognormal(4.5, 0.3, 30)).tolist()
    for count in range(1, 31):
        window = Window(arm(600, stable), arm(count, slow[:count]))
        decision, reason = decided(window, soaked=False)
        if decision is Decision.ROLL_BACK:
            assert reason.startswith("p50 ")
            assert f"limit 1.25, {count} and 600 answers" in reason
            return
        assert decision is Decision.WAIT
    pytest.fail("not rolled back")


def test_a_fifth_of_errors_is_rolled_back_within_60_requests() -> None:
    decisions = [decided(Window(arm(600, 90.0), arm(count, 90.0, count // 5)), soaked=False) for count in range(1, 61)]
    first = next(number for number, (decision, _) in enumerate(decisions) if decision is Decision.ROLL_BACK)
    assert decisions[first][1].startswith(f"errors {(first + 1) // 5} of {first + 1} against 0 of 600: ")
    assert {decision for decision, _ in decisions[:first]} == {Decision.WAIT}


@pytest.mark.parametrize("limit", [0.0, 0.01])
@pytest.mark.parametrize("requests", [1, 2, 5, 10])
@pytest.mark.parametrize("stable", [arm(600, 90.0), arm(20_000, 90.0), arm(600, 90.0, 6)])
def test_one_error_is_no_evidence(stable: Arm, requests: int, limit: float) -> None:
    plan = replace(PLAN, gates=Gates(max_error_increase=limit))
    assert outcomes(Window(stable, arm(requests, 90.0, 1)), plan)[ERRORS] == "undecided"


def test_a_step_with_few_requests_is_seldom_rolled_back() -> None:
    """At 1 %, where a candidate meets one request in a hundred, and one in twenty of anybody's fails."""
    random, plan, failed = np.random.default_rng(11), AT_THE_LIMIT, 0
    looks = plan.looks(STEP_S)
    for _ in range(2000):
        is_failed = random.random(10) < 0.05
        verdicts = (
            judge(Window(arm(100 * seen, 90.0, 5 * seen), Arm(seen, int(is_failed[:seen].sum()))), plan, looks=looks)[0]
            for seen in range(1, 11)
        )
        failed += any(verdict.outcome is Outcome.FAIL for verdict in verdicts)
    assert failed <= 0.05 * 2000


def test_fewer_errors_than_the_stable_version_pass() -> None:
    assert outcomes(Window(arm(600, 90.0, 300), arm(600, 90.0, 10)))[ERRORS] == "pass"


def test_a_long_tail_is_seen_by_p99_alone() -> None:
    tail = [90.0] * 1900 + [900.0] * 100
    found = outcomes(Window(arm(2000, [90.0 + number % 3 for number in range(2000)]), arm(2000, tail)))
    assert found == {ERRORS: "pass", P50: "pass", P99: "fail"}


@pytest.mark.parametrize(
    ("stable_ms", "candidate_ms", "slack_ms", "expected"),
    [
        (2.0, 6.0, 5.0, "pass"),  # three times slower, but what are 4 ms
        (2.0, 6.0, 3.0, "fail"),
        (2.0, 8.0, 5.0, "fail"),
        (90.0, 94.0, 5.0, "pass"),
        (900.0, 990.0, 5.0, "pass"),  # slower, within the limit
        (900.0, 1350.0, 5.0, "fail"),
    ],
)
def test_a_small_slowdown_is_never_held_against_it(
    stable_ms: float, candidate_ms: float, slack_ms: float, expected: str
) -> None:
    plan = replace(PLAN, gates=Gates(min_slowdown_ms=slack_ms))
    assert outcomes(Window(arm(400, stable_ms), arm(400, candidate_ms)), plan)[P50] == expected


def test_latencies_too_short_for_the_clock_are_judged_by_their_difference() -> None:
    nothing, much = arm(400, [0.0] * 400), arm(400, [50.0] * 400)
    assert outcomes(Window(nothing, nothing))[P50] == "pass"
    assert outcomes(Window(much, nothing))[P50] == "pass"
    assert outcomes(Window(nothing, much))[P50] == "undecided"
    for window in (Window(nothing, nothing), Window(nothing, much)):
        json.dumps([verdict.as_json() for verdict in judge(window, PLAN, looks=LOOKS)], allow_nan=False)


def test_strict_steps_need_evidence_of_errors_and_median() -> None:
    few = Window(arm(400, 90.0), arm(10, 90.0))
    assert outcomes(few)[ERRORS] == outcomes(few)[P99] == "undecided"
    assert decided(few) == (Decision.ADVANCE, "")
    assert decided(few, needs_evidence=True) == (Decision.WAIT, "")
    many = Window(arm(2000, 90.0), arm(2000, [90.0, 150.0] * 20 + [90.0] * 1960))
    assert (outcomes(many)[ERRORS], outcomes(many)[P99]) == ("pass", "undecided")
    assert decided(many, needs_evidence=True) == (Decision.ADVANCE, "")  # the tail is not asked for evidence


def test_a_step_lasts_as_long_as_the_plan_wants() -> None:
    good = Window(arm(4000, 90.0), arm(4000, 90.0))
    assert decided(good, soaked=False) == (Decision.WAIT, "")
    assert decided(Window(arm(4000, 90.0), arm(9, 90.0))) == (Decision.WAIT, "")


def test_what_is_not_known_in_time_is_rolled_back_and_says_what() -> None:
    prefix = "not enough to judge by in the time that the plan gives: "
    few = Window(arm(400, 90.0), arm(9, 90.0))
    assert decided(few, timed_out=True) == (Decision.ROLL_BACK, f"{prefix}too few requests reached the candidate")
    some = Window(arm(400, 90.0), arm(30, 90.0))
    decision, reason = decided(some, timed_out=True, needs_evidence=True)
    assert decision is Decision.ROLL_BACK
    assert reason.startswith(f"{prefix}errors 0 of 30 against 0 of 400: ")
    assert decided(some, timed_out=True) == (Decision.ADVANCE, "")


def test_a_step_is_not_left_while_second_looks_are_suspect() -> None:
    """Five that are far off prove nothing, but nobody should meet the candidate before it is known."""
    good = Window(arm(4000, 90.0), arm(4000, 90.0), {"kps_error": [0.4] * 5, "recall": [0.9, 1.0] * 5})
    assert decided(good) == (Decision.WAIT, "")
    decision, reason = decided(good, timed_out=True)
    assert decision is Decision.ROLL_BACK
    assert reason.endswith("plan gives: kps_error 0.4 (0.4 to 0.4) over 5, too few to be sure, at most 0.1")
    assert decided(replace(good, measures={"recall": [0.9, 1.0, 1.0] * 5})) == (Decision.ADVANCE, "")


def test_what_is_suspect_is_not_waited_for_where_no_second_looks_come() -> None:
    """A straggler may have moved the mean beyond the limit when the candidate answers everything already."""
    suspect = {"recall": [1.0] * 285 + [0.0] * 16}
    verdicts = judge(Window(arm(4000, 90.0), arm(4000, 90.0), suspect), PLAN, looks=LOOKS)
    assert [verdict.gate for verdict in verdicts if verdict.is_suspect] == ["recall"]
    for more, decision in ((True, Decision.WAIT), (False, Decision.ADVANCE)):
        assert decide(verdicts, missing="", soaked=True, timed_out=False, more_looks=more) == (decision, "")
    failed = judge(Window(arm(4000, 90.0), arm(4000, 90.0), {"recall": [0.2] * 50}), PLAN, looks=LOOKS)
    assert decide(failed, missing="", soaked=True, timed_out=False, more_looks=False)[0] is Decision.ROLL_BACK


def test_what_is_missing_is_said_with_numbers() -> None:
    assert missing_requests(arm(9, 90.0), 10) == "too few requests reached the candidate, 9 of 10"
    assert missing_requests(arm(10, 90.0), 10) == ""
    verdicts = judge_quality({"recall": [1.0] * 30, "cosine": [0.999] * 4}, PLAN, 0.001)
    assert missing_looks(verdicts, 8, 5, 0.001) == "too few second looks, 8 of 11"
    assert missing_looks(verdicts, 30, 40, 0.001) == "too few second looks, 30 of 40"
    assert missing_looks(verdicts, 30, 5, 0.001) == "too few measures, cosine 4 of 11"
    assert missing_looks(verdicts[:1], 30, 5, 0.001) == ""
    few_requests = judge(Window(arm(5, 90.0), arm(5, 90.0)), PLAN, looks=LOOKS)
    assert missing_looks([*few_requests, *verdicts[:1]], 30, 5, 0.001) == "", "gates of requests are not meant"


def test_harm_goes_before_everything_else() -> None:
    bad = Window(arm(2000, 90.0), arm(2000, 900.0, 200), {"cosine": [0.1, 0.2] * 50})
    decision, reason = decided(bad, soaked=False, timed_out=True)
    assert decision is Decision.ROLL_BACK
    assert [part.split()[0] for part in reason.split("; ")] == ["errors", "p50", "p99", "cosine"]


def test_the_step_before_is_the_baseline_of_a_stable_version_without_requests() -> None:
    window, baseline = Window(candidate=arm(60, 900.0)), arm(600, 90.0)
    verdicts = {verdict.gate: verdict for verdict in judge(window, PLAN, looks=LOOKS, baseline=baseline)}
    assert verdicts[P50].outcome is Outcome.FAIL
    for gate in (ERRORS, P50, P99):
        assert " (of the step before)" in verdicts[gate].sentence
    assert {verdict.outcome for verdict in judge(window, PLAN, looks=LOOKS)} == {Outcome.UNDECIDED}


def test_the_baseline_is_not_used_beside_requests_of_the_stable_version() -> None:
    window = Window(arm(600, 900.0), arm(600, 900.0))
    verdicts = judge(window, PLAN, looks=LOOKS, baseline=arm(600, 90.0))
    assert verdicts == judge(window, PLAN, looks=LOOKS)
    assert verdicts[1].outcome is Outcome.PASS
    assert not any("step before" in verdict.sentence for verdict in verdicts)


LEVELS = [
    ("recall", 0.99, 0.5),
    ("precision", 0.97, 0.5),
    ("iou", 0.95, 0.5),
    ("kps_error", 0.02, 0.4),
    ("landmark_error", 0.01, 0.3),
    ("cosine", 0.999, 0.6),
    ("psnr_db", 40.0, 12.0),
    ("ssim", 0.95, 0.4),
    ("identity_gain", 0.0, -0.3),
]


@pytest.mark.parametrize(("measure", "good", "bad"), LEVELS)
def test_every_measure_has_a_gate(measure: str, good: float, bad: float) -> None:
    random = np.random.default_rng(3)
    noise = 0.001 * random.normal(size=60)
    for level, expected in ((good, Outcome.PASS), (bad, Outcome.FAIL)):
        (verdict,) = judge_quality({measure: (level + noise).tolist()}, PLAN, 0.001)
        assert (verdict.gate, verdict.outcome, verdict.samples) == (measure, expected, 60)
    (alone,) = judge_quality({measure: [bad]}, PLAN, 0.001)
    assert alone.outcome is Outcome.UNDECIDED


def test_all_measures_of_the_plan_are_tested() -> None:
    measures = {name.partition("_")[2] for name in PLAN.quality.__dataclass_fields__}
    assert measures == {name for name, _, _ in LEVELS} == set(BEST)


def test_a_measure_that_nobody_knows_or_has_taken_has_no_verdict() -> None:
    assert judge_quality({"beauty": [1.0, 2.0], "ssim": []}, PLAN, 0.05) == []


def test_more_looks_need_more_evidence() -> None:
    window = Window(arm(600, 90.0), arm(30, 90.0, 4))
    assert outcomes(window, looks=1)[ERRORS] == "fail"
    assert outcomes(window, looks=100)[ERRORS] == "undecided"


ARMS = (Arm(), arm(1, 90.0), arm(3, 90.0, 3), arm(500, 90.0), Arm(2, 0, (0.0, 0.0)))
MEASURES: tuple[dict[str, list[float]], ...] = ({}, {"ssim": [0.5], "psnr_db": [math.inf, math.inf, 20.0]})


@pytest.mark.parametrize(("stable", "candidate", "measures"), [*itertools.product(ARMS, ARMS, MEASURES)])
def test_verdicts_are_json_and_one_line(stable: Arm, candidate: Arm, measures: dict[str, list[float]]) -> None:
    for verdict in judge(Window(stable, candidate, measures), PLAN, looks=LOOKS, baseline=Arm()):
        values = json.loads(json.dumps(verdict.as_json(), allow_nan=False))
        assert values["gate"] == verdict.gate
        assert values["outcome"] in ("pass", "fail", "undecided")
        assert "\n" not in values["sentence"]


def test_what_is_known_is_in_the_json() -> None:
    verdict = Verdict("p50", Outcome.PASS, math.nan, Interval(0.5, math.inf), 1.25, 7, "s")
    assert verdict.as_json() == {
        "gate": "p50",
        "outcome": "pass",
        "value": None,
        "low": 0.5,
        "high": None,
        "limit": 1.25,
        "samples": 7,
        "sentence": "s",
    }
