"""Do the versions that a pipeline will choose belong together? Asked before the server starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from warmswap_ensemble.contract import FACE_EMBEDDER, FACE_SWAPPER, PIPELINE_STAGES
from warmswap_ensemble.identity import IdentityError, check_pair
from warmswap_ensemble.manifest import Manifest, ManifestError, version_dirs
from warmswap_ops.config_text import config_path, parse_parameters, read_config
from warmswap_ops.errors import RepositoryError
from warmswap_ops.repository import read_own_manifest
from warmswap_ops.rollout.state_file import routes_of

PIN_PREFIX: Final = "stage_version."


def check_pipelines(repository: Path, pipelines: Sequence[str], config_name: str | None = None) -> None:
    """Refuse a pipeline whose swapper cannot use what its embedder makes.

    Raises:
        RepositoryError: the text names the pipeline, both versions, and what to do.
    """
    for pipeline in pipelines:
        try:
            check_pipeline(repository, pipeline, config_path(repository / pipeline, config_name))
        except IdentityError as error:
            raise RepositoryError(f"model {pipeline}: {error}") from error


def check_pipeline(repository: Path, pipeline: str, config: Path) -> None:
    """Apply the rule of identities to the versions that a pipeline chooses with a configuration.

    What else is wrong with them, its stages or the pipeline itself will say.

    Raises:
        IdentityError: they do not belong together.
        RepositoryError: the configuration cannot be read.
    """
    if FACE_SWAPPER.name not in PIPELINE_STAGES[pipeline]:
        return
    parameters = parse_parameters(read_config(config))
    pins = {model: str(version) for model, version in routes_of(repository).stable.items()}
    swapper, embedder = (
        _chosen(repository / model, pins.get(model, parameters.get(f"{PIN_PREFIX}{model}")))
        for model in (FACE_SWAPPER.name, FACE_EMBEDDER.name)
    )
    if swapper and embedder:
        check_pair(swapper, embedder)


def _chosen(model_dir: Path, pin: str | None) -> Manifest | None:
    """Return the manifest of the version that a pipeline takes: the pinned one, else the highest."""
    folders = {path.name: path for path in version_dirs(model_dir)}
    folder = folders.get(pin if pin is not None else next(reversed(folders), ""))
    try:
        return read_own_manifest(model_dir.name, int(folder.name), folder) if folder else None
    except ManifestError:
        return None
