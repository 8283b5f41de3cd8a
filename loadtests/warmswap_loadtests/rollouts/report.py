"""What is written of the benchmark: JSON, a page in Markdown, two charts."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from warmswap_loadtests.cold.charts import LIGHT
from warmswap_loadtests.rollouts.bench import RESULTS_NAME
from warmswap_loadtests.rollouts.charts import render_memory, render_rollout

PAGE_NAME: Final = "README.md"
ROLLOUT_CHART: Final = "rollout.png"
MEMORY_CHART: Final = "memory.png"
LEAST_REQUESTS: Final = 50
"""During a rollout whose p99 is looked at: one of a second has none."""
FLOOR_OF: Final = 10
"""Rollouts whose lowest memory is one figure."""
_PATH: Final = re.compile(r"/\S*/(?=candidate)")
"""Of a temporary folder."""


def write_results(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write everything and return the paths."""
    contents: dict[str, bytes] = {
        RESULTS_NAME: (json.dumps(results) + "\n").encode(),
        PAGE_NAME: ("\n".join(page(results)) + "\n").encode(),
        ROLLOUT_CHART: render_rollout(results, LIGHT),
        MEMORY_CHART: render_memory(results, LIGHT),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def rollout_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines of a table."""
    return [f"{what:<52} {value}" for what, value in figures(results)] + [f"WRONG: {text}" for text in results["wrong"]]


def figures(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was measured, in words."""
    rows, before, after = results["series"], results["before"], results["after"]
    during_ms = [row["p99_ms"] for row in rows if row["requests"] >= LEAST_REQUESTS]
    base_ms = statistics.mean([before["p99_ms"], after["p99_ms"]])
    typical_ms, worst_ms = statistics.median(during_ms), max(during_ms)
    on, off = results["shadow"]["on"], results["shadow"]["off"]
    memory, back = results["memory_mb"], results["ways_back"]
    bad = [row for row in rows if row["expected"] != "good"]
    stopped = sum(row["got"] in ("trial", "live") for row in bad)
    full_ms, times = results["full"]["p99_ms"], f"the worst of {len(back['flip_ms'])}"
    right = sum(row["got"] == row["expected"] for row in rows)
    return [
        ("requests, over HTTP and gRPC by turns", f"{results['sent']} at {results['per_s']:g} a second, none repeated"),
        ("lost", str(len(results["lost"]))),
        ("readiness probes, and those not answered with 200", f"{results['probes']}, {len(results['flaps'])}"),
        ("rollouts that ended as they should", f"{right} of {len(rows)}"),
        ("bad ones stopped at the trial, or rolled back", f"{stopped} of {len(bad)}"),
        ("p50, p99 before", _ms(before)),
        ("p50, p99 after all of them", _ms(after)),
        ("p99 during a rollout, median of them", f"{typical_ms:.0f} ms, {typical_ms / base_ms:.2f} times"),
        ("p99 during rollouts that took over, medians", _by_kind(rows)),
        ("p99 during a rollout, worst", f"{worst_ms:.0f} ms, {worst_ms / base_ms:.2f} times"),
        ("p99 during the one in full", f"{full_ms:.0f} ms, {full_ms / base_ms:.2f} times"),
        ("p50, p99 without second looks", _ms(off)),
        ("p50, p99 with second looks of 10 %", f"{_ms(on)}: {on['p99_ms'] / off['p99_ms']:.3f} times the p99"),
        ("way back: until the state is changed", f"{max(back['flip_ms']):.0f} ms, {times}"),
        ("way back: last request that met the candidate", f"after {max(back['effective_ms']):.0f} ms, {times}"),
        ("memory at the start", f"{memory['start']:.0f} MB"),
        ("memory after the last", f"{memory['end']:.0f} MB, {memory['end'] / memory['start']:.2f} times"),
        (f"memory, the lowest after each {FLOOR_OF}", f"{', '.join(_floors_mb(rows))} MB"),
    ]


def _by_kind(rows: Sequence[Mapping[str, Any]]) -> str:
    kinds: dict[str, list[float]] = {}
    for row in rows:
        if row["got"] == "good":
            kinds.setdefault(row["kind"], []).append(row["p99_ms"])
    return ", ".join(f"{kind} {statistics.median(of_kind):.0f} ms" for kind, of_kind in kinds.items())


def _floors_mb(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is left: for some seconds after a rollout the old version is still there."""
    groups = [rows[begin : begin + FLOOR_OF] for begin in range(0, len(rows), FLOOR_OF)]
    return [f"{min(row['memory_mb'] for row in group):.0f}" for group in groups]


def _ms(of: Mapping[str, float]) -> str:
    return f"{of['p50_ms']:.0f}, {of['p99_ms']:.0f} ms"


def page(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page."""
    machine = results["machine"]
    yield "# Rollouts under load"
    yield ""
    yield f"`{results['command']}`, {results['time']}, commit {results['git_commit']}, {results['took_s']} s on "
    yield f"{machine.get('processor', 'an unnamed CPU')}, {machine.get('cores', '?')} cores, which requests, server,"
    yield "trials and the tool (at the lowest priority: an operator's is elsewhere) share."
    yield ""
    yield "| what | measured |"
    yield "| --- | --- |"
    for what, value in figures(results):
        yield f"| {what} | {value} |"
    yield ""
    for text in results["wrong"]:
        yield f"**{text}**"
        yield ""
    yield f"![share of the candidate, latency and errors over a rollout in full]({ROLLOUT_CHART})"
    yield ""
    yield f"![memory over the series]({MEMORY_CHART})"
    yield ""
    yield "## The rollout in full"
    yield ""
    full = results["full"]
    yield f"`warmswap rollout run face_detector --candidate DIR --plan plan.toml --json`: {full['seconds']:.0f} s, "
    yield f"{full['requests']} requests, {full['lost']} lost, p99 {full['p99_ms']:.0f} ms."
    yield ""
    yield "| seconds | event | |"
    yield "| ---: | --- | --- |"
    for event in full["events"]:
        if event.get("event") in ("look", "ended"):
            continue
        known = ("event", "rollout", "at_s", "done", "versions")
        rest = ", ".join(
            f"{key} {value}" for key, value in event.items() if key not in known and value not in ("", None)
        )
        yield f"| {event['at_s'] - full['from_s']:.1f} | {event.get('event')} | {rest} |"
    yield ""
    yield "## The series"
    yield ""
    yield "| | candidate | became | seconds | requests | lost | p99 ms | memory MB | why |"
    yield "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for row in results["series"]:
        why = row["error"].partition(" was stopped: ")[2] or row["error"]
        why = _PATH.sub("", why)[:160].replace("|", "/")
        yield (
            f"| {row['number']} | {row['kind']} | {WORDS[row['got']]} | {row['seconds']:.0f} | {row['requests']} | "
            f"{row['lost']} | {row['p99_ms']:.0f} | {row['memory_mb']:.0f} | {why} |"
        )


WORDS: Final = {"good": "took over", "trial": "stopped at the trial", "live": "rolled back", "error": "**error**"}
