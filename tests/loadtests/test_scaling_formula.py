"""The formula of the HorizontalPodAutoscaler against its documented examples and the controller's own tests.

DOCS is kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale, CALCULATOR the cases of
kubernetes/kubernetes pkg/controller/podautoscaler/replica_calculator_test.go.
"""

import pytest

from warmswap_loadtests.scaling.behaviour import Behaviour, RatePolicy, ScalingRules
from warmswap_loadtests.scaling.hpa import (
    CpuSample,
    Tolerance,
    average_value_replicas,
    cpu_replicas,
    highest,
    ratio_replicas,
)

USUAL = Tolerance()


@pytest.mark.parametrize(
    ("current", "value", "target", "tolerance", "replicas"),
    [
        pytest.param(4, 200, 100, USUAL, 8, id="DOCS: 200m for 100m doubles"),
        pytest.param(4, 50, 100, USUAL, 2, id="DOCS: 50m for 100m halves"),
        pytest.param(50, 90, 75, USUAL, 60, id="blog of Kubernetes 1.33, configurable tolerance: 50 * 90 / 75"),
        pytest.param(10, 110, 100, USUAL, 10, id="the tolerance holds at its upper end"),
        pytest.param(10, 111, 100, USUAL, 12, id="and not above"),
        pytest.param(10, 90, 100, USUAL, 10, id="at its lower end"),
        pytest.param(10, 89, 100, USUAL, 9, id="and not below"),
        pytest.param(50, 76, 75, Tolerance(up=0.0), 51, id="behavior.scaleUp.tolerance 0"),
        pytest.param(50, 71, 75, Tolerance(up=0.0, down=0.05), 48, id="behavior.scaleDown.tolerance 0.05"),
        pytest.param(50, 72, 75, Tolerance(up=0.0, down=0.05), 50, id="within it"),
        pytest.param(3, 0, 100, USUAL, 0, id="nothing at all"),
    ],
)
def test_ratio(current: int, value: float, target: float, tolerance: Tolerance, replicas: int) -> None:
    assert ratio_replicas(current, value / target, tolerance) == replicas


@pytest.mark.parametrize(
    ("current", "sample", "target", "replicas"),
    [
        pytest.param(3, CpuSample(0.3 + 0.5 + 0.7, 3), 30, 5, id="CALCULATOR: ScaleUp"),
        pytest.param(3, CpuSample(0.5 + 0.7, 2, unready=1), 30, 4, id="CALCULATOR: ScaleUpUnreadyLessScale"),
        pytest.param(3, CpuSample(0.4, 1, unready=2), 30, 3, id="CALCULATOR: ScaleUpUnreadyNoScale"),
        pytest.param(5, CpuSample(0.1 + 0.3 + 0.5 + 0.25 + 0.25, 5), 50, 3, id="CALCULATOR: ScaleDown"),
        pytest.param(5, CpuSample(0.1 + 0.3 + 0.5, 3, unready=2), 50, 2, id="CALCULATOR: ScaleDownIgnoresUnreadyPods"),
        pytest.param(
            4, CpuSample(3 * 0.4, 3, missing=1), 50, 4, id="a missing pod counts as busy: 55 / 50 is tolerated"
        ),
        pytest.param(3, CpuSample(3 * 0.4, 3), 50, 3, id="the same without it: ceil(0.8 * 3)"),
        pytest.param(2, CpuSample(1.0, 1, missing=1), 50, 2, id="CALCULATOR: MissingMetricsNoChangeEq"),
        pytest.param(3, CpuSample(2 * 0.9, 2, missing=1), 50, 4, id="a missing pod counts as idle: 60 / 50"),
        pytest.param(2, CpuSample(1.0 / 3, 1), 50, 1, id="33 %, not 33.3 %"),
        pytest.param(4, CpuSample(0.0, 0, unready=4), 50, None, id="no ready pod has a sample"),
    ],
)
def test_cpu(current: int, sample: CpuSample, target: int, replicas: int | None) -> None:
    assert cpu_replicas(current, sample, target, USUAL) == replicas


@pytest.mark.parametrize(
    ("current", "total", "target", "replicas"),
    [
        pytest.param(3, 8600, 2000, 5, id="rounded up"),
        pytest.param(4, 8.6, 2.0, 4, id="tolerated: 8.6 / (2 * 4)"),
        pytest.param(0, 3, 2.0, 2, id="nothing is tolerated without replicas"),
        pytest.param(4, 0, 2.0, 0, id="nothing pending"),
    ],
)
def test_average_value(current: int, total: float, target: float, replicas: int) -> None:
    assert average_value_replicas(current, total, target, USUAL) == replicas


def test_the_metric_that_wants_most_wins_and_a_missing_one_forbids_less() -> None:
    assert highest(5, [3, 7, 4]) == 7
    assert highest(5, [3, None]) == 5
    assert highest(5, [8, None]) == 8
    assert highest(5, [None]) == 5


def test_documented_scale_down_of_80_replicas_by_four_pods_or_ten_per_cent_a_minute() -> None:
    """DOCS: 8 at first; of 72 replicas 7.2, rounded up to 8; below 40 replicas 4 at a time."""
    rules = ScalingRules(0.0, "Max", (RatePolicy("Pods", 4, 60), RatePolicy("Percent", 10, 60)))
    behaviour, replicas, course = Behaviour(down=rules), 80, [80]
    for minute in range(15):
        replicas = behaviour.decide(minute * 60.0, replicas, 10, 1, 100)
        course.append(replicas)
    assert course == [80, 72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16, 12, 10, 10]


def test_a_limit_looks_back_over_its_period_at_every_sync() -> None:
    rules = ScalingRules(0.0, "Max", (RatePolicy("Pods", 4, 60),))
    behaviour, replicas, course = Behaviour(down=rules), 80, []
    for sync in range(9):
        replicas = behaviour.decide(sync * 15.0, replicas, 10, 1, 100)
        course.append(replicas)
    assert course == [76, 76, 76, 76, 72, 72, 72, 72, 68]


def test_documented_default_adds_four_pods_or_as_many_as_there_are_every_15_s() -> None:
    behaviour, replicas, course = Behaviour(), 1, []
    for sync in range(7):
        replicas = behaviour.decide(sync * 15.0, replicas, 100, 1, 150)
        course.append(replicas)
    assert course == [5, 10, 20, 40, 80, 100, 100]


@pytest.mark.parametrize(("select", "replicas"), [("Max", 72), ("Min", 75), ("Disabled", 80)])
def test_select_policy(select: str, replicas: int) -> None:
    """DOCS: 10 % and 5 pods with Min remove no more than 5 a minute; Disabled prevents scaling down."""
    limits = (RatePolicy("Percent", 10, 60), RatePolicy("Pods", 5, 60))
    rules = ScalingRules(0.0, select, limits)  # type: ignore[arg-type]
    assert Behaviour(down=rules).decide(0.0, 80, 10, 1, 100) == replicas


def test_disabled_scale_up_leaves_scaling_down_alone() -> None:
    behaviour = Behaviour(ScalingRules(select_policy="Disabled"), ScalingRules())
    assert behaviour.decide(0.0, 5, 50, 1, 100) == 5
    assert behaviour.decide(15.0, 5, 3, 1, 100) == 3


def test_scaling_down_waits_for_the_highest_recommendation_of_five_minutes() -> None:
    behaviour = Behaviour()
    behaviour.remember(0.0, 10)
    assert [behaviour.decide(15.0 * sync, 10, 2, 1, 100) for sync in range(1, 20)] == [10] * 19
    assert behaviour.decide(300.0, 10, 2, 1, 100) == 2


def test_a_higher_recommendation_within_the_window_begins_it_anew() -> None:
    behaviour = Behaviour()
    behaviour.decide(0.0, 10, 10, 1, 100)
    behaviour.decide(150.0, 10, 6, 1, 100)
    assert behaviour.decide(300.0, 10, 2, 1, 100) == 6
    assert behaviour.decide(450.0, 6, 2, 1, 100) == 2


def test_a_window_for_scaling_up_takes_the_lowest_recommendation() -> None:
    behaviour = Behaviour(ScalingRules(stabilization_window_s=60.0))
    assert [behaviour.decide(t, 2, wanted, 1, 100) for t, wanted in ((0.0, 2), (15.0, 9), (30.0, 5), (60.0, 9))] == [
        2, 2, 2, 5,
    ]  # fmt: skip


def test_limits_of_the_object_hold() -> None:
    assert Behaviour().decide(0.0, 4, 50, 1, 6) == 6
    assert Behaviour(down=ScalingRules()).decide(0.0, 4, 0, 3, 6) == 3
