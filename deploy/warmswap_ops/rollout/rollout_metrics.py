"""What a scrape tells of rollouts: who is sent where, and since when nobody watches."""

from __future__ import annotations

import time
from pathlib import Path

from warmswap_ops.errors import OpsError
from warmswap_ops.metrics_text import Family
from warmswap_ops.rollout.state_file import routes_of


def rollout_families(repository: Path | None) -> list[Family]:
    """Return the metric families of a repository's rollout; empty where there was none, or its state is broken."""
    if repository is None:
        return []
    try:
        routes = routes_of(repository)
    except OpsError:
        return []
    share = Family("warmswap_rollout_share", "gauge", "Part of the requests that a candidate answers, 0 to 1")
    watched = Family(
        "warmswap_rollout_watched", "gauge", "Whether somebody leads the rollout (1); without, 0, no share"
    )
    pinned = Family(
        "warmswap_pinned_version", "gauge", "Version that answers, where that is not left to be the highest"
    )
    rollout = routes.rollout
    if rollout is not None:
        is_watched = rollout.is_watched(time.time())
        watched.add(float(is_watched), rollout=rollout.id)
        for model, (_, candidate) in rollout.versions.items():
            labels = {"rollout": rollout.id, "model": model, "version": str(candidate)}
            share.add(rollout.share if is_watched else 0.0, **labels)
    for model, version in routes.stable.items():
        pinned.add(float(version), model=model)
    return [share, watched, pinned]
