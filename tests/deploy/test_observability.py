"""Rules, dashboard and scrape configuration: tested by promtool, held to what a real replica exports, and run."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.pictures import COLLINS, HOPPER
from warmswap_client import FaceSwapClient
from warmswap_ensemble.routes import Rollout, Routes
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.metrics_text import render
from warmswap_ops.replica_state import ReplicaState
from warmswap_ops.rollout.rollout_metrics import rollout_families
from warmswap_ops.rollout.state_file import replace_routes

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/observability"
CHART_FILES = ROOT / "deploy/kubernetes/chart/files"
WAIT_S = 60.0

FROM_OTHERS = {
    "kube_job_status_failed": "kube-state-metrics",
    "kube_horizontalpodautoscaler_status_current_replicas": "kube-state-metrics",
    "kube_horizontalpodautoscaler_status_desired_replicas": "kube-state-metrics",
    "kube_horizontalpodautoscaler_spec_max_replicas": "kube-state-metrics",
}
AFTER_AN_EVENT = {
    "warmswap_not_ready_reason": "only while a replica is not ready",
    "warmswap_stage_restarts_total": "only after a restart",
}
DURING_A_ROLLOUT = {"warmswap_rollout_share", "warmswap_rollout_watched", "warmswap_pinned_version"}
WORDS = re.compile(r"\b[a-z][a-z0-9_]*_[a-z0-9_]+\b(?!\s*\()")
"""Metric names have an underscore; what a bracket follows is a function."""


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    board = json.loads((FOLDER / "dashboard.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [target["expr"] for panel in panels() for target in panel["targets"]]


def metric_names(expression: str) -> set[str]:
    """Return the metrics of an expression: without strings, label lists and our own recording rules."""
    text = re.sub(r'"[^"]*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\b(?:by|on|without)\s*\([^)]*\)|\bwarmswap:[a-z0-9_:]+", "", text)
    return set(WORDS.findall(text))


def test_metric_names_are_found() -> None:
    text = 'sum by (a_b) (rate(nv_x_total{model_name="a_b"}[5m])) / on (c_d) warmswap:own:rate > avg_over_time(y_z[1m])'
    assert metric_names(text) == {"nv_x_total", "y_z"}


@pytest.mark.parametrize(
    "arguments", [("check", "rules", "rules.yml"), ("test", "rules", "tests/rules_test.yml")], ids=["check", "test"]
)
def test_promtool(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_sees_a_threshold_that_moved(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/rules_test.yml").write_bytes((FOLDER / "tests/rules_test.yml").read_bytes())
    changed = (
        (FOLDER / "rules.yml")
        .read_text()
        .replace("warmswap_time_to_ready_seconds > 60", "warmswap_time_to_ready_seconds > 600")
    )
    (tmp_path / "rules.yml").write_text(changed)
    done = subprocess.run(
        ["promtool", "test", "rules", "tests/rules_test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "WarmswapStartOverBudget" in done.stdout + done.stderr


def test_every_alert_is_seen_firing_and_quiet() -> None:
    tests = yaml.safe_load((FOLDER / "tests/rules_test.yml").read_text())["tests"]
    seen: dict[str, set[bool]] = {}
    for case in tests:
        for row in case.get("alert_rule_test", []):
            seen.setdefault(row["alertname"], set()).add(bool(row["exp_alerts"]))
    assert seen == {alert["alert"]: {True, False} for alert in alerts()}


def test_every_alert_has_a_runbook_and_says_what_it_means() -> None:
    sections = re.findall(r"^### (\w+)$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(alert["alert"] for alert in alerts())
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"README.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert {"summary", "description"} <= set(alert["annotations"])


@pytest.mark.parametrize("name", ["rules.yml", "dashboard.json"])
def test_chart_ships_the_same(name: str) -> None:
    assert (CHART_FILES / name).read_bytes() == (FOLDER / name).read_bytes()


def test_dashboard_is_what_its_program_makes() -> None:
    spec = importlib.util.spec_from_file_location("warmswap_dashboard", FOLDER / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert (FOLDER / "dashboard.json").read_text() == module.text()


def test_dashboard_can_be_provisioned_as_it_is() -> None:
    board = json.loads((FOLDER / "dashboard.json").read_text())
    assert board["id"] is None
    assert board["uid"]
    assert board["panels"][0]["title"] == "Cold starts"
    assert "__inputs" not in board
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
        assert panel["targets"]


@pytest.fixture(scope="module")
def replica() -> Iterator[LocalTriton]:
    with LocalTriton(ROOT / "model_repository") as running, FaceSwapClient(f"grpc://{running.grpc_url}") as client:
        for _ in range(3):
            client.swap(COLLINS, HOPPER)
        client.analyze(HOPPER)
        yield running


@pytest.mark.triton
def test_every_metric_is_one_that_a_replica_exports(replica: LocalTriton) -> None:
    with urllib.request.urlopen(replica.metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    exported = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}
    known = {family.name for family in ReplicaState().families(ready=False)}  # those without a series are left out
    used = set().union(*map(metric_names, expressions()))
    assert used - exported - FROM_OTHERS.keys() - AFTER_AN_EVENT.keys() - DURING_A_ROLLOUT == set()
    assert set(AFTER_AN_EVENT) <= known
    assert (set(FROM_OTHERS) | set(AFTER_AN_EVENT)) <= used


def test_metrics_of_rollouts_are_those_that_a_replica_has_during_one(tmp_path: Path) -> None:
    rollout = Rollout("r1", {"face_swap": (1, 2)}, share=0.5)
    replace_routes(tmp_path, Routes(1, {"face_swap": 1}, rollout), 0)
    families = {family.name: family for family in rollout_families(tmp_path)}
    assert families.keys() - {"warmswap_served_version"} == DURING_A_ROLLOUT
    assert set().union(*map(metric_names, expressions())) >= families.keys()
    text = render(list(families.values()))
    for rule in alerts():  # labels that a rule keeps must be there
        for name in metric_names(rule["expr"]) & DURING_A_ROLLOUT:
            kept = {label for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in labels.split(", ")}
            (line,) = (line for line in text.splitlines() if line.startswith(f"{name}{{"))
            assert kept - {"job"} <= set(re.findall(r'(\w+)="', line)), rule["alert"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def prometheus(replica: LocalTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus that scrapes the replica every second; returns its URL."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / "rules.yml")]
    target = f"127.0.0.1:{replica.ports.metrics}"
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    shortened = (FOLDER / "rules.yml").read_text().replace("interval: 15s", "interval: 1s")
    (folder / "rules.yml").write_text(shortened)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(WAIT_S)


def ask(url: str, path: str) -> Any:
    with urllib.request.urlopen(url + path, timeout=10) as answer:
        return json.loads(answer.read())["data"]


@pytest.mark.triton
def test_a_real_prometheus_evaluates_the_rules_and_a_healthy_replica_alarms_nobody(
    replica: LocalTriton, prometheus: str
) -> None:
    deadline_s = time.monotonic() + WAIT_S
    evaluated: list[dict[str, Any]] = []
    recorded: list[Any] = []
    while time.monotonic() < deadline_s:
        time.sleep(0.5)
        with FaceSwapClient(f"grpc://{replica.grpc_url}") as client:
            client.swap(COLLINS, HOPPER)
        try:
            groups = ask(prometheus, "/api/v1/rules")["groups"]
            recorded = ask(prometheus, "/api/v1/query?query=warmswap:request_seconds:mean1m")["result"]
        except OSError:  # it is not up yet
            continue
        evaluated = [rule for group in groups for rule in group["rules"]]
        if recorded and evaluated and all(rule["health"] == "ok" for rule in evaluated):
            break
    assert {rule["name"] for rule in evaluated} == {rule.get("alert") or rule["record"] for rule in rules()}
    assert {rule["health"] for rule in evaluated} == {"ok"}
    means = {row["metric"]["model"]: float(row["value"][1]) for row in recorded}
    assert 0 < means["face_swap"] < WAIT_S
    loud = {rule["name"] for rule in evaluated if rule.get("state") == "firing"}
    assert loud <= {"WarmswapColdRequestServed", "WarmswapFirstRequestSlow"}  # on a busy machine that may be the truth
