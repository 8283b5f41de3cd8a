"""The figures as text, for terminals and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from warmswap_loadtests.kubelet.clients import GATEWAY, KINDS, PLAIN, RETRYING
from warmswap_loadtests.kubelet.figures import ELSEWHERE, IN_FLIGHT, SENT_TO_DEAD
from warmswap_loadtests.kubelet.scenarios import Sort

HEADS: Final = (
    "scenario",
    "sort",
    "requests",
    "lost: plain",
    "gateway",
    "retrying",
    "retried",
    "p50/p99/max before",
    "and after, ms",
    "to ready, s",
    "drain, s",
    "probes",
    "exit codes",
    "verdict",
)
AS_EXPECTED: Final = {Sort.PLANNED: "nothing lost", Sort.UNPLANNED: "as allowed", Sort.NAIVE: "loses, as it must"}


def kubelet_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    settings, machine = results["settings"], results["machine"]
    rows = [HEADS, *(row(name, results) for name in results["runs"])]
    widths = [max(len(line[column]) for line in rows) for column in range(len(HEADS))]
    lines = [
        f"{settings['manifest']}: {settings['rate_per_s']:g} requests/s, time-out {settings['timeout_s']:g} s; "
        f"{machine['cores']} cores ({machine['processor']}), shared by pods, Envoy and the clients",
        "",
    ]
    lines += ["  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return [*lines, "", *legend(), *(f"wrong: {text}" for text in results["wrong"])]


def legend() -> list[str]:
    """Return what the columns mean."""
    return [
        *(f"{kind}: {text}" for kind, text in KINDS.items()),
        f"lost a+b: a {IN_FLIGHT}, b {SENT_TO_DEAD}; +c! = {ELSEWHERE}",
        "to ready: from the start of a container; drain: from a deletion to the end; probes: sent (failed)",
    ]


def row(name: str, results: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a scenario."""
    run, figures = results["runs"][name], results["figures"][name]
    sort = Sort(run["sort"])
    lost = [_lost(figures["by_client"][kind]) for kind in (PLAIN, GATEWAY, RETRYING)]
    return (
        name,
        sort.value,
        str(figures["requests"]),
        *lost,
        str(figures["retried"]),
        _latencies(figures["before"]),
        _latencies(figures["during"]),
        _seconds(figures["time_to_ready_s"]),
        _seconds(figures["drain_s"]),
        f"{figures['probes_sent']} ({figures['probes_failed']})",
        " ".join(map(str, figures["exit_codes"])) or "-",
        figures["verdict"] or AS_EXPECTED[sort],
    )


def _lost(figures: Mapping[str, int]) -> str:
    in_flight, sent, elsewhere = (figures[place] for place in (IN_FLIGHT, SENT_TO_DEAD, ELSEWHERE))
    if elsewhere:
        return f"{in_flight}+{sent}+{elsewhere}!"
    return f"{in_flight}+{sent}" if in_flight or sent else "0"


def _latencies(figures: Mapping[str, Any]) -> str:
    values = (figures["p50_ms"], figures["p99_ms"], figures["max_ms"])
    return "/".join("-" if value is None else f"{value:.0f}" for value in values)


def _seconds(values: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values) or "-"
