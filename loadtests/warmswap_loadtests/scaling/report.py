"""The report: figures, answers and charts in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from warmswap_loadtests.cold.charts import DARK, LIGHT
from warmswap_loadtests.cold.report import STYLE
from warmswap_loadtests.scaling.charts import cost_chart, timeline_chart
from warmswap_loadtests.scaling.table import HEADS, NOTE, scale_text, span, table_rows


def report_page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    return "\n".join(_page(results)) + "\n"


def _page(results: Mapping[str, Any]) -> Iterator[str]:
    settings = results["settings"]
    title = f"Scaling, trace {escape(settings['trace'])}{scale_text(settings['scale'])}"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{STYLE}</style></head><body>"
    yield f"<h1>{title}</h1>"
    yield f'<p class="soft">{escape(results["time"])}, commit {escape(str(results["git_commit"]))}</p>'
    yield (
        "<p>A simulation, not a measurement: the autoscalers' formulas and the phases of a pod's start, over "
        f"{settings['requests']:,} requests in {span(settings['seconds'])}. Only the times from exec to ready and of "
        "one request were measured; all other phases are assumptions, listed below.</p>"
    )
    yield '<div class="scroll"><table><thead><tr>' + "".join(f"<th>{escape(head)}</th>" for head in HEADS)
    yield "</tr></thead><tbody>"
    for first, *others in table_rows(results):
        yield f"<tr><th>{escape(first)}</th>" + "".join(f"<td>{escape(text)}</td>" for text in others) + "</tr>"
    yield f'</tbody></table></div><p class="soft">{escape(NOTE)}</p>'
    yield "<h2>What a warm replica costs, and what it saves</h2><ul>"
    yield "".join(f"<li>{escape(sentence)}</li>" for sentence in results["answers"]) + "</ul>"
    for chart, text in ((timeline_chart, "Replicas and backlog over time"), (cost_chart, "Cost against waiting")):
        light, dark = (f"data:image/png;base64,{base64.b64encode(chart(results, t)).decode()}" for t in (LIGHT, DARK))
        yield f'<p><picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        yield f'<img src="{light}" alt="{text}"></picture></p>'
    yield from _policies(results)
    yield from _conditions(results)
    yield "</body></html>"


def _policies(results: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Policies</h2><dl>"
    for name, policy in results["policies"].items():
        start, cluster = policy["settings"]["start"], policy["settings"]["cluster"]
        measured = policy["measured"]
        image_s = start["pre_pulled_s"] if start["pre_pulled"] else start["image_pull_s"]
        yield f"<dt>{escape(name)}</dt><dd>{escape(policy['summary'])}.<br>"
        yield (
            f'<span class="soft">{escape(policy["contender"])}, pack {escape(policy["pack"])}: exec to ready '
            f"{measured['ready_s']:g} s, a request {measured['steady_s']:g} s, the first {measured['first_s']:g} s "
            f"({escape(measured['source'])}). Assumed: schedule {start['schedule_s']:g} s, image {image_s:g} s, "
            f"container {start['container_create_s']:g} s, probe every {start['readiness_period_s']:g} s, endpoints "
            f"{start['endpoints_s']:g} s, a new node {cluster['node_provision_s']:g} s, "
            f"{cluster['placeholders']} placeholders.</span></dd>"
        )
    yield "</dl>"


def _conditions(results: Mapping[str, Any]) -> Iterator[str]:
    settings = results["settings"]
    facts = {
        "command": results["command"],
        "trace": f"{settings['trace']}{scale_text(settings['scale'])}, from {settings['begin']}, "
        f"{settings['peak_rate']:g} requests a second at most",
        "arrivals": f"Poisson, seed {settings['seed']}, the same for all policies; steps of {settings['step_s']:g} s",
        "price": f"{settings['price_per_hour']:g} per replica and hour, an example unless you gave your own",
        "duration": f"{results['took_s']:g} s",
    }
    yield "<h2>Conditions</h2><dl>"
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
