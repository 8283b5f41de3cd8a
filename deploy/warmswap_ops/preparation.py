"""What is decided and checked before a server is started: machine, repository, licences, what will be served."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import REQUEST_LOG_ENV
from warmswap_ensemble.manifest import Manifest, version_dirs
from warmswap_ensemble.routes import PYTHON_VARIABLE, SERVED_REPOSITORY_VARIABLE
from warmswap_ops.access import Access, find_access
from warmswap_ops.compiling.check import check_compiled
from warmswap_ops.config_text import config_path, parse_version_policy, read_config
from warmswap_ops.errors import MachineError, UsageError
from warmswap_ops.launch_options import LaunchOptions
from warmswap_ops.licences import (
    POLICY_VARIABLE,
    check_policy,
    find_policy,
    licence_facts,
    licence_warnings,
    twin_warnings,
    uncleared,
)
from warmswap_ops.matching import check_pipelines
from warmswap_ops.preflight import check_machine
from warmswap_ops.repository import ServedVersion, find_repository, read_repository
from warmswap_ops.residency.planning import ResidencyPlan, plan_residency
from warmswap_ops.rollout.state_file import routes_of
from warmswap_ops.shared_memory_check import check_shared_memory, shared_memory_need
from warmswap_ops.triton_command import GPU_DEVICE, has_gpu
from warmswap_ops.triton_install import TritonInstall, find_triton, server_environment


@dataclass(frozen=True, slots=True)
class Preparation:
    """A start that nothing known speaks against.

    Attributes:
        options: What was asked for, and what the policy of residency makes of it.
        plan: What is loaded at the start, and what later.
        install: The Triton to run.
        env: Its environment.
        repository: What it serves.
        config_name: ``configs/<name>.pbtxt`` of each model wins.
        policy: Whose licences may be served.
        served: Every version that will be served.
        access: Who may call the control API.
        machine_warnings: What may become a problem of this machine.
    """

    options: LaunchOptions
    plan: ResidencyPlan
    install: TritonInstall
    env: dict[str, str]
    repository: Path
    config_name: str | None
    policy: str
    served: list[ServedVersion]
    access: Access
    machine_warnings: tuple[str, ...]

    def config(self, model: str) -> Path:
        """Return the ``config.pbtxt`` of a model that wins."""
        return config_path(self.repository / model, self.config_name)

    def replaced_config(self, model: str) -> dict[str, Any] | None:
        """Return what replaces the ``config.pbtxt`` of a model now, in its JSON form; ``None`` = nothing.

        Raises:
            RepositoryError: a configuration or the state of a rollout cannot be read.
        """
        versions = routes_of(self.repository).needed(model)
        policy = parse_version_policy(read_config(self.config(model)))
        if list(versions) == policy.choose([int(path.name) for path in version_dirs(self.repository / model)]):
            versions = ()
        count = self.options.warmup_requests if model in self.options.pipelines else None
        if not versions and count is None and self.options.release is None:
            return None
        from warmswap_ops import model_config  # protobuf's text format: a while to import

        config = model_config.read_model_config(self.config(model))
        if versions:
            config = model_config.with_versions(config, versions)
        if count is not None:
            config = model_config.with_warmup_requests(config, count)
        return config if self.options.release is None else model_config.with_release(config, self.options.release)

    def replaced_configs(self) -> dict[str, dict[str, Any]]:
        """Return ``replaced_config`` of the models that are loaded at the start, without those that have none.

        Raises:
            RepositoryError: a configuration or the state of a rollout cannot be read.
        """
        configs = {model: self.replaced_config(model) for model in (*self.options.stages, *self.options.pipelines)}
        return {model: config for model, config in configs.items() if config is not None}

    @property
    def manifests(self) -> list[Manifest]:
        """Those of what will be served, now or when a request asks for it."""
        return [version.manifest for version in (*self.served, *self.plan.later) if version.manifest is not None]

    @property
    def warnings(self) -> list[str]:
        """What an operator should know of the machine, the models, the licences and the weights."""
        return [
            *self.machine_warnings,
            *self.plan.warnings,
            *licence_warnings(self.manifests),
            *twin_warnings(self.manifests),
        ]

    @property
    def details(self) -> dict[str, Any]:
        """What to tell of it, as JSON values."""
        return {
            "triton": self.install.version,
            "repository": str(self.repository),
            "policy": self.policy,
            "licences": [licence_facts(manifest) for manifest in uncleared(self.manifests)],
        }

    @property
    def twins(self) -> list[str]:
        """Served versions whose weights are random."""
        return [f"{manifest.model} {manifest.version}" for manifest in self.manifests if manifest.twin]

    @property
    def versions(self) -> dict[str, str]:
        """Model to its served versions, joined by commas."""
        versions: dict[str, list[str]] = {}
        for version in self.served:
            versions.setdefault(version.model, []).append(str(version.version))
        return {model: ",".join(numbers) for model, numbers in versions.items()}


NO_GPU: Final = (
    f"there is no NVIDIA GPU here ({GPU_DEVICE} is missing), and --require-gpu asks for one: give the container a GPU "
    "(resources.limits: nvidia.com/gpu on Kubernetes, --gpus with docker), or serve on the CPU without the option"
)

Compile = Callable[[Path, Path, Path | None], Path]
"""Compiles a repository into a folder, with a cache, and returns the folder to serve."""


def prepare(options: LaunchOptions, environ: Mapping[str, str], compile_repository: Compile) -> Preparation:
    """Look for everything that a start needs.

    Raises:
        OpsError: what is missing or wrong, and what to do.
    """
    if options.warmup_requests is not None and options.warmup_requests < 1:
        raise UsageError(f"--warmup-requests must be at least 1, got {options.warmup_requests}")
    policy = find_policy(options.policy, environ)
    access = find_access(options.host, options.control_token_file, environ)
    if options.require_gpu and not has_gpu():
        raise MachineError(NO_GPU)
    install = find_triton()
    env = server_environment(install, environ) | {REQUEST_LOG_ENV: options.request_log}
    if options.tracing:
        env |= options.tracing.environment(environ)
    check_machine(install, env)
    repository = find_repository(options.repository, environ)
    if options.compile_to:
        repository = compile_repository(repository, options.compile_to, options.compile_cache)
    env |= {SERVED_REPOSITORY_VARIABLE: str(repository), PYTHON_VARIABLE: sys.executable, POLICY_VARIABLE: policy}
    env |= access.environment()
    config_name = options.config_name or ("gpu" if has_gpu() else None)
    plan = plan_residency(
        repository,
        options.stages,
        options.pipelines,
        given=options.residency,
        preload=options.preload,
        environ=environ,
        config_name=config_name,
    )
    warmup_requests = options.warmup_requests or plan.policy.warmup_requests
    options = replace(options, stages=plan.stages, pipelines=plan.pipelines, warmup_requests=warmup_requests)
    served = read_repository(repository, options.stages, options.pipelines, config_name)
    check_pipelines(repository, options.pipelines, config_name)
    check_compiled([*served, *plan.later], install)
    models = (*options.stages, *options.pipelines)
    need = shared_memory_need(repository, models, config_name, stages_have_processes=not install.has_onnxruntime)
    shortage = check_shared_memory(need)
    warnings = (shortage,) if shortage else ()
    preparation = Preparation(options, plan, install, env, repository, config_name, policy, served, access, warnings)
    check_policy(policy, preparation.manifests)
    return preparation
