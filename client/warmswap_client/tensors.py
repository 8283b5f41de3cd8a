"""tritonclient's request and answer objects, which look the same in its gRPC and its HTTP module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray


def import_tritonclient(name: str) -> ModuleType:
    """Import a part of tritonclient.

    Raises:
        ModuleNotFoundError: it, or the library under it, is not installed.
    """
    try:
        return importlib.import_module(name)
    except (ModuleNotFoundError, RuntimeError) as error:  # tritonclient turns the first into the second
        raise ModuleNotFoundError(f"{error}; try: pip install 'warmswap[client]'", name="tritonclient") from error


def build_inputs(module: ModuleType, inputs: Mapping[str, bytes]) -> list[Any]:
    """Make one ``InferInput`` of shape (1,) for each picture."""
    tensors = []
    for name, data in inputs.items():
        tensor = module.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
        tensors.append(tensor)
    return tensors


def build_outputs(module: ModuleType, names: Sequence[str]) -> list[Any]:
    """Ask for the named outputs."""
    return [module.InferRequestedOutput(name) for name in names]


def read_outputs(result: Any, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Copy the answer into arrays; an output that the server left out is left out."""
    arrays = {name: result.as_numpy(name) for name in names}
    return {name: array for name, array in arrays.items() if array is not None}
