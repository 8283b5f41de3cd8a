"""The report: the figures and the chart in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from warmswap_loadtests.avalanche.charts import render_chart
from warmswap_loadtests.avalanche.table import PHASE_TEXTS, cold_definition, failures, table_rows
from warmswap_loadtests.cold.charts import DARK, LIGHT
from warmswap_loadtests.cold.report import STYLE


def report_page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    return "\n".join(_page(results)) + "\n"


def _page(results: Mapping[str, Any]) -> Iterator[str]:
    title = f"New replicas under load, pack {escape(results['settings']['pack'])}"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{STYLE}</style></head><body>"
    yield f"<h1>{title}</h1>"
    yield f'<p class="soft">{escape(results["time"])}, commit {escape(str(results["git_commit"]))}</p>'
    yield from _introduction(results)
    yield from _table(results)
    yield from _failures(results)
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(render_chart(results, theme)).decode()}" for theme in (LIGHT, DARK)
    )
    yield (
        f'<p><picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="Latency of each request over time, and the replicas"></picture></p>'
    )
    yield from _replicas(results)
    yield from _conditions(results)
    yield "</body></html>"


def _introduction(results: Mapping[str, Any]) -> Iterator[str]:
    settings = results["settings"]
    yield (
        "<p>One warm replica stands behind Envoy: active probes of the replica's own readiness, least requests, slow "
        "start, retries, the same configuration for each set-up. Requests arrive whatever became of those before them, "
        f"{settings['base_rate']:g} a second and {settings['spike_rate']:g} in the spike; a client waits "
        f"{settings['timeout_s']:g} s. An autoscaler adds a replica, one in {settings['scale_up_period_s']:g} s, "
        f"while more than {settings['target_in_flight']:g} requests per replica are in work; a pod takes "
        f"{settings['pod_start_s']:g} s from its decision to exec. All replicas share the cores of one machine: they "
        "do not add capacity, and one that starts takes cores from the others. What is shown is how new replicas are "
        "given traffic.</p><dl>"
    )
    for phase, text in PHASE_TEXTS.items():
        yield f"<dt>{escape(phase)}, from {settings['phases'][phase]:.0f} s</dt><dd>{escape(text)}</dd>"
    for name, run in results["runs"].items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(run['summary'])}.</dd>"
    yield "</dl>"


def _table(results: Mapping[str, Any]) -> Iterator[str]:
    yield '<div class="scroll"><table><thead><tr><th></th>'
    yield "".join(f"<th>{escape(name)}</th>" for name in results["figures"])
    yield "</tr></thead><tbody>"
    for label, values in table_rows(results):
        yield f"<tr><th>{escape(label)}</th>" + "".join(f"<td>{escape(value)}</td>" for value in values) + "</tr>"
    yield f'</tbody></table></div><p class="soft">{escape(cold_definition())}</p>'


def _failures(results: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (name, phase, kind, str(count))
        for name, figures in results["figures"].items()
        for phase, kind, count in failures(figures)
    ]
    if rows:
        yield "<h2>What failed</h2>"
        yield from _rows(("set-up", "phase", "kind", "requests"), rows)


def _replicas(results: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Replicas that were started in the run</h2>"
    keys = ("ordered_s", "exec_to_rotation_s", "exec_to_first_answer_s", "first_request_ms", "cold", "requests")
    heads = ("", "ordered", "exec to rotation", "exec to first answer", "first request", "cold", "requests")
    units = {"ordered_s": " s", "exec_to_rotation_s": " s", "exec_to_first_answer_s": " s", "first_request_ms": " ms"}
    rows = [
        (
            f"{name} {replica['name']}",
            *("never" if replica[key] is None else f"{replica[key]:g}{units.get(key, '')}" for key in keys),
        )
        for name, figures in results["figures"].items()
        for replica in figures["replicas"]
    ]
    yield from _rows(heads, rows)


def _rows(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield '<div class="scroll"><table><thead><tr>' + "".join(f"<th>{escape(head)}</th>" for head in heads)
    yield "</tr></thead><tbody>"
    for first, *others in rows:
        yield f"<tr><th>{escape(first)}</th>" + "".join(f"<td>{escape(text)}</td>" for text in others) + "</tr>"
    yield "</tbody></table></div>"


def _conditions(results: Mapping[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    rest = (
        f"{name}: {figures['median_ms']:g} ms, {figures['capacity_per_s']:g} requests/s"
        for name, figures in results["rest"].items()
    )
    lag_ms = max(run["generator_lag_ms"] for run in results["runs"].values())
    facts = {
        "command": results["command"],
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}",
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "request": results["settings"]["request"],
        "one replica at rest": "; ".join(rest),
        "generator": f"at most {lag_ms:.0f} ms late",
        "cores busy with other things beforehand": ", ".join(
            f"{run['busy_before_percent']:.0f} %" for run in results["runs"].values()
        ),
        "duration": f"{results['took_s'] / 60:.0f} minutes",
    }
    yield "<h2>Conditions</h2><dl>"
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
