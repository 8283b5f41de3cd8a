"""The pictures: what each policy does over time, and cost against waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from warmswap_loadtests.cold.charts import Theme, dress, png
from warmswap_loadtests.scaling.table import scale_text

COLOURS: Final = ("#D55E00", "#E69F00", "#CC79A7", "#56B4E9", "#0072B2", "#009E73", "#8C6BB1", "#666666")
"""Of Okabe and Ito as far as they go; every policy has its own row, or its name beside it, too."""
MARKERS: Final = ("o", "s", "D", "^", "v", "P", "X", "h")
COLD: Final = "#b00020"
SERVING_SHADE: Final = 0.3

_POINT: Final[Mapping[str, Any]] = {"markersize": 10, "linestyle": "none", "markeredgecolor": "white", "alpha": 0.9}

Results = Mapping[str, Any]


def timeline_chart(results: Results, theme: Theme) -> bytes:
    """Return traffic, and for each policy replicas and backlog over time, as PNG."""
    names = list(results["courses"])
    figure = Figure(figsize=(13.5, 2.6 + 1.55 * len(names)), layout="constrained")
    grid = figure.subplots(len(names) + 1, 2, sharex=True, sharey=False)
    _draw_traffic(grid[0][0], results, theme)
    _draw_lost_and_cold(grid[0][1], results, theme)
    for row, name in enumerate(names, start=1):
        left, right = grid[row]
        _draw_replicas(left, results["courses"][name], _colour(row - 1), theme)
        _draw_backlog(right, results["courses"][name], _colour(row - 1), theme)
        left.set_title(f"{name}: replicas", loc="left", fontsize=10, color=theme.ink)
        left.set_ylim(bottom=0)
        right.set_title(_line(results["figures"][name]), loc="left", fontsize=9, color=theme.ink)
    _share_limits([row[1] for row in grid[1:]])
    for axes in grid.flat:
        dress(axes, theme)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=2))
    for axes in grid[-1]:
        _clock_axis(axes, results)
    settings = results["settings"]
    figure.suptitle(
        f"Trace {settings['trace']}{scale_text(settings['scale'])}: {settings['requests']:,} requests",
        color=theme.ink, fontsize=12, x=0.01, ha="left",
    )  # fmt: skip
    _legend(figure, theme)
    return png(figure, theme)


def cost_chart(results: Results, theme: Theme) -> bytes:
    """Return cost against waiting, and against requests that went badly, as PNG."""
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    figures = results["figures"]
    costs = [item["cost"] for item in figures.values()]
    _scatter(left, costs, [item["wait_mean_s"] for item in figures.values()])
    _scatter(right, costs, [_bad_percent(item) for item in figures.values()])
    left.set_title("Mean wait of a request that was served, seconds", loc="left", fontsize=11, color=theme.ink)
    right.set_title("Requests served cold or lost, per cent", loc="left", fontsize=11, color=theme.ink)
    for axes in (left, right):
        axes.set_xlabel(f"cost of the trace, at {results['settings']['price_per_hour']:g} per replica and hour")
        dress(axes, theme)
    settings = results["settings"]
    figure.suptitle(
        f"Cost against waiting, trace {settings['trace']}{scale_text(settings['scale'])}: lower left is better",
        color=theme.ink, fontsize=12, x=0.01, ha="left",
    )  # fmt: skip
    handles = [
        Line2D([], [], color=_colour(number), marker=_marker(number), label=name, **_POINT)
        for number, name in enumerate(figures)
    ]
    _place_legend(figure, handles, theme)
    return png(figure, theme)


def _draw_traffic(axes: Axes, results: Results, theme: Theme) -> None:
    course = next(iter(results["courses"].values()))
    axes.fill_between(course["time_s"], course["rate"], color="#888888", alpha=0.45, linewidth=0)
    axes.set_title("traffic: requests a second", loc="left", fontsize=10, color=theme.ink)
    axes.set_ylim(bottom=0)


def _draw_lost_and_cold(axes: Axes, results: Results, theme: Theme) -> None:
    """Sum up what went badly, policy by policy."""
    for number, course in enumerate(results["courses"].values()):
        bad = [cold + lost for cold, lost in zip(course["cold"], course["lost"], strict=True)]
        total, sums = 0.0, []
        for value in bad:
            total += value
            sums.append(total)
        axes.step(course["time_s"], sums, where="post", color=_colour(number), linewidth=1.4)
    axes.set_title("requests served cold or lost so far, every policy", loc="left", fontsize=10, color=theme.ink)
    axes.set_ylim(bottom=0)


def _draw_replicas(axes: Axes, course: Mapping[str, Any], colour: str, theme: Theme) -> None:
    times = course["time_s"]
    axes.fill_between(times, course["serving"], step="post", color=colour, alpha=SERVING_SHADE, linewidth=0)
    axes.step(times, course["wanted"], where="post", color=colour, linewidth=1.3)
    axes.plot(times, course["needed"], color=theme.ink, linewidth=0.9, linestyle=(0, (3, 2)), alpha=0.8)


def _draw_backlog(axes: Axes, course: Mapping[str, Any], colour: str, theme: Theme) -> None:
    times = course["time_s"]
    axes.fill_between(times, course["backlog"], step="post", color=colour, alpha=0.85, linewidth=0)
    for key, marker, size in (("cold", "o", 5), ("lost", "x", 4)):
        hit = [time_s for time_s, count in zip(times, course[key], strict=True) if count >= 0.5]
        face = "none" if marker == "o" else COLD
        axes.plot(hit, [0.93 if marker == "o" else 0.8] * len(hit), marker=marker, markersize=size, linestyle="none",
                  color=COLD, markerfacecolor=face, transform=axes.get_xaxis_transform())  # fmt: skip


def _scatter(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    most = max(*ys, 1e-6)
    for number, (x, y) in enumerate(zip(xs, ys, strict=True)):
        axes.plot([x], [y], color=_colour(number), marker=_marker(number), **_POINT)
    axes.set_xlim(0, max(*xs, 1e-6) * 1.1)
    axes.set_ylim(-0.04 * most, 1.12 * most)


def _line(figures: Mapping[str, Any]) -> str:
    return (
        f"{figures['served_cold']:,} served cold, {figures['lost']:,} lost; wait {figures['wait_mean_s']:.2f} s mean, "
        f"{figures['wait_p99_s']:.1f} s p99; cost {figures['cost']:,.2f}"
    )


def _bad_percent(figures: Mapping[str, Any]) -> float:
    requests: int = figures["requests"]
    bad: int = figures["served_cold"] + figures["lost"]
    return 100.0 * bad / max(1, requests)


def _share_limits(axes_list: Sequence[Axes]) -> None:
    most = max(axes.get_ylim()[1] for axes in axes_list)
    for axes in axes_list:
        axes.set_ylim(0, most)


def _clock_axis(axes: Axes, results: Results) -> None:
    begin = datetime.fromisoformat(results["settings"]["begin"])
    seconds = results["settings"]["seconds"]
    first_s = begin.hour * 3600 + begin.minute * 60 + begin.second
    tick_s = next((width for width in (600, 1800, 3600, 7200, 10800, 21600) if seconds / width <= 9), 86400)
    start = -first_s % tick_s
    axes.set_xlim(0, seconds)
    axes.set_xticks([start + tick_s * number for number in range(int((seconds - start) / tick_s) + 1)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(first_s + value)))
    axes.set_xlabel(f"time of day ({begin.tzname()})")


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _legend(figure: Figure, theme: Theme) -> None:
    handles = [
        Line2D([], [], color=theme.ink, linewidth=1.3, label="replicas wanted"),
        Patch(color=theme.ink, alpha=SERVING_SHADE, label="in service"),
        Line2D([], [], color=theme.ink, linewidth=0.9, linestyle=(0, (3, 2)), label="kept busy by the trace"),
        Patch(color=theme.ink, alpha=0.85, label="right: requests waiting, at most"),
        Line2D([], [], color=COLD, marker="o", markerfacecolor="none", linestyle="none", label="served cold"),
        Line2D([], [], color=COLD, marker="x", markersize=4, linestyle="none", label="lost"),
    ]
    _place_legend(figure, handles, theme)


def _place_legend(figure: Figure, handles: Sequence[Any], theme: Theme) -> None:
    legend = figure.legend(handles=handles, loc="outside lower left", ncols=8, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(theme.ink)
