"""Finds the stages beside a pipeline in the model repository and reads what their manifests say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from warmswap_ensemble.contract import FACE_EMBEDDER, FACE_SWAPPER, PIPELINE_STAGES, swapper_variant
from warmswap_ensemble.identity import IdentityError, check_pair
from warmswap_ensemble.manifest import MANIFEST_NAME, ManifestError, read_manifest, version_dirs
from warmswap_ensemble.types import Stage


def resolve_stages(pipeline: str, repository: Path, pins: Mapping[str, str]) -> dict[str, Stage]:
    """Return the stages of a pipeline, each fixed to one version for as long as the pipeline is loaded.

    Args:
        pipeline: Key of ``contract.PIPELINE_STAGES``.
        repository: Folder that holds the stages.
        pins: Model name to version; a stage that is not named gets its highest version, as Triton's default policy.

    Raises:
        ManifestError: a stage has no such version, its manifest is wrong, or the swapper cannot use what the embedder
            makes.
    """
    stages = {name: _resolve(repository / name, pins.get(name)) for name in PIPELINE_STAGES[pipeline]}
    if FACE_SWAPPER.name in stages:
        _check_pair(repository, stages[FACE_SWAPPER.name], stages[FACE_EMBEDDER.name])
    return stages


@dataclass(frozen=True, slots=True)
class Variants:
    """The variants of the swapper in a repository: folders ``face_swapper_<variant>``.

    Attributes:
        usable: By name of the variant.
        refused: Name of the variant to the reason why it cannot be used.
    """

    usable: dict[str, Stage] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def resolve_variants(repository: Path, pins: Mapping[str, str], embedder: Stage) -> Variants:
    """Find the variants of the swapper; one that is broken is named, and keeps nothing else from working.

    Args:
        repository: Folder that holds the stages.
        pins: Model name to version.
        embedder: What the pipeline embeds with.
    """
    variants = Variants()
    for folder in sorted(repository.glob(f"{FACE_SWAPPER.name}_*")):
        name = swapper_variant(folder.name)
        if name is None or not folder.is_dir():
            continue
        try:
            swapper = _resolve(folder, pins.get(folder.name))
            _check_pair(repository, swapper, embedder)
        except ManifestError as error:
            variants.refused[name] = str(error)
        else:
            variants.usable[name] = swapper
    for model in pins:
        name = swapper_variant(model)
        if name and name not in variants.usable:
            variants.refused.setdefault(name, f"it is pinned to version {pins[model]}, and there is no {model}")
    return variants


def _check_pair(repository: Path, swapper: Stage, embedder: Stage) -> None:
    try:
        check_pair(swapper, embedder)
    except IdentityError as error:
        manifest = repository / swapper.model / str(swapper.version) / MANIFEST_NAME
        raise ManifestError(manifest, str(error)) from error


def _resolve(model_dir: Path, pin: str | None) -> Stage:
    versions = {path.name: path for path in version_dirs(model_dir)}
    if not versions:
        raise ManifestError(model_dir, "has no version directory")
    version = pin if pin is not None else list(versions)[-1]
    if version not in versions:
        raise ManifestError(model_dir, f"has no version {version}; it has {', '.join(versions)}")
    manifest = read_manifest(versions[version])
    if manifest.model != model_dir.name:
        raise ManifestError(versions[version], f"manifest.json is of {manifest.model}, not of {model_dir.name}")
    return Stage(manifest.model, int(version), manifest.sha256, manifest.settings, manifest.twin)
