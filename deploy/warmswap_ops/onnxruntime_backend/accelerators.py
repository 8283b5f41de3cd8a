"""Execution providers: which a model asks for, and whether this build of ONNX Runtime has them.

Names and keys are those of NVIDIA's backend (``optimization { execution_accelerators { ... } }``). It looks at the
GPU accelerators of GPU instances only, and refuses unknown names and keys; so does this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from warmswap_ops.onnxruntime_backend.errors import ConfigError

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
TENSORRT_PROVIDER: Final = "TensorrtExecutionProvider"
OPENVINO_PROVIDER: Final = "OpenVINOExecutionProvider"

Provider = tuple[str, dict[str, str]]

CUDA_KEYS: Final = frozenset(
    {
        "arena_extend_strategy",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "do_copy_in_default_stream",
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "gpu_mem_limit",
        "prefer_nhwc",
        "sdpa_kernel",
        "tunable_op_enable",
        "tunable_op_max_tuning_duration_ms",
        "tunable_op_tuning_enable",
        "use_ep_level_unified_stream",
        "use_tf32",
    }
)
_PRECISIONS: Final = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}
_TENSORRT_RENAMED: Final = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
TENSORRT_KEYS: Final = frozenset(
    {
        "precision_mode",
        *_TENSORRT_RENAMED,
        "trt_auxiliary_streams",
        "trt_build_heuristics_enable",
        "trt_builder_optimization_level",
        "trt_context_memory_sharing_enable",
        "trt_cuda_graph_enable",
        "trt_detailed_build_log",
        "trt_dla_core",
        "trt_dla_enable",
        "trt_dump_ep_context_model",
        "trt_dump_subgraphs",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
        "trt_ep_context_embed_mode",
        "trt_ep_context_file_path",
        "trt_extra_plugin_lib_paths",
        "trt_force_sequential_engine_build",
        "trt_force_timing_cache",
        "trt_layer_norm_fp32_fallback",
        "trt_max_partition_iterations",
        "trt_min_subgraph_size",
        "trt_profile_max_shapes",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_sparsity_enable",
        "trt_tactic_sources",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
    }
)


def choose_providers(
    config: Mapping[str, Any], kind: str, device_id: str, cuda_options: Mapping[str, str], available: Sequence[str]
) -> list[Provider]:
    """Return the providers of a session, in order of preference; the CPU comes last.

    Args:
        config: Model configuration (its JSON form).
        kind: Instance kind: ``CPU`` or ``GPU``.
        device_id: CUDA device of the instance.
        cuda_options: Options of the CUDA provider that ``parameters`` decides.
        available: What this build of ONNX Runtime offers.

    Raises:
        ConfigError: a provider is not available, or an accelerator or one of its keys is unknown.
    """
    accelerators = (config.get("optimization") or {}).get("execution_accelerators") or {}
    providers: list[Provider] = []
    if kind == "GPU":
        if config.get("cc_model_filenames"):
            raise ConfigError("cc_model_filenames needs NVIDIA's onnxruntime backend; use default_model_filename")
        cuda: dict[str, str] = {}
        for accelerator in accelerators.get("gpu_execution_accelerator") or ():
            name, keys = accelerator["name"], dict(accelerator.get("parameters") or {})
            if name == "tensorrt":
                _require(TENSORRT_PROVIDER, available, "accelerator tensorrt")
                providers.append((TENSORRT_PROVIDER, {**_tensorrt_options(keys), "device_id": device_id}))
            elif name == "cuda":
                _refuse_unknown("cuda", keys, CUDA_KEYS)
                cuda |= keys
            else:
                raise ConfigError(f"unknown execution accelerator {name!r} for a GPU; known: cuda, tensorrt")
        _require(CUDA_PROVIDER, available, "instance kind KIND_GPU")
        providers.append((CUDA_PROVIDER, {**cuda, **cuda_options, "device_id": device_id}))
    for accelerator in accelerators.get("cpu_execution_accelerator") or ():
        if accelerator["name"] != "openvino":
            raise ConfigError(f"unknown execution accelerator {accelerator['name']!r} for a CPU; known: openvino")
        _require(OPENVINO_PROVIDER, available, "accelerator openvino")
        providers.append((OPENVINO_PROVIDER, {"device_type": "CPU"}))
    providers.append((CPU_PROVIDER, {}))
    return providers


def _tensorrt_options(keys: Mapping[str, str]) -> dict[str, str]:
    _refuse_unknown("tensorrt", keys, TENSORRT_KEYS)
    options: dict[str, str] = {}
    for key, value in keys.items():
        if key == "precision_mode":
            if value not in _PRECISIONS:
                raise ConfigError(f"precision_mode must be one of {', '.join(_PRECISIONS)}, got {value!r}")
            options |= _PRECISIONS[value]
        elif value:
            options[_TENSORRT_RENAMED.get(key, key)] = value
    return options


def _refuse_unknown(accelerator: str, keys: Mapping[str, str], known: frozenset[str]) -> None:
    for key in sorted(keys):
        if key not in known:
            raise ConfigError(f"unknown parameter {key!r} for the {accelerator} execution accelerator")


def _require(provider: str, available: Sequence[str], wanted_by: str) -> None:
    if provider not in available:
        raise ConfigError(
            f"{wanted_by} needs {provider}, and this onnxruntime has only {', '.join(available)}; install a build "
            "that has it (for CUDA: warmswap[gpu] instead of warmswap[server]), or change config.pbtxt"
        )
