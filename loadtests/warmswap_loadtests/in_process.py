"""The baseline: the same pictures through the same models in one process, one picture at a time, no server.

It runs the very code that the server runs, over ONNX Runtime sessions of its own, with the thread settings that are
fastest for one request at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from warmswap_ensemble.contract import FACE_SWAP
from warmswap_ensemble.image import ImageLimits
from warmswap_ensemble.options import FaceSelector, SwapOptions
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_calls import Arrays, StageCalls
from warmswap_ensemble.stage_versions import resolve_stages
from warmswap_ensemble.types import Stage, SwapResult
from warmswap_loadtests.payloads import Payload
from warmswap_loadtests.stats import Latencies


@dataclass(frozen=True, slots=True)
class Tuning:
    """Thread settings of the loop.

    Attributes:
        intra_op_threads: Threads within one operator of ONNX Runtime.
        spinning: Whether they wait busily for work.
        opencv_threads: Threads of OpenCV.
    """

    intra_op_threads: int
    spinning: bool
    opencv_threads: int


CANDIDATES = (
    Tuning(intra_op_threads=2, spinning=True, opencv_threads=2),
    Tuning(intra_op_threads=2, spinning=False, opencv_threads=2),
    Tuning(intra_op_threads=2, spinning=True, opencv_threads=1),
    Tuning(intra_op_threads=1, spinning=False, opencv_threads=2),
)


class Inline(Executor):
    """Runs what is submitted at once, in the caller: a plain loop does one thing after the other."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn`` and return its result as a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class InProcessLoop:
    """The pipeline over sessions in this process."""

    def __init__(self, repository: Path, tuning: Tuning, executor: Executor | None = None) -> None:
        """Create a session per stage.

        Args:
            repository: Model repository.
            tuning: Thread settings; those of OpenCV hold for the process, from here on or from the last ``run``.
            executor: Runs the parts of a swap that may run side by side; ``None`` = one after the other.
        """
        self.tuning = tuning
        stages = resolve_stages(FACE_SWAP.name, repository, {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = tuning.intra_op_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if tuning.spinning else "0")
        self._sessions = {
            name: onnxruntime.InferenceSession(
                repository / name / str(stage.version) / "model.onnx", options, providers=["CPUExecutionProvider"]
            )
            for name, stage in stages.items()
        }
        self._pipeline = Pipeline(StageCalls(stages, self._call), ImageLimits(), SourceCache(64), executor or Inline())
        cv2.setNumThreads(tuning.opencv_threads)

    def run(self, requests: Iterable[Payload]) -> tuple[Latencies, dict[str, float]]:
        """Swap one after the other; return the latencies and the mean time per step in milliseconds."""
        cv2.setNumThreads(self.tuning.opencv_threads)
        values: list[float] = []
        steps: dict[str, list[float]] = {}
        begin = time.perf_counter()
        for request in requests:
            start = time.perf_counter()
            result = self.swap(request)
            values.append((time.perf_counter() - start) * 1e3)
            for step, ms in result.timings_ms.items():
                steps.setdefault(step, []).append(ms)
        elapsed_s = time.perf_counter() - begin
        return Latencies(values, elapsed_s), {step: float(np.mean(ms)) for step, ms in steps.items()}

    def swap(self, request: Payload, face_selector: str = "all") -> SwapResult:
        """Swap once; may be called by several threads."""
        options = SwapOptions(face_selector=FaceSelector(face_selector))
        return self._pipeline.swap(request.source, request.target, None, options)

    def _call(self, stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        values = self._sessions[stage.model].run(list(output_names), dict(inputs))
        return dict(zip(output_names, values, strict=True))


def fastest_loop(repository: Path, sample: Callable[[], Iterable[Payload]]) -> tuple[InProcessLoop, dict[str, float]]:
    """Try every tuning on a sample and return the fastest loop, with the median latency of each."""
    medians: dict[str, float] = {}
    loops: list[tuple[float, InProcessLoop]] = []
    for tuning in CANDIDATES:
        loop = InProcessLoop(repository, tuning)
        loop.run(sample())
        median = loop.run(sample())[0].percentile_ms(50)
        medians[str(tuning)] = median
        loops.append((median, loop))
    return min(loops, key=lambda item: item[0])[1], medians
