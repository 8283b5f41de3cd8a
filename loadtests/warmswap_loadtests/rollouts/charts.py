"""The pictures: one rollout over time, and the memory over the series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from warmswap_loadtests.cold.charts import Theme, dress, png

STABLE_COLOUR: Final = "#0072B2"
CANDIDATE_COLOUR: Final = "#D55E00"
WINDOW_S: Final = 5.0
_OUTCOMES: Final = (
    ("good", "o", STABLE_COLOUR, "took over"),
    ("trial", "s", "#666666", "stopped at the trial"),
    ("live", "^", CANDIDATE_COLOUR, "rolled back"),
)
_PHASES: Final = ("staged", "shadow", "canary", "promoted", "done")


def render_rollout(results: Mapping[str, Any], theme: Theme) -> bytes:
    """Return share, latency and error ratio over one rollout as PNG."""
    full, requests = results["full"], results["requests"]
    begin_s = full["from_s"]
    versions = [request[3].get("face_detector", "") for request in requests]
    stable = next((version for version in versions if version), "")
    figure = Figure(figsize=(12, 8), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [1.2, 2, 0.8]})
    at_s = [request[0] - begin_s for request in requests]
    share = [float(version != stable and version != "") for version in versions]
    top.plot(at_s, _moving(at_s, share), color=CANDIDATE_COLOUR)
    top.set_ylabel("answered by\nthe candidate")
    top.set_ylim(-0.05, 1.05)
    for name, colour, wanted in (("stable", STABLE_COLOUR, 0.0), ("candidate", CANDIDATE_COLOUR, 1.0)):
        points = [
            (at, request[1]) for at, request, is_other in zip(at_s, requests, share, strict=True) if is_other == wanted
        ]
        if points:
            middle.scatter(*zip(*points, strict=True), s=9, color=colour, label=name, alpha=0.7, linewidths=0)
    middle.set_ylabel("latency, ms")
    middle.set_ylim(bottom=0)
    bottom.plot(at_s, _moving(at_s, [float(request[4]) for request in requests]), color="#d0021b")
    bottom.set_ylabel("errors")
    bottom.set_ylim(-0.02, max(0.1, *(float(request[4]) for request in requests)) + 0.02)
    bottom.set_xlabel("seconds after the tool was started")
    for axes in (top, middle, bottom):
        dress(axes, theme)
        for event in full["events"]:
            if event.get("event") in _PHASES:
                axes.axvline(event["at_s"] - begin_s, color=theme.ink, linewidth=0.8, alpha=0.45, linestyle=(0, (4, 3)))
    for event in full["events"]:
        if event.get("event") in _PHASES:
            text = f"{event['weight_percent']:g} %" if event["event"] == "canary" else event["event"]
            top.annotate(text, (event["at_s"] - begin_s, 1.08), fontsize=8, color=theme.ink, annotation_clip=False)
    middle.legend(frameon=False, labelcolor=theme.ink, fontsize=9, loc="upper left")
    figure.suptitle(
        f"A rollout under {results['per_s']:g} requests a second: {full['requests']} requests, {full['lost']} lost",
        color=theme.ink,
        fontsize=12,
        x=0.01,
        ha="left",
    )
    return png(figure, theme)


def render_memory(results: Mapping[str, Any], theme: Theme) -> bytes:
    """Return the memory of the server and its processes after each rollout as PNG."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots()
    rows = results["series"]
    after_mb = [results["memory_mb"]["start"], *(row["memory_mb"] for row in rows)]
    axes.plot([0, *(row["number"] for row in rows)], after_mb, color="#999999")
    for got, marker, colour, label in _OUTCOMES:
        points = [(row["number"], row["memory_mb"]) for row in rows if row["got"] == got]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=colour, label=label, zorder=3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rollout")
    axes.set_ylabel("memory, MB")
    dress(axes, theme)
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9, loc="lower right")
    return png(figure, theme)


def _moving(at_s: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return the mean of the values within a window before each moment."""
    means: list[float] = []
    first = 0
    for index, at in enumerate(at_s):
        while at_s[first] < at - WINDOW_S:
            first += 1
        means.append(sum(values[first : index + 1]) / (index + 1 - first))
    return means
