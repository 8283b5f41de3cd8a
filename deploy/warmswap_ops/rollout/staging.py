"""Puts a candidate beside the version that serves: written aside, verified, renamed; a number is never used twice.

<model>/.staged-<rollout>/     what is being written; Triton and the pipelines look at numbers only
<model>/<N+1>/                 after the rename, in which the manifest has the number already
<model>/.settled-<N+1>         digest of what was sent, since the manifest is not as it was
<pipeline>_candidate/          a candidate of a pipeline once more, as a model that can be called by its name
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from warmswap_ensemble.contract import PIPELINE_STAGES, model_spec
from warmswap_ensemble.manifest import MANIFEST_NAME, version_dirs
from warmswap_ensemble.routes import CANDIDATE_SUFFIX
from warmswap_ops.compiling.files import sync
from warmswap_ops.config_text import CONFIG_NAME
from warmswap_ops.errors import RepositoryError, RolloutError, UsageError
from warmswap_ops.provisioning.source import file_sha256
from warmswap_ops.rollout.state_file import write_atomically

_STAGED: Final = ".staged-"
_SETTLED: Final = ".settled-"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}")


def write_part(repository: Path, rollout: str, model: str, name: str, offset: int, data: bytes) -> None:
    """Write a part of a file of a candidate; the first one, at 0, begins the file anew.

    Raises:
        UsageError: a name leads elsewhere.
        OSError: it cannot be written.
    """
    path = _staged(repository, rollout, model) / _inside(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb" if offset == 0 else "r+b") as file:
        file.seek(offset)
        file.write(data)


def settle(repository: Path, rollout: str, model: str, version: int, files: Mapping[str, str]) -> None:
    """Verify the files of a candidate and give it its number; the same candidate may come again.

    Args:
        repository: Folder of models.
        rollout: Which one.
        model: Whose version it becomes.
        version: Its number.
        files: Name to sha256 of each; no other file may be there.

    Raises:
        RepositoryError: a file is missing, differs or is one too many.
        RolloutError: another version has the number.
        OSError: it cannot be written.
    """
    staged, target = _staged(repository, rollout, model), _version_dir(repository, model, version)
    settled, digest = target.with_name(f"{_SETTLED}{version}"), table_digest(files)
    if target.exists():
        there = settled.read_text(encoding="utf-8").strip() if settled.is_file() else ""
        if there != digest:
            how = f"was settled with the digest {there}" if there else f"came without a rollout: {settled} is missing"
            raise RolloutError(f"{model} {version} {how}; what is to be settled now has {digest}: another candidate")
        _check_files(target, _numbered(target, files))
        shutil.rmtree(staged, ignore_errors=True)
        return
    _check_files(staged, files)
    manifest = staged / MANIFEST_NAME
    if manifest.is_file():
        values = json.loads(manifest.read_text(encoding="utf-8")) | {"version": version}
        manifest.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_atomically(settled, digest + "\n")
    sync(staged)
    staged.chmod(0o755)
    staged.rename(target)


def discard(repository: Path, rollout: str, model: str, version: int | None) -> None:
    """Remove a candidate, and what was written of it; its number stays used."""
    shutil.rmtree(_staged(repository, rollout, model), ignore_errors=True)
    if version is None:
        return
    folder = _version_dir(repository, model, version)
    if folder.is_dir():
        hidden = folder.with_name(f"{_STAGED}{rollout}-rejected")
        folder.rename(hidden)  # at once, so that nobody finds half a version
        shutil.rmtree(hidden, ignore_errors=True)
    folder.with_name(f"{_SETTLED}{version}").unlink(missing_ok=True)


def make_candidate_model(repository: Path, pipeline: str, version: int) -> None:
    """Make a model of its own of a version of a pipeline, unless it is there.

    Raises:
        OSError: it cannot be written.
    """
    model_dir, target = _model_dir(repository, pipeline), repository / f"{pipeline}{CANDIDATE_SUFFIX}"
    if (target / str(version)).is_dir():
        return
    unfinished = repository / f".{target.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.mkdir()
    for name in (CONFIG_NAME, "configs", "warmup"):
        source = model_dir / name
        if source.is_dir():
            shutil.copytree(source, unfinished / name)
        elif source.is_file():
            shutil.copy2(source, unfinished / name)
    for config in (unfinished / CONFIG_NAME, *unfinished.glob("configs/*.pbtxt")):
        config.write_text(_renamed(config.read_text(encoding="utf-8"), pipeline, target.name), encoding="utf-8")
    shutil.copytree(model_dir / str(version), unfinished / str(version))
    unfinished.rename(target)


def remove_candidate_model(repository: Path, pipeline: str) -> None:
    """Remove what ``make_candidate_model`` made."""
    if pipeline in PIPELINE_STAGES:
        shutil.rmtree(repository / f"{pipeline}{CANDIDATE_SUFFIX}", ignore_errors=True)


def highest_version(repository: Path, model: str) -> int:
    """Return the highest number that a version of a model has; 0 = there is none."""
    return max((int(folder.name) for folder in version_dirs(_model_dir(repository, model))), default=0)


def file_table(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of a candidate, by its name in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def table_digest(files: Mapping[str, str]) -> str:
    """Return the digest of a candidate by the table of its files: that which its folder has for the history."""
    lines = (f"{files[name]}  {name}\n" for name in sorted(files, key=PurePosixPath))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    found = file_table(folder) if folder.is_dir() else {}
    for name in sorted(found.keys() ^ files.keys()):
        raise RepositoryError(f"{folder}: {name} {'is missing' if name in files else 'is not part of the candidate'}")
    for name, sha256 in files.items():
        if found[name] != sha256:
            raise RepositoryError(f"{folder / name}: sha256 is {found[name]}, not {sha256}: corrupt on its way")


def _numbered(target: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Return the table as it must be when the manifest has the number: that file is not as it was sent."""
    manifest = target / MANIFEST_NAME
    if MANIFEST_NAME in files and manifest.is_file():
        return {**files, MANIFEST_NAME: file_sha256(manifest)}
    return dict(files)


def _renamed(config: str, pipeline: str, name: str) -> str:
    return re.sub(rf'^name:\s*"{pipeline}"', f'name: "{name}"', config, count=1, flags=re.MULTILINE)


def _model_dir(repository: Path, model: str) -> Path:
    if model_spec(model) is None or not (repository / model).is_dir():
        raise UsageError(f"{repository} has no model {model!r}")
    return repository / model


def _version_dir(repository: Path, model: str, version: int) -> Path:
    if not isinstance(version, int) or version < 1:
        raise UsageError(f"{version!r} is no version of {model}")
    return _model_dir(repository, model) / str(version)


def checked_name(rollout: str) -> str:
    """Return the name of a rollout.

    Raises:
        UsageError: it is none, and might lead elsewhere as part of a path.
    """
    if not _NAME.fullmatch(rollout):
        raise UsageError(f"{rollout!r} is no name of a rollout")
    return rollout


def _staged(repository: Path, rollout: str, model: str) -> Path:
    return _model_dir(repository, model) / f"{_STAGED}{checked_name(rollout)}"


def _inside(name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or os.sep * 2 in name:
        raise UsageError(f"{name!r} leads out of the candidate")
    return Path(path)
