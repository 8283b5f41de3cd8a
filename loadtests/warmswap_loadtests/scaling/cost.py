"""The question of cost, answered in words: what a warm replica costs, what it saves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

HOURS_A_DAY: Final = 24.0
HOURS_A_MONTH: Final = 730.0

Figures = Mapping[str, Any]


def compare(baseline: Figures, other: Figures) -> dict[str, float | None]:
    """Return what a policy costs more than another one over the trace, and what it spares.

    ``cost_per_spared`` is the extra cost of each request that is neither served cold nor lost any more; ``None`` if
    there is none, or if nothing more is paid.
    """
    extra = other["cost"] - baseline["cost"]
    spared = baseline["served_cold"] + baseline["lost"] - other["served_cold"] - other["lost"]
    return {
        "extra_cost": round(extra, 4),
        "cold_spared": baseline["served_cold"] - other["served_cold"],
        "lost_spared": baseline["lost"] - other["lost"],
        "waiting_spared_s": round(baseline["wait_total_s"] - other["wait_total_s"], 1),
        "cost_per_spared": round(extra / spared, 6) if spared > 0 and extra > 0 else None,
    }


def find_baseline(policies: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first policy that goes to zero, or else the first."""
    return next((name for name, policy in policies.items() if policy["min_replicas"] == 0), next(iter(policies)))


def warm_pair(policies: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return a policy that goes to zero and one that differs from it only in what must be there at least, if any."""
    for cold, policy in policies.items():
        for warm, other in policies.items():
            if policy["min_replicas"] == 0 < other["min_replicas"] and _without_least(policy) == _without_least(other):
                return cold, warm
    return None


def price_sentence(price_per_hour: float) -> str:
    """Return what one replica costs that is always there."""
    return (
        f"At {price_per_hour:g} an hour, one replica that is always warm costs {price_per_hour * HOURS_A_DAY:.2f} a "
        f"day and {price_per_hour * HOURS_A_MONTH:.0f} a month of {HOURS_A_MONTH:g} hours."
    )


def warm_sentence(pair: tuple[str, str], figures: Mapping[str, Figures]) -> str:
    """Return what the warm replica does over the trace, in words."""
    cold, warm = (figures[name] for name in pair)
    bad = cold["served_cold"] + cold["lost"]
    left = warm["served_cold"] + warm["lost"]
    return (
        f"{pair[1]} differs from {pair[0]} only in the replica that is never taken away: over this trace it pays for "
        f"{warm['paid_hours'] - cold['paid_hours']:+,.1f} replica hours, and {left:,} instead of {bad:,} requests are "
        "served cold or lost."
    )


def comparison_sentence(baseline: str, name: str, difference: Mapping[str, float | None]) -> str:
    """Return a comparison in words."""
    extra = difference["extra_cost"] or 0.0
    if abs(extra) < 0.005:
        price = f"costs as much as {baseline}"
    else:
        price = f"costs {abs(extra):,.2f} {'more' if extra > 0 else 'less'} than {baseline}"
    waiting_s = difference["waiting_spared_s"] or 0.0
    parts = [_change(difference["cold_spared"], "served cold"), _change(difference["lost_spared"], "lost")]
    waiting = f"{abs(waiting_s):,.0f} s {'less' if waiting_s >= 0 else 'more'} of waiting"
    each = difference["cost_per_spared"]
    end = f": {each:.4g} for each request spared" if each is not None else ""
    return f"{name} {price}, with {parts[0]}, {parts[1]} and {waiting}{end}."


def _change(spared: float | None, what: str) -> str:
    number = round(spared or 0.0)
    if number == 0:
        return f"as many requests {what}"
    return f"{abs(number):,} {'fewer' if number > 0 else 'more'} {what}"


def _without_least(policy: Mapping[str, Any]) -> Any:
    settings = copy.deepcopy(policy["settings"])
    for table, key in ((settings, "name"), (settings, "summary"), (settings["replica"], "activator")):
        del table[key]
    del settings["autoscaler"]["min_replicas"]
    return settings
