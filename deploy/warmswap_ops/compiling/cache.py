"""Compiled graphs by key. An entry appears by a rename, complete, and is never changed; it may be linked from anywhere.

<cache>/<key>/record.json, model.compiled.onnx, model.compiled.onnx.data
<cache>/.<key>.lock
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warmswap_ops.compiling.files import disk_errors, sync
from warmswap_ops.compiling.locks import IsCancelled, Say, exclusive
from warmswap_ops.compiling.stamp import file_sha256, walk
from warmswap_ops.errors import MachineError

CACHE_VARIABLE: Final = "WARMSWAP_COMPILE_CACHE"
RECORD_NAME: Final = "record.json"

Make = Callable[[Path], dict[str, Any]]
"""Writes the files of an entry into a folder, and returns facts about them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A compiled graph.

    Attributes:
        key: Its key.
        folder: Where its files are.
        files: File name to sha256; all of them were hashed a moment ago.
        facts: What ``Make`` returned.
        made: Whether it was made now; else it was found.
    """

    key: str
    folder: Path
    files: dict[str, str]
    facts: dict[str, Any]
    made: bool


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of entries.

    Attributes:
        folder: The folder; need not exist, and need not be writable.
        spare: Folder for entries that cannot be kept in ``folder``; exists, and goes away after use.
        wait_s: How long to wait for another process that makes the same entry.
        say: Gets what an operator should know.
        is_cancelled: Asked while something lasts.
        force: Make every entry again.
    """

    folder: Path
    spare: Path
    wait_s: float
    say: Say
    is_cancelled: IsCancelled
    force: bool = False

    def provide(self, key_facts: Mapping[str, Any], make: Make) -> Entry:
        """Return the entry of a key: found, or made now.

        Args:
            key_facts: All that a compiled graph depends on; JSON values.
            make: Makes it.

        Raises:
            OpsError: it cannot be made, or another process took too long.
        """
        key = digest(key_facts)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self.folder / f".{key}.lock", self.wait_s, self.say, self.is_cancelled):
                return self._find(key) or self._make(self.folder, key, key_facts, make)
        except OSError as error:  # read-only, perhaps: good enough to read from
            found = self._find(key)
            if found:
                return found
            self.say(f"the cache {self.folder} cannot be written ({error.strerror or error}): compiling without it")
        except MachineError as error:
            self.say(f"the cache {self.folder} cannot be used ({error}): compiling without it")
        return self._make(self.spare, key, key_facts, make)

    def _find(self, key: str) -> Entry | None:
        """Return an entry that is there and whole; say so when it is there and is not."""
        folder = self.folder / key
        if self.force or not folder.is_dir():
            return None
        entry = read_entry(folder)
        if isinstance(entry, str):
            self.say(f"the cache entry {folder} is corrupt ({entry}): compiling again")
            return None
        return entry

    def _make(self, parent: Path, key: str, key_facts: Mapping[str, Any], make: Make) -> Entry:
        with staging(parent, key) as folder, disk_errors(parent):
            facts = make(folder)
            files = {name: file_sha256(path) for name, path in walk(folder)}
            record = {"key": key, "key_facts": key_facts, "files": files, "facts": facts}
            (folder / RECORD_NAME).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            sync(folder)
            target = parent / key
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
        return Entry(key, target, files, facts, made=True)


def read_entry(folder: Path) -> Entry | str:
    """Read an entry and hash its files; return what is wrong with it when something is."""
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        files, facts = dict(record["files"]), dict(record["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{RECORD_NAME} cannot be read: {error}"
    for name, sha256 in files.items():
        try:
            if file_sha256(folder / name) != sha256:
                return f"{name} is not what {RECORD_NAME} says"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return Entry(folder.name, folder, files, facts, made=False)


def digest(key_facts: Mapping[str, Any]) -> str:
    """Return the key of these facts."""
    return hashlib.sha256(json.dumps(key_facts, sort_keys=True).encode()).hexdigest()[:32]


def default_folder(environ: Mapping[str, str]) -> Path:
    """Return ``$WARMSWAP_COMPILE_CACHE``, else ``$XDG_CACHE_HOME/warmswap/compiled``, else ``~/.cache/...``."""
    if environ.get(CACHE_VARIABLE):
        return Path(environ[CACHE_VARIABLE])
    root = environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path(environ.get("HOME") or "/nonexistent") / ".cache"
    return base / "warmswap/compiled"


@contextlib.contextmanager
def staging(parent: Path, name: str) -> Iterator[Path]:
    """Give a new folder beside the final one, gone at the end unless it was renamed.

    The caller holds the lock of ``name``: what an interrupted process left under that name is removed first.
    """
    prefix = f".{name}.staging-"
    for left in parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
