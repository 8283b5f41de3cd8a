"""Where a repository comes from: a folder, an archive, or the URL of an archive."""

from __future__ import annotations

import hashlib
import lzma
import re
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit

from warmswap_ops.errors import MachineError, RepositoryError, UsageError

BLOCK_BYTES: Final = 1 << 20
NETWORK_TIMEOUT_S: Final = 60.0
SHA256: Final = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int], None]
"""Gets the bytes that were read or written since it was called last."""


def is_url(source: str) -> bool:
    """Whether a source is fetched over the network."""
    return urlsplit(source).scheme in ("http", "https")


def check_sha256(source: str, sha256: str | None) -> str | None:
    """Return the sha256 in small letters.

    Raises:
        UsageError: it is none, or a URL comes without.
    """
    if sha256 is None:
        if is_url(source):
            raise UsageError(f"--from {source} needs --sha256: what comes over the network must be what was meant")
        return None
    if not SHA256.fullmatch(sha256.lower()):
        raise UsageError(f"--sha256 must be 64 hexadecimal digits, got {sha256!r}")
    return sha256.lower()


def fetch(url: str, target: Path, progress: Progress) -> None:
    """Download a file.

    Raises:
        MachineError: the server does not answer, or the download breaks off.
        OSError: the file cannot be written.
    """
    try:
        answer = urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT_S)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the answer, with its socket
        raise MachineError(f"cannot fetch {url}: {error}") from error
    with answer, target.open("wb") as out:
        while True:
            try:
                block = answer.read(BLOCK_BYTES)
            except (OSError, HTTPException) as error:
                raise MachineError(f"{url} broke off: {error}") from error
            if not block:
                return
            out.write(block)
            progress(len(block))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_folder(source: Path, target: Path, progress: Progress) -> None:
    """Copy a folder, links as what they lead to.

    Raises:
        OSError: something cannot be read or written.
    """
    for path in sorted(source.rglob("*")):
        if "__pycache__" in path.parts or not path.is_file():
            continue
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as file:
            _copy(file, copied, progress)


def extract(archive: Path, target: Path, progress: Progress) -> None:
    """Unpack a tar archive that holds plain files and folders only, below ``target``.

    Raises:
        RepositoryError: it is truncated or no archive, or holds a link, a device or a path that leads elsewhere.
        OSError: something cannot be written.
    """
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member, relative in _members(archive, tar):
                copied = target / relative
                copied.parent.mkdir(parents=True, exist_ok=True)
                file = tar.extractfile(member)
                assert file is not None
                _copy(file, copied, progress)
            _read_to_end(tar)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise RepositoryError(f"{archive} is truncated or no tar archive: {error}") from error
    except OSError as error:
        if error.errno is None:  # gzip and lzma say so of content that is none
            raise RepositoryError(f"{archive} is corrupt: {error}") from error
        raise


def _read_to_end(tar: tarfile.TarFile) -> None:
    """Read what follows the last member: only at the end of a stream is its checksum compared."""
    assert tar.fileobj is not None
    while tar.fileobj.read(BLOCK_BYTES):
        pass


def _members(archive: Path, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    for member in tar:
        relative = PurePosixPath(member.name)
        if relative.is_absolute() or ".." in relative.parts:
            raise RepositoryError(f"{archive}: {member.name!r} leads out of the archive")
        if not (member.isfile() or member.isdir()):
            raise RepositoryError(
                f"{archive}: {member.name!r} is a link or a device; pack it with: tar --dereference --hard-dereference"
            )
        if member.isfile() and "__pycache__" not in relative.parts:
            yield member, relative


def _copy(file: IO[bytes], target: Path, progress: Progress) -> None:
    with target.open("wb") as out:
        while block := file.read(BLOCK_BYTES):
            out.write(block)
            progress(len(block))
    target.chmod(0o644)
