"""``report.html``: the figures and the charts in one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

from warmswap_loadtests.answers import MAX_DIFFERENCE_LEVELS
from warmswap_loadtests.cold.charts import LATENCY
from warmswap_loadtests.cold.figures import BASELINE, METRICS, STEADY_FACTOR, STEADY_WINDOW_S
from warmswap_loadtests.cold.table import SHARED_CORES, range_text, value_text

STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --soft: #59636e; --line: #d0d7de; --good: #0a6640; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --good: #4cc38a; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p, dd, li { max-width: 60rem; } .soft, td small, caption { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: right; vertical-align: top; }
th:first-child { text-align: left; font-weight: 500; } thead th { font-weight: 600; }
td small { display: block; white-space: nowrap; } td.best { color: var(--good); font-weight: 600; }
img { height: auto; max-width: 100%; } dt { font-weight: 600; } dd { margin: 0 0 .4rem; } code { font-size: .92em; }
"""


def write_report(results: Mapping[str, Any], light: Mapping[str, bytes], dark: Mapping[str, bytes], path: Path) -> Path:
    """Write the page and return its path.

    Args:
        results: What was measured.
        light: The charts by name, for light pages.
        dark: The same for dark ones.
        path: Where to.
    """
    path.write_text("\n".join(_page(results, light, dark)) + "\n", encoding="utf-8")
    return path


def _page(results: Mapping[str, Any], light: Mapping[str, bytes], dark: Mapping[str, bytes]) -> Iterator[str]:
    settings = results["settings"]
    title = f"Cold start, pack {escape(settings['pack'])}"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{STYLE}</style></head><body>"
    yield f"<h1>{title}</h1>"
    yield f'<p class="soft">{escape(results["time"])}, commit {escape(str(results["git_commit"]))}</p>'
    yield from _introduction(results)
    for state in dict.fromkeys(entry["page_cache"] for entry in results["summary"]):
        yield f"<h2>Page cache {escape(state)}</h2>"
        yield from _table(results, state)
    yield "<h2>Charts</h2>"
    for name, data in light.items():
        yield _picture(name, data, dark[name])
    yield from _definitions()
    yield from _conditions(results)
    yield "</body></html>"


def _introduction(results: Mapping[str, Any]) -> Iterator[str]:
    settings = results["settings"]
    yield (
        f"<p>Each contender is started in a fresh process, {settings['runs']} times, in turns with the others. From "
        f"exec on {settings['rate_per_s']:g} requests/s arrive for {settings['seconds']:g} s, equally far apart, "
        "whatever becomes of those before them. They are sent while the contender's own readiness probe, asked every "
        f"{settings['probe_period_s'] * 1e3:g} ms, says yes, as a Kubernetes Service does; others count as not routed. "
        f"A client waits {settings['timeout_s']:g} s. {SHARED_CORES}</p><dl>"
    )
    for item in results["contenders"]:
        prepared = item["prepared"]
        extra = f" Compiled beforehand in {prepared['compile_s']:.1f} s." if "compile_s" in prepared else ""
        yield f"<dt>{escape(item['name'])}</dt><dd>{escape(item['summary'])}.{extra}</dd>"
    yield "</dl>"


def _table(results: Mapping[str, Any], state: str) -> Iterator[str]:
    entries = [entry for entry in results["summary"] if entry["page_cache"] == state]
    yield '<div class="scroll"><table><thead><tr><th></th>'
    yield "".join(f"<th>{escape(entry['contender'])}</th>" for entry in entries)
    yield "</tr></thead><tbody>"
    for metric in METRICS:
        spreads = [entry["metrics"][metric.key] for entry in entries]
        medians = [spread["median"] for spread in spreads]
        known = [value for value in medians if value is not None]
        yield f"<tr><th>{escape(metric.label)}</th>"
        for spread in spreads:
            best = " class=best" if len(set(known)) > 1 and spread["median"] == min(known) else ""
            ratio = "" if spread["ratio"] is None else f", {spread['ratio']:.2f} of {BASELINE}'s"
            small = f"<small>{escape(range_text(metric, spread) + ratio)}</small>"
            yield f"<td{best}>{escape(value_text(metric, spread['median']))}{small}</td>"
        yield "</tr>"
    yield "</tbody></table></div>"
    yield f'<p class="soft">Median; below, least and most of the runs, and the ratio to {BASELINE}. Less is better.</p>'


def _picture(name: str, light: bytes, dark: bytes) -> str:
    urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in (light, dark)]
    what = "Latency of each request over time" if name.startswith(LATENCY) else "Phases up to the first answer"
    return (
        f'<p><picture><source srcset="{urls[1]}" media="(prefers-color-scheme: dark)">'
        f'<img src="{urls[0]}" alt="{what} ({escape(name)})"></picture></p>'
    )


def _definitions() -> Iterator[str]:
    yield (
        "<h2>What the figures mean</h2><ul>"
        "<li>Latency counts from the time at which a request was due, not from when it left. Max and p99 are over all "
        "routed requests of the window but failed ones; one that timed out counts with its time-out.</li>"
        f"<li>Correct: the answer is a picture and agrees with a reference within {MAX_DIFFERENCE_LEVELS:g} of 255 "
        "grey levels on average over the swapped pixels.</li>"
        "<li>Ready + first request: when a request that comes just as the contender is ready has its answer. The first "
        "correct answer depends on when the next arrival is due too.</li>"
        "<li>Steady median: of a closed loop of one client after the window. Steady state: from the first arrival on "
        f"with which {STEADY_WINDOW_S:g} s begin in which all are answered within {STEADY_FACTOR:g} times that.</li>"
        "<li>Peak RSS is the sum of the peaks of all processes of a contender, which counts shared pages more than "
        "once; PSS, taken after the window, counts them once.</li></ul>"
    )


def _conditions(results: Mapping[str, Any]) -> Iterator[str]:
    machine, settings = results["machine"], results["settings"]
    lag_ms = max(run["generator_lag_ms"] for run in results["runs"])
    caches = {f"{run['page_cache']}: {run['cache']['how']}" for run in results["runs"]}
    facts = {
        "command": results["command"],
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}",
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "request": settings["request"],
        "rate": f"{settings['rate_per_s']:g}/s; the preloading server at rest took "
        f"{settings['calibration']['steady_ms']:.0f} ms",
        "page cache": "; ".join(sorted(caches)),
        "generator": f"one event loop in a process of its own, at most {lag_ms:.0f} ms late",
        "duration": f"{results['took_s'] / 60:.0f} minutes",
    }
    yield "<h2>Conditions</h2><dl>"
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
