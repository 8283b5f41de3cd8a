"""The figures as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from warmswap_loadtests.cold.figures import BASELINE, METRICS, Metric

LABEL_WIDTH: Final = 30
COLUMN_WIDTH: Final = 20
NEVER: Final = "never"
SHARED_CORES: Final = "Server and generator share the cores."


def cold_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines for people: medians with their ratio to naive, and below least and most."""
    settings, machine = results["settings"], results["machine"]
    lines = [
        f"pack {settings['pack']}, {settings['rate_per_s']:g} requests/s from exec on for {settings['seconds']:g} s, "
        f"time-out {settings['timeout_s']:g} s, probes every {settings['probe_period_s'] * 1e3:g} ms, "
        f"{settings['runs']} runs; {machine['cores']} cores ({machine['processor']}). {SHARED_CORES}"
    ]
    for item in results["contenders"]:
        if "compile_s" in item["prepared"]:
            lines.append(f"{item['name']}: compiled beforehand in {item['prepared']['compile_s']:.1f} s")
    for state in dict.fromkeys(entry["page_cache"] for entry in results["summary"]):
        entries = [entry for entry in results["summary"] if entry["page_cache"] == state]
        heads = "".join(f"{entry['contender']:>{COLUMN_WIDTH}}" for entry in entries)
        lines += ["", f"{'page cache ' + state:{LABEL_WIDTH}}{heads}"]
        for metric in METRICS:
            spreads = [entry["metrics"][metric.key] for entry in entries]
            values = [value_text(metric, spread["median"]) + ratio_text(spread) for spread in spreads]
            lines.append(f"{metric.label:{LABEL_WIDTH}}" + "".join(f"{text:>{COLUMN_WIDTH}}" for text in values))
            if settings["runs"] > 1:
                ranges = "".join(f"{range_text(metric, spread):>{COLUMN_WIDTH}}" for spread in spreads)
                lines.append(" " * LABEL_WIDTH + ranges)
    lines += ["", f"In brackets: ratio to {BASELINE}, less is better."]
    return lines


def value_text(metric: Metric, value: float | None) -> str:
    """Return a value with its unit."""
    if value is None:
        return NEVER
    return f"{value:.{metric.digits}f}" + (f" {metric.unit}" if metric.unit else "")


def range_text(metric: Metric, spread: Mapping[str, float | None]) -> str:
    """Return least and most."""
    least, most = (
        f"{value:.{metric.digits}f}" if (value := spread[key]) is not None else NEVER for key in ("min", "max")
    )
    return f"{least} to {most}"


def ratio_text(spread: Mapping[str, float | None]) -> str:
    """Return the ratio to naive in brackets, or nothing where there is none."""
    ratio = spread["ratio"]
    return "" if ratio is None else f" ({ratio:.2f})"
