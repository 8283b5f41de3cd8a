"""What a folder held when it was last hashed, so that what did not change since need not be hashed again.

A file counts as unchanged when size, modification time and inode are those of the record; with anything else it is
hashed. A copy has another inode and is hashed once more; bits that rot without a write are found by full hashing only
(``warmswap serve --verify full``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from warmswap_ops.compiling.target import Target, read_target

STAMP_NAME: Final = ".warmswap-compiled.json"
COMPILER_VERSION: Final = 1
"""Raise it when compiled graphs or their layout change: everything compiled before is then outdated."""
MAX_DEPTH: Final = 8
_SKIPPED: Final = "__pycache__"

Trust = Callable[[Path, str], bool]
"""Whether a file is known to have this sha256 without being read."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as it was when it was hashed."""

    sha256: str
    size: int
    mtime_ns: int
    inode: int

    def fits(self, path: Path) -> bool:
        """Return whether the file is untouched since."""
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns, status.st_ino) == (self.size, self.mtime_ns, self.inode)


Tree = dict[str, FileRecord]
"""Path relative to the folder to record."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The record in a compiled repository.

    Attributes:
        source: Folder that it was compiled from.
        source_files: What that folder held.
        files: What the compiled repository holds.
        target: Machine that it was compiled for.
        compiler: ``COMPILER_VERSION`` at that time.
    """

    source: Path
    source_files: Tree
    files: Tree
    target: Target
    compiler: int = COMPILER_VERSION

    def write(self, folder: Path) -> None:
        """Write the stamp into a compiled repository, at once or not at all."""
        values = {
            "compiler": self.compiler,
            "source": str(self.source),
            "target": self.target.as_json(),
            "source_files": _as_json(self.source_files),
            "files": _as_json(self.files),
        }
        path = folder / STAMP_NAME
        temporary = path.with_name(f"{STAMP_NAME}.{os.getpid()}")
        temporary.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the stamp of a folder; ``None`` when it has none that can be read."""
        try:
            values = json.loads((folder / STAMP_NAME).read_text(encoding="utf-8"))
            return cls(
                Path(values["source"]),
                read_tree(values["source_files"]),
                read_tree(values["files"]),
                read_target(values["target"]),
                int(values["compiler"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def trust_stamp(repository: Path) -> Trust:
    """Return what trusts the files that the stamp of a repository records and nobody touched since."""
    stamp = Stamp.read(repository)
    files = stamp.files if stamp else {}

    def is_known(path: Path, sha256: str) -> bool:
        record = files.get(str(path.relative_to(repository))) if path.is_relative_to(repository) else None
        return record is not None and record.sha256 == sha256 and record.fits(path)

    return is_known


def record_tree(folder: Path, known: Mapping[str, str] | None = None) -> Tree:
    """Hash the files of a folder.

    Args:
        folder: The folder.
        known: Relative path to sha256 of files that were hashed already.
    """
    tree: Tree = {}
    for name, path in walk(folder):
        status = path.stat()  # before hashing: a write meanwhile then shows
        sha256 = (known or {}).get(name) or file_sha256(path)
        tree[name] = FileRecord(sha256, status.st_size, status.st_mtime_ns, status.st_ino)
    return tree


def compare_tree(folder: Path, tree: Tree) -> tuple[list[str], Tree]:
    """Compare a folder with its record; only what was touched is hashed.

    Returns:
        What changed, in words, and the record brought up to date.
    """
    there = dict(walk(folder))
    changes = [f"{name} is missing" for name in tree if name not in there]
    fresh: Tree = {}
    for name, path in there.items():
        record = tree.get(name)
        if record and record.fits(path):
            fresh[name] = record
            continue
        status = path.stat()
        fresh[name] = FileRecord(file_sha256(path), status.st_size, status.st_mtime_ns, status.st_ino)
        if record is None:
            changes.append(f"{name} is new")
        elif record.sha256 != fresh[name].sha256:
            changes.append(f"{name} changed")
    return changes, fresh


def walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield relative path and path of every file, sorted; hidden ones and Python's bytecode are left out.

    Links to folders are followed, to ``MAX_DEPTH`` levels.
    """
    return _walk(folder, "", 0)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tree(values: Mapping[str, Mapping[str, Any]]) -> Tree:
    """Return a tree from JSON values.

    Raises:
        KeyError, TypeError, AttributeError: it is none.
    """
    return {
        name: FileRecord(str(entry["sha256"]), entry["size"], entry["mtime_ns"], entry["inode"])
        for name, entry in values.items()
    }


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, Path]]:
    if depth > MAX_DEPTH:
        raise OSError(f"{folder} lies more than {MAX_DEPTH} folders deep: does a link lead back to its own folder?")
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == _SKIPPED:
            continue
        if path.is_dir():
            yield from _walk(path, f"{prefix}{path.name}/", depth + 1)
        elif path.is_file():
            yield f"{prefix}{path.name}", path


def _as_json(tree: Tree) -> dict[str, Any]:
    return {name: asdict(record) for name, record in tree.items()}
