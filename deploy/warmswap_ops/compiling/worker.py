"""Compiles one graph, in a process of its own: ``python -m warmswap_ops.compiling.worker``.

A process, so that the memory goes back (three times the weights, for a moment), and so that a crash of ONNX Runtime or
the kernel's out-of-memory killer is an error and not the end of the launcher. The job comes as JSON on standard input,
the answer goes as JSON to standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from warmswap_ops.compiling.parity import ParityError, compare
from warmswap_ops.onnxruntime_backend.accelerators import CPU_PROVIDER
from warmswap_ops.onnxruntime_backend.errors import BackendError, ConfigError
from warmswap_ops.onnxruntime_backend.session import Session, find_model_file, session_options
from warmswap_ops.onnxruntime_backend.settings import read_settings
from warmswap_ops.onnxruntime_backend.tensors import GraphTensor, match_tensors

DATA_SUFFIX: Final = ".data"
MIN_EXTERNAL_BYTES: Final = 1024
"""Smaller tensors stay in the graph: shapes and axes, which ONNX Runtime reads while it builds the session."""
SEED: Final = 1

Inputs = dict[str, NDArray[Any]]


def compile_graph(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write a compiled graph, and compare its answers with those of the exported one.

    Args:
        job: ``config`` and ``compiled_config`` (JSON form), ``version_dir``, ``warmup_dir``, and ``out_dir``, in which
            the file that ``compiled_config`` names appears, with its weights beside it.

    Returns:
        ``parity``: what was compared, see ``parity.compare``.

    Raises:
        BackendError: a graph cannot be loaded, or does not fit its configuration.
        ParityError: the compiled graph answers otherwise.
    """
    config, out_dir = job["config"], Path(job["out_dir"])
    exported = _exported_session(job, out_dir / job["compiled_config"]["default_model_filename"])
    batched = int(config.get("max_batch_size", 0)) > 0
    graph_inputs = match_tensors("input", config["input"], exported.get_inputs(), int(batched))
    samples = list(warmup_samples(config, graph_inputs, Path(job["warmup_dir"]), batched=batched))
    names = [tensor["name"] for tensor in config["output"]]
    expected = [dict(zip(names, exported.run(names, inputs), strict=True)) for _, inputs in samples]
    del exported  # one set of weights at a time
    compiled = Session(job["compiled_config"], out_dir, "CPU", "0")
    parity: dict[str, Any] = {}
    for (sample, inputs), answer in zip(samples, expected, strict=True):
        parity[sample] = compare(answer, dict(zip(names, compiled.run(names, inputs), strict=True)))
    return {"parity": parity}


def _exported_session(job: Mapping[str, Any], compiled: Path) -> Any:
    """Return the session that the exported graph is served with; creating it writes the compiled one."""
    settings = read_settings(job["config"])
    options = session_options(settings)
    options.optimized_model_filepath = str(compiled)
    prefix = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{prefix}_file_name", f"{compiled.name}{DATA_SUFFIX}")
    options.add_session_config_entry(f"{prefix}_min_size_in_bytes", str(MIN_EXTERNAL_BYTES))
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    path = find_model_file(Path(job["version_dir"]), settings.filename)
    try:
        return ort.InferenceSession(str(path), options, providers=[CPU_PROVIDER])
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise ConfigError(f"onnxruntime cannot compile {path.name}: {error}") from error


def warmup_samples(
    config: Mapping[str, Any], tensors: Mapping[str, GraphTensor], warmup_dir: Path, *, batched: bool
) -> Iterator[tuple[str, Inputs]]:
    """Yield name and inputs of every warm-up sample, a batch of one each; those with the same inputs only once.

    Raises:
        ConfigError: there is none, or a file of one is not what the configuration says.
    """
    seen: list[Any] = []
    for sample in config.get("model_warmup") or ():
        if sample["inputs"] not in seen:
            seen.append(sample["inputs"])
            inputs = {
                name: _tensor(tensors, name, given, warmup_dir)[(None,) if batched else ()]
                for name, given in sample["inputs"].items()
            }
            yield sample["name"], inputs
    if not seen:
        raise ConfigError("config.pbtxt has no model_warmup to compare the graphs with; add one with a real sample")


def _tensor(tensors: Mapping[str, GraphTensor], name: str, given: Mapping[str, Any], warmup_dir: Path) -> NDArray[Any]:
    if name not in tensors:
        raise ConfigError(f"model_warmup has an input {name!r}, the graph has {', '.join(tensors)}")
    shape, dtype = [int(dim) for dim in given["dims"]], tensors[name].dtype
    if not given.get("input_data_file"):
        random = np.random.default_rng(SEED).random(shape) * (255 if dtype.kind in "iu" else 1)
        return np.zeros(shape, dtype) if given.get("zero_data") else random.astype(dtype)
    path = warmup_dir / given["input_data_file"]
    try:
        return np.fromfile(path, dtype).reshape(shape)
    except (OSError, ValueError) as error:
        raise ConfigError(f"warm-up sample {path} is not {dtype} {shape}: {error}") from error


def main() -> int:
    """Read a job, do it, write the answer."""
    try:
        answer = compile_graph(json.load(sys.stdin))
    except (BackendError, ParityError) as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
