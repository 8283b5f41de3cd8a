"""``warmswap lint``: what is wrong with a model repository, found without starting a server.

A *rule* is a function that looks at the repository and yields findings; ``lint_rules.RULES`` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from warmswap_ops.repository import read_own_manifest


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        file: Where.
        what: What is wrong, with which value.
        fix: What to do.
        rule: Name of the rule that found it; filled in by ``lint``.
    """

    file: Path
    what: str
    fix: str
    rule: str = ""

    def as_json(self) -> dict[str, str]:
        """Return JSON values."""
        return {"rule": self.rule, "file": str(self.file), "what": self.what, "fix": self.fix}


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
    """

    folder: Path
    versions: tuple[VersionOnDisk, ...]
    policy: str


Rule = Callable[[RepositoryOnDisk], Iterable[Finding]]


def read_versions(repository: Path, policy: str) -> RepositoryOnDisk:
    """Read every version directory; what cannot be read is kept as a problem."""
    models = sorted(path for path in repository.iterdir() if path.is_dir())
    versions = [_read_version(model.name, folder) for model in models for folder in version_dirs(model)]
    return RepositoryOnDisk(repository, tuple(versions), policy)


def lint(repository: RepositoryOnDisk, rules: Sequence[Rule]) -> list[Finding]:
    """Return what the rules find, in their order."""
    return [replace(finding, rule=rule.__name__) for rule in rules for finding in rule(repository)]


def _read_version(model: str, folder: Path) -> VersionOnDisk:
    version = int(folder.name)
    if not (folder / MANIFEST_NAME).exists():
        is_stage = model_spec(model) in STAGES
        return VersionOnDisk(model, version, folder, None, "missing" if is_stage else None)
    try:
        return VersionOnDisk(model, version, folder, read_own_manifest(model, version, folder))
    except ManifestError as error:
        return VersionOnDisk(model, version, folder, None, error.reason)
