"""The benchmark as a whole: manifest, calibration, the scenarios one after the other, results."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.avalanche.bench import BUSY_PERCENT, BUSY_SAMPLE_S, make_folder
from warmswap_loadtests.cold.bench import OPEN, find_pack
from warmswap_loadtests.envoy import find_envoy
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.kubelet.clients import KINDS, PROTOCOLS, Clients, Stream, make_streams
from warmswap_loadtests.kubelet.cluster import Cluster, Delays
from warmswap_loadtests.kubelet.container import can_isolate
from warmswap_loadtests.kubelet.figures import summarise
from warmswap_loadtests.kubelet.pod_spec import DeploymentSpec, read_manifest
from warmswap_loadtests.kubelet.run import SETTLE_TIMEOUT_S, Setting, measure
from warmswap_loadtests.kubelet.scenarios import find_scenarios
from warmswap_loadtests.machine import git_commit, run_facts
from warmswap_loadtests.open_loop import Outcome, Record, run_closed_loop
from warmswap_loadtests.payloads import Payload, golden_payload

MANIFEST: Final = Path("deploy/kubernetes/rendered/cpu/manifests.yaml")
RESULTS_NAME: Final = "kubelet.json"
REPORT_NAME: Final = "kubelet.html"
BOTH: Final = "both"
RATE_SHARE: Final = 0.25
"""Of what the pods can do at rest: all share the cores of one machine, and one that starts takes the others'."""
TIMEOUT_S: Final = 30.0
WARM_UP_REQUESTS: Final = 4
REST_REQUESTS: Final = 8
REST_CLIENTS: Final = 4


@dataclass(frozen=True, slots=True)
class KubeletOptions:
    """What is run.

    Attributes:
        manifest: Rendered manifest with the Deployment.
        repository: Model repository; ``None`` = that of the open pack.
        scenarios: Names; ``None`` = all.
        protocol: ``http``, ``grpc`` or ``both``.
        rate_per_s: Requests a second; ``None`` = a share of what the pods can do.
        delays: What takes time in a cluster.
    """

    manifest: Path = MANIFEST
    repository: Path | None = None
    scenarios: list[str] | None = None
    protocol: str = BOTH
    rate_per_s: float | None = None
    delays: Delays = Delays()  # noqa: RUF009 (frozen)


def measure_kubelet(options: KubeletOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run the scenarios and return the results.

    Raises:
        BenchError: Envoy is not installed, manifest or repository is not there or cannot be run, or the pods do not
            even swap at rest.
    """
    scenarios = find_scenarios(options.scenarios)
    spec = read_manifest(options.manifest)
    find_envoy()
    repository = find_pack(OPEN, options.repository).resolve()
    payload = golden_payload(repository)
    protocols = [protocol for protocol in PROTOCOLS if options.protocol in (BOTH, protocol)]
    begin_s, commit = time.monotonic(), git_commit()
    busy_percent = psutil.cpu_percent(BUSY_SAMPLE_S)
    if busy_percent > BUSY_PERCENT:
        progress(f"others keep this machine {busy_percent:.0f} % busy: latencies will show that, not us")
    with tempfile.TemporaryDirectory(prefix="warmswap-kubelet-") as folder:
        work = Path(folder)
        progress("two pods at rest")
        rest = _at_rest(spec, repository, payload, make_streams(protocols)[: len(protocols)], options.delays, work)
        setting = Setting(
            spec,
            repository,
            make_streams(protocols),
            payload,
            rate_per_s=options.rate_per_s or round(RATE_SHARE * rest.capacity_per_s, 2),
            timeout_s=TIMEOUT_S,
            delays=options.delays,
            check=AnswerCheck(payload.target, rest.answer),
        )
        progress(f"{setting.rate_per_s:g} requests/s")
        runs: dict[str, Any] = {}
        errors: dict[str, str] = {}
        for scenario in scenarios:
            progress(f"{scenario.name}: {scenario.text}")
            facts = {"text": scenario.text, "sort": scenario.sort.value}
            try:
                seen = measure(
                    setting, scenario.change(spec), scenario.script, work / scenario.name, nodes=scenario.nodes
                )
            except BenchError as error:  # what the others show is worth having
                errors[scenario.name] = str(error)
                progress(f"{scenario.name}: {error}")
                continue
            runs[scenario.name] = {**facts, **seen}
            if verdict := summarise(runs[scenario.name])["verdict"]:
                progress(f"{scenario.name}: {verdict}")
    return with_figures(
        {
            **run_facts("kubelet", begin_s, commit),
            "settings": {
                "manifest": str(options.manifest),
                "deployment": asdict(spec),
                "delays": asdict(options.delays),
                "protocols": protocols,
                "clients": KINDS,
                "rate_per_s": setting.rate_per_s,
                "timeout_s": setting.timeout_s,
                "median_ms": round(rest.median_s * 1e3, 1),
                "capacity_per_s": round(rest.capacity_per_s, 2),
                "busy_before_percent": busy_percent,
                "isolation": "each pod is process 1 of a PID namespace, with a /dev/shm of its own"
                if can_isolate()
                else "none: this machine does not let us make namespaces",
            },
            "runs": runs,
            "errors": errors,
        }
    )


def with_figures(results: dict[str, Any]) -> dict[str, Any]:
    """Add to what was recorded the figures, and ``wrong``: what was lost that should not be, or did not happen."""
    results["figures"] = {name: summarise(run) for name, run in results["runs"].items()}
    verdicts = {name: figures["verdict"] for name, figures in results["figures"].items() if figures["verdict"]}
    results["wrong"] = [f"{name}: {text}" for name, text in {**verdicts, **results["errors"]}.items()]
    return results


def write_results(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the results as JSON, a chart per scenario and the report; return the files.

    Raises:
        BenchError: the folder cannot be written.
    """
    from warmswap_loadtests.kubelet.charts import render_chart
    from warmswap_loadtests.kubelet.report import report_page

    make_folder(folder)
    paths = [folder / RESULTS_NAME, *(folder / f"{name}.png" for name in results["runs"]), folder / REPORT_NAME]
    try:
        paths[0].write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")
        for path in paths[1:-1]:  # when the results are safe
            path.write_bytes(render_chart(path.stem, results))
        paths[-1].write_text(report_page(results), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error
    return paths


def read_results(folder: Path) -> dict[str, Any]:
    """Return what ``write_results`` wrote, with the figures made anew.

    Raises:
        BenchError: there is none.
    """
    path = folder / RESULTS_NAME
    try:
        return with_figures(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} has no results of this benchmark: {error}") from error


@dataclass(frozen=True, slots=True)
class Rest:
    """What two warm pods do when nothing happens."""

    median_s: float
    capacity_per_s: float
    answer: bytes


def _at_rest(
    spec: DeploymentSpec, repository: Path, payload: Payload, streams: Sequence[Stream], delays: Delays, work: Path
) -> Rest:
    with Cluster(spec, repository, work / "rest", delays) as cluster:
        cluster.wait_settled(SETTLE_TIMEOUT_S)
        return asyncio.run(_measure_rest(cluster, payload, streams))


async def _measure_rest(cluster: Cluster, payload: Payload, streams: Sequence[Stream]) -> Rest:
    async with Clients(streams, cluster.envoy, payload, TIMEOUT_S) as send:

        async def closed(requests: int) -> list[Record[bytes]]:
            records = await run_closed_loop(send, timeout_s=2 * TIMEOUT_S, requests=requests, seconds=0.0)
            for record in records:
                if record.outcome is not Outcome.ANSWERED:
                    raise BenchError(f"the pods do not swap even at rest: {record.detail}")
            return records

        await closed(WARM_UP_REQUESTS)
        alone = await closed(REST_REQUESTS)
        begin_s = time.monotonic()
        await asyncio.gather(*(closed(REST_REQUESTS) for _ in range(REST_CLIENTS)))
        capacity_per_s = REST_CLIENTS * REST_REQUESTS / (time.monotonic() - begin_s)
    return Rest(statistics.median(record.latency_s or 0.0 for record in alone), capacity_per_s, alone[-1].answer or b"")
