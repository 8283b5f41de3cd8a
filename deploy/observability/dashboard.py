"""Make dashboard.json: `python deploy/observability/dashboard.py`. A test holds the two equal.

Rows from top to bottom: is anything cold, what goes through, how long it takes, what scales, what is rolled out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

TARGET: Final = Path(__file__).with_name("dashboard.json")
WIDTH: Final = 24
HEIGHT: Final = 7
STAGES: Final = 'model=~"face_.*"'
PIPELINES: Final = 'model=~"face_swap|face_analysis"'


@dataclass(frozen=True)
class Panel:
    """One picture; ``queries`` are expression and legend."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    meaning: str
    kind: str = "timeseries"
    stacked: bool = False


def per_request(counter: str, per: str = "nv_inference_request_success", scale: str = "") -> str:
    """Return the mean of a counter per request, by model; sums of rates, so that little traffic does not look fast."""
    return f"sum by (model) (rate({counter}{{{STAGES}}}[1m])){scale} / sum by (model) (rate({per}{{{STAGES}}}[1m]))"


HITS: Final = "sum(rate(warmswap_source_cache_hits_total[5m]))"
MISSES: Final = "sum(rate(warmswap_source_cache_misses_total[5m]))"

ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Cold starts",
        (
            Panel(
                "Ready replicas",
                "short",
                (("sum(warmswap_ready)", "ready"),),
                "Replicas that answered their golden request.",
                "stat",
            ),
            Panel(
                "Cold requests, last hour",
                "short",
                (("sum(increase(warmswap_cold_requests_total[1h]))", "cold"),),
                "First requests slower than twice the median. Should be 0.",
                "stat",
            ),
            Panel(
                "Exec to ready",
                "s",
                (
                    ("warmswap_time_to_live_seconds", "{{instance}} ports open"),
                    ("warmswap_time_to_ready_seconds", "{{instance}} ready"),
                ),
                "Of each replica's first start.",
            ),
            Panel(
                "First request against the median",
                "s",
                (
                    ("warmswap_first_request_seconds", "{{instance}} {{model_instance}} first"),
                    ("warmswap_request_median_seconds", "{{instance}} {{model_instance}} median"),
                ),
                "Twice the median is cold.",
            ),
            Panel(
                "Load and warm-up by model",
                "s",
                (('max by (model, phase) (warmswap_model_load_seconds{phase!="total"})', "{{model}} {{phase}}"),),
                "The slowest replica.",
                stacked=True,
            ),
            Panel(
                "Not ready, and why",
                "short",
                (("sum by (reason, model) (warmswap_not_ready_reason)", "{{reason}} {{model}}"),),
                "The sentence is in the log.",
            ),
        ),
    ),
    (
        "Traffic",
        (
            Panel(
                "Requests per second",
                "reqps",
                ((f"sum by (model) (rate(nv_inference_request_success{{{PIPELINES}}}[1m]))", "{{model}}"),),
                "Answered; the warm-up counts too.",
            ),
            Panel(
                "Requests that wait",
                "short",
                ((f"sum by (instance) (nv_inference_pending_request_count{{{PIPELINES}}})", "{{instance}}"),),
                "Not those in work.",
            ),
            Panel(
                "Errors per second",
                "reqps",
                (("sum by (code) (rate(warmswap_request_errors_total[5m]))", "{{code}}"),),
                "By the code of the answer; what Triton refuses for a full queue is in no metric.",
            ),
        ),
    ),
    (
        "Latency",
        (
            Panel(
                "Mean time of a request, by model",
                "s",
                (
                    (
                        per_request("nv_inference_request_duration_us", scale=" / 1e6"),
                        "{{model}}",
                    ),
                ),
                "Queue and computation, at the server.",
            ),
            Panel(
                "Mean time in the queue",
                "s",
                (
                    (
                        per_request("nv_inference_queue_duration_us", scale=" / 1e6"),
                        "{{model}}",
                    ),
                ),
                "What more replicas would save.",
            ),
            Panel(
                "Batch size",
                "short",
                (
                    (
                        per_request("nv_inference_count", "nv_inference_exec_count"),
                        "{{model}}",
                    ),
                ),
                "Faces, or frames, per run.",
            ),
        ),
    ),
    (
        "Replicas",
        (
            Panel(
                "Replicas wanted and there",
                "short",
                (
                    ("sum(kube_horizontalpodautoscaler_status_desired_replicas)", "wanted"),
                    ("sum(kube_horizontalpodautoscaler_status_current_replicas)", "there"),
                    ("sum(warmswap_ready)", "ready"),
                ),
                "The gap is what users wait for; needs kube-state-metrics.",
            ),
            Panel(
                "Restarts because of a model",
                "short",
                (("sum by (model, reason) (increase(warmswap_stage_restarts_total[1h]))", "{{model}} {{reason}}"),),
                "In the last hour.",
            ),
            Panel(
                "Memory by model",
                "bytes",
                (("avg by (model) (warmswap_model_memory_bytes)", "{{model}}"),),
                "Of a replica, on average; shared pages counted in part.",
                stacked=True,
            ),
            Panel(
                "Sources found in the cache",
                "percentunit",
                (
                    (
                        f"{HITS} / ({HITS} + {MISSES})",
                        "hits",
                    ),
                ),
                "Each hit saves a detection and an embedding.",
            ),
            Panel(
                "Clock skew",
                "s",
                (("timestamp(warmswap_clock_seconds) - warmswap_clock_seconds", "{{instance}}"),),
                "Against Prometheus.",
            ),
            Panel(
                "Versions",
                "short",
                (
                    (
                        "count by (version, triton, onnxruntime) (warmswap_build_info)",
                        "{{version}} / {{triton}} / {{onnxruntime}}",
                    ),
                ),
                "More than one during a rollout.",
            ),
        ),
    ),
    (
        "Rollouts",
        (
            Panel(
                "Answered by a candidate",
                "percentunit",
                (("max by (rollout, model, version) (warmswap_rollout_share)", "{{model}} {{version}}, {{rollout}}"),),
                "0 where nobody leads the rollout, and before and after the steps of its plan.",
            ),
            Panel(
                "Replicas by the version that answers",
                "short",
                (('count_values by (model) ("answers", warmswap_served_version)', "{{model}} {{answers}}"),),
                "Two lines for one model: replicas differ.",
            ),
            Panel(
                "Pinned versions",
                "short",
                (
                    ("max by (model) (warmswap_pinned_version)", "{{model}}"),
                    ("count by (rollout) (warmswap_rollout_watched == 0)", "replicas whose {{rollout}} nobody leads"),
                ),
                "Pins that are needed: during a rollout, and where the highest version is not the one that answers.",
            ),
            Panel(
                "Requests per second, by release",
                "reqps",
                (
                    (
                        f"sum by (_release, model) (rate(nv_inference_request_success{{{PIPELINES}}}[1m]))",
                        "{{_release}} {{model}}",
                    ),
                ),
                "Old and new pods; the label is the chart's value release, else there is none.",
            ),
            Panel(
                "Mean time of a request, by release",
                "s",
                (
                    (
                        f"sum by (_release, model) (rate(nv_inference_request_duration_us{{{PIPELINES}}}[1m])) / 1e6"
                        f" / sum by (_release, model) (rate(nv_inference_request_success{{{PIPELINES}}}[1m]))",
                        "{{_release}} {{model}}",
                    ),
                ),
                "Queue and computation, at the server.",
            ),
            Panel(
                "Mean time of a request, by version",
                "s",
                (
                    (
                        f"sum by (model, version) (rate(nv_inference_request_duration_us{{{STAGES}}}[1m])) / 1e6"
                        f" / sum by (model, version) (rate(nv_inference_request_success{{{STAGES}}}[1m]))",
                        "{{model}} {{version}}",
                    ),
                ),
                "Second looks at a candidate count as requests to it.",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON."""
    ids = count(1)
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": next(ids),
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": _place(0, top, WIDTH, 1),
            }
        )
        top += 1
        width = WIDTH // 3
        for index, panel in enumerate(row):
            panels.append(_panel(next(ids), panel, _place(index % 3 * width, top + index // 3 * HEIGHT, width, HEIGHT)))
        top += -(-len(row) // 3) * HEIGHT
    return {
        "id": None,
        "uid": "warmswap",
        "title": "warmswap",
        "tags": ["warmswap", "triton"],
        "timezone": "utc",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "annotations": {"list": []},
        "links": [],
        "panels": panels,
    }


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 40} if panel.stacked else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": None if panel.unit == "s" else 0, "custom": custom},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind == "timeseries" else {},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": expr, "legendFormat": legend}
            for index, (expr, legend) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """Return the content of dashboard.json."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
