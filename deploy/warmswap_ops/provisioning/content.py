"""What a staged repository holds: complete, as its manifests say, and a name for all of it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from warmswap_ensemble.contract import PIPELINES, STAGES
from warmswap_ops.config_text import CONFIG_NAME, read_config
from warmswap_ops.errors import RepositoryError
from warmswap_ops.provisioning.source import file_sha256
from warmswap_ops.repository import read_repository, verify

_WARMUP_FILE: Final = re.compile(r'input_data_file\s*:\s*"([^"]+)"')


def find_root(folder: Path) -> Path:
    """Return the folder of the models: this one, or the only one in it, as archives often have it."""
    children = [path for path in folder.iterdir() if path.is_dir()]
    if len(children) == 1 and not (children[0] / CONFIG_NAME).exists():
        return children[0]
    return folder


def check_content(repository: Path) -> None:
    """Refuse a repository that could not be served.

    Raises:
        RepositoryError: a model, a version, a configuration, a warm-up file or a golden answer is missing, or a file
            differs from its manifest.
    """
    served = read_repository(repository, [spec.name for spec in STAGES], [spec.name for spec in PIPELINES])
    verify(served)
    for version in served:
        if not any(path.is_file() for path in version.folder.iterdir()):
            raise RepositoryError(f"{version.folder} is empty")
        code = version.folder / "model.py"
        if code.is_file() and "golden.json" in code.read_text(errors="replace"):
            _require(version.folder / "golden.json")
    for config in sorted(repository.glob(f"*/{CONFIG_NAME}")):
        for name in _WARMUP_FILE.findall(read_config(config)):
            _require(config.parent / "warmup" / name)


def tree_digest(repository: Path) -> str:
    """Return a sha256 over the names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in repository.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{file_sha256(path)}  {path.relative_to(repository).as_posix()}\n".encode())
    return digest.hexdigest()


def _require(path: Path) -> None:
    if not path.is_file():
        raise RepositoryError(f"{path} is missing")
