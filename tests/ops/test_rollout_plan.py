"""Plans of rollouts: what is understood, and what is refused with which words."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from warmswap_ops.errors import UsageError
from warmswap_ops.rollout.plan import (
    DEFAULT_STEPS,
    Gates,
    Plan,
    Quality,
    Shadow,
    Step,
    Trial,
    parse_plan,
    plan_from_values,
    read_plan,
)

EXAMPLE = Path(__file__).parents[2] / "examples/rollout-plan.toml"
ODD = Plan(
    trial=Trial(2.0, 10.0),
    shadow=Shadow(0.0, 0.0, 0, 0.0),
    steps=(Step(0.5, 1.0, 0, 2.0), Step(100, 0, 5, 1)),
    gates=Gates(0.99, 0.0, 1.0, 2.0, 0.0, strict=False),
    quality=Quality(min_cosine=-1.0, min_identity_gain=-2.0),
    soak_s=0.0,
    interval_s=0.1,
    patience_ms=1.0,
    unreachable_s=1.0,
)


def as_read(plan: Plan) -> Any:
    return json.loads(json.dumps(plan.as_json()))


def test_no_plan_is_the_default() -> None:
    assert read_plan(None) == parse_plan("", "plan") == Plan()
    assert [step.weight for step in DEFAULT_STEPS] == [0.01, 0.05, 0.25, 0.5, 1.0]


def test_the_example_is_the_default_and_names_every_key() -> None:
    assert read_plan(EXAMPLE) == Plan()
    assert tomllib.loads(EXAMPLE.read_text()) == as_read(Plan())  # no key is left to its default


@pytest.mark.parametrize("plan", [Plan(), ODD])
def test_a_plan_survives_json(plan: Plan) -> None:
    assert plan_from_values(plan.as_json(), "plan") == plan
    assert plan_from_values(as_read(plan), "plan") == plan


def test_what_is_left_out_has_its_default() -> None:
    plan = parse_plan("soak_s = 7\n[gates]\nstrict = false\n[[steps]]\nweight_percent = 100\nsoak_s = 1", "plan")
    assert plan == Plan(soak_s=7, gates=Gates(strict=False), steps=(Step(100, 1),))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("soak = 1", r"p: unknown key 'soak' \(did you mean soak_s\?\); known are trial, shadow, steps"),
        ("zzz = 1", r"p: unknown key 'zzz'; known are"),
        ("[gates]\nmax_p50 = 2", r"p: \[gates\]: unknown key 'max_p50' \(did you mean max_p50_ratio\?\)"),
        ("[shadow]\nshares = 1", r"\[shadow\]: unknown key 'shares' \(did you mean share\?\)"),
        ("[quality]\nmin_recal = 1", r"\[quality\]: .* \(did you mean min_recall\?\)"),
        ("[trial]\ntimeout = 1", r"\[trial\]: .* \(did you mean timeout_s\?\)"),
        ("[[steps]]\nweight_percent = 100\nweight = 1", r"step 1: unknown key 'weight' \(did you mean weight_percent"),
        ("gates = 3", r"\[gates\] must be a table, got 3"),
        ("soak_s = '300'", r"p: soak_s must be a number from 0, got '300'"),
        ("interval_s = true", r"p: interval_s must be a number above 0, got True"),
        ("interval_s = 0", r"interval_s must be a number above 0, got 0"),
        ("patience_ms = -1", r"patience_ms must be a number above 0, got -1"),
        ("unreachable_s = inf", r"unreachable_s must be a number above 0, got inf"),
        ("soak_s = nan", r"soak_s must be a number from 0, got nan"),
        ("soak_s = -0.1", r"soak_s must be a number from 0, got -0.1"),
        ("soak_s = 1979-05-27", r"soak_s must be a number from 0"),
        ("[gates]\nstrict = 1", r"strict must be true or false, got 1"),
        ("[gates]\nconfidence = 1", r"confidence must be a number from 0.5, below 1, got 1"),
        ("[gates]\nconfidence = 0.4", r"confidence must be"),
        ("[gates]\nmax_p99_ratio = 0.9", r"max_p99_ratio must be a number from 1, got 0.9"),
        ("[gates]\nmax_error_increase = 1.5", r"max_error_increase must be a number from 0 to 1, got 1.5"),
        ("[gates]\nmin_slowdown_ms = nan", r"min_slowdown_ms must be a number from 0, got nan"),
        ("[shadow]\nshare = 1.01", r"\[shadow\]: share must be a number from 0 to 1, got 1.01"),
        ("[shadow]\nmin_samples = 1.0", r"min_samples must be a whole number from 0, got 1.0"),
        ("[shadow]\nmin_samples = -1", r"min_samples must be a whole number from 0, got -1"),
        ("[shadow]\nduration_s = 700", r"p: \[shadow\] max_duration_s must not be below duration_s"),
        ("[quality]\nmin_cosine = -1.1", r"min_cosine must be a number from -1 to 1"),
        ("[quality]\nmax_kps_error = 0", r"max_kps_error must be a number above 0"),
        ("[trial]\nmax_p50_ratio = 0.5", r"\[trial\]: max_p50_ratio must be a number from 1"),
        ("steps = []", r"p: steps must be tables \[\[steps\]\] with weight_percent, at least one"),
        ("steps = 5", r"p: steps must be tables"),
        ("[steps]\nweight_percent = 100", r"p: steps must be tables"),
        ("steps = [5]", r"p: step 1 must be a table with weight_percent, got 5"),
        ("[[steps]]\nsoak_s = 5", r"step 1 must be a table with weight_percent"),
        ("[[steps]]\nweight_percent = 50", r"p: the last step must have weight_percent = 100, got 50"),
        ("[[steps]]\nweight_percent = 0", r"step 1: weight_percent must be a number above 0, at most 100, got 0"),
        ("[[steps]]\nweight_percent = 101", r"weight_percent must be a number above 0, at most 100, got 101"),
        ("[[steps]]\nweight_percent = 100\nsoak_s = 901", r"step 1: max_soak_s must not be below soak_s"),
        (
            "[[steps]]\nweight_percent = 50\n[[steps]]\nweight_percent = 50\n[[steps]]\nweight_percent = 100",
            r"step 2: weight_percent must be above that of the step before, 50, got 50",
        ),
        ("[[steps]]\nweight_percent = 100\n[[steps]]\nweight_percent = 5", r"step 2: .* before, 100, got 5"),
        ("soak_s = ", r"p is not TOML: "),
        ("soak_s = 1\nsoak_s = 2", r"p is not TOML: "),
        pytest.param("soak_s = 1" + 400 * "0", r"p: soak_s must be a number from 0, got 10", id="huge"),
        pytest.param("soak_s = 1" + 5000 * "0", r"p is not TOML: ", id="huger"),
        pytest.param("a = " + 5000 * "[" + 5000 * "]", r"p is not TOML: ", id="deep"),
    ],
)
def test_what_is_not_understood_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_plan(text, "p")
    assert str(caught.value).startswith("p")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.toml", tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (missing, binary, tmp_path):
        with pytest.raises(UsageError, match=rf"^plan {re.escape(str(path))} cannot be read: "):
            read_plan(path)


def test_a_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("soaks = 1")
    with pytest.raises(UsageError, match=rf"^{re.escape(str(tmp_path / 'plan.toml'))}: unknown key"):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize("duration_s", [0.0, 1.0, 2.0, 60.0, 900.0, 86_400.0])
@pytest.mark.parametrize("interval_s", [0.5, 2.0, 30.0])
def test_all_looks_that_may_fail_are_counted(duration_s: float, interval_s: float) -> None:
    """The look at the very beginning has seen nothing, so it costs nothing; the one that ends the step may be late."""
    plan = replace(Plan(), interval_s=interval_s)
    at_s = [plan.next_look_s(0.0)]
    while at_s[-1] < duration_s:
        at_s.append(plan.next_look_s(at_s[-1]))
    assert plan.looks(duration_s) == len(at_s)


def test_looks_grow_with_the_logarithm_of_the_time() -> None:
    assert Plan().looks(86_400.0) < 2 * Plan().looks(900.0) < 120
