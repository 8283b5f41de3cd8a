"""ONNX Runtime sessions in this process, set up as the server sets up its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnxruntime

from warmswap_loadtests.errors import BenchError
from warmswap_ops.config_text import CONFIG_NAME, parse_parameters, read_config

THREADS_KEY: Final = "intra_op_thread_count"
ERRORS_ONLY: Final = 3


def configured_threads(model_dir: Path) -> int:
    """Return the threads that a model's configuration gives to an operator; 0 = all cores."""
    return int(parse_parameters(read_config(model_dir / CONFIG_NAME)).get(THREADS_KEY, "0"))


def open_session(path: Path, threads: int) -> Any:
    """Open a session on the CPU with the server's settings; its threads do not spin.

    Raises:
        BenchError: ONNX Runtime cannot load the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise BenchError(f"onnxruntime cannot load {path}: {error}") from error
