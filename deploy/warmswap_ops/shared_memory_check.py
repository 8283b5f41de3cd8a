"""Is there room in ``/dev/shm``? Containers get 64 MB of it unless told otherwise, and Triton fails late without.

Measured on Triton 24.10 with the shipped repository: every process of its Python backend takes 1 MiB at its start, the
seven of them 10 MiB after their warm-up; one swap of pictures of 28 MiB makes that of its pipeline process 58 MiB, and
it is never given back. A request that does not fit is refused ("Failed to increase the shared memory pool size"), and
nothing else is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_ensemble.contract import PIPELINE_STAGES
from warmswap_ops.config_text import config_path, parse_instance_count, parse_parameters, read_config
from warmswap_ops.errors import MachineError
from warmswap_ops.shared_memory import SHM_DIR

MIB: Final = 2**20
PROCESS_BYTES: Final = 2 * MIB
"""Of one process, with its warm-up; a third more than was measured."""
PICTURES: Final = 2
"""Of the largest size, that a pipeline process has in work: one that came, and one that goes."""
DEFAULT_IMAGE_BYTES: Final = 32 * MIB
IMAGE_BYTES_KEY: Final = "max_image_bytes"
FIX: Final = (
    "on Kubernetes mount an emptyDir with medium: Memory and a larger sizeLimit at /dev/shm; with docker use --shm-size"
)


@dataclass(frozen=True, slots=True)
class SharedMemoryNeed:
    """What a server will want.

    Attributes:
        start_bytes: Without it the start fails.
        busy_bytes: What it may take when all processes have pictures of the largest size in work.
    """

    start_bytes: int
    busy_bytes: int


def shared_memory_need(
    repository: Path, models: Sequence[str], config_name: str | None, *, stages_have_processes: bool
) -> SharedMemoryNeed:
    """Return what a server with these models will want.

    Args:
        repository: Folder of models.
        models: Those that are loaded at the start.
        config_name: Value of ``--model-config-name``.
        stages_have_processes: Whether the stages run in the portable backend; NVIDIA's has no processes of its own.

    Raises:
        RepositoryError: a configuration cannot be read.
    """
    processes = 0
    pictures_bytes = 0
    for model in models:
        is_pipeline = model in PIPELINE_STAGES
        if not is_pipeline and not stages_have_processes:
            continue
        config = read_config(config_path(repository / model, config_name))
        count = parse_instance_count(config)
        processes += count
        if is_pipeline:
            given = parse_parameters(config).get(IMAGE_BYTES_KEY, "")
            largest = int(given) if given.isdecimal() else DEFAULT_IMAGE_BYTES
            pictures_bytes += count * PICTURES * largest
    start_bytes = processes * PROCESS_BYTES
    return SharedMemoryNeed(start_bytes, start_bytes + pictures_bytes)


def check_shared_memory(need: SharedMemoryNeed, shm_dir: Path = SHM_DIR) -> str | None:
    """Compare what is wanted with what is free.

    Returns:
        A warning, where the start will work but a full load of the largest pictures may not.

    Raises:
        MachineError: there is no ``/dev/shm``, or not enough of it for the start.
    """
    try:
        status = os.statvfs(shm_dir)
    except OSError as error:
        raise MachineError(f"{shm_dir} cannot be used: {error.strerror or error}; Triton needs it; {FIX}") from None
    free_bytes = status.f_bavail * status.f_frsize
    if free_bytes < need.start_bytes:
        raise MachineError(
            f"{shm_dir} has {_mib(free_bytes)} MiB free, and the processes of the models need "
            f"{_mib(need.start_bytes)} MiB; {FIX}"
        )
    if free_bytes < need.busy_bytes:
        return (
            f"{shm_dir} has {_mib(free_bytes)} MiB free; with pictures of the largest allowed size in every process "
            f"{_mib(need.busy_bytes)} MiB may be needed, and requests beyond that will fail; {FIX}, "
            f"or lower {IMAGE_BYTES_KEY} of the pipelines"
        )
    return None


def _mib(number: int) -> int:
    return number // MIB
