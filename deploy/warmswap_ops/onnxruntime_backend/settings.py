"""What a model's configuration says about its ONNX Runtime session.

Keys, defaults and values are those of NVIDIA's backend. One rule is stricter: an unknown key in ``parameters`` is
refused (NVIDIA's backend ignores it), because a misspelt thread count that does nothing costs more than a failed load.
Keys that other parts of Triton read, and keys that begin with ``warmswap.``, pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from warmswap_ops.onnxruntime_backend.errors import ConfigError
from warmswap_ops.onnxruntime_keys import (
    CUDA_PARAMETERS,
    DEFAULT_MODEL_FILENAME,
    INITIALIZER_KEY,
    KNOWN_PARAMETERS,
    PASSED_PARAMETERS,
    PASSED_PREFIX,
    SHRINKAGE_KEY,
)

GPU_MEM_UNLIMITED: Final = str(2**64 - 1)
_TRUE: Final = frozenset({"1", "true", "on"})
_FALSE: Final = frozenset({"0", "false", "off"})
_GRAPH_LEVELS: Final = {-1: "ORT_ENABLE_BASIC", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Settings of one session.

    Attributes:
        filename: File (or folder that holds ``model.onnx``) in the version directory.
        graph_level: Name in ``onnxruntime.GraphOptimizationLevel``.
        intra_op_threads: 0 = as ONNX Runtime decides: every core.
        inter_op_threads: 0 = as ONNX Runtime decides.
        parallel: Whether branches of the graph run in parallel.
        mem_arena: ``None`` = ONNX Runtime's default.
        mem_pattern: ``None`` = ONNX Runtime's default.
        initializers_outside_arena: Value of ``session.use_device_allocator_for_initializers``, if set.
        arena_shrinkage: Value of the run option ``memory.enable_memory_arena_shrinkage``, if set.
        cuda_options: Options that the CUDA provider gets whatever the accelerators say.
        op_libraries: Shared objects with custom operators.
    """

    filename: str
    graph_level: str
    intra_op_threads: int
    inter_op_threads: int
    parallel: bool
    mem_arena: bool | None
    mem_pattern: bool | None
    initializers_outside_arena: str | None
    arena_shrinkage: str | None
    cuda_options: dict[str, str]
    op_libraries: tuple[str, ...]


def read_settings(config: Mapping[str, Any]) -> SessionSettings:
    """Read the settings out of a model configuration (its JSON form).

    Raises:
        ConfigError: an unknown key, or a value that NVIDIA's backend would not take either.
    """
    parameters = {key: value.get("string_value", "") for key, value in (config.get("parameters") or {}).items()}
    for key in sorted(parameters):
        if key not in KNOWN_PARAMETERS | PASSED_PARAMETERS and not key.startswith(PASSED_PREFIX):
            raise ConfigError(f"unknown parameter {key!r}; known: {', '.join(sorted(KNOWN_PARAMETERS))}")
    execution_mode = _integer(parameters, "execution_mode")
    if execution_mode not in (0, 1):
        raise ConfigError(f"parameter execution_mode must be 0 or 1, got {execution_mode}")
    level = int(((config.get("optimization") or {}).get("graph") or {}).get("level", 0))
    return SessionSettings(
        filename=config.get("default_model_filename") or DEFAULT_MODEL_FILENAME,
        graph_level=_GRAPH_LEVELS.get(level, "ORT_ENABLE_ALL"),
        intra_op_threads=max(0, _integer(parameters, "intra_op_thread_count")),
        inter_op_threads=max(0, _integer(parameters, "inter_op_thread_count")),
        parallel=execution_mode == 1,
        mem_arena=_boolean(parameters, "enable_mem_arena"),
        mem_pattern=_boolean(parameters, "enable_mem_pattern"),
        initializers_outside_arena=parameters.get(INITIALIZER_KEY),
        arena_shrinkage=parameters.get(SHRINKAGE_KEY),
        cuda_options=_cuda_options(parameters),
        op_libraries=tuple((config.get("model_operations") or {}).get("op_library_filename") or ()),
    )


def parse_boolean(key: str, value: str) -> bool:
    """Parse a boolean as Triton does: true, on, 1, false, off, 0 in any case.

    Raises:
        ConfigError: it is none of these.
    """
    lowered = value.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ConfigError(f"parameter {key} must be a boolean (true or false), got {value!r}")


def parse_integer(key: str, value: str) -> int:
    """Parse a whole number.

    Raises:
        ConfigError: it is not one.
    """
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"parameter {key} must be a whole number, got {value!r}") from None


def _integer(parameters: Mapping[str, str], key: str) -> int:
    return parse_integer(key, parameters[key]) if key in parameters else 0


def _boolean(parameters: Mapping[str, str], key: str) -> bool | None:
    return parse_boolean(key, parameters[key]) if key in parameters else None


def _cuda_options(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the four options that ``parameters`` decides alone: what an accelerator says of them is overwritten.

    That is how NVIDIA's backend behaves too (server#8808).
    """
    options = {
        "gpu_mem_limit": parameters.get("gpu_mem_limit", GPU_MEM_UNLIMITED),
        "do_copy_in_default_stream": parameters.get("do_copy_in_default_stream", "1"),
    }
    parse_integer("gpu_mem_limit", options["gpu_mem_limit"])
    parse_boolean("do_copy_in_default_stream", options["do_copy_in_default_stream"])
    for key, names in CUDA_PARAMETERS.items():
        value = parameters.get(key, "0")
        if value not in names:
            raise ConfigError(f"parameter {key} must be one of {', '.join(names)}, got {value!r}")
        options[key] = names[value]
    return options
