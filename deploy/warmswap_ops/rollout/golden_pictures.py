"""The pictures with which a repository warms its pipeline up: real faces, at hand wherever models are."""

from __future__ import annotations

from pathlib import Path

from warmswap_ensemble.contract import FACE_SWAP
from warmswap_ops.config_text import CONFIG_NAME
from warmswap_ops.errors import RepositoryError
from warmswap_ops.rollout.pod_load import Pictures
from warmswap_ops.rollout.samples import read_samples


def golden_pictures(repository: Path) -> list[Pictures]:
    """Return the warm-up samples of ``face_swap``.

    Raises:
        RepositoryError: there are none, or they cannot be read.
    """
    from warmswap_ops.model_config import read_model_config  # protobuf's text format: a while to import

    model_dir = repository / FACE_SWAP.name
    samples = read_samples(model_dir, read_model_config(model_dir / CONFIG_NAME))
    found = [
        Pictures(
            f"golden pictures of {repository}", *(bytes(sample[name][0]) for name in ("source_image", "target_image"))
        )
        for sample in samples
    ]
    if not found:
        raise RepositoryError(f"{model_dir} has no warm-up pictures: give --source and --target")
    return found
