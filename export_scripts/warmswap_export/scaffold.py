"""Completes a new repository, so that what is exported into it can be served at once."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

from warmswap_ensemble.contract import FACE_SWAPPER, PIPELINES, STAGES, swapper_variant
from warmswap_ensemble.manifest import version_dirs
from warmswap_export.errors import ExportError

IGNORED: Final = shutil.ignore_patterns("__pycache__")


def base_repository() -> Path:
    """Return the repository of the checkout: configs, warm-up samples, pipelines and the ``open`` pack.

    Raises:
        ExportError: the exporter does not run from a checkout.
    """
    folder = Path(__file__).resolve().parents[2] / "model_repository"
    if not folder.is_dir():
        raise ExportError(f"{folder} is not there; the exporter works in a checkout of the project")
    return folder


def complete_repository(repository: Path, exported: Collection[str]) -> list[str]:
    """Copy what a repository lacks from the checkout's.

    Args:
        repository: Repository to complete; nothing in it is changed.
        exported: Stages that are about to be written: they get configs and warm-up samples, but no version.

    Returns:
        What was copied, one sentence each.
    """
    base = base_repository()
    if repository.resolve() == base.resolve():
        return []
    copied = []
    for name in filter(swapper_variant, exported):
        _complete_variant(base, repository / name)
    for spec in (*STAGES, *PIPELINES):
        source, target = base / spec.name, repository / spec.name
        for part in ("config.pbtxt", "configs", "warmup"):
            _copy(source / part, target / part)
        if spec.name in exported or version_dirs(target):
            continue
        for version_dir in version_dirs(source):
            _copy(version_dir, target / version_dir.name)
            copied.append(f"{spec.name} {version_dir.name} copied from {base}")
    return copied


def _complete_variant(base: Path, target: Path) -> None:
    """Give a variant of the swapper the configuration of the checkout's, else that of ``face_swapper``."""
    source = base / target.name
    if not source.is_dir():
        source = base / FACE_SWAPPER.name
        _copy(source / "warmup", target / "warmup")
    for config in (Path("config.pbtxt"), Path("configs/gpu.pbtxt")):
        if not (target / config).exists():
            text = (source / config).read_text(encoding="utf-8")
            (target / config).parent.mkdir(parents=True, exist_ok=True)
            (target / config).write_text(text.replace(f'name: "{source.name}"', f'name: "{target.name}"', 1))


def _copy(source: Path, target: Path) -> None:
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=IGNORED)
    else:
        shutil.copy2(source, target)
