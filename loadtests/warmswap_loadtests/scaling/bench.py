"""The simulator as a whole: options, every policy over the same arrivals, results, files."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from warmswap_loadtests.machine import command_line, git_commit
from warmswap_loadtests.scaling.cost import (
    compare,
    comparison_sentence,
    find_baseline,
    price_sentence,
    warm_pair,
    warm_sentence,
)
from warmswap_loadtests.scaling.curves import CURVES
from warmswap_loadtests.scaling.errors import PolicyError, ScalingInputError, TraceError
from warmswap_loadtests.scaling.figures import course, summarise
from warmswap_loadtests.scaling.measured import find_measured
from warmswap_loadtests.scaling.policy import Policy
from warmswap_loadtests.scaling.policy_file import read_policies, shipped_policies
from warmswap_loadtests.scaling.simulation import simulate
from warmswap_loadtests.scaling.trace import Trace, read_trace

RESULTS_NAME: Final = "results.json"
TIMELINE_NAME: Final = "timeline.png"
COST_NAME: Final = "cost.png"
REPORT_NAME: Final = "report.html"
EXAMPLE_PRICE: Final = 0.5
"""An hour of one replica. An example, nobody's quote: give your own."""


@dataclass(frozen=True, slots=True)
class ScalingOptions:
    """What is simulated.

    Attributes:
        trace: A shipped curve, or the path of a CSV file.
        policy: A TOML file; ``None`` = the shipped comparison set.
        only: Names of policies; empty = all.
        scale: Times the requests of the trace, floors of the clock and placeholders.
        step_s: Resolution.
        seed: Of the arrivals.
        price_per_hour: Of a replica, or a node kept for one.
        measured: ``results.json`` of ``warmswap bench cold``; ``None`` = the shipped figures.
    """

    trace: str = "daily"
    policy: Path | None = None
    only: Sequence[str] = ()
    scale: float = 1.0
    step_s: float = 1.0
    seed: int = 0
    price_per_hour: float = EXAMPLE_PRICE
    measured: Path | None = None


def simulate_scaling(options: ScalingOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run every policy over the trace and return the results.

    Raises:
        ScalingInputError: trace, policy or figures cannot be used.
    """
    begin_s = time.monotonic()
    policies = [scaled_policy(policy, options.scale) for policy in _policies(options)]
    trace = find_trace(options.trace).scaled(options.scale)
    found = {p.name: find_measured(p.replica.pack, p.replica.contender, options.measured) for p in policies}
    figures: dict[str, Any] = {}
    courses: dict[str, Any] = {}
    for number, policy in enumerate(policies, start=1):
        progress(f"{policy.name} ({number} of {len(policies)})")
        run = simulate(policy, found[policy.name], trace, options.step_s, options.seed)
        figures[policy.name], courses[policy.name] = summarise(run, options.price_per_hour), course(run)
    results = {
        "benchmark": "scaling",
        "command": command_line(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - begin_s, 1),
        "git_commit": git_commit(),
        "settings": {
            "trace": trace.name,
            "begin": trace.begin.isoformat(),
            "seconds": trace.seconds,
            "requests": next(iter(figures.values()))["requests"],
            "peak_rate": round(float(trace.rates.max()), 4),
            "scale": options.scale,
            "step_s": options.step_s,
            "seed": options.seed,
            "price_per_hour": options.price_per_hour,
        },
        "policies": {policy.name: _described(policy, found[policy.name]) for policy in policies},
        "figures": figures,
        "courses": courses,
    }
    return with_answers(results)


def scaled_policy(policy: Policy, factor: float) -> Policy:
    """Return a policy whose floors and placeholders grow with the traffic; what must be there at least does not."""
    return replace(
        policy,
        cron=tuple(replace(trigger, replicas=max(1, round(trigger.replicas * factor))) for trigger in policy.cron),
        cluster=replace(policy.cluster, placeholders=round(policy.cluster.placeholders * factor)),
    )


def with_answers(results: dict[str, Any]) -> dict[str, Any]:
    """Add what follows from the figures: comparisons, and the answers in words."""
    figures = results["figures"]
    baseline = find_baseline(results["policies"])
    differences = {name: compare(figures[baseline], figures[name]) for name in figures if name != baseline}
    results["baseline"], results["differences"] = baseline, differences
    pair = warm_pair(results["policies"])
    results["answers"] = [
        price_sentence(results["settings"]["price_per_hour"]),
        *([warm_sentence(pair, figures)] if pair else []),
        *(comparison_sentence(baseline, name, difference) for name, difference in differences.items()),
    ]
    return results


def find_trace(name: str) -> Trace:
    """Return a shipped trace, or that of a file.

    Raises:
        TraceError: there is neither.
    """
    if name in CURVES:
        return CURVES[name]()
    if not Path(name).exists():
        raise TraceError(f"--trace {name}: no such file, and no shipped trace; those are {', '.join(CURVES)}")
    return read_trace(Path(name))


def make_folder(folder: Path) -> None:
    """Make the folder for the results.

    Raises:
        ScalingInputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ScalingInputError(f"cannot write to {folder}: {error.strerror or error}") from error


def write_results(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the results as JSON, the charts and the report; return the files.

    Raises:
        ScalingInputError: the folder cannot be written.
    """
    from warmswap_loadtests.cold.charts import LIGHT
    from warmswap_loadtests.scaling.charts import cost_chart, timeline_chart
    from warmswap_loadtests.scaling.report import report_page

    make_folder(folder)
    try:
        paths = [folder / name for name in (RESULTS_NAME, TIMELINE_NAME, COST_NAME, REPORT_NAME)]
        paths[0].write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")
        paths[1].write_bytes(timeline_chart(results, LIGHT))
        paths[2].write_bytes(cost_chart(results, LIGHT))
        paths[3].write_text(report_page(results), encoding="utf-8")
    except OSError as error:
        raise ScalingInputError(f"cannot write to {folder}: {error.strerror or error}") from error
    return paths


def read_results(folder: Path) -> dict[str, Any]:
    """Return what ``write_results`` wrote.

    Raises:
        ScalingInputError: there is none.
    """
    path = folder / RESULTS_NAME
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if results["benchmark"] != "scaling":
            raise ValueError(f"it is of {results['benchmark']!r}")
        return with_answers(results)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScalingInputError(f"{path} has no results of the simulator: {error}") from error


def _policies(options: ScalingOptions) -> list[Policy]:
    policies = read_policies(options.policy) if options.policy else shipped_policies()
    names = [policy.name for policy in policies]
    for name in options.only:
        if name not in names:
            raise PolicyError(f"--only {name}: no such policy; there are {', '.join(names)}")
    return [policy for policy in policies if not options.only or policy.name in options.only]


def _described(policy: Policy, measured: Any) -> dict[str, Any]:
    return {
        "summary": policy.summary,
        "contender": policy.replica.contender,
        "pack": policy.replica.pack,
        "min_replicas": policy.autoscaler.min_replicas,
        "measured": asdict(measured),
        "settings": asdict(policy),
    }
