"""The figures as text, for terminals and for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

HEADS: Final = (
    "policy", "served cold", "lost", "mean wait", "p50", "p99", "max", "too few for", "peak", "replica h", "paid h",
    "cost",
)  # fmt: skip
GAP: Final = "  "

Figures = Mapping[str, Any]
_CELLS: Final[tuple[Callable[[Figures], str], ...]] = (
    lambda figures: f"{figures['served_cold']:,}",
    lambda figures: f"{figures['lost']:,}",
    lambda figures: f"{figures['wait_mean_s']:.2f} s",
    lambda figures: f"{figures['wait_p50_s']:.1f} s",
    lambda figures: f"{figures['wait_p99_s']:.1f} s",
    lambda figures: f"{figures['wait_max_s']:.1f} s",
    lambda figures: span(figures["short_s"]),
    lambda figures: f"{figures['peak_serving']:,}",
    lambda figures: f"{figures['replica_hours']:,.1f}",
    lambda figures: f"{figures['paid_hours']:,.1f}",
    lambda figures: f"{figures['cost']:,.2f}",
)

NOTE: Final = (
    "Served cold: a replica loaded its models for the request, or the request came while no replica served. Lost: "
    "waited longer than a client does, or found nobody. Too few for: how long the trace asked for more than "
    "the replicas in service can do. Paid: replicas from their creation on, idle nodes and "
    "placeholders. The waits of the table are of those served; the sums of waiting count those who gave up too."
)


def table_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of texts for each policy."""
    return [[name, *(cell(figures) for cell in _CELLS)] for name, figures in results["figures"].items()]


def scaling_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    settings = results["settings"]
    rows = [list(HEADS), *table_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    return [
        f"trace {settings['trace']}{scale_text(settings['scale'])}: {settings['requests']:,} requests in "
        f"{span(settings['seconds'])}, {settings['peak_rate']:,.4g} a second at most; "
        f"steps of {settings['step_s']:g} s, seed {settings['seed']}",
        "",
        *(_line(row, widths) for row in rows),
        "",
        *results["answers"],
        "",
        NOTE,
    ]


def scale_text(scale: float) -> str:
    """Return how often a trace is taken, if not once."""
    return "" if scale == 1 else f" x {scale:g}"


def span(seconds: float) -> str:
    """Return a length of time in its own unit."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    return GAP.join(
        [f"{first:{widths[0]}}", *(f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True))]
    )
