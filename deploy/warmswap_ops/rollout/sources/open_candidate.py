"""Bring a candidate into a folder of its own, whatever it comes from, and hold it against its manifest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from warmswap_ops.compiling.files import disk_errors
from warmswap_ops.errors import MachineError, RepositoryError
from warmswap_ops.provisioning.content import tree_digest
from warmswap_ops.provisioning.source import (
    Progress,
    check_sha256,
    copy_folder,
    extract,
    fetch,
    file_sha256,
    is_url,
)
from warmswap_ops.rollout.sources import mlflow_registry, oci_layout
from warmswap_ops.rollout.sources.model_uri import MODELS_SCHEME, parse_model_uri
from warmswap_ops.rollout.sources.oci_unpack import unpack_artefact
from warmswap_ops.rollout.sources.version_folder import check_version_folder, find_version_folder

_PREFIX: Final = "candidate-"
_TREE: Final = "tree"


@dataclass(frozen=True, slots=True)
class OpenedCandidate:
    """One version of one model, ready to be installed.

    Attributes:
        folder: Plain files, a private copy.
        origin: Where it came from, for the audit log.
        digest: sha256 of its content, as of a folder in ``warmswap provision``.
    """

    folder: Path
    origin: str
    digest: str


_Bring = Callable[[str, Path, str | None, Progress], tuple[Path, str]]
"""From source, own folder, wanted sha256 and progress to the version folder and the origin."""


def open_candidate(source: str, work: Path, *, sha256: str | None, progress: Progress) -> OpenedCandidate:
    """Copy a candidate into a new folder in ``work``; whoever calls removes ``work``.

    Args:
        source: Version folder, tar archive, http(s) URL of one, ``oci:DIR[:TAG]``, or ``models:/NAME@ALIAS``.
        work: Folder to copy into; made if it is missing.
        sha256: Of the archive; else of the content, as ``OpenedCandidate.digest``. A URL needs it.
        progress: Gets bytes.

    Raises:
        UsageError: the source is malformed, or no sha256 where one is needed.
        RepositoryError: the candidate is missing, corrupt, incomplete, more than one, or another one than was meant.
        MachineError: ``work`` cannot be written or is full, a server does not answer, or MLflow is not installed.
    """
    wanted = check_sha256(source, sha256)
    bring = _choose(source)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with disk_errors(work):
            return _open(bring, source, work, wanted, progress)
    except OSError as error:
        raise MachineError(f"cannot bring {_plain(source)} into {work}: {error}") from error


def _choose(source: str) -> _Bring:
    if source.startswith(MODELS_SCHEME):
        return _from_mlflow
    if source.startswith(oci_layout.SCHEME):
        return _from_oci
    if is_url(source):
        return _from_archive
    path = Path(source)
    if path.is_dir():
        return _from_oci if (path / oci_layout.LAYOUT_NAME).is_file() else _from_folder
    if path.is_file():
        return _from_archive
    raise RepositoryError(
        f"--from {source}: there is no such folder or file (others: http(s) URL, oci:DIR[:TAG], models:/NAME@ALIAS)"
    )


def _open(bring: _Bring, source: str, work: Path, wanted: str | None, progress: Progress) -> OpenedCandidate:
    own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=work))
    try:
        folder, origin = bring(source, own, wanted, progress)
        check_version_folder(folder, _plain(source))
        digest = tree_digest(folder)
        if bring is not _from_archive and wanted not in (None, digest):
            raise RepositoryError(f"{source}: the digest of the content is {digest}, not {wanted}")
        return OpenedCandidate(folder, origin, digest)
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise


def _from_folder(source: str, own: Path, wanted: str | None, progress: Progress) -> tuple[Path, str]:
    found = find_version_folder(Path(source), source, anywhere=False)
    copied = own / _TREE
    copied.mkdir()
    copy_folder(found, copied, progress)
    return copied, f"{found.resolve()}"


def _from_archive(source: str, own: Path, wanted: str | None, progress: Progress) -> tuple[Path, str]:
    archive = own / "archive"  # a copy of files too: what is unpacked must be what was hashed
    if is_url(source):
        fetch(source, archive, progress)
    else:
        shutil.copyfile(source, archive)
    plain, sha256 = _plain(source), file_sha256(archive)
    if wanted not in (None, sha256):
        raise RepositoryError(f"{plain}: sha256 is {sha256}, not {wanted}: another file, or a corrupt one")
    try:
        extract(archive, own / _TREE, progress)
    except RepositoryError as error:
        raise RepositoryError(str(error).replace(str(archive), plain)) from error
    archive.unlink()
    place = plain if is_url(source) else f"{Path(source).resolve()}"
    return find_version_folder(own / _TREE, plain, anywhere=True), f"{place} (sha256 {sha256})"


def _from_oci(source: str, own: Path, wanted: str | None, progress: Progress) -> tuple[Path, str]:
    reference = oci_layout.parse_reference(source)
    tree = own / _TREE
    tree.mkdir()
    digest = unpack_artefact(reference, own, tree, progress)
    return find_version_folder(tree, source, anywhere=True), f"{replace(reference, digest=digest)}"


def _from_mlflow(source: str, own: Path, wanted: str | None, progress: Progress) -> tuple[Path, str]:
    tree = own / _TREE
    tree.mkdir()
    found = mlflow_registry.download(parse_model_uri(source), tree, progress)
    folder = find_version_folder(tree, source, anywhere=True)
    digest = tree_digest(folder)
    if found.digest not in (None, digest):
        raise RepositoryError(
            f"{source}: the digest of the artefacts is {digest}, version {found.version} was registered with "
            f"{found.digest}: corrupt or replaced; register the version again"
        )
    return folder, f"{source} (version {found.version}, run {found.run_id or 'unknown'})"


def _plain(source: str) -> str:
    """Return a source without the password or the signature that a URL may hold."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
