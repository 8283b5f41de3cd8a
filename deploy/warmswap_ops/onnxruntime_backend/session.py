"""The ONNX Runtime session of one model instance."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from warmswap_ops.onnxruntime_backend.accelerators import CPU_PROVIDER, choose_providers
from warmswap_ops.onnxruntime_backend.errors import ConfigError
from warmswap_ops.onnxruntime_backend.settings import SessionSettings, read_settings
from warmswap_ops.onnxruntime_backend.tensors import GraphTensor, match_tensors
from warmswap_ops.onnxruntime_keys import DEFAULT_MODEL_FILENAME

LOG_SEVERITY_ERROR = 3


class Session:
    """A loaded graph that was held against its configuration.

    Attributes:
        inputs: Name to tensor of the graph.
        outputs: Name to tensor of the graph, those of the configuration only.
        batched: Whether the first dimension is the batch.
    """

    def __init__(self, config: Mapping[str, Any], version_dir: Path, kind: str, device_id: str) -> None:
        """Load the graph.

        Args:
            config: Model configuration (its JSON form).
            version_dir: Folder with the model file.
            kind: Instance kind: ``CPU`` or ``GPU``.
            device_id: CUDA device of the instance.

        Raises:
            ConfigError: file, graph, configuration and machine do not fit together.
        """
        settings = read_settings(config)
        providers = choose_providers(config, kind, device_id, settings.cuda_options, ort.get_available_providers())
        path = find_model_file(version_dir, settings.filename)
        try:
            self._session = ort.InferenceSession(str(path), session_options(settings), providers=providers)
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise ConfigError(f"onnxruntime cannot load {path.name}: {error}") from error
        self._refuse_fallback([name for name, _ in providers])
        max_batch_size = int(config.get("max_batch_size", 0))
        self.batched = max_batch_size > 0
        self.inputs: dict[str, GraphTensor] = match_tensors(
            "input", config["input"], self._session.get_inputs(), max_batch_size
        )
        self.outputs: dict[str, GraphTensor] = match_tensors(
            "output", config["output"], self._session.get_outputs(), max_batch_size
        )
        self._run_options = None
        if settings.arena_shrinkage is not None:
            self._run_options = ort.RunOptions()
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", settings.arena_shrinkage)

    def run(self, names: list[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph once; outputs come in the order of ``names``."""
        feeds = {name: _strings(array) if array.dtype == np.object_ else array for name, array in inputs.items()}
        outputs: list[NDArray[Any]] = self._session.run(names, feeds, self._run_options)
        return outputs

    def _refuse_fallback(self, wanted: list[str]) -> None:
        """Refuse a session that quietly went to the CPU because a provider's libraries do not load."""
        missing = set(wanted) - set(self._session.get_providers()) - {CPU_PROVIDER}
        if missing:
            raise ConfigError(
                f"onnxruntime fell back to the CPU: {', '.join(sorted(missing))} is installed but did not start "
                "(CUDA, cuDNN or driver libraries missing)"
            )


def find_model_file(version_dir: Path, filename: str) -> Path:
    """Return the model file: ``filename``, or ``model.onnx`` in the folder of that name.

    Raises:
        ConfigError: there is none.
    """
    path = version_dir / filename
    if path.is_dir():
        path = path / DEFAULT_MODEL_FILENAME
    if not path.is_file():
        raise ConfigError(f"there is no {path}")
    return path


def session_options(settings: SessionSettings) -> Any:
    """Return ``onnxruntime.SessionOptions``.

    Raises:
        ConfigError: a library of custom operators cannot be loaded.
    """
    options = ort.SessionOptions()
    options.log_severity_level = LOG_SEVERITY_ERROR
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, settings.graph_level)
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if settings.parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = settings.intra_op_threads
    options.inter_op_num_threads = settings.inter_op_threads
    if settings.mem_arena is not None:
        options.enable_cpu_mem_arena = settings.mem_arena
    if settings.mem_pattern is not None:
        options.enable_mem_pattern = settings.mem_pattern
    # NVIDIA's backend has no key for these two. Threads that spin for work take the cores from the other models of
    # the chain, which run one after another: measured slower on two cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if settings.initializers_outside_arena is not None:
        options.add_session_config_entry(
            "session.use_device_allocator_for_initializers", settings.initializers_outside_arena
        )
    for library in settings.op_libraries:
        try:
            ctypes.CDLL(library)  # onnxruntime's own message does not name the library that is missing
            options.register_custom_ops_library(library)
        except Exception as error:
            raise ConfigError(f"model_operations: cannot load {library}: {error}") from error
    return options


def _strings(array: NDArray[Any]) -> NDArray[Any]:
    """Decode the bytes of a TYPE_STRING tensor: onnxruntime takes str."""
    flat = [item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in array.flat]
    return np.array(flat, dtype=np.object_).reshape(array.shape)
