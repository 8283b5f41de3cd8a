"""Writes warm-up samples as Triton reads them: raw little-endian files in ``<model>/warmup/``."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import numpy as np

from warmswap_export.built import Arrays

WARMUP_FOLDER: Final = "warmup"


def write_stage_warmup(model_dir: Path, samples: Arrays) -> None:
    """Write the first row of each sample of a stage; Triton repeats it to the batch size that it warms."""
    folder = model_dir / WARMUP_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in samples.items():
        _write_if_changed(folder / f"{name}.raw", np.ascontiguousarray(rows[0]).tobytes())


def write_bytes_warmup(model_dir: Path, tensor: str, data: bytes) -> None:
    """Write one BYTES element: its length in four bytes, then the bytes."""
    folder = model_dir / WARMUP_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _write_if_changed(folder / f"{tensor}.raw", struct.pack("<I", len(data)) + data)


def _write_if_changed(path: Path, data: bytes) -> None:
    # A new modification time would make a running Triton reload every version of the model.
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)
