"""Pictures on disk."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from warmswap_client.errors import InputFileError, OutputFileError

ImageSource = bytes | str | os.PathLike[str]
"""An encoded picture, or the path of one; a ``str`` is always a path."""


def read_image(image: ImageSource) -> bytes:
    """Return the encoded picture.

    Raises:
        InputFileError: the file is missing, is a folder or cannot be read.
        TypeError: neither bytes nor a path.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    path = Path(image)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that others see either nothing new or all of it.

    Raises:
        OutputFileError: the folder is missing or the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")  # beside it: rename must not cross disks
    try:
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputFileError(f"cannot write {path}: {error.strerror or error}") from error
