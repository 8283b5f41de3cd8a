"""The model of the two FastAPI servers: the very pipeline and ONNX files of the repository, in the server's process."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from warmswap_loadtests.in_process import InProcessLoop, Tuning
from warmswap_loadtests.payloads import ONE_FACE, Payload, golden_payload

REPOSITORY_VARIABLE: Final = "WARMSWAP_BENCH_REPOSITORY"

TUNING: Final = Tuning(intra_op_threads=2, spinning=False, opencv_threads=1)
"""What the configurations in the repository give to Triton; threads that spin would take the cores from each other."""


class BaselineModel:
    """A face swapper that is ready when it exists."""

    def __init__(self) -> None:
        """Load the models of the repository that the environment names."""
        self._repository = Path(os.environ[REPOSITORY_VARIABLE])
        executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pipeline")  # as face_swap has
        self._loop = InProcessLoop(self._repository, TUNING, executor)

    def swap(self, source: bytes, target: bytes) -> bytes:
        """Return the encoded picture; may be called by several threads."""
        return self._loop.swap(Payload(source, target), ONE_FACE).image

    def warm_up(self) -> None:
        """Swap once, with the pictures that warm up ``face_swap`` too."""
        payload = golden_payload(self._repository)
        self.swap(payload.source, payload.target)
