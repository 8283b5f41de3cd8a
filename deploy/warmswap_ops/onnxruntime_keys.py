"""Keys in the configuration of an onnxruntime model: read by the portable backend and by ``warmswap lint``.

Standard library only: the backend's own package can be imported in Triton's stub alone.
"""

from __future__ import annotations

from typing import Final

DEFAULT_MODEL_FILENAME: Final = "model.onnx"

CUDA_PARAMETERS: Final = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
}
INITIALIZER_KEY: Final = "session.use_device_allocator_for_initializers"
SHRINKAGE_KEY: Final = "memory.enable_memory_arena_shrinkage"

KNOWN_PARAMETERS: Final = frozenset(
    {
        "intra_op_thread_count",
        "inter_op_thread_count",
        "execution_mode",
        "enable_mem_arena",
        "enable_mem_pattern",
        SHRINKAGE_KEY,
        INITIALIZER_KEY,
        "gpu_mem_limit",
        "do_copy_in_default_stream",
        *CUDA_PARAMETERS,
    }
)
PASSED_PARAMETERS: Final = frozenset({"FORCE_CPU_ONLY_INPUT_TENSORS", "EXECUTION_ENV_PATH"})
"""Read by Triton's Python backend, which runs this one."""
PASSED_PREFIX: Final = "warmswap."
