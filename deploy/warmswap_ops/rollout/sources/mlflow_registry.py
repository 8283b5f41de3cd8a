"""The MLflow model registry: the only module that knows MLflow, which is imported when it is needed.

The registry is the one of ``MLFLOW_TRACKING_URI`` (and ``MLFLOW_REGISTRY_URI``), as everywhere in MLflow.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.manifest import MANIFEST_NAME, read_manifest
from warmswap_ops.compiling.files import disk_errors
from warmswap_ops.errors import MachineError, RepositoryError
from warmswap_ops.provisioning.content import tree_digest
from warmswap_ops.provisioning.source import Progress, copy_folder
from warmswap_ops.rollout.sources.model_uri import ModelUri, check_alias
from warmswap_ops.rollout.sources.version_folder import check_version_folder, find_version_folder

EXPERIMENT: Final = "warmswap"
DIGEST_TAG: Final = "warmswap.digest"
INSTALL: Final = 'pip install "warmswap[mlflow]"'
_ARTEFACTS: Final = "model"
_SQLITE: Final = "sqlite:///"
_FACTS: Final = ("model", "version", "name", "pack", "licence", "commercial_use", "exporter", "opset", "precision")
_DEFAULTS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 keep an operator waiting for minutes
}
_WRONG_CODES: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
_NOTHING_LEFT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """The version that a name led to.

    Attributes:
        version: Its number.
        run_id: Of the run that made it; empty when unknown.
        digest: Of its content when ``register_candidate`` registered it, ``None`` of others.
    """

    version: str
    run_id: str
    digest: str | None


def download(uri: ModelUri, target: Path, progress: Progress) -> FoundVersion:
    """Download the artefacts of a version into ``target``; an alias is resolved once, before anything is read.

    Raises:
        RepositoryError: there is no such model, version, alias or artefact.
        MachineError: the registry cannot be reached, MLflow is not installed, or the disk is full.
    """
    mlflow = _import()
    registry = mlflow.get_registry_uri()
    _refuse_missing_file(registry, uri.text)
    with _registry_errors(uri.text, registry, target):
        client = mlflow.MlflowClient()
        if uri.version is None:
            version = client.get_model_version_by_alias(uri.name, uri.alias)
        else:
            version = client.get_model_version(uri.name, uri.version)
        location = client.get_model_version_download_uri(uri.name, version.version)
        mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=str(target))
    progress(sum(path.stat().st_size for path in target.rglob("*") if path.is_file()))
    return FoundVersion(str(version.version), version.run_id or "", version.tags.get(DIGEST_TAG))


def register_candidate(folder: Path, name: str, alias: str | None, tracking_uri: str | None) -> str:
    """Log a version folder as the artefacts of a run, and register them as a version of a model.

    Args:
        folder: Version folder, or the folder around exactly one.
        name: Registered model; made if it is missing.
        alias: Set on the new version; ``None`` sets none.
        tracking_uri: ``None`` = ``MLFLOW_TRACKING_URI``.

    Returns:
        ``models:/NAME/VERSION``.

    Raises:
        UsageError: a registry takes no such alias.
        RepositoryError: the folder is no sound version, or the registry refuses the name.
        MachineError: the registry cannot be reached or written, or MLflow is not installed.
    """
    if alias is not None:
        check_alias(alias)
    if not folder.is_dir():
        raise RepositoryError(f"{folder}: there is no such folder; name the version folder to register")
    mlflow = _import()
    uri = tracking_uri or mlflow.get_tracking_uri()
    with tempfile.TemporaryDirectory(prefix="warmswap-register-") as scratch:
        copied = Path(scratch) / _ARTEFACTS
        try:
            with disk_errors(Path(scratch)):
                copy_folder(find_version_folder(folder, str(folder), anywhere=False), copied, lambda count: None)
        except OSError as error:
            raise MachineError(f"cannot copy {folder} into {scratch}: {error}") from error
        check_version_folder(copied, str(folder))
        with _registry_errors(name, uri, Path(scratch)):
            client = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
            return _register(client, uri, copied, name, alias)


def _register(client: Any, uri: str, folder: Path, name: str, alias: str | None) -> str:
    from mlflow.exceptions import MlflowException

    digest = tree_digest(folder)
    manifest = read_manifest(folder) if (folder / MANIFEST_NAME).exists() else None
    run_id = client.create_run(_experiment(client, uri), tags={DIGEST_TAG: digest}, run_name=name).info.run_id
    status = "FAILED"
    try:
        if manifest is not None:
            for fact in _FACTS:
                client.log_param(run_id, fact, getattr(manifest, fact))
            client.set_tag(run_id, "warmswap.sha256", manifest.sha256)
        client.log_artifacts(run_id, str(folder), _ARTEFACTS)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"runs:/{run_id}/{_ARTEFACTS}"
        version = client.create_model_version(name, source, run_id, tags={DIGEST_TAG: digest}).version
        if alias is not None:
            client.set_registered_model_alias(name, alias, version)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return f"models:/{name}/{version}"


def _experiment(client: Any, uri: str) -> str:
    known = client.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return str(known.experiment_id)
    beside = None  # of a local registry; otherwise artefacts would land in the working directory
    if uri.startswith(_SQLITE):
        beside = (Path(uri.removeprefix(_SQLITE).partition("?")[0]).resolve().parent / "mlartifacts").as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=beside))


def _import() -> Any:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        import mlflow
    except ImportError as error:
        raise MachineError(f"MLflow is not installed ({error}); install it: {INSTALL}") from error
    return mlflow


def _refuse_missing_file(registry: str, source: str) -> None:
    """MLflow would make an empty one, and say that it lacks the model."""
    path = Path(registry.removeprefix(_SQLITE).partition("?")[0])
    if registry.startswith(_SQLITE) and not path.is_file():
        raise MachineError(f"{source}: there is no registry {path.resolve()}; set MLFLOW_TRACKING_URI to the right one")


@contextmanager
def _registry_errors(name: str, uri: str, folder: Path) -> Iterator[None]:
    """Sort what MLflow raises: it and the libraries of its stores know dozens of kinds."""
    try:
        yield
    except Exception as error:
        what, reason = f"{name} in {_plain(uri)}", str(error).replace(uri, _plain(uri))
        if shutil.disk_usage(folder).free < _NOTHING_LEFT_BYTES:  # MLflow does not always say why it cannot write
            raise MachineError(f"cannot write into {folder}: No space left ({reason}); make room") from error
        if getattr(error, "error_code", "") in _WRONG_CODES:
            raise RepositoryError(f"MLflow refuses {what}: {reason}") from error
        raise MachineError(f"MLflow cannot reach or use {what}: {reason}") from error


def _plain(uri: str) -> str:
    """Return an address without the password that it may hold."""
    return re.sub(r"//[^/]*@", "//", uri)
