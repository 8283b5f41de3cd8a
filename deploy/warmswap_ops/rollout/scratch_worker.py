"""The trial of a candidate: a whole replica, empty of traffic, in which the candidate answers the golden request.

    python -m warmswap_ops.rollout.scratch_worker '{"repository": ..., "outcome": ..., "versions": ..., "limits": ...}'

A load that fails marks a Triton for the rest of its life, and a model that kills its process cannot be unloaded, so
nothing is loaded beside live traffic before it has worked here. The trial runs in CPU time that nobody else wants, is
the first that the kernel ends for want of memory, and ends itself after ``LONGEST_S``. It finds out:

1. whether files, manifest, licence and repository are in order (``verify``, ``check_policy``, ``lint``);
2. whether everything loads, and the pipelines give the golden answer with the candidate;
3. how long candidate and stable version take for the same samples, by turns, and whether all numbers are finite;
4. how much memory the candidate takes, and whether the machine has that to spare.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from warmswap_ensemble.contract import model_spec
from warmswap_ensemble.routes import ROUTES_NAME, Rollout, Routes
from warmswap_ops.config_text import config_path
from warmswap_ops.errors import MachineError, OpsError, RepositoryError
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.licences import find_policy
from warmswap_ops.lint import lint, read_versions
from warmswap_ops.lint_rules import RULES
from warmswap_ops.model_config import read_model_config
from warmswap_ops.residency.memory import pss_mb
from warmswap_ops.residency.policy import POLICY_NAME
from warmswap_ops.rollout.calls import ModelCaller
from warmswap_ops.rollout.processes import stubs_of
from warmswap_ops.rollout.samples import read_samples
from warmswap_ops.rollout.scratch_memory import available_mb
from warmswap_ops.rollout.state_file import routes_of
from warmswap_ops.stub_watch import UNKNOWN, StubWatch
from warmswap_ops.trouble import WATCH_INTERVAL_S

LONGEST_S: Final = 300
TURNS: Final = 12
"""Requests to each version; the first two do not count."""
LOAD_TIMEOUT_S: Final = 120.0
DEAD_STUB_S: Final = 3.0
"""A Triton whose model process died in a warm-up may wait for its answer for ever."""
SLOW_TURN_S: Final = 30.0
MEMORY_MARGIN: Final = 1.25

Versions = Mapping[str, tuple[int, int]]


def main(argument: str) -> int:
    """Try candidates; what comes of it goes to a file."""
    job = json.loads(argument)
    versions = {model: (int(pair[0]), int(pair[1])) for model, pair in job["versions"].items()}
    stay_out_of_the_way()
    started_s = time.monotonic()
    try:
        found = try_candidates(Path(job["repository"]), versions, job["limits"])
    except OpsError as error:
        found = {"ok": False, "reason": str(error)}
    found["seconds"] = round(time.monotonic() - started_s, 2)
    Path(job["outcome"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


def stay_out_of_the_way() -> None:
    """Take only what others leave, and end when it takes too long."""
    signal.alarm(LONGEST_S)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def try_candidates(repository: Path, versions: Versions, limits: Mapping[str, float]) -> dict[str, Any]:
    """Try candidates; returns what was found.

    Args:
        repository: What is served.
        versions: Model to (stable, candidate).
        limits: ``max_p50_ratio`` of candidate to stable, and ``min_slowdown_ms`` that is worth a word.

    Raises:
        OpsError: why they must not be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="warmswap-trial-") as folder:
        scratch = make_scratch(repository, Path(folder) / "repository", versions)
        check_findings(scratch, versions)
        server = LocalTriton(scratch, load_timeout_s=LOAD_TIMEOUT_S)
        with ending_with_its_stubs(server), server:
            ready_ms = server.phases[-1].details["ms_total"]
            memory_mb = {
                model: round(pss_mb(stubs_of(server.pid, model, candidate)), 1)
                for model, (_, candidate) in versions.items()
            }
            caller = ModelCaller(server.grpc_url)
            try:
                latency_ms = {model: measure(caller, scratch, model, pair) for model, pair in versions.items()}
            finally:
                caller.close()
            server.kill()  # nobody waits for it
    check_latency(latency_ms, limits)
    check_memory(sum(memory_mb.values()))
    return {"ok": True, "reason": "", "latency_ms": latency_ms, "memory_mb": memory_mb, "ready_ms": round(ready_ms, 1)}


@contextlib.contextmanager
def ending_with_its_stubs(server: LocalTriton) -> Iterator[None]:
    """End a server in which the process of a model has died, should it not do that itself.

    Raises:
        RepositoryError: so it was; says which process.
    """
    ended = threading.Event()
    dead: list[str] = []

    def watch() -> None:
        stubs: StubWatch | None = None
        while not dead and not ended.wait(WATCH_INTERVAL_S):
            with contextlib.suppress(OpsError):
                stubs = stubs or StubWatch(server.pid)
                # One that was never seen alive is no stub: Triton starts other programs, too.
                dead.extend(str(stub) for stub in stubs.dead() if stub.model != UNKNOWN)
        if dead and not ended.wait(DEAD_STUB_S):
            server.kill()

    watcher = threading.Thread(target=watch, name="stubs", daemon=True)
    watcher.start()
    try:
        yield
    except OpsError as error:
        raise RepositoryError(f"{dead[0]} ({error})" if dead else str(error)) from error
    finally:
        ended.set()
        watcher.join()


def make_scratch(repository: Path, scratch: Path, versions: Versions) -> Path:
    """Make a repository of links in which the candidates answer, and the stable versions are loaded beside them."""
    routes = routes_of(repository)
    pins = {**routes.stable, **{model: candidate for model, (_, candidate) in versions.items()}}
    swapped = {model: (candidate, stable) for model, (stable, candidate) in versions.items()}
    scratch.mkdir(parents=True)
    for model_dir in sorted(path for path in repository.iterdir() if path.is_dir()):
        if model_spec(model_dir.name) is None:
            continue
        (scratch / model_dir.name).mkdir()
        wanted = versions.get(model_dir.name)
        for entry in model_dir.iterdir():
            is_other = entry.name.isdecimal() and wanted is not None and int(entry.name) not in wanted
            if not is_other and not entry.name.startswith("."):
                (scratch / model_dir.name / entry.name).symlink_to(entry.resolve())
    if (repository / POLICY_NAME).is_file():
        (scratch / POLICY_NAME).symlink_to(repository / POLICY_NAME)
    state = Routes(generation=1, pins=pins, rollout=Rollout("trial", swapped), used=routes.used)
    (scratch / ROUTES_NAME).write_text(json.dumps(state.as_json()), encoding="utf-8")
    return scratch


def check_findings(scratch: Path, versions: Versions) -> None:
    """Refuse what the lint finds wrong with the candidates.

    Raises:
        RepositoryError: says what, and what to do.
    """
    found = lint(read_versions(scratch, find_policy(None, os.environ)), RULES)
    folders = [scratch / model / str(candidate) for model, (_, candidate) in versions.items()]
    for finding in found:
        is_theirs = any(folder in (finding.file, *finding.file.parents) for folder in folders)
        if finding.severity == "error" and is_theirs:
            raise RepositoryError(f"{finding.file.relative_to(scratch)}: {finding.what}; {finding.fix}")


def measure(caller: ModelCaller, scratch: Path, model: str, pair: tuple[int, int]) -> dict[str, float]:
    """Send the warm-up samples to both versions by turns; return the median of each in milliseconds.

    Raises:
        RepositoryError: an answer has numbers that are not finite.
        ControlError: a version refused.
    """
    samples = read_samples(scratch / model, read_model_config(config_path(scratch / model, None)))
    spec = model_spec(model)
    assert spec is not None
    outputs = [tensor.name for tensor in spec.outputs]
    times_ms: dict[int, list[float]] = {version: [] for version in pair}
    deadline_s = time.monotonic() + SLOW_TURN_S
    for turn in range(TURNS):
        for version in pair if turn % 2 else pair[::-1]:
            started_s = time.monotonic()
            for sample in samples[:1]:
                answer = caller.infer(model, sample, outputs, version=str(version))
                for name, array in answer.items():
                    if array.dtype.kind == "f" and not np.isfinite(array).all():
                        raise RepositoryError(f"{model} {version} gave {name} with values that are not finite")
            times_ms[version].append((time.monotonic() - started_s) * 1e3)
        if time.monotonic() > deadline_s and turn >= 3:
            break
    stable, candidate = (statistics.median(times_ms[version][2:]) for version in pair)
    return {"stable": round(stable, 2), "candidate": round(candidate, 2), "ratio": round(candidate / stable, 3)}


def check_latency(latency_ms: Mapping[str, Mapping[str, float]], limits: Mapping[str, float]) -> None:
    """Refuse a candidate that takes far longer than the stable version.

    Raises:
        RepositoryError: names both times and the limit.
    """
    for model, of in latency_ms.items():
        is_slower = of["candidate"] - of["stable"] > limits["min_slowdown_ms"]
        if is_slower and of["ratio"] > limits["max_p50_ratio"]:
            raise RepositoryError(
                f"{model} takes {of['candidate']:g} ms for the warm-up's sample, the stable version "
                f"{of['stable']:g} ms: {of['ratio']:.2f} times as long, allowed are {limits['max_p50_ratio']:g} times"
            )


def check_memory(needed_mb: float) -> None:
    """Refuse candidates for which the machine, or the container, has not the memory.

    Raises:
        MachineError: says how much is missing.
    """
    there_mb = available_mb()
    if needed_mb * MEMORY_MARGIN > there_mb:
        raise MachineError(
            f"the candidate takes {needed_mb:.0f} MB beside the stable version, and only {there_mb:.0f} MB are left "
            "here: give the replica more memory, or roll out by replacing replicas"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
