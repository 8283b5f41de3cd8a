"""Reads PyTorch checkpoints safely, and names every key that does not fit.

Only tensors are read (``weights_only=True``): a checkpoint that pickles whole objects could run any code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from warmswap_export.errors import WeightsError

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net", "generator", "params", "params_ema")
"""Keys under which training programs put the weights beside optimiser states and counters."""
PREFIXES: Final = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning and ``torch.compile`` put before each key."""
CHECKPOINT_SUFFIXES: Final = (".pth", ".pt", ".ckpt", ".bin", ".tar")
SHOWN_KEYS: Final = 5
NO_PICKLE: Final = "it is damaged, or not written by torch.save"


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a PyTorch checkpoint, by its name."""
    return path.suffix in CHECKPOINT_SUFFIXES


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, without wrappers and prefixes.

    Raises:
        WeightsError: the file is truncated, holds pickled objects, or holds no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
        if found is None:
            raise WeightsError(f"{path} cannot be read as a PyTorch checkpoint: {NO_PICKLE}") from error
        raise WeightsError(
            f"{path} holds pickled Python objects ({found.group(1)}), not only tensors; loading it could run any code. "
            "Where you trust it, convert it once beside the code that made it: "
            'torch.save(torch.load(FILE, weights_only=False).state_dict(), "weights.pth")'
        ) from error
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        raise WeightsError(f"{path} cannot be read as a PyTorch checkpoint: {_first_line(error)}") from error
    weights = _unwrap(content)
    if not weights:
        raise WeightsError(f"{path} holds no weights: expected a dictionary of tensors, got {_describe(content)}")
    return weights


def load_into(network: nn.Module, path: Path) -> None:
    """Load a checkpoint into a network whose keys must all be there.

    Raises:
        WeightsError: keys are missing, left over or of another shape; names some of each.
    """
    weights = load_state_dict(path)
    expected = network.state_dict()
    # Counters of BatchNorm are not used, and old checkpoints lack them.
    for key in expected.keys() - weights.keys():
        if key.endswith("num_batches_tracked"):
            weights[key] = expected[key]
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]
    shapes = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {what} ({_some(keys)})"
        for what, keys in (
            ("keys are missing", missing),
            ("keys are unexpected", unexpected),
            ("have another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{path} is not a checkpoint of {type(network).__name__}: {'; '.join(problems)}; "
            f"of {len(expected)} keys {len(expected) - len(missing) - len(shapes)} fit"
        )
    network.load_state_dict(weights)


def _unwrap(content: Any) -> dict[str, Tensor]:
    for _ in range(2):
        if not isinstance(content, Mapping):
            return {}
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for prefix in PREFIXES:
        if weights and all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary with {_some([str(key) for key in content]) or 'nothing in it'}"
    return f"a {type(content).__name__}"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
