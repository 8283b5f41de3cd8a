"""Reads weights as TensorFlow.js stores them: a JSON list of tensors beside one binary file, most of them uint8."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

STORED_DTYPES: Final = {"uint8": "|u1", "float32": "<f4"}


@dataclass(frozen=True, slots=True)
class TfjsWeight:
    """A tensor as stored: its values are ``stored * scale + minimum``.

    Attributes:
        stored: uint8, or float32 with ``scale`` 1 and ``minimum`` 0 for the few tensors that are not quantised.
        scale: Step between two stored values.
        minimum: Value of a stored 0.
    """

    stored: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    scale: float
    minimum: float


def read_tfjs_weights(manifest_path: Path, weights_path: Path) -> dict[str, TfjsWeight]:
    """Read every tensor of a weights manifest.

    Raises:
        ValueError: a tensor is stored in another way than float32 or uint8, or the binary file has another size.
    """
    data = weights_path.read_bytes()
    weights: dict[str, TfjsWeight] = {}
    offset = 0
    for group in json.loads(manifest_path.read_text(encoding="utf-8")):
        for entry in group["weights"]:
            quantization = entry.get("quantization")
            stored = entry["dtype"] if quantization is None else quantization["dtype"]
            if entry["dtype"] != "float32" or stored not in STORED_DTYPES:
                raise ValueError(f"{entry['name']} must be float32, stored as such or as uint8, got {entry}")
            dtype = np.dtype(STORED_DTYPES[stored])
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
            scale, minimum = (1.0, 0.0) if quantization is None else (quantization["scale"], quantization["min"])
            weights[entry["name"]] = TfjsWeight(values, scale, minimum)
            offset += count * dtype.itemsize
    if offset != len(data):
        raise ValueError(f"{weights_path.name} has {len(data)} bytes, its manifest declares {offset}")
    return weights
