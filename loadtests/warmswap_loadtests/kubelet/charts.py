"""The pictures: latency of each request over the states of the pods, one per scenario."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from warmswap_loadtests.cold.charts import LIGHT, Theme, dress, milliseconds, png
from warmswap_loadtests.kubelet.clients import GATEWAY, PLAIN, RETRYING
from warmswap_loadtests.kubelet.events import Kind
from warmswap_loadtests.kubelet.figures import is_retried
from warmswap_loadtests.kubelet.lanes import PENDING, READY, STARTING, TERMINATING, pod_bars, traffic_spans

CLIENT_COLOURS: Final = {PLAIN: "#0072B2", GATEWAY: "#E69F00", RETRYING: "#009E73"}
CLIENT_MARKERS: Final = {PLAIN: "o", GATEWAY: "s", RETRYING: "^"}
STATE_COLOURS: Final = {
    "light": {PENDING: "#e3e6ea", STARTING: "#f2c879", READY: "#8fc4a4", TERMINATING: "#c9b3d4"},
    "dark": {PENDING: "#2b3036", STARTING: "#8a6a1f", READY: "#2f6b48", TERMINATING: "#5f4570"},
}
LOST_COLOUR: Final = "#d0021b"
MARKS: Final = {Kind.SIGTERM: "v", Kind.SIGKILL: "X", Kind.FAULT: "X"}


def render_chart(name: str, results: Mapping[str, Any], theme: Theme = LIGHT) -> bytes:
    """Return the picture of a scenario as PNG."""
    run = results["runs"][name]
    lanes = [pod["name"] for pod in run["pods"]]
    figure = Figure(figsize=(12.5, 4.6 + 0.34 * len(lanes)), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3.4, 0.4 + 0.34 * len(lanes)]})
    _draw_requests(top, run, theme)
    _draw_pods(bottom, run, lanes, theme)
    for axes in (top, bottom):
        dress(axes, theme)
        axes.axvline(run["event_s"], color=theme.ink, linewidth=0.9, alpha=0.6, linestyle=(0, (4, 3)))
    bottom.grid(visible=False, axis="y")
    bottom.set_xlabel("seconds after the start of the load (broken line: what happens begins)")
    bottom.set_xlim(0, run["seconds"])
    figures = results["figures"][name]
    figure.suptitle(
        f"{name}: {run['text']}\n{figures['failed']} of {figures['requests']} requests lost, "
        f"{results['settings']['rate_per_s']:g} a second, half over HTTP, half over gRPC"
        if len(results["settings"]["protocols"]) == 2
        else f"{name}: {run['text']}\n{figures['failed']} of {figures['requests']} requests lost",
        color=theme.ink,
        fontsize=12,
        x=0.01,
        ha="left",
    )
    legend = figure.legend(handles=_legend(theme), loc="outside lower left", ncols=6, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(theme.ink)
    return png(figure, theme)


def _draw_requests(axes: Axes, run: Mapping[str, Any], theme: Theme) -> None:
    for client, colour in CLIENT_COLOURS.items():
        answered = [r for r in run["requests"] if r["client"] == client and r["failure"] is None]
        for retried in (False, True):
            chosen = [r for r in answered if is_retried(r) is retried]
            axes.plot(
                [r["due_s"] for r in chosen],
                [r["latency_ms"] for r in chosen],
                color=colour,
                marker=CLIENT_MARKERS[client],
                markersize=8 if retried else 4,
                markerfacecolor="none" if retried else colour,
                linestyle="none",
                alpha=0.85,
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(milliseconds))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 1.5)
    lost = [r for r in run["requests"] if r["failure"] is not None]
    for request in lost:  # they have no latency: all stand at the upper edge
        axes.plot(
            request["due_s"],
            high * 1.2,
            color=LOST_COLOUR,
            marker=CLIENT_MARKERS[request["client"]],
            markersize=8,
            markeredgecolor=theme.paper,
            clip_on=False,
        )
    axes.set_ylabel("latency", color=theme.ink)


def _draw_pods(axes: Axes, run: Mapping[str, Any], lanes: list[str], theme: Theme) -> None:
    """A lane per pod: its state as a bar, a line through it while the load balancer knows it."""
    colours = STATE_COLOURS[theme.name]
    for lane, pod in enumerate(lanes):
        for bar in pod_bars(run["events"], pod, run["seconds"]):
            axes.barh(lane, bar.end_s - bar.begin_s, left=bar.begin_s, height=0.66, color=colours[bar.state])
        for begin_s, end_s in traffic_spans(run["events"], pod, run["seconds"]):
            axes.plot([begin_s, end_s], [lane, lane], color=theme.ink, linewidth=2.2, solid_capstyle="butt")
    for event in run["events"]:
        if event["kind"] in MARKS and event["pod"] in lanes and event["time_s"] >= 0:
            axes.plot(
                event["time_s"],
                lanes.index(event["pod"]),
                color=LOST_COLOUR,
                marker=MARKS[Kind(event["kind"])],
                markersize=9,
                markeredgecolor=theme.paper,
            )
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.4, -0.6)


def _legend(theme: Theme) -> list[Any]:
    def sign(marker: str, label: str, colour: str, **style: Any) -> Line2D:
        return Line2D([], [], marker=marker, linestyle="none", markersize=7, label=label, color=colour, **style)

    return [
        *(sign(CLIENT_MARKERS[client], client, colour) for client, colour in CLIENT_COLOURS.items()),
        sign("o", "sent more than once", theme.ink, markerfacecolor="none"),
        sign("o", "lost", LOST_COLOUR),
        Line2D([], [], color=theme.ink, linewidth=2.2, label="gets traffic"),
        *(Patch(color=colour, label=state) for state, colour in STATE_COLOURS[theme.name].items()),
        sign("v", "SIGTERM", LOST_COLOUR),
        sign("X", "SIGKILL, or another fault", LOST_COLOUR),
    ]
