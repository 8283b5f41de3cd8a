"""What a start must load, and what may come later: the policy applied to a repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from warmswap_ensemble.contract import PIPELINE_STAGES, swapper_variant
from warmswap_ops.errors import RepositoryError
from warmswap_ops.repository import ServedVersion, read_repository
from warmswap_ops.residency.memory import SERVER, SERVER_BASE_MB, Budget, estimate_mb, file_mb, refuse_residents
from warmswap_ops.residency.policy import Policy, find_policy_file, parse_preload, read_policy


@dataclass(frozen=True, slots=True)
class ResidencyPlan:
    """What is loaded when.

    Attributes:
        policy: How every model is kept.
        estimates_mb: What each of them will take.
        file_mb: Size of the graphs that each of them is served with.
        stages: Stages and variants to load at the start.
        pipelines: Pipelines to load at the start.
        later: Versions that requests may have loaded.
        warnings: Variants that cannot be served, and why.
    """

    policy: Policy
    estimates_mb: Mapping[str, float]
    file_mb: Mapping[str, float]
    stages: tuple[str, ...]
    pipelines: tuple[str, ...]
    later: tuple[ServedVersion, ...]
    warnings: tuple[str, ...]


def find_variants(repository: Path) -> list[str]:
    """Return the variants of the swapper that a repository holds, by name."""
    return sorted(path.name for path in repository.iterdir() if path.is_dir() and swapper_variant(path.name))


def plan_residency(
    repository: Path,
    stages: Sequence[str],
    pipelines: Sequence[str],
    *,
    given: Path | None,
    preload: Sequence[str] | None,
    environ: Mapping[str, str],
    config_name: str | None,
) -> ResidencyPlan:
    """Apply the policy to a repository.

    Args:
        repository: Folder of models.
        stages: Stages that could be loaded; the repository's variants of the swapper are added.
        pipelines: Pipelines that could be loaded.
        given: Policy file; ``None`` = that of the environment or of the repository, if there is one.
        preload: Models to load at the start, with the stages that they call; ``None`` = as the policy says.
        environ: Environment variables.
        config_name: Value of ``--model-config-name``.

    Raises:
        UsageError: the policy is not understood, or its budget is too small.
        RepositoryError: the configuration of a model that is loaded at the start is missing.
    """
    models = [*stages, *find_variants(repository), *pipelines]
    policy = read_policy(find_policy_file(given, environ, repository), models)
    if preload is not None:
        policy = replace(policy, preload_models=parse_preload(preload, "--preload", models))
    at_start = policy.at_start()
    later: list[ServedVersion] = []
    estimates_mb: dict[str, float] = {}
    sizes_mb: dict[str, float] = {}
    warnings: list[str] = []
    for name in models:
        must_work = name in at_start or not swapper_variant(name)
        try:
            if not must_work:
                later += read_repository(repository, [name], [], config_name)
            estimates_mb[name] = estimate_mb(repository, name, policy, config_name)
            sizes_mb[name] = file_mb(repository, name, config_name)
        except RepositoryError as error:
            estimates_mb[name] = sizes_mb[name] = 0.0
            if not must_work:
                warnings.append(f"{name} cannot be served: {error}")
    counted = {name: estimates_mb[name] for name in at_start}
    refuse_residents(Budget({SERVER: SERVER_BASE_MB, **counted}, policy.memory_budget_mb))
    core_later = [name for name in policy.on_demand if name not in at_start and not swapper_variant(name)]
    return ResidencyPlan(
        policy=policy,
        estimates_mb=estimates_mb,
        file_mb=sizes_mb,
        stages=tuple(name for name in at_start if name not in PIPELINE_STAGES),
        pipelines=tuple(name for name in at_start if name in PIPELINE_STAGES),
        later=(*read_repository(repository, core_later, [], config_name), *later),
        warnings=tuple(warnings),
    )
