"""Bring one repository into a store, once, whoever asks at the same time."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_ops.compiling.files import disk_errors, sync
from warmswap_ops.errors import MachineError, RepositoryError
from warmswap_ops.provisioning.content import check_content, find_root, tree_digest
from warmswap_ops.provisioning.source import (
    SHA256,
    Progress,
    check_sha256,
    copy_folder,
    extract,
    fetch,
    file_sha256,
    is_url,
)

CURRENT: Final = "current"
_STAGING: Final = ".staging-"
_SOURCES: Final = ".sources"
_POLL_INTERVAL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What is in the store now.

    Attributes:
        path: The repository; ``current`` leads to it.
        digest: Of its content.
        copied: Whether it had to be brought; otherwise it was there, and is unharmed, unless ``once`` was asked for.
        removed: Digests of older ones that were removed.
    """

    path: Path
    digest: str
    copied: bool
    removed: tuple[str, ...]


def provision(
    source: str,
    store: Path,
    sha256: str | None,
    *,
    keep: int,
    wait_s: float,
    progress: Progress,
    once: bool = False,
) -> Provisioned:
    """Bring a repository into a store and let ``current`` lead to it.

    Args:
        source: Folder, tar archive, or http(s) URL of one.
        store: Folder of repositories on this node.
        sha256: Of the archive; of a folder, its digest. A URL needs it.
        keep: How many repositories may stay, the current one included.
        wait_s: How long another process may work on the same store.
        progress: Gets bytes.
        once: Leave a repository that is there as it is, whatever was changed in it.

    Raises:
        UsageError: no sha256 where one is needed.
        RepositoryError: the source is missing, corrupt, incomplete or another one than was meant.
        MachineError: the store cannot be written, is full, or is held by another process for too long.
    """
    wanted = check_sha256(source, sha256)
    if not is_url(source) and not Path(source).exists():
        raise RepositoryError(f"--from {source}: there is no such folder or file")
    try:
        with disk_errors(store if store.is_dir() else store.parent):
            store.mkdir(parents=True, exist_ok=True)
            with _locked(store, wait_s):
                if once and (store / CURRENT).is_dir():
                    path = (store / CURRENT).resolve()
                    return Provisioned(path, path.name, copied=False, removed=())
                return _provision(source, store, wanted, keep, progress)
    except OSError as error:
        raise MachineError(f"cannot provision {store}: {error}") from error


def _provision(source: str, store: Path, wanted: str | None, keep: int, progress: Progress) -> Provisioned:
    for leftover in store.glob(f"{_STAGING}*"):
        _remove(leftover)
    digest, copied = _known(source, store, wanted), False
    if digest is None:
        digest, copied = _bring(source, store, wanted, progress), True
    _switch(store, digest)
    return Provisioned(store / digest, digest, copied, _remove_old(store, digest, keep))


def _known(source: str, store: Path, wanted: str | None) -> str | None:
    """Return the digest of what the source would become, if that is in the store and unharmed."""
    if is_url(source) or Path(source).is_file():
        archive = wanted if is_url(source) else file_sha256(Path(source))
        note = store / _SOURCES / str(archive)
        if wanted not in (None, archive):
            raise RepositoryError(f"{source}: sha256 is {archive}, not {wanted}: another file, or a corrupt one")
        digest = note.read_text() if note.is_file() else ""
    else:
        digest = tree_digest(Path(source))
        if wanted not in (None, digest):
            raise RepositoryError(f"{source}: the digest of the folder is {digest}, not {wanted}")
    is_there = SHA256.fullmatch(digest) is not None and (store / digest).is_dir()
    return digest if is_there and tree_digest(store / digest) == digest else None


def _bring(source: str, store: Path, wanted: str | None, progress: Progress) -> str:
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=store))
    try:
        tree, archive = staging / "tree", Path(source)
        tree.mkdir()
        sha256 = None
        if is_url(source):
            archive = staging / "archive"
            fetch(source, archive, progress)
        if archive.is_dir():
            copy_folder(archive, tree, progress)
        else:
            sha256 = file_sha256(archive)
            if wanted not in (None, sha256):
                raise RepositoryError(f"{source}: sha256 is {sha256}, not {wanted}: another file, or a corrupt one")
            extract(archive, tree, progress)
        root = find_root(tree)
        check_content(root)
        sync(root)
        digest = tree_digest(root)
        if (store / digest).exists():  # harmed, or it would have been known; or another archive of the same content
            (store / digest).rename(staging / "harmed")
        root.rename(store / digest)
        (store / digest).chmod(0o755)
        if sha256 is not None:
            (store / _SOURCES).mkdir(exist_ok=True)
            note = staging / "note"
            note.write_text(digest)
            note.replace(store / _SOURCES / sha256)
        return digest
    finally:
        _remove(staging)


def _switch(store: Path, digest: str) -> None:
    link = store / f"{_STAGING}{CURRENT}"
    link.symlink_to(digest)
    link.replace(store / CURRENT)
    os.utime(store / digest)


def _remove_old(store: Path, digest: str, keep: int) -> tuple[str, ...]:
    others = [path for path in store.iterdir() if SHA256.fullmatch(path.name) and path.name != digest]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    removed = others[max(keep, 1) - 1 :]
    for path in removed:
        _remove(path)
    return tuple(path.name for path in removed)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(store: Path, wait_s: float) -> Iterator[None]:
    descriptor = os.open(store / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    deadline_s = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise MachineError(f"another process has held {store} for {wait_s:g} s; more with --wait") from None
                time.sleep(_POLL_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)
