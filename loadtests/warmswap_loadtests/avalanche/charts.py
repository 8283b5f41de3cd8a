"""The picture: latency over time with what happened to the replicas, one set-up above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from warmswap_loadtests.avalanche.figures import COLD_FACTOR, cold_requests
from warmswap_loadtests.cold.charts import COLOURS, LIGHT, MARKERS, Theme, dress, milliseconds, png

COLD_COLOUR: Final = {"light": "#111111", "dark": "#ffffff"}
EVENT_MARKS: Final = {"SIGTERM": "v", "SIGKILL": "X", "died": "X"}
SPIKE_SHADE: Final = 0.35

Event = Mapping[str, Any]


def render_chart(results: Mapping[str, Any], theme: Theme = LIGHT) -> bytes:
    """Return the picture as PNG."""
    runs, phases = results["runs"], results["settings"]["phases"]
    lanes = [max(1, len(_replica_names(run["events"]))) for run in runs.values()]
    heights = [height for count in lanes for height in (3.6, 0.35 + 0.26 * count)]
    figure = Figure(figsize=(12.5, sum(heights) + 1.3), layout="constrained")
    grid = figure.subplots(2 * len(runs), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    for number, (name, run) in enumerate(runs.items()):
        top, bottom = grid[2 * number], grid[2 * number + 1]
        _draw_latencies(top, name, run, results, theme)
        _draw_replicas(bottom, name, run, results["settings"]["seconds"])
        for axes in (top, bottom):
            dress(axes, theme)
            for start_s in list(phases.values())[1:]:
                axes.axvline(start_s, color=theme.ink, linewidth=0.8, alpha=0.5)
        bottom.grid(visible=False, axis="y")
    for phase, start_s in phases.items():
        _label(grid[0], phase, start_s, theme)
    _share_latency_axis([grid[2 * number] for number in range(len(runs))])
    grid[-1].set_xlabel("seconds after the start of the load")
    grid[-1].set_xlim(-0.01 * results["settings"]["seconds"], 1.01 * results["settings"]["seconds"])
    _title(figure, results, theme)
    legend = figure.legend(handles=_legend(theme), loc="outside lower left", ncols=7, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(theme.ink)
    return png(figure, theme)


def _draw_latencies(axes: Axes, name: str, run: Mapping[str, Any], results: Mapping[str, Any], theme: Theme) -> None:
    figures = results["figures"][name]
    colour, marker = COLOURS.get(name, "#888888"), MARKERS.get(name, "o")
    answered = [request for request in run["requests"] if request["failure"] is None]
    lost = [request for request in run["requests"] if request["failure"] is not None]
    cold = cold_requests(run["requests"], run["events"], figures["steady_median_ms"])
    axes.plot(*_points(answered), color=colour, marker=marker, markersize=4, linewidth=0.7, alpha=0.8)
    axes.plot(
        *_points([request for request in cold if request["failure"] is None]),
        color=COLD_COLOUR[theme.name],
        marker="o",
        markersize=9,
        markerfacecolor="none",
        linestyle="none",
    )
    # Those that failed have no latency: all stand at the time-out.
    lost_s = [request["due_s"] for request in lost]
    timeout_ms = results["settings"]["timeout_s"] * 1e3
    axes.plot(
        lost_s,
        [timeout_ms] * len(lost),
        color=colour,
        marker="X",
        markersize=9,
        linestyle="none",
        markeredgecolor="white",
    )
    if figures["steady_median_ms"]:
        limit_ms = COLD_FACTOR * figures["steady_median_ms"]
        axes.axhline(limit_ms, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6)
    axes.set_ylabel(f"{name}\nlatency", color=colour)
    axes.set_title(
        f"{name}: {figures['failed']} of {figures['requests']} failed, "
        f"{figures['cold']['slow']} of {figures['cold']['requests']} first requests served cold",
        loc="left",
        fontsize=11,
        color=theme.ink,
        pad=16,
    )


def _draw_replicas(axes: Axes, name: str, run: Mapping[str, Any], seconds: float) -> None:
    """A lane per replica: pale while it runs without traffic, full while it gets some."""
    colour = COLOURS.get(name, "#888888")
    names = _replica_names(run["events"])
    for lane, replica in enumerate(names):
        times = {event["kind"]: event["time_s"] for event in run["events"] if event["replica"] == replica}
        was_there = "exec" not in times
        exec_s = times.get("exec", 0.0)
        end_s = times.get("SIGKILL", times.get("died", times.get("gone", seconds)))
        from_s = 0.0 if was_there else times.get("in rotation")
        until_s = min(end_s, times.get("endpoint removed", end_s))
        if "ordered" in times and times["ordered"] < exec_s:
            axes.plot([times["ordered"], exec_s], [lane, lane], color=colour, linewidth=1.0, linestyle=":")
        axes.barh(lane, min(end_s, seconds) - exec_s, left=exec_s, height=0.62, color=colour, alpha=SPIKE_SHADE)
        if from_s is not None:
            axes.barh(lane, min(until_s, seconds) - from_s, left=from_s, height=0.62, color=colour)
        for kind, marker in EVENT_MARKS.items():
            if kind in times:
                axes.plot([times[kind]], [lane], color="#b00020", marker=marker, markersize=8, linestyle="none")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _replica_names(events: Sequence[Event]) -> list[str]:
    return sorted({"r0", *(event["replica"] for event in events)}, key=lambda name: int(name[1:]))


def _share_latency_axis(all_axes: Sequence[Axes]) -> None:
    for axes in all_axes:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(milliseconds))
        axes.yaxis.set_minor_formatter(NullFormatter())
    low = min(axes.get_ylim()[0] for axes in all_axes)
    high = max(axes.get_ylim()[1] for axes in all_axes)
    for axes in all_axes:
        axes.set_ylim(low, high)


def _label(axes: Axes, phase: str, start_s: float, theme: Theme) -> None:
    axes.annotate(
        phase,
        (start_s, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 3),
        textcoords="offset points",
        fontsize=9,
        color=theme.ink,
        alpha=0.75,
    )


def _title(figure: Figure, results: Mapping[str, Any], theme: Theme) -> None:
    settings = results["settings"]
    figure.suptitle(
        f"New replicas under load behind Envoy: pack {settings['pack']}, {settings['base_rate']:g} then "
        f"{settings['spike_rate']:g} requests/s, time-out {settings['timeout_s']:g} s, "
        f"{results['machine']['cores']} cores shared by all",
        color=theme.ink,
        fontsize=12,
        x=0.01,
        ha="left",
    )


def _legend(theme: Theme) -> list[Any]:
    def sign(marker: str, label: str, **style: Any) -> Line2D:
        return Line2D([], [], marker=marker, linestyle="none", markersize=8, label=label, **style)

    return [
        sign("o", "served cold", color=COLD_COLOUR[theme.name], markerfacecolor="none"),
        sign("X", "failed or timed out", color=theme.ink),
        Line2D([], [], color=theme.ink, linestyle=(0, (4, 3)), label=f"{COLD_FACTOR:g} x steady median"),
        Patch(color=theme.ink, alpha=SPIKE_SHADE, label="replica runs"),
        Patch(color=theme.ink, label="gets traffic"),
        sign("v", "SIGTERM", color="#b00020"),
        sign("X", "SIGKILL", color="#b00020"),
    ]


def _points(requests: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [request["due_s"] for request in requests], [request["latency_ms"] for request in requests]
