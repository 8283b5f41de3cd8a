"""What does the server cost over a plain loop, and what does it bring? Both in one run, round by round."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from warmswap_loadtests.in_process import InProcessLoop, fastest_loop
from warmswap_loadtests.payloads import Payload, golden_payload, requests
from warmswap_loadtests.processes import peak_rss_mb, pss_mb
from warmswap_loadtests.served import run_clients
from warmswap_loadtests.stats import Latencies, median_of_ratios, pool
from warmswap_ops.launcher import Launcher, LaunchOptions
from warmswap_ops.ports import Ports

CONCURRENCIES = (1, 2, 4)
LOOP = "in-process loop"


@dataclass(frozen=True, slots=True)
class OverheadOptions:
    """How much is measured.

    Attributes:
        repository: Model repository that both serve.
        rounds: Times that loop and server take turns.
        requests: Requests per turn.
        fresh_sources: Whether every request brings a new source.
        protocol: ``grpc`` or ``http``.
    """

    repository: Path
    rounds: int = 5
    requests: int = 24
    fresh_sources: bool = False
    protocol: str = "grpc"


def measure_overhead(options: OverheadOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure loop and server in turns and return the figures."""
    payload = golden_payload(options.repository)

    def stream(count: int) -> list[Payload]:
        return list(islice(sequence, count))

    sequence = requests(payload, fresh_sources=options.fresh_sources)
    progress("tuning the loop")
    loop, tunings = fastest_loop(options.repository, lambda: stream(8))
    progress("starting the server")
    launcher = Launcher(LaunchOptions(repository=options.repository, ports=Ports(0, 0, 0)))
    launcher.start()
    try:
        hosts = {"grpc": launcher.grpc_url, "http": launcher.http_url}
        url = f"{options.protocol}://{hosts[options.protocol]}"
        run_clients(url, iter(stream(16)), 4, 16)
        rounds = {name: [] for name in (LOOP, *map(_name, CONCURRENCIES))}  # type: dict[str, list[Latencies]]
        steps: dict[str, dict[str, float]] = {}
        for number in range(options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            latencies, steps[LOOP] = loop.run(stream(options.requests))
            rounds[LOOP].append(latencies)
            for concurrency in CONCURRENCIES:
                count = options.requests * concurrency
                latencies, steps[_name(concurrency)] = run_clients(url, iter(stream(count)), concurrency, count)
                rounds[_name(concurrency)].append(latencies)
        memory = {
            "server_peak_rss_mb": peak_rss_mb(launcher.processes),
            "server_pss_mb": pss_mb(launcher.processes),
            "loop_and_clients_peak_rss_mb": peak_rss_mb([os.getpid()]),
        }
    finally:
        launcher.stop()
    return _figures(options, loop, tunings, rounds, steps, memory)


def _name(concurrency: int) -> str:
    return f"server, concurrency {concurrency}"


def _figures(
    options: OverheadOptions,
    loop: InProcessLoop,
    tunings: dict[str, float],
    rounds: dict[str, list[Latencies]],
    steps: dict[str, dict[str, float]],
    memory: dict[str, float],
) -> dict[str, Any]:
    base = rounds[LOOP]
    base_p50, base_rps = [item.percentile_ms(50) for item in base], [item.rps for item in base]
    ways = []
    for name, items in rounds.items():
        together = pool(items)
        ways.append(
            {
                "way": name,
                "requests": len(together.values_ms),
                "p50_ms": together.percentile_ms(50),
                "p95_ms": together.percentile_ms(95),
                "rps": together.rps,
                "p50_ratio": median_of_ratios([item.percentile_ms(50) for item in items], base_p50),
                "rps_ratio": median_of_ratios([item.rps for item in items], base_rps),
                "steps_ms": steps[name],
            }
        )
    return {
        "protocol": options.protocol,
        "fresh_sources": options.fresh_sources,
        "cpus": os.cpu_count(),
        "loop_tuning": str(loop.tuning),
        "loop_tunings_p50_ms": tunings,
        "ways": ways,
        "memory": memory,
    }


def overhead_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    sources = "a new source each time" if figures["fresh_sources"] else "the same source each time"
    lines = [
        f"{figures['protocol']}, {sources}, {figures['cpus']} CPUs; loop: {figures['loop_tuning']}",
        "",
        f"{'':24}{'p50 ms':>9}{'p95 ms':>9}{'req/s':>8}{'p50 ratio':>11}{'req/s ratio':>13}",
    ]
    for way in figures["ways"]:
        lines.append(
            f"{way['way']:24}{way['p50_ms']:9.1f}{way['p95_ms']:9.1f}{way['rps']:8.1f}"
            f"{way['p50_ratio']:11.2f}{way['rps_ratio']:13.2f}"
        )
    lines += ["", "mean ms per step"]
    names = list(figures["ways"][0]["steps_ms"])
    for way in figures["ways"]:
        lines.append(f"{way['way']:24}" + "  ".join(f"{name} {way['steps_ms'].get(name, 0):.1f}" for name in names))
    memory = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in figures["memory"].items())
    return [*lines, "", f"memory: {memory}"]
