"""How much memory a model takes: estimated before its first load, measured after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_ensemble.contract import PIPELINE_STAGES
from warmswap_ensemble.manifest import version_dirs
from warmswap_ops.config_text import (
    config_path,
    parse_default_filename,
    parse_instance_count,
    parse_version_policy,
    read_config,
)
from warmswap_ops.errors import UsageError
from warmswap_ops.residency.policy import Policy

# Measured on two cores with the `open` pack: PSS of a stub with onnxruntime and a tiny model, and of a pipeline's.
STUB_BASE_MB: Final = 50.0
PIPELINE_BASE_MB: Final = 45.0
SERVER_BASE_MB: Final = 45.0
FILE_FACTOR: Final = 4.0
"""Weights, packed copies and activations per byte of the model file; crude, so declare ``memory_mb`` or measure."""
SERVER: Final = "tritonserver"
DEFAULT_GRAPH: Final = "model.onnx"

_STUB: Final = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class Budget:
    """The arithmetic of a memory budget.

    Attributes:
        parts: Megabytes by model.
        limit_mb: What they may take together; ``None`` = anything.
    """

    parts: Mapping[str, float]
    limit_mb: float | None

    @property
    def total_mb(self) -> float:
        """What the parts take together."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether they fit."""
        return self.limit_mb is None or self.total_mb <= self.limit_mb

    def __str__(self) -> str:
        """Return the sum: ``face_detector 120 + face_swapper 60 = 180 MB > memory_budget_mb = 150``."""
        terms = " + ".join(f"{name} {megabytes:.0f}" for name, megabytes in self.parts.items())
        sign = "<=" if self.fits else ">"
        return f"{terms} = {self.total_mb:.0f} MB {sign} memory_budget_mb = {self.limit_mb or 0:.0f}"


def estimate_mb(repository: Path, model: str, policy: Policy, config_name: str | None = None) -> float:
    """Return what a model will take: what the policy declares, else by the size of its files.

    What cannot be read is not counted: the load will say what is wrong with it.
    """
    declared = policy.models[model].memory_mb
    if declared is not None:
        return declared
    config = read_config(config_path(repository / model, config_name))
    instances = parse_instance_count(config)
    if model in PIPELINE_STAGES:
        return PIPELINE_BASE_MB * instances
    sizes_mb = _served_mb(repository / model, config)
    return (STUB_BASE_MB * len(sizes_mb) + FILE_FACTOR * sum(sizes_mb)) * instances


def file_mb(repository: Path, model: str, config_name: str | None = None) -> float:
    """Return the size of the graphs that a model is served with; a pipeline has none.

    Raises:
        RepositoryError: its configuration cannot be read.
    """
    if model in PIPELINE_STAGES:
        return 0.0
    return sum(_served_mb(repository / model, read_config(config_path(repository / model, config_name))))


def _served_mb(model_dir: Path, config: str) -> list[float]:
    """Return the size of the graph of each served version, with its weights: of the one that is named, if two are."""
    pattern = f"{parse_default_filename(config) or DEFAULT_GRAPH}*"
    folders = {int(path.name): path for path in version_dirs(model_dir)}
    return [
        sum(path.stat().st_size for path in folders[version].glob(pattern)) / 1e6
        for version in parse_version_policy(config).choose(list(folders))
    ]


def refuse_residents(budget: Budget) -> None:
    """Refuse a budget that what is loaded at the start does not fit into.

    Raises:
        UsageError: with the arithmetic.
    """
    if not budget.fits:
        raise UsageError(
            f"what is loaded at the start does not fit: {budget} (estimates; [models.<name>] memory_mb corrects them): "
            "raise the budget, make stages on_demand, or preload fewer models"
        )


def stub_pids(processes: Iterable[int]) -> dict[str, list[int]]:
    """Return the stub processes by model; NVIDIA's C++ backends have none."""
    pids: dict[str, list[int]] = {}
    for pid in processes:
        model = stub_model(pid)
        if model:
            pids.setdefault(model, []).append(pid)
    return pids


def stub_model(pid: int) -> str | None:
    """Return the model that a stub process serves; ``None`` for any other process, or one that is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if len(words) < 2 or not words[0].endswith(_STUB):
        return None
    folders = Path(words[1]).parts  # <repository>/<model>/<version>/<file>
    return folders[-3] if len(folders) >= 3 and folders[-2].isdecimal() else None


def pss_mb(pids: Iterable[int]) -> float:
    """Return the sum of what processes hold now, shared pages divided among those that share them."""
    return sum(_pss_kb(pid) for pid in pids) / 1024


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # it is gone
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
