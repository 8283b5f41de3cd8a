"""What a scrape tells of rollouts: who is sent where, whether somebody watches, and which versions answer."""

from __future__ import annotations

import time
from pathlib import Path

from warmswap_ensemble.contract import model_spec
from warmswap_ensemble.manifest import version_dirs
from warmswap_ensemble.routes import Routes
from warmswap_ops.config_text import CONFIG_NAME, parse_version_policy, read_config
from warmswap_ops.errors import OpsError
from warmswap_ops.metrics_text import Family
from warmswap_ops.rollout.state_file import routes_of


def rollout_families(repository: Path | None) -> list[Family]:
    """Return the metric families of a repository's versions and rollout; none where its state is broken."""
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
    return [share, watched, pinned, _served(repository, routes)]


def _served(repository: Path, routes: Routes) -> Family:
    """Return which version of each model answers; replicas that should be alike are told apart by it."""
    meaning = "Version that answers, as the repository says: the pinned one, else the highest"
    family = Family("warmswap_served_version", "gauge", meaning)
    for config in sorted(repository.glob(f"*/{CONFIG_NAME}")):
        folder = config.parent
        if model_spec(folder.name) is None:
            continue
        version = routes.stable.get(folder.name)
        if version is None:
            try:
                policy = parse_version_policy(read_config(config))
            except OpsError:
                continue
            version = max(policy.choose([int(path.name) for path in version_dirs(folder)]), default=None)
        if version is not None:
            family.add(float(version), model=folder.name)
    return family
