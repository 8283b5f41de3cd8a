"""What the graphs of a repository cost before they answer: load, first run, steady runs, memory, in fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import STAGES
from warmswap_loadtests.errors import BenchError

MEASURES: Final = ("load_ms", "load_and_first_run_ms", "cpu_ms", "steady_ms", "private_mb")


def measure_graph_load(
    repositories: Sequence[Path], rounds: int, runs: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Load version 1 of every stage, of the repositories in turn, each time in a process of its own.

    Args:
        repositories: To be compared, such as an exported one and the compiled one made of it.
        rounds: Turns.
        runs: Steady runs on the warm-up sample after the first one.
        progress: Gets one line a turn.

    Raises:
        BenchError: a graph cannot be loaded or run.
    """
    stages: dict[str, dict[str, dict[str, list[float]]]] = {}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for stage in (spec.name for spec in STAGES):
            for repository in repositories:
                figures = _in_fresh_process(repository, stage, runs)
                kept = stages.setdefault(stage, {}).setdefault(str(repository), {name: [] for name in MEASURES})
                for name in MEASURES:
                    kept[name].append(figures[name])
    return {"rounds": rounds, "runs": runs, "stages": stages}


def graph_load_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people: least and median of each."""
    lines = [f"least / median of {figures['rounds']} fresh processes", "  ".join(f"{name:>21}" for name in MEASURES)]
    for stage, repositories in figures["stages"].items():
        for repository, measured in repositories.items():
            cells = (f"{min(measured[name]):.0f} / {statistics.median(measured[name]):.0f}" for name in MEASURES)
            lines.append("  ".join(f"{cell:>21}" for cell in cells) + f"  {stage} of {repository}")
    return lines


def _in_fresh_process(repository: Path, stage: str, runs: int) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, str(repository), stage, str(runs)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise BenchError(f"{stage} of {repository}: {process.stderr.strip().rpartition(chr(10))[2]}")
    figures: dict[str, float] = json.loads(process.stdout)
    return figures


def _measure(repository: Path, stage: str, runs: int) -> dict[str, float]:
    """Load and run one graph as the portable backend does."""
    from warmswap_ops.compiling.source import parse_config
    from warmswap_ops.compiling.worker import warmup_samples
    from warmswap_ops.config_text import CONFIG_NAME, read_config
    from warmswap_ops.onnxruntime_backend.session import Session

    path = repository / stage / CONFIG_NAME
    config = parse_config(path, read_config(path))
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    session = Session(config, repository / stage / "1", "CPU", "0")
    loaded_s = time.perf_counter()
    names = list(session.outputs)
    _, inputs = next(iter(warmup_samples(config, session.inputs, path.parent / "warmup", batched=session.batched)))
    session.run(names, inputs)
    ran_s, cpu_s = time.perf_counter(), time.process_time()
    steady_s = []
    for _ in range(runs):
        start_s = time.perf_counter()
        session.run(names, inputs)
        steady_s.append(time.perf_counter() - start_s)
    return {
        "load_ms": (loaded_s - begin_s) * 1e3,
        "load_and_first_run_ms": (ran_s - begin_s) * 1e3,
        "cpu_ms": (cpu_s - begin_cpu_s) * 1e3,
        "steady_ms": min(steady_s) * 1e3,
        "private_mb": _private_mb(),
    }


def _private_mb() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))  # noqa: T201
