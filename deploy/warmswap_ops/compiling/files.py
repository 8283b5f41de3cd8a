"""Links, copies, and what a full disk does to them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from warmswap_ops.errors import CompileError, MachineError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ORT_CANNOT_WRITE: Final = "Failed to write"
_NOTHING_LEFT_BYTES: Final = 1 << 20


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Tell a full disk from other failures of what is written into ``folder``.

    Raises:
        MachineError: the disk is full, or a file may not become that large.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise MachineError(_full(folder, error.strerror or str(error))) from error
        raise
    except CompileError as error:  # ONNX Runtime does not say why it cannot write
        if _ORT_CANNOT_WRITE in str(error) or shutil.disk_usage(folder).free < _NOTHING_LEFT_BYTES:
            raise MachineError(_full(folder, "ONNX Runtime could not write its graph")) from error
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source`` by a hard link, or a copy where links cannot be made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, one without links, or a file of another user
        shutil.copy2(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a file with its times; the copy may be written to, whatever the mode of the source."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    target.chmod(target.stat().st_mode | stat.S_IWUSR)


def sync(folder: Path) -> None:
    """Write the files of a folder to the disk: a rename must not outlive its files when the power goes."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _full(folder: Path, reason: str) -> str:
    free_mb = shutil.disk_usage(folder).free // 1_000_000
    return f"cannot write into {folder}: {reason} ({free_mb} MB free); make room, or choose another folder"
