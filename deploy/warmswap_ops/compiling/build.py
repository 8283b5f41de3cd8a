"""Makes a compiled repository: complete, beside its final name, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warmswap_ensemble.manifest import Manifest, ManifestError, verify_file
from warmswap_ops.compiling.cache import Cache, Entry, default_folder, staging
from warmswap_ops.compiling.files import copy, disk_errors, link_or_copy
from warmswap_ops.compiling.locks import IsCancelled, Say, exclusive
from warmswap_ops.compiling.stamp import COMPILER_VERSION, Stamp, Tree, compare_tree, record_tree, walk
from warmswap_ops.compiling.target import Target, this_machine
from warmswap_ops.compiling.worker_process import run_worker
from warmswap_ops.config_text import CONFIG_NAME
from warmswap_ops.errors import CompileError, MachineError, RepositoryError, UsageError
from warmswap_ops.phases import Stopwatch

if TYPE_CHECKING:
    from warmswap_ops.compiling.source import SourceModel

FORM: Final = "external, prepacked"
"""How weights are stored: beside the graph, each as its kernel reads it, so that it is mapped and shared.

deploy/README.md has the figures of the other forms.
"""
WAIT_S: Final = 900.0

HIT, MADE = "hit", "made"


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What to compile, and where to.

    Attributes:
        repository: Folder to read; never written to.
        out: Folder to make.
        cache: Folder of compiled graphs; ``None`` = see ``cache.default_folder``.
        force: Compile again whatever ``out`` and the cache hold.
        wait_s: How long to wait for other processes that compile the same.
        say: Gets what an operator should know, line by line.
        is_cancelled: Asked while something lasts.
    """

    repository: Path
    out: Path
    cache: Path | None = None
    force: bool = False
    wait_s: float = WAIT_S
    say: Say = lambda line: None
    is_cancelled: IsCancelled = lambda: False


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of it.

    Attributes:
        out: The compiled repository.
        cache: ``made``: some graph was compiled; ``hit``: none had to be.
        up_to_date: Whether the whole repository was there, and nothing was written.
        versions: Per compiled version: model, version, key, ``cache`` (``hit`` or ``made``), ``ms``.
        kept: ONNX models that stay as they were exported, and why.
    """

    out: Path
    cache: str
    up_to_date: bool = False
    versions: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"out": str(self.out)}


def compile_repository(options: CompileOptions, environ: Mapping[str, str] = os.environ) -> Compiled:
    """Make a compiled repository, unless it is there and up to date.

    Raises:
        UsageError: ``out`` is something else, or lies in the repository.
        RepositoryError: the repository is incomplete or corrupt.
        CompileError: a graph cannot be compiled, or answers otherwise than the exported one.
        MachineError: the disk is full or read-only, or onnxruntime is missing.
    """
    repository, out = options.repository.resolve(), options.out.absolute()
    cache_folder = (options.cache or default_folder(environ)).absolute()
    for name, folder in (("--out", out), ("--cache", cache_folder)):
        if folder.resolve().is_relative_to(repository) or repository.is_relative_to(folder.resolve()):
            raise UsageError(f"{name} {folder} and the repository {repository} must not lie in one another")
    if cache_folder.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"--cache {cache_folder} must not lie in --out {out}, which is replaced as a whole")
    target = this_machine()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            disk_errors(out.parent),
            exclusive(out.parent / f".{out.name}.lock", options.wait_s, options.say, options.is_cancelled),
        ):
            if _is_up_to_date(repository, out, target, options):
                return Compiled(out, HIT, up_to_date=True)
            with staging(out.parent, out.name) as folder:
                return _build(repository, out, folder, cache_folder, target, options)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise MachineError(f"cannot compile into {out}: {reason}") from error


def _is_up_to_date(repository: Path, out: Path, target: Target, options: CompileOptions) -> bool:
    """Return whether ``out`` is what would be made; say why when it is not.

    Raises:
        UsageError: it is something that nobody may replace.
    """
    if out.is_symlink():
        raise UsageError(f"--out {out} is a link, and would be replaced by a folder: name the folder itself")
    stamp = Stamp.read(out)
    if stamp is None:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UsageError(
                f"--out {out} is there and was not made by warmswap compile: choose another folder, or remove it"
            )
        return False
    if options.force:
        return False
    reason = "; ".join(stamp.target.differences(target))
    if not reason and stamp.compiler != COMPILER_VERSION:
        reason = f"compiler version {stamp.compiler}, now {COMPILER_VERSION}"
    if reason:
        options.say(f"{out} is outdated ({reason}): replacing it")
        return False
    changes, source_files = compare_tree(repository, stamp.source_files)
    own_changes, files = compare_tree(out, stamp.files)
    if changes or own_changes:
        what = f"in {repository}: {changes[0]}" if changes else f"in it: {own_changes[0]}"
        options.say(f"{out} is outdated ({what}): replacing it")
        return False
    if (source_files, files) != (stamp.source_files, stamp.files):  # touched or copied: hashed once, not every time
        _refresh(replace(stamp, source_files=source_files, files=files), out)
    return True


def _refresh(stamp: Stamp, out: Path) -> None:
    try:
        stamp.write(out)
    except OSError:
        return


def _build(
    repository: Path, out: Path, folder: Path, cache_folder: Path, target: Target, options: CompileOptions
) -> Compiled:
    from warmswap_ops.compiling.source import read_models  # imports tritonclient and protobuf: 0.2 s

    source_files = record_tree(repository)
    models, kept = read_models(repository)
    if not models:
        raise RepositoryError(f"{repository} has no graph to compile{_as_list(kept)}")
    for name, reason in kept.items():
        options.say(f"{name} stays as it was exported: {reason}")
    graphs = {
        f"{model.name}/{version_dir.name}/{name}": sha256
        for model in models
        for version_dir, manifest in model.versions
        for name, sha256 in manifest.files.items()
    }
    for name, path in walk(repository):
        (link_or_copy if name in graphs else copy)(path, folder / name)
    known = _verify(folder, graphs, source_files)
    spare = folder / ".entries"
    spare.mkdir()
    cache = Cache(cache_folder, spare, options.wait_s, options.say, options.is_cancelled, options.force)
    versions: list[dict[str, Any]] = []
    for model in models:
        for version_dir, manifest in model.versions:
            stopwatch = Stopwatch()
            entry = _provide(cache, model, version_dir, manifest, target, options.say)
            known |= _add(folder / model.name / version_dir.name, model, manifest, entry, target)
            facts = {"model": model.name, "version": manifest.version, "key": entry.key, "cache": _found(entry.made)}
            versions.append(facts | {"ms": round(stopwatch.total_ms(), 1)})
        (folder / model.name / CONFIG_NAME).write_text(model.compiled_config_text, encoding="utf-8")
    shutil.rmtree(spare)
    relative = {str(path.relative_to(folder)): sha256 for path, sha256 in known.items()}
    Stamp(repository, source_files, record_tree(folder, relative), target).write(folder)
    _replace(out, folder)
    made = any(version["cache"] == MADE for version in versions)
    return Compiled(out, _found(made), versions=versions, kept=kept)


def _found(made: bool) -> str:
    return MADE if made else HIT


def _verify(folder: Path, graphs: Mapping[str, str], source_files: Tree) -> dict[Path, str]:
    """Hold the digests of the manifests against the files; return the paths with their digests.

    ``source_files`` was hashed a moment ago: a link to the same file needs no second look, a copy does.

    Raises:
        RepositoryError: a file is missing or differs.
    """
    known: dict[Path, str] = {}
    for name, sha256 in graphs.items():
        path = folder / name
        record = source_files.get(name)
        try:
            if record is None or record.sha256 != sha256 or not record.fits(path):
                verify_file(path, sha256)
        except ManifestError as error:
            raise RepositoryError(f"model {name.partition('/')[0]}: {error}".replace(f"{folder}/", "")) from error
        known[path] = sha256
    return known


def _provide(
    cache: Cache, model: SourceModel, version_dir: Path, manifest: Manifest, target: Target, say: Say
) -> Entry:
    job = {
        "config": model.config,
        "compiled_config": model.compiled_config,
        "version_dir": str(version_dir),
        "warmup_dir": str(model.folder / "warmup"),
    }
    key_facts = {
        "compiler": COMPILER_VERSION,
        "form": FORM,
        "target": target.as_json(),
        "files": manifest.files,
        "graph": model.graph,
        "settings": {name: model.config.get(name) for name in ("optimization", "model_operations")},
        "compiled_graph": model.compiled_graph,
    }

    def make(folder: Path) -> dict[str, Any]:
        say(f"{model.name} {manifest.version}: compiling")
        try:
            return run_worker(job | {"out_dir": str(folder)}, cache.is_cancelled)
        except CompileError as error:
            raise CompileError(f"{model.name} {manifest.version}: {error}") from error

    return cache.provide(key_facts, make)


def _add(version_dir: Path, model: SourceModel, manifest: Manifest, entry: Entry, target: Target) -> dict[Path, str]:
    """Put a compiled graph into a version directory; return the new files with their digests."""
    known: dict[Path, str] = {}
    for name, sha256 in entry.files.items():
        path = version_dir / name
        link_or_copy(entry.folder / name, path)
        if not path.samefile(entry.folder / name):
            verify_file(path, sha256)
        known[path] = sha256
    compiled = {
        "files": entry.files,
        "source": manifest.files,
        "key": entry.key,
        "form": FORM,
        "target": target.as_json(),
        **entry.facts,
    }
    replace(manifest, compiled=compiled).write(version_dir)
    return known


def _replace(out: Path, folder: Path) -> None:
    """Put ``folder`` in the place of ``out``; a server that has files of the old one open keeps them."""
    old: Path | None = None
    if out.is_dir() and any(out.iterdir()):
        old = out.with_name(f".{out.name}.staging-old-{os.getpid()}")
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old:
            old.rename(out)
        raise
    if old:
        shutil.rmtree(old, ignore_errors=True)


def _as_list(kept: Mapping[str, str]) -> str:
    return "".join(f"; {model}: {reason}" for model, reason in kept.items())
