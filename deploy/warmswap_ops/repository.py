"""The model repository on disk: is everything there, and is it what the manifests say?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_ensemble.manifest import (
    MANIFEST_NAME,
    Manifest,
    ManifestError,
    check_compiled_source,
    read_manifest,
    verify_file,
    version_dirs,
)
from warmswap_ensemble.routes import ROUTES_NAME
from warmswap_ops.config_text import config_path, parse_default_filename, parse_version_policy, read_config
from warmswap_ops.errors import RepositoryError
from warmswap_ops.rollout.state_file import routes_of

REPOSITORY_VARIABLE: Final = "WARMSWAP_REPOSITORY"
FOLDER_NAME: Final = "model_repository"
COMPILED_SUFFIX: Final = ".compiled.onnx"
"""End of the name of every compiled graph. Only a ``config.pbtxt`` that ``warmswap compile`` wrote names one."""
_CHECKOUT_REPOSITORY: Final = Path(__file__).resolve().parents[2] / FOLDER_NAME


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """One version that will be served; ``manifest`` is ``None`` for a pipeline that brings none.

    ``graph`` is the file that the configuration names, empty where that is left to Triton.
    """

    model: str
    version: int
    folder: Path
    manifest: Manifest | None
    graph: str = ""

    @property
    def is_compiled(self) -> bool:
        """Whether a compiled graph is served."""
        return self.graph.endswith(COMPILED_SUFFIX)


def find_repository(given: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the repository: the given one, ``$WARMSWAP_REPOSITORY``, ``./model_repository``, or the checkout's.

    Raises:
        RepositoryError: the one that was asked for is no folder, or there is none.
    """
    if given is not None:
        return _existing(given, "--repository")
    from_environment = environ.get(REPOSITORY_VARIABLE)
    if from_environment:
        return _existing(Path(from_environment), f"${REPOSITORY_VARIABLE}")
    for candidate in (Path(FOLDER_NAME), _CHECKOUT_REPOSITORY):
        if candidate.is_dir():
            return candidate.resolve()
    raise RepositoryError(f"no model repository: give --repository or ${REPOSITORY_VARIABLE}")


def read_repository(
    repository: Path, stages: Sequence[str], pipelines: Sequence[str], config_name: str | None = None
) -> list[ServedVersion]:
    """Return what will be served, with the manifests read; files are not looked into yet (see ``verify``).

    The state of a rollout, ``rollout.json``, knows better than the configurations.

    Args:
        repository: Folder of models.
        stages: Models that must be there with a manifest for every served version.
        pipelines: Models that must be there.
        config_name: Value of ``--model-config-name``, whose configuration files win.

    Raises:
        RepositoryError: a model, its configuration, its versions or a manifest is missing or wrong.
    """
    missing = [name for name in (*stages, *pipelines) if not (repository / name).is_dir()]
    if missing:
        raise RepositoryError(f"{repository} lacks {', '.join(missing)}")
    served: list[ServedVersion] = []
    routes = routes_of(repository)
    for name in (*stages, *pipelines):
        config = read_config(config_path(repository / name, config_name))
        policy, graph = parse_version_policy(config), parse_default_filename(config)
        folders = {int(path.name): path for path in version_dirs(repository / name)}
        needed = routes.needed(name)
        absent = [version for version in needed if version not in folders]
        if absent:
            raise RepositoryError(f"{repository / name} lacks version {absent[0]}, which {ROUTES_NAME} names")
        chosen = list(needed) or policy.choose(list(folders))
        if not chosen:
            raise RepositoryError(f"{repository / name} has no version that its version_policy serves")
        for version in chosen:
            manifest = _read_manifest(name, version, folders[version], required=name in stages)
            served.append(ServedVersion(name, version, folders[version], manifest, graph))
    return served


def verify(served: Sequence[ServedVersion], is_known: Callable[[Path, str], bool] = lambda path, sha256: False) -> None:
    """Compare the files that will be served with the manifests, several at a time.

    Args:
        served: Versions; of a compiled one the compiled files are looked at, else the exported ones.
        is_known: Whether a file is known to have this sha256 without being read.

    Raises:
        RepositoryError: a file is missing or differs.
    """
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="sha256") as pool:
        futures = [(version.model, pool.submit(_verify, version, is_known)) for version in served]
    for model, future in futures:
        error = future.exception()
        if isinstance(error, ManifestError):
            raise RepositoryError(f"model {model}: {error}") from error
        if error is not None:
            raise error


def _verify(version: ServedVersion, is_known: Callable[[Path, str], bool]) -> None:
    if version.manifest is None:
        return
    files = version.manifest.compiled_files if version.is_compiled else version.manifest.files
    for name, sha256 in sorted(files.items()):
        if not is_known(version.folder / name, sha256):
            verify_file(version.folder / name, sha256)
    check_compiled_source(version.folder, version.manifest)


def read_own_manifest(model: str, version: int, folder: Path) -> Manifest:
    """Read the manifest of a version directory.

    Raises:
        ManifestError: it is missing or wrong, or of another model or version.
    """
    manifest = read_manifest(folder)
    if (manifest.model, manifest.version) != (model, version):
        raise ManifestError(
            folder / MANIFEST_NAME, f"belongs to {manifest.model} version {manifest.version}, not to {model} {version}"
        )
    return manifest


def _existing(folder: Path, source: str) -> Path:
    if not folder.is_dir():
        raise RepositoryError(f"{source}: {folder} is not a folder")
    return folder.resolve()


def _read_manifest(model: str, version: int, folder: Path, *, required: bool) -> Manifest | None:
    if not required and not (folder / MANIFEST_NAME).exists():
        return None
    try:
        return read_own_manifest(model, version, folder)
    except ManifestError as error:
        raise RepositoryError(f"model {model}: {error}") from error
