"""``residency.toml``: which models are loaded at the start, which on demand, and how much memory they may take.

Read strictly: what is not understood is refused with the names that are, never ignored.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import MODELS, PIPELINE_STAGES, swapper_variant
from warmswap_ops.errors import UsageError

POLICY_NAME: Final = "residency.toml"
POLICY_VARIABLE: Final = "WARMSWAP_RESIDENCY"
RESIDENT: Final = "resident"
ON_DEMAND: Final = "on_demand"
DEFAULT_IDLE_S: Final = 300.0

_POLICY_KEYS: Final = ("memory_budget_mb", "preload_models", "warmup_requests", "models")
_MODEL_KEYS: Final = ("residency", "idle_s", "priority", "memory_mb")


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """How one model is kept.

    Attributes:
        on_demand: Loaded by the first request that needs it, not at the start.
        idle_s: Unloaded when nobody needed it for so long; for a model that is loaded on demand.
        priority: Where memory is short, models of lower priority are unloaded first.
        memory_mb: What it takes, as the operator says; ``None`` = estimated, and measured after its first load.
    """

    on_demand: bool = False
    idle_s: float = DEFAULT_IDLE_S
    priority: int = 0
    memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How all models of a repository are kept.

    Attributes:
        models: Every model of the repository.
        preload_models: What is loaded at the start, with the stages that it calls; ``None`` = all that is resident.
        memory_budget_mb: Of tritonserver and its stubs; ``None`` = no limit.
        warmup_requests: Golden requests before the replica is ready; ``None`` = what ``config.pbtxt`` says.
    """

    models: Mapping[str, ModelPolicy] = field(default_factory=dict)
    preload_models: tuple[str, ...] | None = None
    memory_budget_mb: float | None = None
    warmup_requests: int | None = None

    @property
    def on_demand(self) -> list[str]:
        """Names of the models that are loaded on demand."""
        return [name for name, model in self.models.items() if model.on_demand]

    def at_start(self) -> list[str]:
        """Return the models to load at the start: stages first, in the order of the contract."""
        wanted = set(self.models) - set(self.on_demand)
        if self.preload_models is not None:
            called = {stage for name in self.preload_models for stage in PIPELINE_STAGES.get(name, ())}
            wanted = (called & wanted) | set(self.preload_models)
        return [name for name in self.models if name in wanted]


def find_policy_file(given: Path | None, environ: Mapping[str, str], repository: Path) -> Path | None:
    """Return the policy file: the given one, ``$WARMSWAP_RESIDENCY``, or the repository's; ``None`` without any."""
    if given is not None:
        return given
    from_environment = environ.get(POLICY_VARIABLE)
    if from_environment:
        return Path(from_environment)
    own = repository / POLICY_NAME
    return own if own.is_file() else None


def read_policy(path: Path | None, models: Sequence[str]) -> Policy:
    """Read a policy file.

    Args:
        path: The file; ``None`` = variants of the swapper are loaded on demand, the rest is resident.
        models: What the repository holds, in the order of loading.

    Raises:
        UsageError: the file cannot be read, or says something that is not understood.
    """
    if path is None:
        return parse_policy("", POLICY_NAME, models)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return parse_policy(text, str(path), models)


def parse_policy(text: str, origin: str, models: Sequence[str]) -> Policy:
    """Read the text of a policy file.

    Args:
        text: TOML.
        origin: How error messages call it.
        models: What the repository holds, in the order of loading.

    Raises:
        UsageError: it says something that is not understood; one sentence, with the names that are.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin} is not TOML: {error}") from error
    _refuse_unknown(values, _POLICY_KEYS, "key", origin)
    tables = values.get("models", {})
    if not isinstance(tables, dict):
        raise UsageError(f"{origin}: models must be tables [models.<name>], got {tables!r}")
    _refuse_unknown(tables, models, "model", f"{origin}: [models]")
    return Policy(
        models={name: _model(name, tables.get(name, {}), f"{origin}: [models.{name}]") for name in models},
        preload_models=_preload(values["preload_models"], origin, models) if "preload_models" in values else None,
        memory_budget_mb=_optional(values, "memory_budget_mb", "megabytes", origin),
        warmup_requests=_warmup_requests(values, origin),
    )


def parse_preload(names: Sequence[str], origin: str, models: Sequence[str]) -> tuple[str, ...]:
    """Return models to load at the start.

    Raises:
        UsageError: there is none, or the repository does not hold one of them.
    """
    _refuse_unknown(names, models, "model", origin)
    if not names:
        raise UsageError(f"{origin} names no model; name some of {', '.join(models)}, or leave it out")
    return tuple(dict.fromkeys(names))


def _preload(value: Any, origin: str, models: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UsageError(f'{origin}: preload_models must be a list of names such as ["face_swap"], got {value!r}')
    return parse_preload(value, f"{origin}: preload_models", models)


def _model(name: str, values: Any, place: str) -> ModelPolicy:
    if not isinstance(values, dict):
        raise UsageError(f"{place} must be a table, got {values!r}")
    _refuse_unknown(values, _MODEL_KEYS, "key", place)
    residency = values.get("residency", ON_DEMAND if swapper_variant(name) else RESIDENT)
    if residency not in (RESIDENT, ON_DEMAND):
        raise UsageError(f'{place}: residency must be "{RESIDENT}" or "{ON_DEMAND}", got {residency!r}')
    on_demand = residency == ON_DEMAND
    if on_demand and name in PIPELINE_STAGES:
        raise UsageError(
            f"{place}: a pipeline cannot be {ON_DEMAND}: requests are addressed to it, and Triton refuses them before "
            f"anything could load it. Leave it out with preload_models = [...]"
        )
    only = [key for key in ("idle_s", "priority") if key in values]
    if only and not on_demand:
        raise UsageError(f'{place}: {only[0]} is only for residency = "{ON_DEMAND}"; a resident model stays loaded')
    return ModelPolicy(
        on_demand=on_demand,
        idle_s=_number(values.get("idle_s", DEFAULT_IDLE_S), "idle_s", "seconds", place),
        priority=_whole(values.get("priority", 0), "priority", place),
        memory_mb=_optional(values, "memory_mb", "megabytes", place),
    )


def _refuse_unknown(names: Collection[Any], known: Sequence[str], kind: str, place: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            absent = "; the repository has no such folder" if name in MODELS else ""
            raise UsageError(f"{place}: unknown {kind} {name!r}{hint}{absent}; known are {', '.join(known)}")


def _optional(values: Mapping[str, Any], key: str, unit: str, place: str) -> float | None:
    return _number(values[key], key, unit, place) if key in values else None


def _number(value: Any, key: str, unit: str, place: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise UsageError(f"{place}: {key} must be a number of {unit} above 0, without unit or quotes, got {value!r}")
    return float(value)


def _whole(value: Any, key: str, place: str, least: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        least_text = "" if least is None else f" from {least}"
        raise UsageError(f"{place}: {key} must be a whole number{least_text}, got {value!r}")
    return value


def _warmup_requests(values: Mapping[str, Any], origin: str) -> int | None:
    return _whole(values["warmup_requests"], "warmup_requests", origin, 1) if "warmup_requests" in values else None
