"""What loading a model on demand costs the requests that do not need it.

One client sends swaps with the default swapper, one after the other. Each cycle has a window in which a request for the
variant makes the server load it, and a control window of the same length, one before and one after in turn, in which
nothing is loaded. Requests that begin or end in a window belong to it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from warmswap_client import FaceSwapClient
from warmswap_ensemble.contract import SWAPPER_VARIANT_PREFIX
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.payloads import Payload, golden_payload
from warmswap_loadtests.stats import Latencies
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.phases import Phase

IDLE_S: Final = 0.4
WARM_UP_S: Final = 2.0
UNLOAD_TIMEOUT_S: Final = 60.0
MOST_RISE: Final = 1.10


@dataclass(frozen=True, slots=True)
class OnDemandOptions:
    """What is measured.

    Attributes:
        repository: What is served; the policy is the benchmark's own.
        swapper: The variant.
        cycles: Loads and unloads.
        rate: Steady requests a second; 0 = the next one when the last is answered.
        foreground: Let loads take their share of the cores, to see what the background saves.
    """

    repository: Path
    swapper: str
    cycles: int
    rate: float = 0.0
    foreground: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, in ``time.perf_counter()`` seconds."""

    start_s: float
    end_s: float

    def latencies(self, requests: list[tuple[float, float]]) -> list[float]:
        """Return the milliseconds of the requests that overlap it."""
        return [(end - start) * 1e3 for start, end in requests if start < self.end_s and end > self.start_s]


def measure_on_demand(options: OnDemandOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Load and unload the variant several times beside steady requests.

    Raises:
        BenchError: the repository has no such variant, or it cannot be loaded.
    """
    model = f"{SWAPPER_VARIANT_PREFIX}{options.swapper}"
    if not (options.repository / model).is_dir():
        raise BenchError(f"{options.repository} has no {model}")
    if not options.rate >= 0:
        raise BenchError(f"--rate must be a number of requests a second, or 0 for a closed loop, got {options.rate}")
    payload = golden_payload(options.repository)
    phases: list[Phase] = []
    with TemporaryDirectory(prefix="warmswap-bench-") as folder:
        policy = Path(folder) / "residency.toml"
        policy.write_text(f"[models.{model}]\nidle_s = {IDLE_S}\n", encoding="utf-8")
        with LocalTriton(options.repository, residency=policy, report=phases.append) as server:
            residency = server.residency
            assert residency is not None
            if options.foreground:
                residency.in_background = False
            with steady_requests(f"grpc://{server.grpc_url}", payload, options.rate) as requests:
                time.sleep(WARM_UP_S)
                loading: list[Window] = []
                control: list[Window] = []
                first_ms: list[float] = []
                longest_s = 1.0
                with FaceSwapClient(f"grpc://{server.grpc_url}", timeout_s=UNLOAD_TIMEOUT_S) as client:
                    for cycle in range(options.cycles):
                        progress(f"cycle {cycle + 1} of {options.cycles}")
                        if cycle % 2:
                            control.append(_quiet(longest_s))
                        start_s = time.perf_counter()
                        client.swap(payload.source, payload.target, swapper=options.swapper)
                        first_ms.append((time.perf_counter() - start_s) * 1e3)
                        load_s = (residency.snapshot()["models"][model]["load_ms"] or 0.0) / 1e3
                        loading.append(Window(start_s, start_s + load_s))
                        longest_s = load_s
                        _wait_until_absent(residency, model)
                        if not cycle % 2:
                            control.append(_quiet(longest_s))
            in_background = residency.snapshot()["in_background"]
    inside, outside = (
        Latencies([ms for window in windows for ms in window.latencies(requests)], _length_s(windows))
        for windows in (loading, control)
    )
    if not inside.values_ms or not outside.values_ms:
        raise BenchError("no request was answered beside the loads; is the machine overloaded?")
    loads_ms = [phase.ms for phase in phases if phase.name == "on_demand_load" and phase.ms is not None]
    return {
        "model": model,
        "cycles": options.cycles,
        "rate": options.rate,
        "in_background": in_background,
        "load_ms": sorted(loads_ms),
        "first_answer_ms": sorted(first_ms),
        "while_loading": _figures(inside),
        "otherwise": _figures(outside),
        "p50_ratio": inside.percentile_ms(50) / outside.percentile_ms(50),
        "p99_ratio": inside.percentile_ms(99) / outside.percentile_ms(99),
    }


@contextlib.contextmanager
def steady_requests(url: str, payload: Payload, rate: float) -> Iterator[list[tuple[float, float]]]:
    """Send swaps with the default swapper from a thread; yield when each began and ended.

    Args:
        url: The server.
        payload: What every request holds.
        rate: Requests a second, counted from when they should begin; 0 = as fast as they are answered.

    Raises:
        BenchError: a request failed.
    """
    requests: list[tuple[float, float]] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def send() -> None:
        with FaceSwapClient(url) as client:
            due_s = time.perf_counter()
            while not stop.is_set():
                due_s = due_s + 1 / rate if rate else time.perf_counter()
                if stop.wait(max(0.0, due_s - time.perf_counter())):
                    return
                try:
                    client.swap(payload.source, payload.target)
                except Exception as error:
                    failures.append(error)
                    return
                requests.append((due_s, time.perf_counter()))

    sender = threading.Thread(target=send, name="steady", daemon=True)
    sender.start()
    try:
        yield requests
    finally:
        stop.set()
        sender.join()
    if failures:
        raise BenchError(f"a steady request failed: {failures[0]}")


def on_demand_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    load_ms, first_ms = figures["load_ms"], figures["first_answer_ms"]
    how = "in the background (SCHED_IDLE)" if figures["in_background"] else "with its share of the cores"
    rate = f"{figures['rate']:g} requests a second" if figures["rate"] else "one client, closed loop"
    lines = [
        f"{figures['model']}: {figures['cycles']} loads {how}, beside {rate}",
        f"  load          median {load_ms[len(load_ms) // 2]:7.0f} ms, most {load_ms[-1]:7.0f}",
        f"  first answer  median {first_ms[len(first_ms) // 2]:7.0f} ms, most {first_ms[-1]:7.0f}",
    ]
    for name, title in (("while_loading", "while loading"), ("otherwise", "otherwise")):
        values = figures[name]
        lines.append(
            f"  {title:<13} p50 {values['p50_ms']:6.1f} ms   p99 {values['p99_ms']:6.1f} ms   "
            f"most {values['max_ms']:6.1f} ms   ({values['requests']} requests)"
        )
    verdict = "kept" if figures["p99_ratio"] <= MOST_RISE else "MISSED"
    lines.append(
        f"  ratio         p50 {figures['p50_ratio']:5.2f}      p99 {figures['p99_ratio']:5.2f}      "
        f"(goal: p99 <= {MOST_RISE:.2f}, {verdict})"
    )
    return lines


def _figures(latencies: Latencies) -> dict[str, float]:
    return {
        "requests": len(latencies.values_ms),
        "p50_ms": latencies.percentile_ms(50),
        "p99_ms": latencies.percentile_ms(99),
        "max_ms": max(latencies.values_ms),
    }


def _quiet(seconds: float) -> Window:
    start_s = time.perf_counter()
    time.sleep(seconds)
    return Window(start_s, time.perf_counter())


def _wait_until_absent(residency: Any, model: str) -> None:
    deadline_s = time.monotonic() + UNLOAD_TIMEOUT_S
    while residency.snapshot()["models"][model]["loaded"]:
        if time.monotonic() > deadline_s:
            raise BenchError(f"{model} was not unloaded")
        time.sleep(0.05)


def _length_s(windows: list[Window]) -> float:
    return sum(window.end_s - window.start_s for window in windows)
