"""The benchmark as a whole: settings, calibration at rest, the set-ups under the same load, results."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.avalanche.figures import summarise
from warmswap_loadtests.avalanche.run import Rest, RunningSetUp
from warmswap_loadtests.avalanche.scenario import BASE_SHARE, SPIKE_SHARE, Scenario
from warmswap_loadtests.cold.bench import OPEN, find_pack
from warmswap_loadtests.cold.calibration import TIMEOUT_FACTOR
from warmswap_loadtests.contenders.contender import Contender
from warmswap_loadtests.contenders.registry import make_contenders
from warmswap_loadtests.envoy import find_envoy
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.machine import git_commit, run_facts
from warmswap_loadtests.payloads import golden_payload

SET_UPS: Final = ("naive", "warmswap")
BASELINE: Final = "naive"
RESULTS_NAME: Final = "avalanche.json"
CHART_NAME: Final = "avalanche.png"
REPORT_NAME: Final = "avalanche.html"
LEAST_TIMEOUT_S: Final = 2.0
"""More than for single replicas: one that starts takes cores from those that serve, on one machine."""
BUSY_SAMPLE_S: Final = 1.0
BUSY_PERCENT: Final = 15.0
"""Of all cores, before a set-up starts: more than that is somebody else, and takes part in every figure."""
LEAST_SECONDS: Final = 8.0
"""A shorter load leaves no time to start a replica in the phase in which it counts."""


@dataclass(frozen=True, slots=True)
class AvalancheOptions:
    """What is measured.

    Attributes:
        pack: ``open`` or ``twin``.
        repository: Model repository that all set-ups serve; ``None`` = that of the pack.
        seconds: Length of the load, for each set-up.
        rate_per_s: Arrivals a second in the spike; ``None`` = a share of what one replica can do here.
        set_ups: Names of contenders.
        delays: Scenario whose delays and limits hold; its length, rates and patience are replaced.
    """

    pack: str = OPEN
    repository: Path | None = None
    seconds: float = 60.0
    rate_per_s: float | None = None
    set_ups: tuple[str, ...] = SET_UPS
    delays: Scenario = Scenario(1.0, 1.0, 1.0)  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        """Refuse a load that is too short.

        Raises:
            BenchError: it is.
        """
        if self.seconds < LEAST_SECONDS:
            raise BenchError(f"{self.seconds:g} s are too short for the phases: give at least {LEAST_SECONDS:g}")


def measure_avalanche(options: AvalancheOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run every set-up and return the results.

    Raises:
        BenchError: Envoy is not installed, the repository is not there, or a set-up does not work.
    """
    find_envoy()
    repository = find_pack(options.pack, options.repository)
    contenders = make_contenders(options.set_ups, progress)
    payload = golden_payload(repository)
    begin_s, commit = time.monotonic(), git_commit()
    with tempfile.TemporaryDirectory(prefix="warmswap-avalanche-") as folder:
        work = Path(folder)
        rests: dict[str, Rest] = {}
        for contender in contenders:
            progress(f"{contender.name}: one replica at rest")
            _prepare(contender, repository, work)
            with (
                _named(contender.name),
                RunningSetUp(contender, options.delays, payload, work / f"{contender.name}-rest") as running,
            ):
                rests[contender.name] = running.measure_rest()
        scenario = _scenario(options, list(rests.values()))
        check = AnswerCheck(payload.target, rests[contenders[0].name].answer)
        runs: dict[str, Any] = {}
        for contender in contenders:
            busy_percent = psutil.cpu_percent(BUSY_SAMPLE_S)
            rates = f"{scenario.base_rate:g}, then {scenario.spike_rate:g} requests/s"
            progress(f"{contender.name}: {rates}, for {scenario.seconds:g} s, time-out {scenario.timeout_s:g} s")
            if busy_percent > BUSY_PERCENT:
                progress(f"others keep this machine {busy_percent:.0f} % busy: the figures will show that, not us")
            facts = {"summary": contender.summary, "busy_before_percent": busy_percent}
            with _named(contender.name), RunningSetUp(contender, scenario, payload, work / contender.name) as running:
                runs[contender.name] = {**facts, **running.measure_load(check)}
    results = {
        **run_facts("avalanche", begin_s, commit),
        "settings": {
            "pack": options.pack,
            **asdict(scenario),
            "phases": scenario.phase_starts(),
            "request": f"{len(payload.source)} and {len(payload.target)} bytes of JPEG, a new source each time",
        },
        "rest": {
            name: {"median_ms": round(rest.median_s * 1e3, 1), "capacity_per_s": round(rest.capacity_per_s, 2)}
            for name, rest in rests.items()
        },
        "runs": runs,
    }
    return _with_summary(results)


def make_folder(folder: Path) -> None:
    """Make the folder for the results.

    Raises:
        BenchError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error


def write_results(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the results as JSON, the chart and the report; return the files.

    Raises:
        BenchError: the folder cannot be written.
    """
    from warmswap_loadtests.avalanche.charts import render_chart
    from warmswap_loadtests.avalanche.report import report_page
    from warmswap_loadtests.cold.charts import LIGHT

    make_folder(folder)
    paths = [folder / name for name in (RESULTS_NAME, CHART_NAME, REPORT_NAME)]
    try:
        paths[0].write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")
        paths[1].write_bytes(render_chart(results, LIGHT))
        paths[2].write_text(report_page(results), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error
    return paths


def read_results(folder: Path | None) -> dict[str, Any]:
    """Return what ``write_results`` wrote, with the figures made anew.

    Raises:
        BenchError: there is none.
    """
    if folder is None:
        raise BenchError(f"--redraw draws what {RESULTS_NAME} in --out holds: give --out DIR")
    path = folder / RESULTS_NAME
    try:
        return _with_summary(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} has no results of this benchmark: {error}") from error


def _with_summary(results: dict[str, Any]) -> dict[str, Any]:
    phases = results["settings"]["phases"]
    results["figures"] = {
        name: summarise(run["requests"], run["events"], phases) for name, run in results["runs"].items()
    }
    return results


def _scenario(options: AvalancheOptions, rests: list[Rest]) -> Scenario:
    """Return the load: as much as the weaker set-up bears well, with the slower one's patience, for all the same."""
    spike_rate = options.rate_per_s or SPIKE_SHARE * min(rest.capacity_per_s for rest in rests)
    patience_s = TIMEOUT_FACTOR * max(rest.median_s for rest in rests)
    return replace(
        options.delays,
        seconds=options.seconds,
        spike_rate=round(spike_rate, 2),
        base_rate=round(spike_rate * BASE_SHARE / SPIKE_SHARE, 2),
        timeout_s=max(LEAST_TIMEOUT_S, round(patience_s, 1)),
    )


def _prepare(contender: Contender, repository: Path, work: Path) -> None:
    folder = work / f"{contender.name}-prepared"
    folder.mkdir()
    contender.prepare(repository, folder)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except BenchError as error:
        raise BenchError(f"{name}: {error}") from error
