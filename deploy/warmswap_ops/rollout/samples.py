"""The warm-up samples of a model's configuration as arrays: real inputs, at hand for every model that is served."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from warmswap_ops.errors import RepositoryError
from warmswap_ops.rollout.calls import Arrays, bytes_array

_DTYPES: Final[Mapping[str, Any]] = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_INT32": np.int32}


def read_samples(model_dir: Path, config: Mapping[str, Any]) -> list[Arrays]:
    """Return one request for each sample that comes from a file.

    Args:
        model_dir: Folder of the model, with ``warmup/``.
        config: Its configuration in JSON form.

    Raises:
        RepositoryError: a file is missing or too short.
    """
    is_batched = int(config.get("max_batch_size", 0)) > 0
    samples: list[Arrays] = []
    for sample in config.get("model_warmup", []):
        try:
            arrays = {name: _read(model_dir, values) for name, values in sample["inputs"].items()}
        except (OSError, ValueError, KeyError, struct.error) as error:
            name = sample.get("name")
            raise RepositoryError(f"{model_dir}: warm-up sample {name!r} cannot be read: {error}") from error
        samples.append({name: array[None] if is_batched else array for name, array in arrays.items()})
    return samples


def _read(model_dir: Path, values: Mapping[str, Any]) -> NDArray[Any]:
    data = (model_dir / "warmup" / values["input_data_file"]).read_bytes()
    if values["data_type"] == "TYPE_STRING":
        (size,) = struct.unpack_from("<I", data)
        return bytes_array(data[4 : 4 + size])
    shape = [int(size) for size in values["dims"]]
    dtype = np.dtype(_DTYPES[values["data_type"]])
    return np.frombuffer(data, dtype, count=int(np.prod(shape))).reshape(shape)
