"""A detector is tuned and takes over under traffic; another one, whose points are off, is stopped. Takes a minute.

    make rollout-demo

Serves a copy of the repository on free ports, sends eight requests a second over gRPC and HTTP, and cleans up.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from warmswap_loadtests.payloads import golden_payload
from warmswap_loadtests.rollouts.candidates import poor_detector, tuned_detector
from warmswap_loadtests.rollouts.tool import run_tool
from warmswap_loadtests.rollouts.traffic import Traffic, percentile_ms
from warmswap_ops.launcher import LocalTriton

ROOT = Path(__file__).resolve().parents[1]
PLAN = """
soak_s = 5
interval_s = 1
[shadow]
share = 0.3
duration_s = 5
min_samples = 5
[gates]
strict = false
[[steps]]
weight_percent = 5
soak_s = 5
min_samples = 1
[[steps]]
weight_percent = 50
soak_s = 10
min_samples = 20
[[steps]]
weight_percent = 100
soak_s = 5
min_samples = 10
"""


def main() -> int:
    """Run both rollouts; 0 = one took over, one was stopped, nothing was lost."""
    with tempfile.TemporaryDirectory(prefix="warmswap-demo-") as folder:
        work = Path(folder)
        repository = work / "model_repository"
        copy_tree(ROOT / "model_repository", repository)
        plan = work / "plan.toml"
        plan.write_text(PLAN)
        golden = golden_payload(repository)
        with LocalTriton(repository) as server:
            threading.Thread(target=server.watch, daemon=True).start()
            urls = ([f"grpc://{server.grpc_url}"], [f"http://{server.http_url}"])
            with Traffic(*urls, [(golden.source, golden.target), (golden.target, golden.source)], 8.0) as traffic:
                codes = [
                    roll_out(
                        "a tuned detector", tuned_detector(repository, work / "tuned", 0.4), plan, server.grpc_url
                    ),
                    roll_out("points 14 px off", poor_detector(repository, work / "poor", 14.0), plan, server.grpc_url),
                ]
        print(
            f"{len(traffic.sent)} requests, {len(traffic.failed)} lost; {traffic.probes} probes, {len(traffic.flaps)} "
            f"not ready; p50 {percentile_ms(traffic.sent, 0.5):.0f} ms, p99 {percentile_ms(traffic.sent, 0.99):.0f} ms"
        )
        return 0 if codes == [0, 11] and not traffic.failed and not traffic.flaps else 1


def roll_out(what: str, candidate: Path, plan: Path, replica: str) -> int:
    """Roll a candidate out and tell what happened."""
    print(f"== {what}: warmswap rollout run face_detector --candidate {candidate.name} --plan plan.toml")
    found = run_tool("run", "face_detector", "--candidate", candidate, "--plan", plan, "--replica", replica)
    for event in found.events:
        if event["event"] != "look":
            weight = f" {event['weight_percent']:g} %" if "weight_percent" in event else ""
            print(f"{event['at_s'] - found.started_s:6.1f} s  {event['event']}{weight}")
    print(f"exit code {found.code}{': ' + found.error if found.error else ''}")
    return found.code


def copy_tree(source: Path, target: Path) -> None:
    """Copy a repository."""
    import shutil

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "rollout*"))


if __name__ == "__main__":
    sys.exit(main())
