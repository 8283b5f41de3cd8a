"""Finds the model files that users bring: InsightFace's packs, FaceFusion's assets, checkpoints.

Folders are searched as they are laid out by those programs: the file itself, one in any sub-folder (``buffalo_l/``,
``models/buffalo_l/``, ``.assets/models/``), or a member of a zip archive in the folder (``buffalo_l.zip``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from warmswap_export.errors import PackError, WeightsError

SEARCH_DEPTH: Final = 4
EMAP_SIZE: Final = 512
DEFAULT_FOLDERS: Final = ("~/.insightface/models",)
"""Where InsightFace keeps its models."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One form in which a model is published.

    Attributes:
        file: Name of the file.
        also: Other names under which the same model is passed on.
        sha256: Digests (hex) of the published file; empty when none is known.
    """

    file: str
    also: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a digest that cannot be one.

        Raises:
            PackError: a digest is not 64 hexadecimal digits.
        """
        for digest in self.sha256:
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise PackError(f"sha256 of {self.file} must be 64 hexadecimal digits in lower case, got {digest!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """All names to look for, best first."""
        return (self.file, *self.also)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that was found and, where the pack pins it, verified.

    Attributes:
        path: Where it is; a member of an archive was unpacked.
        published_as: Name in the pack.
        sha256: Its digest.
        pinned: Whether the pack knows this digest.
    """

    path: Path
    published_as: str
    sha256: str
    pinned: bool

    def describe(self) -> dict[str, str]:
        """Return the origin as it is written into a manifest."""
        return {"file": self.published_as, "sha256": self.sha256, "pinned": "yes" if self.pinned else "no"}


def find_weights(
    files: Sequence[WeightFile], folders: Sequence[Path], scratch: Path, *, accept_unpinned: bool = False
) -> FoundFile:
    """Return the first of several forms of a model that is there.

    Args:
        files: Forms, best first.
        folders: Folders to search, in order; a file may be named itself.
        scratch: Where members of archives are unpacked.
        accept_unpinned: Take a file whose sha256 is not one that the pack pins.

    Raises:
        WeightsError: none is there, or the file is not the published one.
    """
    for file in files:
        for name in file.names:
            for folder in folders:
                path = _find(folder, name, scratch)
                if path is not None:
                    return _verified(path, file, accept_unpinned=accept_unpinned)
    wanted = " or ".join(name for file in files for name in file.names)
    searched = ", ".join(str(folder) for folder in folders) or "no folder"
    raise WeightsError(f"found no {wanted} in {searched}; say where it is with --weights DIR")


def default_folders() -> list[Path]:
    """Return the folders that are searched when the user names none."""
    return [Path(os.path.expanduser(folder)) for folder in DEFAULT_FOLDERS]


def sha256_of(path: Path) -> str:
    """Return the digest (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_emap(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Read inswapper's projection from a file of its own (``.npy``).

    Raises:
        WeightsError: it is truncated, pickled, of another shape, or holds no finite numbers.
    """
    try:
        with path.open("rb") as file:
            emap = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} cannot be read as a NumPy array: {error}") from error
    if not isinstance(emap, np.ndarray):
        raise WeightsError(f"{path} holds several arrays; save one with numpy.save")
    if emap.shape != (EMAP_SIZE, EMAP_SIZE):
        raise WeightsError(f"{path} must hold an array of shape ({EMAP_SIZE}, {EMAP_SIZE}), got {emap.shape}")
    if emap.dtype.kind not in "fiu" or not np.isfinite(emap).all():
        raise WeightsError(f"{path} must hold finite numbers, got an array of {emap.dtype}")
    return np.asarray(emap, np.float32)


def _find(folder: Path, name: str, scratch: Path) -> Path | None:
    if folder.is_file():
        return folder if folder.name == name else None
    archives: list[Path] = []
    for path in _walk(folder):
        if path.name == name:
            return path
        if path.suffix == ".zip":
            archives.append(path)
    for archive in archives:
        unpacked = _unpack(archive, name, scratch)
        if unpacked is not None:
            return unpacked
    return None


def _walk(folder: Path) -> Iterator[Path]:
    """Yield files, those of a folder before those of its sub-folders, in a fixed order."""
    level = [folder]
    for _ in range(SEARCH_DEPTH):
        entries = [entry for parent in level if parent.is_dir() for entry in sorted(parent.iterdir())]
        yield from (entry for entry in entries if entry.is_file())
        level = [entry for entry in entries if entry.is_dir()]


def _unpack(archive: Path, name: str, scratch: Path) -> Path | None:
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.namelist():
                if Path(member).name == name:
                    target = scratch / archive.stem / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(member) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
                    return target
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # the last: a password
        raise WeightsError(f"{archive} cannot be read as a zip archive: {error}") from error
    return None


def _verified(path: Path, file: WeightFile, *, accept_unpinned: bool) -> FoundFile:
    digest = sha256_of(path)
    pinned = digest in file.sha256
    if file.sha256 and not pinned and not accept_unpinned:
        raise WeightsError(
            f"{path} has sha256 {digest}, the pack knows {file.file} as {' or '.join(file.sha256)}: "
            "it is truncated or another file; if you know that it is right, add --accept-unpinned"
        )
    return FoundFile(path, file.file, digest, pinned)
