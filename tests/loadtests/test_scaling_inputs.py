"""Traces, policies and measured figures: what is read, and every message about what cannot be."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from warmswap_loadtests.scaling.behaviour import DEFAULT_DOWN, RatePolicy
from warmswap_loadtests.scaling.curves import CURVES
from warmswap_loadtests.scaling.errors import PolicyError, TraceError
from warmswap_loadtests.scaling.measured import figures_of_results, find_measured
from warmswap_loadtests.scaling.policy_file import parse_policies, read_policies, shipped_policies
from warmswap_loadtests.scaling.trace import parse_trace, read_trace

REPORTS = Path(__file__).parents[2] / "docs" / "benchmarks"
SECONDS = "time_s,requests_per_s"
METRIC = '[[policy.metric]]\nkind = "pending"\ntarget = 2\n'
NAMED = '[[policy]]\nname = "p"\n'


def test_a_trace_in_seconds() -> None:
    trace = parse_trace(["# made by hand", SECONDS, "10,0", "", "20,4", "30.5, 4"], "t", "t.csv")
    assert trace.times_s.tolist() == [0.0, 10.0, 20.5]
    assert trace.mean_rates(5.0).tolist() == [1.0, 3.0, 4.0, 4.0, 4.0]
    assert trace.begin == datetime(2026, 1, 5, tzinfo=UTC)


def test_a_trace_in_timestamps_begins_at_its_own_time() -> None:
    lines = ["timestamp,requests_per_s", "2026-11-23T08:00:00+01:00,1", "2026-11-23T07:01:00+00:00,2"]
    trace = parse_trace(lines, "t", "t.csv")
    assert trace.begin == datetime(2026, 11, 23, 7, tzinfo=UTC)
    assert trace.seconds == 60.0


def test_a_scaled_trace_has_so_many_times_the_requests() -> None:
    trace = parse_trace([SECONDS, "0,1", "10000,1"], "t", "t.csv")
    assert trace.scaled(50).mean_rates(1.0).tolist() == [50.0] * 10000
    assert trace.scaled(50).arrivals(1.0, 0).sum() == pytest.approx(500_000, rel=0.01)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], "line 1: the header must be time_s,requests_per_s or timestamp,requests_per_s, not nothing"),
        (["t,rate"], "line 1: the header must be time_s,requests_per_s or timestamp,requests_per_s, not t,rate"),
        ([SECONDS], "at least two rows, its begin and its end; there are 0"),
        ([SECONDS, "0,1"], "there are 1"),
        ([SECONDS, "0,1", "1,-2"], "line 3: requests_per_s must be 0 or more, got -2"),
        ([SECONDS, "0,1", "1,nan"], "line 3: requests_per_s must be finite, got nan"),
        ([SECONDS, "0,1", "1,inf"], "line 3: requests_per_s must be finite, got inf"),
        ([SECONDS, "0,1", "nan,1"], "line 3: time_s must be finite, got nan"),
        ([SECONDS, "0,1", "# note", "1,many"], "line 4: requests_per_s must be a number, got 'many'"),
        ([SECONDS, "0,1", "soon,1"], "line 3: time_s must be a number, got 'soon'"),
        ([SECONDS, "0,1", "5,1", "5,2"], "line 4: times must go up, 5 does not"),
        ([SECONDS, "0,1", "5,1", "4,2"], "line 4: times must go up, 4 does not"),
        ([SECONDS, "0,1,2"], "line 2: two fields are needed, there are 3"),
        ([SECONDS, "0"], "line 2: two fields are needed, there are 1"),
        ([SECONDS, '0,"1'], "line 2: no CSV"),
        (["timestamp,requests_per_s", "2026-11-23T08:00:00,1"], "line 2: 2026-11-23T08:00:00 has no offset to UTC"),
        (["timestamp,requests_per_s", "yesterday,1"], "line 2: 'yesterday' is no ISO 8601 time"),
    ],
)
def test_wrong_traces(lines: list[str], named: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(lines, "t", "t.csv")
    assert "t.csv" in str(caught.value)
    assert named in str(caught.value)


def test_traces_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read the trace"):
        read_trace(tmp_path / "nowhere.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="cannot read the trace"):
        read_trace(tmp_path / "bytes.csv")


def test_a_trace_that_is_too_long_for_its_steps_is_refused() -> None:
    trace = parse_trace([SECONDS, "0,1", "1e9,1"], "t", "t.csv")
    with pytest.raises(TraceError, match="1000000000 steps, more than"):
        trace.arrivals(1.0, 0)


def test_more_requests_than_can_be_counted_are_refused() -> None:
    trace = parse_trace([SECONDS, "0,1e300", "10,0"], "t", "t.csv")
    with pytest.raises(TraceError, match=r"1e\+300 requests in a step of 1 s are more than 1e\+09"):
        trace.arrivals(1.0, 0)


def test_shipped_traces_have_the_shapes_they_are_named_for() -> None:
    daily, crowd, silence = (CURVES[name]() for name in ("daily", "flash-crowd", "silence-then-burst"))
    assert daily.seconds == 86_400
    assert daily.rates[:60].max() < 0.02 < 3 < daily.rates.max()
    assert crowd.rates.max() == 15 * crowd.rates.min()
    assert (silence.mean_rates(1.0) == 0).mean() > 0.9
    for trace in (daily, crowd, silence):
        assert np.all(np.diff(trace.times_s) > 0)


def test_a_policy_is_read_with_its_defaults() -> None:
    (policy,) = parse_policies(
        NAMED
        + "[policy.start]\npre_pulled = false\nimage_pull_s = 30\n"
        + '[policy.scale_down]\npolicies = [{ type = "Pods", value = 4, period_s = 60 }]\n'
        + METRIC,
        "p.toml",
    )
    assert policy.start.image_pull_s == 30.0
    assert isinstance(policy.start.image_pull_s, float)
    assert policy.start.schedule_s == 1.0
    assert policy.scale_down.policies == (RatePolicy("Pods", 4, 60),)
    assert policy.scale_down.stabilization_window_s == DEFAULT_DOWN.stabilization_window_s == 300.0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[policy", "p.toml is no TOML"),
        ("", "holds no policy: give at least one [[policy]]"),
        ("policy = 3", "holds no policy"),
        ("[[policies]]", "unknown key 'policies'; did you mean 'policy'? known are policy"),
        ("[[policy]]\n" + METRIC, "policy 1: give it a name"),
        ("[[policy]]\nname = 3\n" + METRIC, "policy 1: name must be a text, got 3"),
        (NAMED + "replcia = 1\n" + METRIC, "unknown key 'replcia'; did you mean 'replica'?"),
        (NAMED + "[policy.autoscaler]\nmin = 1\n" + METRIC, "autoscaler: unknown key 'min'"),
        (NAMED + "[policy.autoscaler]\nmin_replicas = 1.5\n" + METRIC, "min_replicas must be a whole number, got 1.5"),
        (
            NAMED + "[policy.autoscaler]\nmin_replicas = true\n" + METRIC,
            "min_replicas must be a whole number, got True",
        ),
        (NAMED + "[policy.autoscaler]\nmin_replicas = -1\n" + METRIC, "min_replicas must be 0 or more, got -1"),
        (NAMED + "[policy.autoscaler]\nmin_replicas = 9\nmax_replicas = 3\n" + METRIC, "9 is above max_replicas 3"),
        (NAMED + "[policy.autoscaler]\nsync_period_s = 0\n" + METRIC, "sync_period_s must be above 0, got 0"),
        (NAMED + "[policy.autoscaler]\nsync_period_s = nan\n" + METRIC, "sync_period_s must be above 0, got nan"),
        (NAMED + "[policy.start]\npre_pulled = 1\n" + METRIC, "pre_pulled must be true or false, got 1"),
        (NAMED + "[policy]\n" + METRIC, "p.toml"),
        (NAMED + '[[policy.metric]]\nkind = "cpu"\n', "metric 1: target is missing"),
        (NAMED + '[[policy.metric]]\nkind = "gpu"\ntarget = 1\n', "kind must be one of cpu, pending, got 'gpu'"),
        (NAMED + '[[policy.metric]]\nkind = "cpu"\ntarget = 0\n', "target must be above 0, got 0"),
        (NAMED + '[[policy.metric]]\nkind = "cpu"\ntarget = 0.7\n', "a whole number of per cent, got 0.7"),
        (NAMED, "nothing to scale on"),
        (NAMED + '[policy.autoscaler]\nmin_replicas = 0\n[[policy.metric]]\nkind = "cpu"\ntarget = 70\n', "wakes it"),
        (NAMED + '[policy.scale_up]\nselect_policy = "Most"\n' + METRIC, "one of Max, Min, Disabled, got 'Most'"),
        (NAMED + "[policy.scale_up]\npolicies = 3\n" + METRIC, "scale_up: policies must be a list, got 3"),
        (NAMED + '[policy.scale_up]\npolicies = [{type = "Pods"}]\n' + METRIC, "policies 1: value is missing"),
        (NAMED + "metric = 3\n", "metric must be a list, got 3"),
        (NAMED + "replica = 3\n" + METRIC, "replica must be a table, got 3"),
        (NAMED + METRIC + NAMED + METRIC, "two policies are called 'p'"),
        (
            NAMED + '[[policy.cron]]\ntimezone = "Mars"\nstart = "0 8 * * *"\nend = "0 9 * * *"\nreplicas = 2\n',
            "policy 1 (p): cron 1: cron: 'Mars' is no time zone",
        ),
    ],
)
def test_wrong_policies(text: str, named: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policies(text, "p.toml")
    assert named in str(caught.value)


def test_a_policy_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read the policies"):
        read_policies(tmp_path / "nowhere.toml")


def test_the_policy_of_the_readme_can_be_read() -> None:
    readme = (Path(__file__).parents[2] / "loadtests" / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(\[\[policy]].*?)```", readme, flags=re.DOTALL)
    (policy,) = parse_policies(example, "README.md")
    assert policy.cron[0].replicas == 4
    assert policy.autoscaler.max_replicas == 50


def test_the_shipped_set_compares_what_it_should() -> None:
    policies = {policy.name: policy for policy in shipped_policies()}
    assert [name for name, policy in policies.items() if policy.autoscaler.min_replicas == 0] == [
        "zero-keda",
        "zero-knative",
    ]
    assert policies["naive-cpu"].replica.contender == "naive"
    assert policies["cron-floor"].cron
    assert policies["placeholders"].cluster.placeholders
    assert all(policy.summary for policy in policies.values())


@pytest.mark.parametrize("pack", ["open", "twin"])
def test_shipped_figures_are_those_of_the_committed_reports(pack: str) -> None:
    results = json.loads((REPORTS / f"cold-{pack}" / "results.json").read_text(encoding="utf-8"))
    for contender, reported in figures_of_results(results, "report")[pack].items():
        shipped = find_measured(pack, contender)
        for name in ("ready_s", "steady_s", "first_s"):
            assert asdict(shipped)[name] == pytest.approx(asdict(reported)[name], rel=2e-3), (contender, name)


def test_naive_is_cold_at_first_and_warmswap_is_not() -> None:
    for pack in ("open", "twin"):
        assert find_measured(pack, "naive").first_is_cold
        assert not find_measured(pack, "warmswap").first_is_cold


def test_figures_of_ones_own_measurement(tmp_path: Path) -> None:
    path = REPORTS / "cold-twin" / "results.json"
    assert find_measured("twin", "warmswap", path).ready_s == pytest.approx(9.2, abs=0.01)
    with pytest.raises(PolicyError, match="no measured figures of pack 'open'; there are twin"):
        find_measured("open", "warmswap", path)
    with pytest.raises(PolicyError, match="no measured figures of contender 'preloading' with pack 'twin'"):
        find_measured("twin", "preloading", path)
    (tmp_path / "results.json").write_text('{"benchmark": "soak"}')
    with pytest.raises(PolicyError, match="holds no results of `warmswap bench cold`"):
        find_measured("twin", "warmswap", tmp_path / "results.json")
