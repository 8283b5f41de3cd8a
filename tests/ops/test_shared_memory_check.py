"""Room in /dev/shm: what is wanted, and what is said when it is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.toys import PIPELINE_NAMES, STAGE_NAMES, write_repository
from warmswap_ops.errors import MachineError
from warmswap_ops.shared_memory_check import (
    DEFAULT_IMAGE_BYTES,
    MIB,
    PICTURES,
    PROCESS_BYTES,
    SharedMemoryNeed,
    check_shared_memory,
    shared_memory_need,
)

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "model_repository"
IN_SMALL_SHM = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'


def test_need_of_the_shipped_repository() -> None:
    need = shared_memory_need(SHIPPED, [*STAGE_NAMES, *PIPELINE_NAMES], None, stages_have_processes=True)
    assert need.start_bytes == 7 * PROCESS_BYTES  # face_swap has two processes
    assert need.busy_bytes == need.start_bytes + 3 * PICTURES * 32 * MIB


def test_stages_of_nvidias_backend_need_nothing() -> None:
    need = shared_memory_need(SHIPPED, [*STAGE_NAMES, *PIPELINE_NAMES], None, stages_have_processes=False)
    assert need.start_bytes == 3 * PROCESS_BYTES
    assert shared_memory_need(SHIPPED, STAGE_NAMES, None, stages_have_processes=False) == SharedMemoryNeed(0, 0)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("", DEFAULT_IMAGE_BYTES),
        ('parameters { key: "max_image_bytes" value: { string_value: "1000" } }', 1000),
        ('parameters { key: "max_image_bytes" value: { string_value: "many" } }', DEFAULT_IMAGE_BYTES),
    ],
    ids=["default", "given", "not a number"],
)
def test_size_of_pictures_comes_from_the_configuration(parameters: str, expected: int, tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    with (repository / "face_swap/config.pbtxt").open("a") as config:
        config.write(parameters)
    need = shared_memory_need(repository, ["face_swap"], None, stages_have_processes=True)
    assert need == SharedMemoryNeed(PROCESS_BYTES, PROCESS_BYTES + PICTURES * expected)


def test_enough_says_nothing_and_less_says_how_much(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert check_shared_memory(SharedMemoryNeed(1, 2), tmp_path) is None
    warning = check_shared_memory(SharedMemoryNeed(1, 2 * free), tmp_path)
    assert warning is not None
    assert f"{2 * free // MIB} MiB may be needed" in warning
    assert "sizeLimit" in warning
    assert "--shm-size" in warning
    with pytest.raises(MachineError, match=rf"need {2 * free // MIB} MiB; .*sizeLimit"):
        check_shared_memory(SharedMemoryNeed(2 * free, 2 * free), tmp_path)


def test_no_shared_memory_at_all(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be used: No such file"):
        check_shared_memory(SharedMemoryNeed(1, 1), tmp_path / "shm")


def serve_with(size: str, repository: Path, *options: str) -> subprocess.Popen[str]:
    """Start a replica that sees a /dev/shm of that size; needs root."""
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
    serve = [sys.executable, "-m", "warmswap_ops", f"--repository={repository}", *ports, *options]
    return subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", IN_SMALL_SHM, size, *serve],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def _mount_namespace() -> None:
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"may not make a mount namespace: {probe.stderr.strip()}")


@pytest.mark.usefixtures("_mount_namespace")
def test_a_start_without_room_is_refused_before_anything_runs() -> None:
    process = serve_with("4m", SHIPPED)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "server" not in output
    assert "/dev/shm has 4 MiB free, and the processes of the models need 14 MiB" in errors


@pytest.mark.triton
@pytest.mark.usefixtures("_mount_namespace")
def test_a_start_with_just_enough_room_is_ready_and_warns() -> None:
    process = serve_with("16m", SHIPPED)
    try:
        assert process.stdout is not None
        phases = []
        for line in process.stdout:
            phases.append(line.split()[0])
            if phases[-1] in ("ready", "failed"):
                break
        assert phases[-1] == "ready"
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "warning: /dev/shm has 15 MiB free" in errors or "warning: /dev/shm has 16 MiB free" in errors
