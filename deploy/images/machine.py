"""What the machine must have, and how its programs are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PACKAGES: Final = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "skopeo": "skopeo"}
"""Program to Debian package."""


class ImageError(Exception):
    """An image cannot be built, or does not do what it must; the text says which and why."""


def install_programs(needed: Mapping[str, str] = PACKAGES) -> None:
    """Install the programs that are missing, or name the command that does.

    Raises:
        ImageError: something is missing and cannot be installed from here.
    """
    if os.geteuid() != 0:
        raise ImageError("building and running images here needs root (mounts, chroot): sudo make image")
    missing = sorted({package for program, package in needed.items() if shutil.which(program) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ImageError(f"these programs are missing: {', '.join(missing)}; install them with your package manager")
    print(f"installing {' '.join(missing)}", flush=True)
    run(["apt-get", "update", "-qq"])
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=environment)


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> str:
    """Run a program; return its stdout.

    Args:
        command: Program and arguments.
        env: The whole environment; ``None`` = ours.
        cwd: Where to run it.
        log: File that gets all its output, if that may be long; then nothing is returned.

    Raises:
        ImageError: it failed; the text has the last lines that it wrote.
    """
    if log is None:
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, errors="replace")
        written = done.stderr
    else:
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(command, env=env, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, text=True)
        written = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode != 0:
        tail = "\n".join(written.strip().splitlines()[-15:])
        raise ImageError(f"{' '.join(map(str, command[:4]))} ... ended with {done.returncode}:\n{tail}")
    return "" if log is not None else done.stdout.strip()
