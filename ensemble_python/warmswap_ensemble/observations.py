"""What a pipeline process sees of a rollout, one JSON object a line, for whoever decides about it.

    {"kind": "request", "arm": "candidate", "t": 1764241000.1, "ms": 93.2, "outcome": "ok", "failed": false}
    {"kind": "shadow", "t": ..., "live_ms": 93.2, "ms": 12.0, "measures": {"recall": 1.0, ...}, "error": null}
    {"kind": "dropped", "t": ...}               a request that the candidate should have been shown, at a busy moment
    {"kind": "breaker", "t": ..., "reason": "..."}      this process gives the candidate nothing more

A file per process and rollout, in a folder of the replica. Never pixels or embeddings.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.routes import OBSERVATIONS_SUFFIX, ROLLOUT_FOLDER_VARIABLE

MAX_BYTES: Final = 256 << 20
"""Of one file; more is not written down: the tool has read it long since, or nobody reads it."""


class Observations:
    """Writes them; without a folder, or on a disk that is full, they are lost and nothing else.

    Requests and second looks write from threads of their own, now and then of two rollouts.
    """

    def __init__(self, folder: Path | None, pipeline: str) -> None:
        """Prepare; no file is made before there is something to write."""
        self._folder = folder
        self._pipeline = pipeline
        self._rollout = ""
        self._file: int | None = None
        self._written = 0
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, pipeline: str, environ: Mapping[str, str]) -> Observations:
        """Take the folder that the launcher named."""
        folder = environ.get(ROLLOUT_FOLDER_VARIABLE)
        return cls(Path(folder) if folder else None, pipeline)

    def write(self, rollout: str, kind: str, **facts: Any) -> None:
        """Write one observation of a rollout."""
        if self._folder is None:
            return
        line = json.dumps({"kind": kind, "t": round(time.time(), 3), **facts}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._append(rollout, line)

    def close(self) -> None:
        """Close the file; the next observation opens one again."""
        with self._lock:
            self._close()

    def _append(self, rollout: str, line: bytes) -> None:
        assert self._folder is not None
        try:
            if rollout != self._rollout:
                self._close()
                name = f"{rollout}.{self._pipeline}.{os.getpid()}{OBSERVATIONS_SUFFIX}"
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(self._folder / name, flags, 0o600)
                self._rollout, self._written = rollout, 0
            if self._file is not None and self._written < MAX_BYTES:
                self._written += os.write(self._file, line)
        except OSError:
            self._close()

    def _close(self) -> None:
        self._rollout = ""
        if self._file is not None:
            os.close(self._file)
            self._file = None
