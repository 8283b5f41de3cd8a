"""The report: figures and charts in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from warmswap_loadtests.cold.charts import DARK, LIGHT
from warmswap_loadtests.cold.report import STYLE
from warmswap_loadtests.kubelet.charts import render_chart
from warmswap_loadtests.kubelet.figures import whereabouts
from warmswap_loadtests.kubelet.table import HEADS, legend, row


def report_page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    return "\n".join(_page(results)) + "\n"


def _page(results: Mapping[str, Any]) -> Iterator[str]:
    title = "What the kubelet does to replicas under load"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{STYLE} td, th {{ font-size: .86rem; }}</style></head><body>"
    yield f"<h1>{title}</h1>"
    yield f'<p class="soft">{escape(results["time"])}, commit {escape(str(results["git_commit"]))}</p>'
    settings = results["settings"]
    yield (
        "<p>No cluster: a harness does to real <code>warmswap serve</code> processes what kubelet, Deployment "
        f"controller and endpoint controller do, as {escape(settings['manifest'])} says. Envoy knows ready pods, "
        f"{settings['delays']['endpoint_lag_s']:g} s late, and nothing else: it does not probe. Requests arrive at a "
        "constant rate whatever became of those before. Pods, Envoy and clients share the cores of one machine, so a "
        "starting pod takes CPU from those that serve: latencies are recorded, not judged.</p>"
    )
    yield '<div class="scroll"><table><thead><tr>' + "".join(f"<th>{escape(head)}</th>" for head in HEADS)
    yield "</tr></thead><tbody>"
    for name in results["runs"]:
        first, *others = row(name, results)
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        yield f'<tr><th><a href="#{escape(name)}">{escape(first)}</a></th>{cells}</tr>'
    yield "</tbody></table></div>"
    yield "".join(f'<p class="soft">{escape(line)}</p>' for line in legend())
    yield "".join(f"<p><strong>{escape(text)}</strong></p>" for text in results["wrong"])
    for name, run in results["runs"].items():
        yield from _scenario(name, run, results)
    yield from _conditions(results)
    yield "</body></html>"


def _scenario(name: str, run: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(name)}">{escape(name)}</h2>'
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(render_chart(name, results, theme)).decode()}"
        for theme in (LIGHT, DARK)
    )
    yield (
        f'<p><picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{escape(run["text"])}: latency of each request, states of the pods"></picture></p>'
    )
    lost = [request for request in run["requests"] if request["failure"] is not None]
    if lost:
        yield "<details><summary>what was lost</summary><ul>"
        for request in lost:
            words = f"{request['due_s']:.2f} s, {request['protocol']}, {request['client']}: {request['failure']}"
            yield f"<li>{escape(words)} ({escape(whereabouts(request, run))})</li>"
        yield "</ul></details>"
    yield "<details><summary>what happened</summary><ul>"
    for event in run["events"]:
        words = " ".join(filter(None, (event["kind"], event["pod"], event["detail"])))
        yield f"<li>{event['time_s']:.2f} s: {escape(words)}</li>"
    yield "</ul></details>"


def _conditions(results: Mapping[str, Any]) -> Iterator[str]:
    machine, settings = results["machine"], results["settings"]
    facts = {
        "command": results["command"],
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}",
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "two pods at rest": f"{settings['median_ms']:g} ms, {settings['capacity_per_s']:g} requests/s",
        "cores busy with other things beforehand": f"{settings['busy_before_percent']:.0f} %",
        "isolation": settings["isolation"],
        "duration": f"{results['took_s'] / 60:.0f} minutes",
    }
    yield "<h2>Conditions</h2><dl>"
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
