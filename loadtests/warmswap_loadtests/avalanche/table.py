"""The figures as text, for terminals and for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from warmswap_loadtests.avalanche.figures import COLD_FACTOR, FIRST_REQUESTS
from warmswap_loadtests.avalanche.scenario import KILL, SCALE_IN, SCALE_OUT, STEADY

LABEL_WIDTH: Final = 44
COLUMN_WIDTH: Final = 24
NONE: Final = "none"

PHASE_TEXTS: Final = {
    STEADY: "one warm replica, base rate",
    SCALE_OUT: "the spike begins, replicas are added",
    SCALE_IN: "one is drained: endpoint removed, SIGTERM later",
    KILL: "one is killed (SIGKILL) and replaced",
}

Figures = Mapping[str, Any]


def avalanche_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    settings, machine = results["settings"], results["machine"]
    lines = [
        f"pack {settings['pack']}, {settings['base_rate']:g} then {settings['spike_rate']:g} requests/s for "
        f"{settings['seconds']:g} s, time-out {settings['timeout_s']:g} s; {machine['cores']} cores "
        f"({machine['processor']}), shared by all replicas, Envoy and the generator",
        "",
        " " * LABEL_WIDTH + "".join(f"{name:>{COLUMN_WIDTH}}" for name in results["figures"]),
    ]
    for label, values in table_rows(results):
        lines.append(f"{label:{LABEL_WIDTH}}" + "".join(f"{value:>{COLUMN_WIDTH}}" for value in values))
    for name, figures in results["figures"].items():
        kinds = [f"{count} {kind} ({phase})" for phase, kind, count in failures(figures)]
        lines += [f"{name} lost: {', '.join(kinds)}"] if kinds else []
    return [*lines, "", cold_definition()]


def table_rows(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return a label and the text for each set-up."""
    columns: list[Figures] = list(results["figures"].values())

    def row(label: str, text: Callable[[Figures], str]) -> tuple[str, list[str]]:
        return label, [text(figures) for figures in columns]

    rows = [row("requests failed or timed out", lambda f: f"{f['failed']} of {f['requests']}")]
    for phase in PHASE_TEXTS:
        rows.append(row(f"  in {phase}", lambda f, phase=phase: str(f["phases"][phase]["failed"])))  # type: ignore[misc]
    rows.append(row("steady median (spike rate, one replica)", lambda f: _ms(f["steady_median_ms"])))
    for phase in (SCALE_OUT, SCALE_IN, KILL):
        rows.append(row(f"{phase}: p50 / p99 / max", lambda f, phase=phase: _latencies(f["phases"][phase])))  # type: ignore[misc]
    rows += [
        row("served cold, of the first requests", lambda f: _share(f["cold"])),
        row("as slow, of the other requests", lambda f: _share(f["others_as_slow"])),
        row("slowest first request of a new replica", lambda f: _ms(_most(f, "first_request_ms"))),
        row("exec to rotation, per new replica", lambda f: _seconds(f, "exec_to_rotation_s")),
        row("exec to first answer, per new replica", lambda f: _seconds(f, "exec_to_first_answer_s")),
        row("in work on the killed replica", lambda f: ", ".join(f["killed_in_work"]) or NONE),
        row("answered on a second attempt", lambda f: str(f["retried"])),
    ]
    return rows


def failures(figures: Figures) -> list[tuple[str, str, int]]:
    """Return phase, kind and number of what failed."""
    return [
        (phase, kind, count) for phase, found in figures["phases"].items() for kind, count in found["kinds"].items()
    ]


def cold_definition() -> str:
    """Return what "served cold" means."""
    return (
        f"Served cold: one of the first {FIRST_REQUESTS} requests of a replica started in the run, and slower than "
        f"{COLD_FACTOR:g} times the steady median. A request that timed out counts with its time-out."
    )


def _most(figures: Figures, key: str) -> float | None:
    return max((replica[key] for replica in figures["replicas"] if replica[key] is not None), default=None)


def _seconds(figures: Figures, key: str) -> str:
    values = [replica[key] for replica in figures["replicas"]]
    return ", ".join("never" if value is None else f"{value:.1f}" for value in values) + " s" if values else NONE


def _share(slow: Figures) -> str:
    if slow["slow"] is None or not slow["requests"]:
        return NONE
    return f"{slow['slow']} of {slow['requests']} ({slow['share']:.0%})"


def _latencies(phase: Figures) -> str:
    return (
        " / ".join("-" if phase[key] is None else f"{phase[key]:.0f}" for key in ("p50_ms", "p99_ms", "max_ms")) + " ms"
    )


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f} ms"
