"""The state of a repository's rollouts and their history, on disk: ``rollout.json`` and ``rollout-history.jsonl``.

Both lie in the model repository, beside the versions that they speak of. The state is replaced as a whole under a lock
and only by whoever knew the last one; the history is appended to.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.routes import ROUTES_NAME, Routes, RoutesError, read_routes
from warmswap_ops.errors import RepositoryError

HISTORY_NAME: Final = "rollout-history.jsonl"
LOCK_NAME: Final = ".rollout.lock"


class StateChangedError(Exception):
    """Somebody else has changed the state meanwhile."""


def routes_of(repository: Path) -> Routes:
    """Return the state of a repository.

    Raises:
        RepositoryError: the file cannot be understood.
    """
    try:
        return read_routes(repository)
    except RoutesError as error:
        raise RepositoryError(f"{error}; restore the file, or remove it to serve the highest versions") from error


@contextlib.contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Keep others of this machine from changing the state; short, so it waits."""
    descriptor = os.open(repository / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_routes(repository: Path, routes: Routes, expected_generation: int) -> None:
    """Replace the state, unless another one is there than was expected.

    Replicas may share a repository: whoever brings what is there already has done nothing wrong.

    Raises:
        StateChangedError: another generation is there.
        OSError: the file cannot be written.
    """
    with locked(repository):
        there = routes_of(repository)
        if _but_times(there) == _but_times(routes):
            return
        if there.generation != expected_generation:
            raise StateChangedError(f"generation {there.generation} is there, {expected_generation} was expected")
        write_atomically(repository / ROUTES_NAME, json.dumps(routes.as_json(), indent=1) + "\n")


def append_history(repository: Path, entry: Mapping[str, Any]) -> None:
    """Append an entry, unless one with its ``id`` is there.

    Raises:
        OSError: the file cannot be written.
    """
    with locked(repository):
        if any(known.get("id") == entry["id"] for known in read_history(repository)):
            return
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        descriptor = os.open(repository / HISTORY_NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _append(descriptor, line)
        finally:
            os.close(descriptor)


def read_history(repository: Path) -> list[dict[str, Any]]:
    """Return all entries, the oldest first; a line that was cut short by a crash is passed over."""
    try:
        text = (repository / HISTORY_NAME).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    entries: list[dict[str, Any]] = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


def write_atomically(path: Path, text: str) -> None:
    """Replace a file: a reader sees the old text or the new one, also after a crash.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _append(descriptor: int, line: bytes) -> None:
    """Append a line, or nothing of it; what a crash has left of another one gets an end of its own."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        if os.write(descriptor, line) < len(line):  # the disk had room for a part of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _but_times(routes: Routes) -> dict[str, Any]:
    """Return JSON values without what each replica adds by its own clock."""
    values = routes.as_json()
    if values["rollout"] is not None:
        del values["rollout"]["expires_s"]
    values["record"].pop("lease_until_s", None)
    return values
