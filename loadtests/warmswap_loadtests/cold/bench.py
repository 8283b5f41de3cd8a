"""The benchmark as a whole: settings, preparation, calibration, runs in turns, results."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import PIPELINE_STAGES, PIPELINES
from warmswap_loadtests.cold.calibration import Calibration, calibrate
from warmswap_loadtests.cold.figures import summarise
from warmswap_loadtests.cold.run import Load, measure_run
from warmswap_loadtests.contenders.contender import Contender
from warmswap_loadtests.contenders.fastapi_servers import preloading
from warmswap_loadtests.contenders.registry import make_contenders
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.machine import git_commit, run_facts
from warmswap_loadtests.page_cache import STATES, PageCache
from warmswap_loadtests.payloads import golden_payload

OPEN: Final = "open"
TWIN: Final = "twin"
PACKS: Final = {OPEN: Path("model_repository"), TWIN: Path("out/twins/repository")}
"""Pack to its repository."""

RESULTS_NAME: Final = "results.json"


@dataclass(frozen=True, slots=True)
class ColdOptions:
    """What is measured.

    Attributes:
        pack: ``open`` or ``twin``.
        repository: Model repository; ``None`` = that of the pack.
        runs: Starts of each contender, in each page cache state.
        seconds: How long requests arrive, from exec on.
        rate_per_s: Arrivals a second; ``None`` = half of what the preloading server can do.
        probe_period_s: From one readiness probe to the next.
        page_cache: ``warm``, ``dropped`` or ``both``.
        contenders: Names; ``None`` = all that can run here.
    """

    pack: str = OPEN
    repository: Path | None = None
    runs: int = 3
    seconds: float = 30.0
    rate_per_s: float | None = None
    probe_period_s: float = 0.1
    page_cache: str = "warm"
    contenders: Sequence[str] | None = None


def measure_cold(options: ColdOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything and return the results.

    Raises:
        BenchError: the repository is not there, or a contender does not work.
    """
    repository = find_pack(options.pack, options.repository)
    contenders = make_contenders(options.contenders, progress)
    payload = golden_payload(repository)
    states = STATES if options.page_cache == "both" else (options.page_cache,)
    begin_s, commit = time.monotonic(), git_commit()
    with tempfile.TemporaryDirectory(prefix="warmswap-cold-") as folder:
        work = Path(folder)
        prepared = {contender.name: _prepare(contender, repository, work, progress) for contender in contenders}
        progress("calibrating on the preloading server")
        measured = preloading()
        measured.prepare(repository, work)
        with _named("calibration"):
            calibration = calibrate(measured, payload, options.probe_period_s, work / "calibration.log")
        load = Load(
            payload,
            rate_per_s=options.rate_per_s or calibration.rate_per_s,
            seconds=options.seconds,
            timeout_s=calibration.timeout_s,
            probe_period_s=options.probe_period_s,
        )
        progress(f"{load.rate_per_s:g} requests/s from exec on, time-out {load.timeout_s:g} s")
        runs: list[dict[str, Any]] = []
        page_cache = PageCache()
        for number, state, contender in _turns(options.runs, states, contenders):
            progress(f"run {number + 1} of {options.runs}, page cache {state}: {contender.name}")
            cache = page_cache.set(state, contender.files())
            log = work / f"{contender.name}-{state}-{number}.log"
            with _named(contender.name):
                run = measure_run(contender, load, calibration.check, log)
            runs.append({"contender": contender.name, "page_cache": state, "run": number, "cache": cache, **run})
    return {
        **run_facts("cold", begin_s, commit),
        "settings": _settings(options, load, calibration),
        "contenders": [
            {"name": contender.name, "summary": contender.summary, "prepared": prepared[contender.name]}
            for contender in contenders
        ],
        "runs": runs,
        "summary": summarise(runs, options.seconds),
    }


def find_pack(pack: str, repository: Path | None) -> Path:
    """Return the repository of a pack, or the given one.

    Raises:
        BenchError: it is not there; the text says how to make it.
    """
    found = repository or PACKS[pack]
    pipeline = PIPELINES[0].name
    missing = [name for name in (*PIPELINE_STAGES[pipeline], pipeline) if not (found / name / "config.pbtxt").is_file()]
    if not missing:
        return found
    how = "make twins" if pack == TWIN else "run this in the checkout"
    raise BenchError(f"{found} is no repository of the pack {pack} (no {missing[0]}): {how}, or give --repository")


def write_results(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``results.json``, the charts and ``report.html``; return the files.

    Raises:
        BenchError: the folder cannot be written.
    """
    from warmswap_loadtests.cold.charts import DARK, LIGHT, render_charts
    from warmswap_loadtests.cold.report import write_report

    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RESULTS_NAME
        path.write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")
        light, dark = render_charts(results, LIGHT), render_charts(results, DARK)  # when the results are safe
        charts = {folder / f"{name}.png": data for name, data in light.items()}
        for chart, data in charts.items():
            chart.write_bytes(data)
        return [path, *charts, write_report(results, light, dark, folder / "report.html")]
    except OSError as error:
        raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error


def read_results(folder: Path) -> dict[str, Any]:
    """Return what ``write_results`` wrote, with the figures made anew.

    Raises:
        BenchError: there is none.
    """
    path = folder / RESULTS_NAME
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        results["summary"] = summarise(results["runs"], results["settings"]["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} has no results of this benchmark: {error}") from error
    return results


def _prepare(contender: Contender, repository: Path, work: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    progress(f"preparing {contender.name}")
    folder = work / contender.name
    folder.mkdir()
    return contender.prepare(repository, folder)


def _turns(runs: int, states: Sequence[str], contenders: Sequence[Contender]) -> Iterator[tuple[int, str, Contender]]:
    """Yield run, page cache state and contender; another contender is the first in each run."""
    for number in range(runs):
        first = number % len(contenders)
        for state in states:
            for contender in (*contenders[first:], *contenders[:first]):
                yield number, state, contender


def _settings(options: ColdOptions, load: Load, calibration: Calibration) -> dict[str, Any]:
    return {
        "pack": options.pack,
        "runs": options.runs,
        "seconds": options.seconds,
        "rate_per_s": load.rate_per_s,
        "timeout_s": load.timeout_s,
        "probe_period_s": options.probe_period_s,
        "page_cache": options.page_cache,
        "request": f"{len(load.payload.source)} and {len(load.payload.target)} bytes of JPEG, a new source each time",
        "calibration": calibration.facts(),
    }


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except BenchError as error:
        raise BenchError(f"{name}: {error}") from error
