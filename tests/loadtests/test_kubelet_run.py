"""Scenarios with real replicas behind the real Envoy, with the rendered manifest in shorter times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pictures import ROOT
from tests.e2e.repositories import REPOSITORY
from tests.ops.serve_process import processes_with
from warmswap_client.cli import main
from warmswap_loadtests.cold.charts import DARK
from warmswap_loadtests.kubelet.bench import read_results, with_figures, write_results
from warmswap_loadtests.kubelet.charts import render_chart
from warmswap_loadtests.kubelet.clients import KINDS, PROTOCOLS, RETRYING, make_streams
from warmswap_loadtests.kubelet.cluster import Delays
from warmswap_loadtests.kubelet.events import Kind
from warmswap_loadtests.kubelet.figures import summarise
from warmswap_loadtests.kubelet.pod_spec import DeploymentSpec, read_manifest
from warmswap_loadtests.kubelet.run import Setting, measure
from warmswap_loadtests.kubelet.scenarios import SCENARIOS, Sort, corrupt_repository, find_scenarios
from warmswap_loadtests.kubelet.table import kubelet_lines
from warmswap_loadtests.payloads import golden_payload

MANIFEST = ROOT / "deploy/kubernetes/rendered/cpu/manifests.yaml"
RUNS = ROOT / "docs/benchmarks/kubelet/kubelet.json"


def short_spec() -> DeploymentSpec:
    """The manifest, with less time for people and networks to notice."""
    spec = read_manifest(MANIFEST)
    return replace(spec, min_ready_s=1.0, pod=replace(spec.pod, pre_stop_s=2.0))


def run(name: str, tmp_path: Path) -> dict[str, Any]:
    repository = tmp_path / "model_repository"
    repository.symlink_to(REPOSITORY)
    [scenario] = find_scenarios([name])
    spec = short_spec()
    setting = Setting(
        spec,
        repository,
        make_streams(PROTOCOLS),
        golden_payload(repository),
        rate_per_s=3.0,
        timeout_s=60.0,
        delays=Delays(endpoint_lag_s=0.5, pod_start_s=0.2, back_off_scale=0.1),
    )
    seen = measure(setting, scenario.change(spec), scenario.script, tmp_path / "run", nodes=scenario.nodes)
    assert processes_with(str(tmp_path)) == []
    return {"text": scenario.text, "sort": scenario.sort.value, **seen}


def kinds(seen: dict[str, Any], pod: str) -> list[str]:
    return [event["kind"] for event in seen["events"] if event["pod"] == pod]


@pytest.mark.triton
def test_a_rolling_update_loses_nothing(tmp_path: Path) -> None:
    seen = run("rolling-update", tmp_path)
    figures = summarise(seen)
    assert (figures["failed"], figures["verdict"]) == (0, ""), [r for r in seen["requests"] if r["failure"]]
    assert {(r["protocol"], r["client"]) for r in seen["requests"]} == {(p, k) for p in PROTOCOLS for k in KINDS}
    assert {r["attempts"][-1]["pod"] for r in seen["requests"]} >= {"r1-0", "r1-1"}
    assert [pod["exit_codes"] for pod in seen["pods"]] == [[0], [0], [], []]
    for pod in ("r1-0", "r1-1"):
        order = [kind for kind in kinds(seen, pod) if kind in (Kind.DELETED, Kind.UNROUTED, Kind.SIGTERM, Kind.GONE)]
        assert order == [Kind.DELETED, Kind.UNROUTED, Kind.SIGTERM, Kind.GONE]
    assert len(figures["time_to_ready_s"]) == len(figures["drain_s"]) == 2


@pytest.mark.triton
def test_a_pod_that_is_deleted_while_it_loads_ends_at_once(tmp_path: Path) -> None:
    seen = run("delete-during-start", tmp_path)
    assert summarise(seen)["failed"] == 0
    assert seen["pods"][2]["exit_codes"] == [0]
    assert not {Kind.STARTUP_OK, Kind.READY, Kind.SIGKILL} & set(kinds(seen, "r1-2"))


@pytest.mark.triton
def test_a_corrupt_model_stops_the_rollout_and_costs_nothing(tmp_path: Path) -> None:
    seen = run("broken-update", tmp_path)
    assert summarise(seen)["failed"] == 0
    assert seen["notes"] == {"old_pods_serving": 2}
    broken = seen["pods"][2]
    assert broken["exit_codes"] == [4, 4, 4]  # the repository is at fault
    assert "back-off" in kinds(seen, "r2-0")
    assert Kind.READY not in kinds(seen, "r2-0")
    why = next(event["detail"] for event in seen["events"] if event["kind"] == Kind.EXITED)
    assert "face_swapper" in why
    assert Kind.DELETED not in kinds(seen, "r1-0") + kinds(seen, "r1-1")


@pytest.mark.triton
def test_the_death_of_a_model_process_costs_what_was_sent_there_and_retries_save_it(tmp_path: Path) -> None:
    seen = run("stub-killed", tmp_path)
    figures = summarise(seen)
    assert figures["verdict"] == "", [r for r in seen["requests"] if r["failure"]]
    assert seen["notes"]["in_work"] > 0
    assert all(r["failure"] is None for r in seen["requests"] if r["client"] == RETRYING)
    assert [pod["restarts"] for pod in seen["pods"]] == [0, 0]  # it mends itself
    assert Kind.NOT_READY in kinds(seen, "r1-0")


def test_every_scenario_has_a_name_of_its_own_and_some_must_lose() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert {scenario.sort for scenario in SCENARIOS} == set(Sort)
    assert [scenario.name for scenario in find_scenarios(["crash", "scale-in"])] == ["scale-in", "crash"]


def test_a_corrupt_repository_differs_in_its_graphs_alone(tmp_path: Path) -> None:
    corrupt = corrupt_repository(REPOSITORY, tmp_path / "corrupt")
    assert (corrupt / "face_detector").resolve() == (REPOSITORY / "face_detector").resolve()
    graphs = sorted(path.relative_to(corrupt) for path in (corrupt / "face_swapper").rglob("*.onnx"))
    assert graphs
    assert all((corrupt / graph).read_bytes() != (REPOSITORY / graph).read_bytes() for graph in graphs)
    assert (corrupt / "face_swapper/config.pbtxt").read_bytes() == (
        REPOSITORY / "face_swapper/config.pbtxt"
    ).read_bytes()


def results_of(*losses: dict[str, Any], sort: Sort) -> dict[str, Any]:
    """A small run, with what the benchmark adds."""
    good: dict[str, Any] = {"due_s": 0.5, "latency_ms": 80.0, "protocol": "http", "client": "plain", "failure": None}
    good |= {"attempts": [{"pod": "r1-0", "sent_s": 0.5, "status": 200, "flags": "-", "tries": 1}]}
    events: list[dict[str, Any]] = [
        {"time_s": time_s, "kind": kind.value, "pod": "r1-0", "detail": "<words>"}
        for time_s, kind in ((-5, Kind.CREATED), (-4, Kind.STARTED), (-3, Kind.READY), (-2, Kind.ROUTED))
    ]
    events.append({"time_s": 2.0, "kind": Kind.FAULT.value, "pod": "r1-0", "detail": "SIGKILL"})
    seen = {
        "text": "a <pod> dies",
        "sort": sort.value,
        "event_s": 1.0,
        "seconds": 6.0,
        "requests": [good, *losses],
        "events": events,
        "pods": [{"name": "r1-0", "revision": 1, "node": "node-a", "restarts": 0, "exit_codes": [137]}],
        "faults": {"r1-0": 2.0},
        "notes": {},
        "probes_sent": 7,
        "probes_failed": 1,
        "generator_lag_ms": 1.0,
    }
    machine: dict[str, Any] = {"processor": "one", "cores": 2, "memory_gb": 1.0, "system": "Linux"}
    settings = {
        "manifest": "m.yaml",
        "rate_per_s": 3.0,
        "timeout_s": 30.0,
        "protocols": ["http", "grpc"],
        "delays": {"endpoint_lag_s": 1.5},
        "median_ms": 80.0,
        "capacity_per_s": 12.0,
        "busy_before_percent": 1.0,
        "isolation": "none",
    }
    facts = {"time": "2026", "git_commit": "abc", "command": "warmswap", "took_s": 60, "versions": {"triton": "1"}}
    return {**facts, "machine": machine, "settings": settings, "runs": {"crash": seen}, "errors": {}}


LOST = {
    "due_s": 1.9,
    "latency_ms": 200.0,
    "protocol": "grpc",
    "client": "plain",
    "failure": "failed: <gone>",
    "attempts": [{"pod": "r1-0", "sent_s": 1.9, "status": 503, "flags": "UC", "tries": 1}],
}


def test_results_are_written_read_again_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = with_figures(results_of(LOST, sort=Sort.UNPLANNED))
    assert results["wrong"] == []
    paths = write_results(results, tmp_path)
    assert [path.name for path in paths] == ["kubelet.json", "crash.png", "kubelet.html"]
    assert (tmp_path / "crash.png").read_bytes().startswith(b"\x89PNG")
    assert render_chart("crash", results, DARK) != (tmp_path / "crash.png").read_bytes()
    page = (tmp_path / "kubelet.html").read_text(encoding="utf-8")
    assert "a &lt;pod&gt; dies" in page
    assert "failed: &lt;gone&gt;" in page
    assert read_results(tmp_path) == json.loads(json.dumps(results))
    assert main(["bench", "kubelet", "--redraw", "--out", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "\n".join(kubelet_lines(results)) in table
    line = next(line for line in table.splitlines() if line.startswith("crash"))
    assert "1+0" in line
    assert "as allowed" in line


def test_a_loss_in_a_planned_event_is_wrong_and_ends_with_code_1(tmp_path: Path) -> None:
    results = with_figures(results_of(LOST, sort=Sort.PLANNED))
    assert "crash: lost 1 that should not be lost" in results["wrong"][0]
    write_results(results, tmp_path)
    assert main(["bench", "kubelet", "--redraw", "--out", str(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", "flood"], "there is no scenario 'flood', expected one of rolling-update"),
        (["--manifest", "nowhere.yaml"], "cannot read the manifest nowhere.yaml"),
        (["--repository", "nowhere"], "nowhere is no repository"),
        (["--redraw"], "--redraw needs --out"),
        (["--redraw", "--out", "nowhere"], "nowhere/kubelet.json has no results"),
    ],
)
def test_what_is_missing_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["bench", "kubelet", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_committed_run_shows_what_it_should() -> None:
    results = read_results(RUNS.parent)
    assert results["wrong"] == []
    assert set(results["runs"]) == {scenario.name for scenario in SCENARIOS}
    for run in results["runs"].values():
        if run["sort"] == Sort.PLANNED:
            assert all(request["failure"] is None for request in run["requests"])
