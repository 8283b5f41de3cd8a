"""Wheels for the build context, so that no RUN of a Dockerfile needs this machine's package index or certificates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from images.machine import run

REQUIREMENTS: Final = ("requirements.txt", "requirements-build.txt")
TARGET: Final = (
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
    "--abi",
    "abi3",
    "--abi",
    "none",
)
# pip takes a wheel for an older glibc than that of the image (Debian 12: 2.36) only if its tag is named.
PLATFORMS: Final = (
    "manylinux_2_35",
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
)


def fetch_wheels(folder: Path, destination: Path) -> None:
    """Download what the requirement files of ``folder`` name; wheels of other versions go.

    Raises:
        ImageError: a version is not there.
    """
    wanted = [line for name in REQUIREMENTS for line in _requirements(folder / name)]
    for wheel in destination.glob("*.whl"):
        if _requirement(wheel) not in wanted:
            wheel.unlink()
    missing = sorted(set(wanted) - {_requirement(wheel) for wheel in destination.glob("*.whl")})
    if not missing:
        return
    print(f"fetching {len(missing)} wheels", flush=True)
    platforms = [option for name in PLATFORMS for option in ("--platform", f"{name}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    run([*command, *TARGET, *platforms, "--dest", str(destination), *missing])


def _requirements(file: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [_canonical(line) for line in lines if line]


def _requirement(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return _canonical(f"{name}=={version}")


def _canonical(requirement: str) -> str:
    name, _, version = requirement.partition("==")
    return f"{name.lower().replace('_', '-').replace('.', '-')}=={version}"
