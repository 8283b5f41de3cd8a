"""A small file system for one process, in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def with_tmpfs(folder: Path, size: str) -> tuple[str, ...]:
    """Return what to put before a command that is to see an empty tmpfs at ``folder``."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", script, str(folder))
    probe = subprocess.run([*wrapper, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        reason = f"may not mount a tmpfs: {probe.stderr.decode().strip()}"
        assert not os.environ.get("CI"), reason  # there it must run
        pytest.skip(reason)
    return wrapper
