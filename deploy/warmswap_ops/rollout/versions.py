"""Which versions a rollout is about: the one that serves on every replica, and a number that no version ever had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmswap_ensemble.contract import swapper_variant
from warmswap_ops.errors import RolloutError
from warmswap_ops.rollout.fleet import Fleet
from warmswap_ops.rollout.replica import Replica, Seen


def choose_versions(fleet: Fleet, seen: Mapping[Replica, Seen], models: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (stable, candidate) of each model.

    Raises:
        RolloutError: a replica cannot take part, or they serve different versions.
        OpsError: a replica cannot be reached.
    """
    hellos = fleet.all(lambda replica: replica.ask("hello", models=models))
    for replica, hello in hellos.items():
        _refuse_unfit(replica, hello, models)
    versions: dict[str, tuple[int, int]] = {}
    for model in models:
        stable = {_stable_version(replica, seen[replica], model) for replica in hellos}
        if len(stable) > 1:
            raise RolloutError(f"the replicas serve different versions of {model}: {sorted(stable)}")
        used = [state.routes.used.get(model, 0) for state in seen.values()]
        there = [number for hello in hellos.values() for number in hello["versions"][model]]
        versions[model] = (stable.pop(), max(*used, *there) + 1)
    return versions


def _refuse_unfit(replica: Replica, hello: Mapping[str, Any], models: Sequence[str]) -> None:
    if not hello["writable"]:
        raise RolloutError(
            f"{replica}: its repository {hello['repository']} cannot be written: roll out by replacing replicas"
        )
    if hello["compiled"]:
        raise RolloutError(
            f"{replica} serves a compiled repository, and {hello['compiled'][0]} was compiled for its machine: "
            "roll out by replacing replicas"
        )
    for model in models:
        if not hello["versions"].get(model):
            raise RolloutError(f"{replica} has no version of {model} that could be replaced")


def _stable_version(replica: Replica, seen: Seen, model: str) -> int:
    pinned = seen.routes.stable.get(model)
    if pinned is not None:
        return pinned
    ready = replica.ready_versions(model)
    if not ready:
        kind = "loaded on demand, and not loaded now" if swapper_variant(model) else "not loaded"
        raise RolloutError(f"{replica}: {model} is {kind}; it must serve while it is rolled out")
    return max(ready)
