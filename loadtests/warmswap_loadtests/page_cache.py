"""Files in the page cache: all of them, or as few as this machine lets us.

Where ``/proc/sys/vm/drop_caches`` may be written, the kernel drops everything. Elsewhere each file is given up with
``posix_fadvise(DONTNEED)``: pages that a living process has mapped stay, such as the libraries of the benchmark itself.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

WARM: Final = "warm"
DROPPED: Final = "dropped"
STATES: Final = (WARM, DROPPED)

_DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")
_CHUNK_BYTES: Final = 1 << 22
_libc = ctypes.CDLL(None, use_errno=True)


class PageCache:
    """Knows whether the Python packages were read since they were dropped."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._packages_read = False

    def set(self, state: str, folders: Iterable[Path]) -> dict[str, Any]:
        """Bring files into the page cache, or drop them; return how, and how much of the models is there now, in MB.

        Args:
            state: ``WARM`` or ``DROPPED``.
            folders: Folders with models; the installed Python packages are added.
        """
        models, packages = list(_files(folders)), Path(sysconfig.get_path("purelib"))
        if state == WARM:
            _read(models if self._packages_read else [*models, *_files([packages])])
            how = "read beforehand"
        else:
            how = _drop([*folders, packages])
        self._packages_read = state == WARM
        resident = sum(map(_resident_bytes, models))
        return {"how": how, "models_mb": sum(map(_size, models)) / 1e6, "resident_mb": resident / 1e6}


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for root, _, names in os.walk(folder, followlinks=True):
            yield from (path for name in names if (path := Path(root, name).resolve()).is_file())


def _read(files: Iterable[Path]) -> None:
    buffer = bytearray(_CHUNK_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _drop(folders: Iterable[Path]) -> str:
    os.sync()  # only clean pages can be dropped
    try:
        _DROP_CACHES.write_text("1\n", encoding="ascii")
    except OSError:
        for path in _files(folders):
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return f"posix_fadvise(DONTNEED) on models and Python packages ({_DROP_CACHES} is not writable)"
    return str(_DROP_CACHES)


def _size(path: Path) -> int:
    return path.stat().st_size


def _resident_bytes(path: Path) -> int:
    """Return how much of a file is in the page cache."""
    size = _size(path)
    if size == 0:
        return 0
    with path.open("rb", buffering=0) as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as view:
        pages = -(-size // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * pages)()
        start = ctypes.c_char.from_buffer(view)  # needs a writable mapping, which a private one is
        try:
            if _libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), states) != 0:
                return 0
        finally:
            del start
    return min(size, sum(state & 1 for state in states) * mmap.PAGESIZE)
