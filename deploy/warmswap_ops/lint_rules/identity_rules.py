"""Rules on manifests, files, identities and licences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from warmswap_ensemble.contract import FACE_EMBEDDER, FACE_SWAPPER, PIPELINES, model_spec
from warmswap_ensemble.identity import (
    EmbeddingSpace,
    IdentityError,
    SpaceMismatchError,
    Version,
    space_of,
    wanted_space,
)
from warmswap_ensemble.manifest import Manifest, ManifestError, verify_files
from warmswap_ops.errors import RepositoryError
from warmswap_ops.finding import Finding
from warmswap_ops.licences import COMMERCIAL, REMEDY, describe, uncleared
from warmswap_ops.lint import RepositoryOnDisk, Rule, VersionOnDisk
from warmswap_ops.matching import check_pipeline

EXPORT_AGAIN: Final = "export the model again, or copy its version directory whole"


def manifest_is_readable(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every version of a stage has a manifest, and every manifest can be used.

    The pipelines read crop size, thresholds and identity from it; Triton does not look at it, so without this rule
    the fault shows when a pipeline loads.
    """
    for version in repository.versions:
        if version.problem:
            yield Finding(version.manifest_path, version.problem, EXPORT_AGAIN)


def files_are_those_of_the_manifest(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """The sha256 of every file is what the manifest says.

    Triton serves whatever file it finds; a cut or replaced one fails late, or answers wrongly.
    """
    for version, manifest in _with_manifest(repository):
        try:
            verify_files(version.folder, manifest)
        except ManifestError as error:
            yield Finding(error.path, error.reason, EXPORT_AGAIN)


def identity_is_declared(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Swappers say what they use of the identity, embedders which space they make.

    Embeddings of different networks never mix, and tensors of the right length do not tell them apart.
    """
    checks: dict[str, Callable[[Version], object]] = {FACE_SWAPPER.name: wanted_space, FACE_EMBEDDER.name: space_of}
    for version, manifest in _with_manifest(repository):
        spec = model_spec(version.model)
        check = checks.get(spec.name) if spec else None
        try:
            if check:
                check(manifest)
        except IdentityError as error:
            yield Finding(version.manifest_path, str(error), "export the model again with these settings")


def swapper_has_an_embedder(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Some embedder version makes the embeddings that a swapper version wants.

    Without one the pipeline refuses to load with this version.
    """
    made = _spaces_made(repository)
    for version, manifest in _with_manifest(repository, FACE_SWAPPER.name):
        wanted = _space(wanted_space, manifest)
        if wanted and wanted not in made:
            yield Finding(
                version.manifest_path,
                f"{manifest.model} {manifest.version} wants embeddings of the space {wanted}; the versions of "
                f"{FACE_EMBEDDER.name} here make {', '.join(map(str, made)) or 'none'}",
                f"add a version of {FACE_EMBEDDER.name} that makes them, or remove this version",
            )


def pipeline_chooses_a_matching_pair(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """With each of its configurations a pipeline chooses a swapper and an embedder that belong together.

    The pipeline takes the highest versions unless it is told otherwise, and refuses to load with a wrong pair. Where
    no pin would help, swapper_has_an_embedder speaks instead.
    """
    made = _spaces_made(repository)
    pipelines = {spec.name for spec in PIPELINES}
    for config in repository.configs:
        try:
            if config.model in pipelines:
                check_pipeline(repository.folder, config.model, config.path)
        except SpaceMismatchError as error:
            if error.wanted in made:
                yield Finding(config.path, error.mismatch, error.remedy, line=config.line("parameters"))
        except (IdentityError, RepositoryError):
            continue


def licence_fits_the_policy(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Under the policy commercial every version may be used commercially.

    warmswap serve --policy commercial refuses to start otherwise.
    """
    if repository.policy == COMMERCIAL:
        for version, manifest in _with_manifest(repository):
            if uncleared([manifest]):
                yield Finding(version.manifest_path, describe(manifest), REMEDY)


RULES: Final[tuple[Rule, ...]] = (
    manifest_is_readable,
    files_are_those_of_the_manifest,
    identity_is_declared,
    swapper_has_an_embedder,
    pipeline_chooses_a_matching_pair,
    licence_fits_the_policy,
)


def _with_manifest(repository: RepositoryOnDisk, model: str | None = None) -> Iterator[tuple[VersionOnDisk, Manifest]]:
    for version in repository.versions:
        spec = model_spec(version.model)
        if version.manifest is not None and (model is None or (spec is not None and spec.name == model)):
            yield version, version.manifest


def _spaces_made(repository: RepositoryOnDisk) -> list[EmbeddingSpace]:
    spaces = (_space(space_of, manifest) for _, manifest in _with_manifest(repository, FACE_EMBEDDER.name))
    return [space for space in spaces if space]


def _space(read: Callable[[Version], EmbeddingSpace | None], manifest: Manifest) -> EmbeddingSpace | None:
    """Return a space, or None where the settings do not name it: ``identity_is_declared`` speaks of that."""
    try:
        return read(manifest)
    except IdentityError:
        return None
