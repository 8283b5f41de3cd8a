"""``warmswap simulate-scaling`` from end to end, its report, its sentences and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmswap_client.cli import main
from warmswap_loadtests.scaling.cost import compare, comparison_sentence, price_sentence
from warmswap_loadtests.scaling.policy_file import parse_policies, shipped_policies

REPORTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "scaling"
POLICIES = """
[[policy]]
name = "cold"
[policy.replica]
activator = true
[policy.autoscaler]
min_replicas = 0
[[policy.metric]]
kind = "pending"
target = 1
[[policy]]
name = "warm"
[[policy.metric]]
kind = "pending"
target = 1
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "evening.csv"
    path.write_text("time_s,requests_per_s\n0,0\n600,0\n601,1\n900,1\n901,0\n1800,0\n")
    return path


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(POLICIES)
    return path


def command(*arguments: str | Path) -> int:
    return main(["simulate-scaling", *(str(argument) for argument in arguments)])


def results_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(capsys.readouterr().out)
    return results


def test_from_files_to_a_report(
    trace: Path, policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("--trace", trace, "--policy", policies, "--out", out, "--price-per-replica-hour", "2") == 0
    printed = capsys.readouterr()
    assert "cold (1 of 2) ..." in printed.err
    lines = printed.out.splitlines()
    assert lines[0].startswith("trace evening: ")
    assert [line.split()[0] for line in lines[2:5]] == ["policy", "cold", "warm"]
    assert "one replica that is always warm costs 48.00 a day and 1460 a month" in printed.out
    assert "warm differs from cold only in the replica that is never taken away" in printed.out
    assert sorted(path.name for path in out.iterdir()) == ["cost.png", "report.html", "results.json", "timeline.png"]
    for name in ("cost.png", "timeline.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    page = (out / "report.html").read_text()
    for sentence in results["answers"]:
        assert sentence in page
    assert page.count("<img ") == 2
    assert 'src="http' not in page
    figures = results["figures"]
    assert figures["cold"]["served_cold"] + figures["cold"]["lost"] > 0 == figures["warm"]["served_cold"]
    assert results["policies"]["warm"]["measured"]["source"] == "docs/benchmarks/cold-twin/results.json"


def test_redraw_gives_the_same_answers(
    trace: Path, policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("--trace", trace, "--policy", policies, "--out", out) == 0
    first = capsys.readouterr().out
    (out / "timeline.png").unlink()
    assert command("--redraw", "--out", out) == 0
    assert capsys.readouterr().out == first
    assert (out / "timeline.png").exists()


def test_json_and_only(trace: Path, policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--trace", trace, "--policy", policies, "--only", "warm", "--json", "--seed", "4") == 0
    results = results_of(capsys)
    assert list(results["figures"]) == ["warm"]
    assert results["settings"]["seed"] == 4


def test_scale_and_step(trace: Path, policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--trace", trace, "--policy", policies, "--scale", "40", "--step", "0.5", "--json") == 0
    results = results_of(capsys)
    assert results["settings"]["requests"] == pytest.approx(300 * 40, rel=0.1)
    assert results["figures"]["warm"]["peak_serving"] > 40


def test_shipped_policies_over_a_shipped_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--trace", "silence-then-burst", "--json") == 0
    figures = results_of(capsys)["figures"]
    assert list(figures) == [policy.name for policy in shipped_policies()]
    assert figures["zero-keda"]["waited_for_a_start"] > 0
    assert figures["naive-cpu"]["cold_first_requests"] > 0
    assert figures["cpu"]["served_cold"] == figures["pending"]["served_cold"] == 0
    assert figures["placeholders"]["lost"] < figures["pending"]["lost"]


@pytest.mark.parametrize("name", ["flash-crowd", "silence-then-burst"])
def test_committed_reports_are_what_the_command_gives(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    committed = json.loads((REPORTS / name / "results.json").read_text(encoding="utf-8"))
    assert committed["command"].startswith(f"warmswap simulate-scaling --trace {name} ")
    assert command("--trace", name, "--json") == 0
    results = results_of(capsys)
    for policy, figures in committed["figures"].items():
        assert results["figures"][policy] == pytest.approx(figures, rel=1e-3, abs=1e-3), policy
    assert results["policies"] == committed["policies"]


def test_shown_policies_can_be_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--show-policies") == 0
    assert parse_policies(capsys.readouterr().out, "shown") == shipped_policies()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--trace", "nowhere.csv"], "no shipped trace; those are daily, flash-crowd, silence-then-burst"),
        (["--policy", "nowhere.toml"], "cannot read the policies of nowhere.toml"),
        (["--only", "best"], "--only best: no such policy; there are zero-keda,"),
        (["--measured", "nowhere.json"], "nowhere.json holds no results of `warmswap bench cold`"),
        (["--redraw"], "--redraw needs --out DIR"),
        (["--redraw", "--out", "nowhere"], "nowhere/results.json has no results of the simulator"),
        (["--out", "/dev/null/folder"], "cannot write to /dev/null/folder"),
        (["--step", "0.001"], "steps, more than"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert named in last


@pytest.mark.parametrize(
    "arguments",
    [["--scale", "0"], ["--scale", "nan"], ["--step", "-1"], ["--seed", "-1"], ["--price-per-replica-hour", "free"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    assert caught.value.code == 2
    assert "usage: warmswap simulate-scaling" in capsys.readouterr().err


def test_results_of_something_else_are_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text('{"benchmark": "cold"}')
    assert command("--redraw", "--out", tmp_path, "--json") == 2
    assert "it is of 'cold'" in json.loads(capsys.readouterr().err)["error"]["message"]


def figures_with(cost: float, cold: int, lost: int, waiting_s: float) -> dict[str, Any]:
    return {"cost": cost, "served_cold": cold, "lost": lost, "wait_total_s": waiting_s}


def test_sentences_say_what_the_figures_say() -> None:
    cold, warm = figures_with(2.0, 90, 10, 500.0), figures_with(7.0, 0, 0, 100.0)
    sentence = comparison_sentence("zero", "one", compare(cold, warm))
    assert sentence == (
        "one costs 5.00 more than zero, with 90 fewer served cold, 10 fewer lost and 400 s less of waiting: "
        "0.05 for each request spared."
    )
    back = comparison_sentence("one", "zero", compare(warm, cold))
    assert back == "zero costs 5.00 less than one, with 90 more served cold, 10 more lost and 400 s more of waiting."
    assert compare(cold, cold)["cost_per_spared"] is None
    assert compare(warm, figures_with(9.0, 5, 0, 0.0))["cost_per_spared"] is None  # more is paid, for worse
    assert "costs as much as" in comparison_sentence("zero", "same", compare(cold, cold))
    assert price_sentence(0.25) == (
        "At 0.25 an hour, one replica that is always warm costs 6.00 a day and 182 a month of 730 hours."
    )
