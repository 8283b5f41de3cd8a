"""``warmswap bench rollouts``: what requests notice of rollouts, good and bad, one after the other.

    baseline -> second looks on and off by turns -> one rollout in full -> the series -> ways back -> baseline again

Requests come at a constant rate, half of what the server can do, over gRPC and HTTP by turns, and are never repeated.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from warmswap_client import FaceSwapClient
from warmswap_ensemble.routes import Rollout
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.machine import git_commit, run_facts
from warmswap_loadtests.payloads import fresh_source, golden_payload
from warmswap_loadtests.rollouts import candidates
from warmswap_loadtests.rollouts.series import GOOD, LIVE, Kind, series
from warmswap_loadtests.rollouts.tool import ToolRun, run_tool
from warmswap_loadtests.rollouts.traffic import Pair, Traffic, percentile_ms
from warmswap_ops.access import OPEN
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.rollout.replica import Replica

RESULTS_NAME: Final = "rollouts.json"
SETTLE_S: Final = 1.0
CALIBRATION_S: Final = 5.0
CALIBRATION_CLIENTS: Final = 4
LEASE_S: Final = 4.0
SOURCES: Final = 8
"""Pictures of the source, which differ by a few bytes behind their end."""
LONG_WATCH_S: Final = 120.0

SHORT_PLAN: Final = """
soak_s = 2
interval_s = 0.5
[shadow]
share = 0.2
duration_s = 2
min_samples = 4
max_duration_s = 60
[gates]
strict = false
[[steps]]
weight_percent = 50
soak_s = 4
min_samples = 15
max_soak_s = 60
[[steps]]
weight_percent = 100
soak_s = 2
min_samples = 5
max_soak_s = 60
"""
FULL_PLAN: Final = """
soak_s = 10
interval_s = 1
[shadow]
share = 0.1
duration_s = 15
min_samples = 8
max_duration_s = 120
[gates]
max_error_increase = 0.1
[[steps]]
weight_percent = 1
soak_s = 10
min_samples = 0
[[steps]]
weight_percent = 5
soak_s = 15
min_samples = 1
[[steps]]
weight_percent = 25
soak_s = 20
min_samples = 15
[[steps]]
weight_percent = 50
soak_s = 20
min_samples = 30
[[steps]]
weight_percent = 100
soak_s = 15
min_samples = 30
"""

Figures = dict[str, Any]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """What is run.

    Attributes:
        repository: What to serve; a copy is served.
        count: Rollouts of the series.
        per_s: Rate of the requests; ``None`` = half of what the server can do.
        baseline_s: Length of each stretch without a rollout.
        shadow_turns: Stretches with second looks, and as many without.
        ways_back: Rollbacks that are timed.
    """

    repository: Path = Path("model_repository")
    count: int = 50
    per_s: float | None = None
    baseline_s: float = 30.0
    shadow_turns: int = 6
    ways_back: int = 5


@dataclass(slots=True)
class _Place:
    """A served copy, and where things lie."""

    server: LocalTriton
    repository: Path
    work: Path
    replica: Replica

    @property
    def at(self) -> list[str]:
        """Arguments that name the replica."""
        return ["--replica", self.server.grpc_url, "--lease", str(LEASE_S)]

    def folder(self, name: str) -> Path:
        """Return a new folder for a candidate."""
        path = self.work / name
        path.mkdir()
        return path

    def memory_mb(self) -> float:
        """Return what the server and its processes take."""
        return round(float(self.replica.ask("alive", versions={})["memory_mb"]), 1)


def measure_rollouts(options: RolloutOptions, progress: Progress) -> Figures:
    """Run the benchmark.

    Raises:
        BenchError: there is no such repository.
    """
    if not (options.repository / "face_swap").is_dir():
        raise BenchError(f"{options.repository} is no model repository with face_swap")
    begin_s, commit = time.monotonic(), git_commit()
    with tempfile.TemporaryDirectory(prefix="warmswap-rollouts-") as work, _serving(options, Path(work)) as place:
        golden = golden_payload(place.repository)
        sources = [fresh_source(golden, number).source for number in range(SOURCES)]
        pairs = [(source, golden.target) for source in sources] + [(golden.target, source) for source in sources]
        per_s = options.per_s or _half_of_what_it_can_do(place, pairs, progress)
        traffic = Traffic([f"grpc://{place.server.grpc_url}"], [f"http://{place.server.http_url}"], pairs, per_s)
        short, full = Path(work) / "short.toml", Path(work) / "full.toml"
        short.write_text(SHORT_PLAN)
        full.write_text(FULL_PLAN)
        with traffic:
            time.sleep(3)
            parts = _parts(options, place, traffic, short, full, progress)
        parts["requests"] = [
            [round(sent.due_s, 3), round(sent.ms, 1), sent.protocol, _versions(sent.models), bool(sent.error)]
            for sent in traffic.between(parts["full"]["from_s"] - 10, parts["full"]["until_s"] + 10)
        ]
        parts["lost"] = [sent.error for sent in traffic.failed]
        parts["flaps"] = [text for _, text in traffic.flaps]
        parts["sent"] = len(traffic.sent)
        parts["probes"] = traffic.probes
    facts = run_facts("rollouts", begin_s, commit)
    results = {**facts, "per_s": round(per_s, 2), "count": options.count, **parts}
    results["wrong"] = wrong_of(results)
    return results


def wrong_of(results: Figures) -> list[str]:
    """Return what must not be."""
    wrong = [f"{len(results['lost'])} requests were lost, the first: {results['lost'][0]}"] if results["lost"] else []
    if results["flaps"]:
        wrong.append(f"readiness flapped {len(results['flaps'])} times, first {results['flaps'][0]}")
    wrong += [
        f"rollout {row['number']}, {row['kind']}: expected {row['expected']}, got {row['got']}: {row['error']}"
        for row in results["series"]
        if row["got"] != row["expected"]
    ]
    wrong += [f"a way back took {ms:.0f} ms" for ms in results["ways_back"]["effective_ms"] if ms > 1000]
    return wrong


def _parts(
    options: RolloutOptions, place: _Place, traffic: Traffic, short: Path, full: Path, progress: Progress
) -> Figures:
    parts: Figures = {"memory_mb": {"start": place.memory_mb()}}
    progress(f"baseline, {traffic.per_s:.1f} requests a second")
    parts["before"] = _stretch(traffic, options.baseline_s)
    parts["shadow"] = _second_looks(options, place, traffic, progress)
    progress("one rollout in full")
    candidate = candidates.tuned_detector(place.repository, place.folder("full") / "candidate", 0.38)
    found = run_tool("run", "face_detector", "--candidate", candidate, "--plan", full, *place.at, timeout_s=600)
    parts["full"] = _row(0, "tuned detector, in full", GOOD, found, traffic, place) | {"events": found.events}
    parts["series"] = []
    for number, kind in enumerate(series(options.count), 1):
        row = _one(number, kind, place, traffic, short)
        parts["series"].append(row)
        progress(
            f"{number} of {options.count}: {kind.name}: {row['got']} in {row['seconds']:.0f} s, lost {row['lost']}, "
            f"{row['memory_mb']:.0f} MB"
        )
    parts["ways_back"] = _ways_back(options, place, traffic, short, progress)
    progress("baseline again")
    parts["after"] = _stretch(traffic, options.baseline_s)
    parts["memory_mb"]["end"] = place.memory_mb()
    return parts


def _one(number: int, kind: Kind, place: _Place, traffic: Traffic, plan: Path) -> Figures:
    folder = place.folder(f"candidate-{number}")
    try:
        arguments = kind.make(place.repository, folder, number)
        found = run_tool("run", kind.model, *arguments, "--plan", plan, *place.at)
        time.sleep(SETTLE_S)
        return _row(number, kind.name, kind.expected, found, traffic, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _row(number: int, name: str, expected: str, found: ToolRun, traffic: Traffic, place: _Place) -> Figures:
    sent = traffic.between(found.started_s, found.ended_s)
    loaded = found.at_s("loaded") is not None
    got = GOOD if found.code == 0 else LIVE if loaded else "trial" if found.code in (4, 8, 11) else "error"
    return {
        "number": number,
        "kind": name,
        "expected": expected,
        "got": got,
        "exit_code": found.code,
        "error": found.error[:300],
        "from_s": found.started_s,
        "until_s": found.ended_s,
        "seconds": round(found.ended_s - found.started_s, 2),
        "requests": len(sent),
        "lost": sum(bool(request.error) for request in sent),
        "flaps": sum(found.started_s <= at_s < found.ended_s for at_s, _ in traffic.flaps),
        "p50_ms": round(percentile_ms(sent, 0.5), 1),
        "p99_ms": round(percentile_ms(sent, 0.99), 1),
        "flip_ms": found.last("flipped_back").get("ms"),
        "memory_mb": place.memory_mb(),
    }


def _second_looks(options: RolloutOptions, place: _Place, traffic: Traffic, progress: Progress) -> Figures:
    """Load a candidate, and turn its second looks on and off; nothing else changes."""
    candidate = candidates.tuned_detector(place.repository, place.folder("shadow") / "candidate", 0.39)
    staged = run_tool("stage", "face_detector", "--candidate", candidate, *place.at)
    if staged.code != 0:
        raise BenchError(f"the candidate for the second looks was refused: {staged.error}")
    state = place.replica.state(time.time)
    versions = {model: tuple(pair) for model, pair in state.routes.record["versions"].items()}
    for model, pair in versions.items():
        place.replica.serve_versions(model, sorted(pair), 120.0)
    stretches: dict[bool, list[Figures]] = {True: [], False: []}
    for turn in range(2 * options.shadow_turns):
        on = turn % 2 == 1
        progress(f"second looks {'on' if on else 'off'}, turn {turn // 2 + 1} of {options.shadow_turns}")
        _share_out(place, versions, 0.1 if on else 0.0)
        time.sleep(SETTLE_S)
        stretches[on].append(_stretch(traffic, options.baseline_s))
    aborted = run_tool("abort", "--reason", "the second looks are measured", *place.at)
    if aborted.code != 0:
        raise BenchError(f"abort failed: {aborted.error}")
    every = {
        on: [sent for part in parts for sent in traffic.between(part["from_s"], part["until_s"])]
        for on, parts in stretches.items()
    }
    return {
        "share": 0.1,
        "off": {"p50_ms": percentile_ms(every[False], 0.5), "p99_ms": percentile_ms(every[False], 0.99)},
        "on": {"p50_ms": percentile_ms(every[True], 0.5), "p99_ms": percentile_ms(every[True], 0.99)},
        "requests": [len(every[False]), len(every[True])],
        "turns": {"off": stretches[False], "on": stretches[True]},
    }


def _share_out(place: _Place, versions: dict[str, tuple[int, int]], shadow: float) -> None:
    routes = place.replica.state(time.time).routes
    rollout = Rollout(str(routes.record["id"]), versions, shadow=shadow)
    changed = replace(routes, generation=routes.generation + 1, rollout=rollout)
    names = {model: pair[1] for model, pair in versions.items()}
    place.replica.ask("background", versions=names, on=True)
    place.replica.ask(
        "change", routes=changed.as_json(), expected=routes.generation, lease_s=LEASE_S, watch_s=LONG_WATCH_S
    )


def _ways_back(options: RolloutOptions, place: _Place, traffic: Traffic, plan: Path, progress: Progress) -> Figures:
    """Roll out, then back, and see when the last request met the candidate."""
    effective_ms: list[float] = []
    flips_ms: list[float] = []
    for number in range(options.ways_back):
        folder = place.folder(f"back-{number}")
        candidate = candidates.tuned_detector(place.repository, folder / "candidate", 0.30 + 0.01 * number)
        forth = run_tool("run", "face_detector", "--candidate", candidate, "--plan", plan, *place.at)
        if forth.code != 0:
            raise BenchError(f"the rollout before way back {number + 1} failed: {forth.error}")
        new = str(forth.last("ended")["versions"]["face_detector"])
        time.sleep(SETTLE_S)
        back = run_tool("rollback", *place.at)
        time.sleep(SETTLE_S)
        decided_s = back.at_s("taken_over") or back.started_s
        following = traffic.between(decided_s, back.ended_s + 30)
        late = [sent.due_s for sent in following if sent.models.get("face_detector") == new]
        effective_ms.append(round(max(0.0, max(late, default=decided_s) - decided_s) * 1e3, 1))
        flips_ms.append(float(back.last("flipped_back").get("ms", float("nan"))))
        progress(f"way back {number + 1} of {options.ways_back}: {effective_ms[-1]:.0f} ms")
        shutil.rmtree(folder, ignore_errors=True)
    return {"effective_ms": effective_ms, "flip_ms": flips_ms}


def _stretch(traffic: Traffic, seconds: float) -> Figures:
    since_s = time.time()
    time.sleep(seconds)
    until_s = time.time()
    time.sleep(0.5)  # for the last answers
    sent = traffic.between(since_s, until_s)
    return {
        "from_s": since_s,
        "until_s": until_s,
        "requests": len(sent),
        "p50_ms": round(percentile_ms(sent, 0.5), 1),
        "p99_ms": round(percentile_ms(sent, 0.99), 1),
    }


@contextlib.contextmanager
def _serving(options: RolloutOptions, work: Path) -> Iterator[_Place]:
    repository = work / "model_repository"
    shutil.copytree(options.repository, repository, ignore=shutil.ignore_patterns("__pycache__", "rollout*"))
    with LocalTriton(repository) as server:
        watching = threading.Thread(target=server.watch, daemon=True)
        watching.start()
        replica = Replica(server.grpc_url, OPEN)
        try:
            yield _Place(server, repository, work, replica)
        finally:
            replica.close()
    watching.join(10)


def _half_of_what_it_can_do(place: _Place, pairs: Sequence[Pair], progress: Progress) -> float:
    """Return half the rate of some clients that each wait for their answer."""
    ended_s = time.monotonic() + CALIBRATION_S

    def ask() -> int:
        count = 0
        with FaceSwapClient(f"grpc://{place.server.grpc_url}") as client:
            while time.monotonic() < ended_s:
                client.swap(*pairs[count % len(pairs)])
                count += 1
        return count

    with ThreadPoolExecutor(CALIBRATION_CLIENTS) as pool:
        total = sum(future.result() for future in [pool.submit(ask) for _ in range(CALIBRATION_CLIENTS)])
    progress(f"the server can do {total / CALIBRATION_S:.1f} requests a second")
    return total / CALIBRATION_S / 2


def _versions(models: Any) -> dict[str, str]:
    return {model: version for model, version in models.items() if model == "face_detector"}


def read_results(folder: Path) -> Figures:
    """Return what an earlier run has written.

    Raises:
        BenchError: it cannot be read.
    """
    try:
        results: Figures = json.loads((folder / RESULTS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder / RESULTS_NAME} cannot be read: {error}") from error
    return results
