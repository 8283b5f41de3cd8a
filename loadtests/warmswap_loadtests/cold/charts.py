"""The pictures: latency over time from exec on, and the phases up to the first answer."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from warmswap_loadtests.cold.figures import CORRECT, Run, run_figures, typical_run
from warmswap_loadtests.open_loop import Outcome
from warmswap_loadtests.page_cache import WARM

LATENCY: Final = "latency"
PHASES: Final = "phases"
DPI: Final = 130

COLOURS: Final = {
    "naive": "#D55E00",
    "preloading": "#E69F00",
    "triton-documented": "#CC79A7",
    "warmswap": "#0072B2",
    "warmswap-compiled": "#009E73",
}
"""Of Okabe and Ito, which people with any kind of colour vision tell apart; the shapes differ too."""

MARKERS: Final = {"naive": "o", "preloading": "s", "triton-documented": "D", "warmswap": "^", "warmswap-compiled": "v"}
PHASE_KEYS: Final = (
    ("live_s", "exec to live"),
    ("ready_s", "live to ready"),
    ("ready_answer_s", "first request, if it comes when ready"),
)


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of what is not data."""

    name: str
    paper: str
    ink: str
    faint: str
    phases: tuple[str, str, str]


LIGHT: Final = Theme("light", "#ffffff", "#1f2328", "#d0d7de", ("#c6d4e1", "#7fa3c2", "#2f6690"))
DARK: Final = Theme("dark", "#16191d", "#e6edf3", "#3d444d", ("#33475a", "#4f7ea6", "#9cc9ee"))


def render_charts(results: Mapping[str, Any], theme: Theme) -> dict[str, bytes]:
    """Return name to PNG; the name carries the page cache state where it is not warm."""
    states = list(dict.fromkeys(run["page_cache"] for run in results["runs"]))
    charts: dict[str, bytes] = {}
    for state in states:
        suffix = "" if state == WARM or len(states) == 1 else f"-{state}"
        charts[LATENCY + suffix] = png(_latency_figure(results, state, theme), theme)
        charts[PHASES + suffix] = png(_phases_figure(results, state, theme), theme)
    return charts


def _latency_figure(results: Mapping[str, Any], state: str, theme: Theme) -> Figure:
    seconds = results["settings"]["seconds"]
    runs = {name: typical_run(group, seconds) for name, group in _groups(results, state)}
    split_s = _end_of_cold_part(runs, seconds)
    parts = [(0.0, split_s), (split_s, seconds)] if split_s < seconds else [(0.0, seconds)]
    figure = Figure(figsize=(12.5, 6.6), layout="constrained")
    grid = figure.subplots(
        2,
        len(parts),
        sharex="col",
        sharey="row",
        squeeze=False,
        gridspec_kw={"height_ratios": [4.2, 0.28 * len(runs) + 0.5], "width_ratios": [2.4, 1][: len(parts)]},
    )
    for column, (begin_s, end_s) in enumerate(parts):
        top, bottom = grid[0][column], grid[1][column]
        for lane, (name, run) in enumerate(runs.items()):
            _draw_latencies(top, name, run)
            _draw_lane(bottom, name, run, lane)
        margin_s = 0.01 * (end_s - begin_s)
        top.set_xlim(begin_s - (margin_s if column == 0 else 0), end_s + margin_s)
        top.set_yscale("log")
        top.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        top.yaxis.set_major_formatter(FuncFormatter(milliseconds))
        top.yaxis.set_minor_formatter(NullFormatter())
        bottom.set_ylim(len(runs) - 0.4, -0.6)
        bottom.set_yticks(range(len(runs)), list(runs))
        bottom.set_xlabel("seconds after exec" if column == 0 else "seconds after exec (rest of the window)")
        for axes in (top, bottom):
            dress(axes, theme)
        bottom.grid(visible=False, axis="y")
    grid[0][0].set_ylabel("latency from the intended send time")
    for lane, label in enumerate(grid[1][0].get_yticklabels()):
        label.set_color(_colour(list(runs)[lane], theme))
    settings = results["settings"]
    middle = f", the middle one of {settings['runs']} runs" if settings["runs"] > 1 else ""
    figure.suptitle(
        f"Latency of requests to a fresh replica: pack {settings['pack']}, {settings['rate_per_s']:g} requests/s, "
        f"page cache {state}{middle}",
        color=theme.ink,
        fontsize=12,
        x=0.01,
        ha="left",
    )
    legend = figure.legend(
        handles=_latency_legend(runs, theme), loc="outside lower left", ncols=5, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_color(theme.ink)
    return figure


def _draw_latencies(axes: Axes, name: str, run: Run) -> None:
    colour, marker = COLOURS.get(name, "#888888"), MARKERS.get(name, "o")
    routed = [request for request in run["requests"] if request["outcome"] != Outcome.NOT_ROUTED]
    correct = [request for request in routed if request["outcome"] == CORRECT]
    lost = [request for request in routed if request["outcome"] != CORRECT]
    axes.plot(*_points(correct), color=colour, marker=marker, markersize=4.2, linewidth=0.9, alpha=0.85)
    axes.plot(*_points(lost), color=colour, marker="X", markersize=9, linestyle="none", markeredgecolor="white")
    if run["ready_s"] is not None:
        axes.axvline(run["ready_s"], color=colour, linewidth=1.1, linestyle=(0, (4, 3)), alpha=0.8)


def _draw_lane(axes: Axes, name: str, run: Run, lane: int) -> None:
    colour = COLOURS.get(name, "#888888")
    missed = [request["due_s"] for request in run["requests"] if request["outcome"] == Outcome.NOT_ROUTED]
    axes.plot(missed, [lane] * len(missed), color=colour, marker="|", markersize=9, linestyle="none", alpha=0.75)
    if run["ready_s"] is not None:
        axes.plot([run["ready_s"]], [lane], color=colour, marker=">", markersize=8, linestyle="none")
    correct = [request["done_s"] for request in run["requests"] if request["outcome"] == CORRECT]
    if correct:
        axes.plot([min(correct)], [lane], color=colour, marker="*", markersize=12, linestyle="none")


def _latency_legend(runs: Mapping[str, Run], theme: Theme) -> list[Line2D]:
    handles = [
        Line2D([], [], color=COLOURS.get(name, "#888888"), marker=MARKERS.get(name, "o"), markersize=5, label=name)
        for name in runs
    ]
    signs = (
        ("X", "failed, timed out or wrong"),
        ("|", "arrival not routed"),
        (">", "ready"),
        ("*", "first correct answer"),
    )
    for marker, label in signs:
        handles.append(Line2D([], [], color=theme.ink, marker=marker, linestyle="none", markersize=8, label=label))
    return handles


def _phases_figure(results: Mapping[str, Any], state: str, theme: Theme) -> Figure:
    entries = [entry for entry in results["summary"] if entry["page_cache"] == state]
    figure = Figure(figsize=(12.5, 1.6 + 0.55 * len(entries)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [1.7, 1]})
    for lane, entry in enumerate(entries):
        _draw_phases(left, entry["metrics"], lane, theme)
        _draw_first_request(right, entry["metrics"], lane, theme)
    left.set_yticks(range(len(entries)), [entry["contender"] for entry in entries])
    left.set_ylim(len(entries) - 0.4, -0.6)
    left.set_xlim(0, left.get_xlim()[1] * 1.12)
    left.set_xlabel("seconds after exec (median; the line spans all runs)")
    left.set_title("From exec to the first answer", loc="left", fontsize=11, color=theme.ink)
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    right.xaxis.set_major_formatter(FuncFormatter(milliseconds))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.margins(x=0.22)
    right.set_xlabel("latency")
    right.set_title("The first request against the steady median", loc="left", fontsize=11, color=theme.ink)
    for axes in (left, right):
        dress(axes, theme)
        axes.grid(visible=False, axis="y")
    handles = [
        Line2D([], [], color=colour, linewidth=8, label=label)
        for colour, (_, label) in zip(theme.phases, PHASE_KEYS, strict=True)
    ]
    handles.append(Line2D([], [], color=theme.ink, marker="o", linestyle="none", mfc="none", label="steady median"))
    handles.append(Line2D([], [], color=theme.ink, marker="o", linestyle="none", label="first request"))
    legend = figure.legend(handles=handles, loc="outside lower left", ncols=5, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(theme.ink)
    return figure


def _draw_phases(axes: Axes, metrics: Mapping[str, Any], lane: int, theme: Theme) -> None:
    begin_s = 0.0
    for colour, (key, _) in zip(theme.phases, PHASE_KEYS, strict=True):
        end_s = metrics[key]["median"]
        if end_s is None:
            axes.annotate(
                "never", (begin_s, lane), xytext=(6, 0), textcoords="offset points", va="center", color=theme.ink
            )
            return
        axes.barh(lane, max(0.0, end_s - begin_s), left=begin_s, height=0.55, color=colour)
        begin_s = max(begin_s, end_s)
    spread = metrics["ready_answer_s"]
    least_s, most_s = spread["min"], spread["max"] if spread["max"] is not None else begin_s
    axes.plot([least_s, most_s], [lane, lane], color=theme.ink, linewidth=1.2, marker="|", markersize=7)
    axes.annotate(
        f"{begin_s:.2f} s",
        (max(begin_s, most_s), lane),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=theme.ink,
        fontsize=9,
    )


def _draw_first_request(axes: Axes, metrics: Mapping[str, Any], lane: int, theme: Theme) -> None:
    steady_ms, ratio = metrics["steady_ms"]["median"], metrics["first_ratio"]["median"]
    if steady_ms is None:
        return
    axes.plot([steady_ms], [lane], color=theme.ink, marker="o", markersize=7, markerfacecolor="none", zorder=3)
    if ratio is None:
        return
    first_ms = ratio * steady_ms
    axes.plot([steady_ms, first_ms], [lane, lane], color=theme.phases[1], linewidth=2.5, zorder=1)
    axes.plot([first_ms], [lane], color=theme.phases[2], marker="o", markersize=8, zorder=2)
    axes.annotate(
        f"{ratio:.1f}x",
        (max(first_ms, steady_ms), lane),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        color=theme.ink,
        fontsize=9,
    )


def _end_of_cold_part(runs: Mapping[str, Run], seconds: float) -> float:
    """Return when every contender is steady, rounded up; the chart is wider before."""
    ends: list[float] = []
    for run in runs.values():
        figures = run_figures(run, seconds)
        ends.append(figures["steady_after_s"] or figures["first_correct_s"] or seconds)
    split_s = float(int(max(ends, default=0.0) * 1.25 + 2))
    return split_s if split_s < 0.75 * seconds else seconds


def _groups(results: Mapping[str, Any], state: str) -> Iterator[tuple[str, list[Run]]]:
    for item in results["contenders"]:
        group = [run for run in results["runs"] if run["contender"] == item["name"] and run["page_cache"] == state]
        if group:
            yield item["name"], group


def _points(requests: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [item["due_s"] for item in requests], [(item["done_s"] - item["due_s"]) * 1e3 for item in requests]


def _colour(name: str, theme: Theme) -> str:
    return COLOURS.get(name, theme.ink)


def milliseconds(value: float, _: int | None) -> str:
    """Return the text of a tick."""
    return f"{value / 1e3:g} s" if value >= 1e3 else f"{value:g} ms"


def dress(axes: Axes, theme: Theme) -> None:
    """Give axes the look of all our charts."""
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.ink, labelsize=9, length=0)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    for side, spine in axes.spines.items():
        spine.set_color(theme.faint)
        spine.set_visible(side in ("left", "bottom"))


def png(figure: Figure, theme: Theme) -> bytes:
    """Return a chart as PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI, facecolor=theme.paper)
    return data.getvalue()
