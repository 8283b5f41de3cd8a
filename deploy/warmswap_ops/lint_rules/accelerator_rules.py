"""Rules on GPUs: what the onnxruntime backend makes of CUDA and TensorRT settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from warmswap_ops.finding import Finding
from warmswap_ops.lint import RepositoryOnDisk, Rule
from warmswap_ops.lint_config import Segment
from warmswap_ops.onnxruntime_keys import CUDA_PARAMETERS

OVERWRITTEN: Final = (*CUDA_PARAMETERS, "gpu_mem_limit", "do_copy_in_default_stream")
"""CUDA options that the backend takes from ``parameters`` alone."""
CONV_SEARCH: Final = "cudnn_conv_algo_search"
HEURISTIC: Final = "1"
_SLOW: Final = {
    "0": "EXHAUSTIVE, which tries every algorithm at the first request of each shape",
    "2": "DEFAULT, which since ONNX Runtime 1.20 is cuDNN's slow fallback",
}
_TRUE: Final = frozenset({"1", "true", "on"})


def accelerator_keys_are_not_overwritten(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """CUDA options that the backend reads from parameters do not stand under execution_accelerators.

    The backend fills its options from the accelerator, then overwrites these four with parameters or, without them,
    with its defaults; its README says otherwise (server#8808, onnxruntime.cc:806).
    """
    for config in repository.configs:
        for index, accelerator in enumerate(config.gpu_accelerators):
            for key in sorted(set(OVERWRITTEN) & set(accelerator.parameters)):
                value = accelerator.parameters[key]
                yield config.finding(
                    f"{key} {value!r} under execution_accelerators is overwritten",
                    f"move it to parameters {{ key: {key!r} value: {{ string_value: ... }} }}; the values have numbers",
                    *_accelerator(index),
                    ("parameters", key),
                )


def conv_search_is_heuristic(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """On a GPU cudnn_conv_algo_search is "1", HEURISTIC.

    The default is the largest part of a cold first request, paid again for each new shape (onnxruntime_backend README);
    "2" changed its meaning (onnxruntime#22705; PaddleOCR measured 4556 ms against 1488 ms cold, 206 against 4 warm).
    """
    for config in repository.configs:
        value = config.parameters.get(CONV_SEARCH, "0")
        if config.is_onnxruntime and config.on_gpu and value != HEURISTIC:
            meaning = _SLOW.get(value, "no value that the backend knows")
            given = "is" if CONV_SEARCH in config.parameters else "is not set, so it is"
            yield config.finding(
                f"{CONV_SEARCH} {given} {value!r}: {meaning}",
                f'write parameters {{ key: "{CONV_SEARCH}" value: {{ string_value: "{HEURISTIC}" }} }}',
                ("parameters", CONV_SEARCH),
            )


def tensorrt_keeps_its_engines(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """The TensorRT accelerator has an engine cache with a path and a prefix of its own.

    Without a cache every start builds the engines for minutes (server#3473, #6014). Without a prefix the cache is keyed
    on the model's path, and a load with file overrides, which goes to a random folder, always misses it (server#4587).
    """
    for config in repository.configs:
        for index, accelerator in enumerate(config.gpu_accelerators):
            options = accelerator.parameters
            if accelerator.name != "tensorrt":
                continue
            enabled = options.get("trt_engine_cache_enable", "").lower() in _TRUE
            if not enabled or not options.get("trt_engine_cache_path"):
                yield config.finding(
                    "the tensorrt accelerator has no engine cache",
                    'write trt_engine_cache_enable "true", trt_engine_cache_path on a volume that stays, and '
                    "trt_engine_cache_prefix",
                    *_accelerator(index),
                )
            elif not options.get("trt_engine_cache_prefix"):
                yield config.finding(
                    "the engine cache has no trt_engine_cache_prefix",
                    f'write a parameter "trt_engine_cache_prefix", for example "{config.model}"',
                    *_accelerator(index),
                    severity="warning",
                )


def tensorrt_knows_its_shapes(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """A TensorRT engine for variable shapes has optimisation profiles.

    Without trt_profile_min_shapes, opt and max, a request with a shape outside of what was seen rebuilds the engine
    while the client waits (ONNX Runtime's documentation of the TensorRT provider).
    """
    for config in repository.configs:
        varies = config.message.max_batch_size > 1 or any(-1 in tensor.dims for tensor in config.message.input)
        for index, accelerator in enumerate(config.gpu_accelerators):
            missing = [
                key
                for key in ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
                if not accelerator.parameters.get(key)
            ]
            if accelerator.name == "tensorrt" and varies and missing:
                yield config.finding(
                    f"shapes vary and the tensorrt accelerator has no {', no '.join(missing)}",
                    "write the three profiles for every input",
                    *_accelerator(index),
                    severity="warning",
                )


RULES: Final[tuple[Rule, ...]] = (
    accelerator_keys_are_not_overwritten,
    conv_search_is_heuristic,
    tensorrt_keeps_its_engines,
    tensorrt_knows_its_shapes,
)


def _accelerator(index: int) -> tuple[Segment, ...]:
    return ("optimization", "execution_accelerators", ("gpu_execution_accelerator", index))
