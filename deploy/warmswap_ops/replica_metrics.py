"""The text of the public metrics endpoint: the replica's own families, then Triton's, unchanged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from warmswap_ensemble.contract import FACE_SWAP
from warmswap_ops.metrics_text import Family, render
from warmswap_ops.ports import connect_host
from warmswap_ops.replica_state import ReplicaState, Residency, residency_families
from warmswap_ops.rollout.rollout_metrics import rollout_families
from warmswap_ops.triton_command import INTERNAL_HOST
from warmswap_ops.triton_server import TritonServer


def metrics_text(
    state: ReplicaState,
    server: TritonServer,
    host: str,
    pipelines: Sequence[str],
    residency: Residency | None,
    repository: Path | None = None,
) -> str:
    """Ask Triton, within about two seconds, and return everything; what does not answer is left out.

    Args:
        state: What the launcher knows.
        server: Where Triton is.
        host: What it listens on.
        pipelines: What the replica loads; it is ready with ``face_swap``, or with all where that is not among them.
        residency: Who loads models on demand, if anyone does.
        repository: What is served, with the state of its rollout; ``None`` = that is not known yet.
    """
    from warmswap_ops.metrics_handler import get  # imported by the first request, see metrics_server

    needed = (FACE_SWAP.name,) if FACE_SWAP.name in pipelines else pipelines
    port = server.metrics_port
    triton = get(INTERNAL_HOST, port, "/metrics") if port else None
    answers = [
        get(connect_host(host), server.ports.http, f"/v2/models/{model}/ready") if triton and state.is_serving else None
        for model in needed
    ]
    is_ready = all(answer is not None and answer[0] == 200 for answer in answers)
    up = Family("warmswap_triton_metrics_up", "gauge", "Whether Triton's own metrics follow (1) or not (0)")
    up.add(float(triton is not None))
    families = [*state.families(ready=is_ready), *residency_families(residency), *rollout_families(repository)]
    own = render([*families, up, *_identity(server)])
    return own + (triton[1] if triton else "")


def _identity(server: TritonServer) -> list[Family]:
    """Return what software this is, and what it takes the time to be: a clock that is wrong shows in a scrape."""
    build = Family("warmswap_build_info", "gauge", "1, with the versions of what runs")
    if server.versions:
        build.add(1.0, **server.versions)
    clock = Family("warmswap_clock_seconds", "gauge", "The replica's own time, in seconds since 1970")
    clock.add(time.time())
    return [build, clock]
