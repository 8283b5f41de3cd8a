"""What pods of the chart with ``models.writable`` do, without a cluster: a copy of their own, and what it outlives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.repositories import REPOSITORY
from tests.e2e.rollouts import LEASE_S, Site, rollout, write_plan
from tests.e2e.serve import WAIT_S, WARMSWAP
from tests.ops.metrics import scrape, value
from warmswap_loadtests.rollouts import candidates
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton


def init_container(volume: Path) -> Path:
    """Do what the chart's init container does; return what is served then."""
    command = [str(WARMSWAP), "provision", f"--from={REPOSITORY}", f"--to={volume}", "--once"]
    subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S)
    return volume / "current"


def served_version(server: LocalTriton) -> float | None:
    """Return what the alert WarmswapVersionsDiffer compares; Triton's own metrics keep versions that were unloaded."""
    return value(scrape(server.metrics_url), "warmswap_served_version", model="face_detector")


def test_a_copy_outlives_the_container_and_not_the_pod(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret-of-these-pods-0123456789")
    volume, access = tmp_path / "volume", ("--control-token-file", token, "--lease", str(LEASE_S))
    candidate = candidates.tuned_detector(REPOSITORY, tmp_path / "candidate")
    with LocalTriton(init_container(volume), control_token_file=token, max_connection_age_s=2) as server:
        pod = Site(server, volume / "current", tmp_path)
        with pod.traffic():
            plan = ("--plan", write_plan(tmp_path))
            at = ("--service", server.grpc_url)
            tool = rollout("run", "face_detector", "--candidate", candidate, *plan, *access, *at)
            assert tool.end() == 0, tool.error()
        assert pod.serving("face_detector") == {"2"}
        assert served_version(server) == 2
    with (
        LocalTriton(init_container(volume), control_token_file=token) as restarted,
        LocalTriton(init_container(tmp_path / "another"), control_token_file=token) as added,
    ):
        assert Site(restarted, volume / "current", tmp_path).serving("face_detector") == {"2"}
        assert (served_version(restarted), served_version(added)) == (2, 1)
        next_one = candidates.tuned_detector(REPOSITORY, tmp_path / "next", min_score=0.35)
        both = ("--service", restarted.grpc_url, "--service", added.grpc_url)
        tool = rollout("stage", "face_detector", "--candidate", next_one, *access, *both)
        assert tool.end() != 0
        assert "the replicas serve different versions of face_detector: [1, 2]" in tool.error()
