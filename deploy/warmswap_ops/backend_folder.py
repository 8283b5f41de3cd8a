"""The folder of backends that tritonserver is given: Triton's Python backend, our stub, our onnxruntime backend.

Triton refuses symbolic links in it, so files are copied, once per content: the folder's name carries a digest of all
files, so an upgrade of anything makes a new one. It appears by an atomic rename, so two launchers cannot meet.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_ops.triton_install import TritonInstall

PORTABLE_BACKENDS: Final = Path(__file__).parent / "backends"


@dataclass(frozen=True, slots=True)
class BackendFolder:
    """A folder for ``--backend-directory``.

    Attributes:
        path: The folder.
        temporary: Whether it is this launcher's own and must be removed at its end.
    """

    path: Path
    temporary: bool

    def remove(self) -> None:
        """Remove the folder if it is temporary."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)


def provide_backend_folder(install: TritonInstall, environ: Mapping[str, str]) -> BackendFolder:
    """Return a complete folder of backends: the container's own, a cached one, or a new one."""
    if install.has_onnxruntime:
        return BackendFolder(install.backends, temporary=False)
    files = _files(install)
    cache = _cache_dir(environ)
    target = cache / f"backends-{_digest(files)}"
    if _is_complete(target, files):
        return BackendFolder(target, temporary=False)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".backends-", dir=cache))
    except OSError:  # a read-only root, or no home
        folder = Path(tempfile.mkdtemp(prefix="warmswap-backends-"))
        _copy(files, folder)
        return BackendFolder(folder, temporary=True)
    try:
        _copy(files, staging)
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not _is_complete(target, files):  # another launcher was not the reason
            raise
    return BackendFolder(target, temporary=False)


def _files(install: TritonInstall) -> dict[str, Path]:
    """Return target (relative) to source."""
    sources = {
        f"python/{path.name}": path
        for path in sorted(install.python_backend.iterdir())
        if path.is_file() and path.suffix != ".pyc"
    }
    sources[f"python/{install.stub.name}"] = install.stub
    sources["onnxruntime/model.py"] = PORTABLE_BACKENDS / "onnxruntime/model.py"
    return sources


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for target, source in sorted(files.items()):
        content = source.read_bytes()
        digest.update(f"{target}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _is_complete(folder: Path, files: Mapping[str, Path]) -> bool:
    return all(
        (folder / target).is_file() and (folder / target).stat().st_size == source.stat().st_size
        for target, source in files.items()
    )


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    for target, source in files.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(0o755 if os.access(source, os.X_OK) or path.name.endswith("_stub") else 0o644)
    folder.chmod(0o755)


def _cache_dir(environ: Mapping[str, str]) -> Path:
    root = environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path(environ.get("HOME") or "/nonexistent") / ".cache"
    return base / "warmswap"
