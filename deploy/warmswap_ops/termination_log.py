"""Why a container ended, where ``kubectl describe pod`` looks for it.

Kubernetes makes the file, empty, at the container's ``terminationMessagePath``, and shows what it holds at the end.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

VARIABLE: Final = "WARMSWAP_TERMINATION_LOG"
DEFAULT_PATH: Final = Path("/dev/termination-log")
MOST_BYTES: Final = 4096
"""What Kubernetes keeps of it."""


def write_termination_log(reason: str, environ: Mapping[str, str]) -> None:
    """Write one line, if there is a file for it: the one of the variable, or the one that Kubernetes made.

    It never fails: that the reason cannot be shown must not hide it.
    """
    given = environ.get(VARIABLE)
    path = Path(given) if given else DEFAULT_PATH
    if not given and not path.is_file():
        return
    text = " ".join(reason.split()).encode()[: MOST_BYTES - 1] + b"\n"
    with suppress(OSError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as file:
        file.write(text)
