"""``warmswap lint``: what is wrong with a model repository, found without starting a server.

A *rule* is a function that looks at the repository and yields findings; ``lint_rules.RULES`` lists them. Its docstring
is shown to the user: the first line says what should be, the rest why, and how that is known.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from warmswap_ensemble.contract import STAGES, model_spec
from warmswap_ensemble.manifest import (
    MANIFEST_NAME,
    Manifest,
    ManifestError,
    commercial_use_as_json,
    version_dirs,
)
from warmswap_ops.config_text import CONFIG_NAME
from warmswap_ops.errors import RepositoryError
from warmswap_ops.finding import Finding
from warmswap_ops.lint_config import MAX_TEXT_BYTES, ConfigOnDisk, read_config_on_disk
from warmswap_ops.repository import read_own_manifest


@dataclass(frozen=True, slots=True)
class VersionOnDisk:
    """A version directory.

    Attributes:
        model: Name of the model's folder.
        version: Number of the directory.
        folder: The directory.
        manifest: What its manifest says; ``None`` without one, or with one that cannot be used.
        problem: Why the manifest cannot be used.
    """

    model: str
    version: int
    folder: Path
    manifest: Manifest | None
    problem: str | None = None

    @property
    def manifest_path(self) -> Path:
        """Where the manifest stands, or should."""
        return self.folder / MANIFEST_NAME

    def as_json(self) -> dict[str, Any]:
        """Return what is known of it; ``null`` where the manifest does not say."""
        manifest, facts = self.manifest, {"model": self.model, "version": self.version}
        known = ("name", "licence", "commercial_use", "licence_note", "twin_seed", "precision", "embedding_space")
        if manifest is None:
            return facts | dict.fromkeys(known)
        values = (
            manifest.name,
            manifest.licence,
            commercial_use_as_json(manifest.commercial_use),
            manifest.licence_note,
            manifest.twin_seed,
            manifest.precision,
            manifest.settings.get("embedding_space"),
        )
        return facts | dict(zip(known, values, strict=True))


@dataclass(frozen=True, slots=True)
class RepositoryOnDisk:
    """All that a rule may look at.

    Attributes:
        folder: The repository.
        versions: Every version of every model, served or not.
        policy: Licence policy, see ``licences``.
        models: The folders in it.
        all_configs: Every configuration of every model, also those that cannot be read.
        launch_files: Scripts, manifests and the like that start a server on this repository.
    """

    folder: Path
    versions: tuple[VersionOnDisk, ...]
    policy: str
    models: tuple[Path, ...] = ()
    all_configs: tuple[ConfigOnDisk, ...] = ()
    launch_files: tuple[Path, ...] = ()

    @property
    def configs(self) -> list[ConfigOnDisk]:
        """The configurations that can be read."""
        return [config for config in self.all_configs if config.problem is None]


Rule = Callable[[RepositoryOnDisk], Iterable[Finding]]


def read_versions(repository: Path, policy: str, launch_files: Sequence[Path] = ()) -> RepositoryOnDisk:
    """Read every version directory and every configuration; what cannot be read is kept as a problem.

    Raises:
        RepositoryError: a folder cannot be listed.
    """
    try:
        models = tuple(sorted(path for path in repository.iterdir() if path.is_dir()))
        versions = tuple(_read_version(model.name, folder) for model in models for folder in version_dirs(model))
        configs = tuple(read_config_on_disk(path, model.name) for model in models for path in _config_paths(model))
    except OSError as error:
        raise RepositoryError(f"{error.filename} cannot be listed: {error.strerror}") from error
    return RepositoryOnDisk(repository, versions, policy, models, configs, tuple(launch_files))


def lint(repository: RepositoryOnDisk, rules: Sequence[Rule]) -> list[Finding]:
    """Return what the rules find, in their order."""
    return [
        replace(finding, rule=rule.__name__, why=finding.why or explain(rule)[1])
        for rule in rules
        for finding in _findings(rule, repository)
    ]


def explain(rule: Rule) -> tuple[str, str]:
    """Return what a rule wants, and why."""
    summary, _, why = (inspect.getdoc(rule) or "").partition("\n\n")
    return summary, " ".join(why.split())


def _findings(rule: Rule, repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Yield what a rule finds; what it cannot look at is a finding too, and its last."""
    try:
        yield from rule(repository)
    except OSError as error:
        path = Path(error.filename or repository.folder)
        yield Finding(path, f"cannot be looked at: {error.strerror}", "correct its name or its permissions")


def _config_paths(model: Path) -> list[Path]:
    path = model / CONFIG_NAME
    return [*([path] if path.exists() else []), *sorted(model.glob("configs/*.pbtxt"))]


def _read_version(model: str, folder: Path) -> VersionOnDisk:
    version = int(folder.name)
    path = folder / MANIFEST_NAME
    if not path.exists():
        is_stage = model_spec(model) in STAGES
        return VersionOnDisk(model, version, folder, None, "missing" if is_stage else None)
    if (size := path.stat().st_size) > MAX_TEXT_BYTES:
        return VersionOnDisk(model, version, folder, None, f"has {size} bytes; more than {MAX_TEXT_BYTES} are not read")
    try:
        return VersionOnDisk(model, version, folder, read_own_manifest(model, version, folder))
    except ManifestError as error:
        return VersionOnDisk(model, version, folder, None, error.reason)
