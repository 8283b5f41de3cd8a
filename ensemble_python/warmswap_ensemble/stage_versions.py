"""Finds the stages beside a pipeline in the model repository and reads what their manifests say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from warmswap_ensemble.contract import FACE_EMBEDDER, FACE_SWAPPER, PIPELINE_STAGES
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
        swapper = stages[FACE_SWAPPER.name]
        try:
            check_pair(swapper, stages[FACE_EMBEDDER.name])
        except IdentityError as error:
            manifest = repository / swapper.model / str(swapper.version) / MANIFEST_NAME
            raise ManifestError(manifest, str(error)) from error
    return stages


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
