"""Unpack an OCI artefact: layers that are files by name, as ORAS writes them, and layers that are tar archives."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from warmswap_ops.errors import RepositoryError
from warmswap_ops.provisioning.source import Progress, extract
from warmswap_ops.rollout.sources.oci_descriptor import Descriptor, copy_blob
from warmswap_ops.rollout.sources.oci_layout import OciReference, find_artefact, read_layers
from warmswap_ops.rollout.sources.version_folder import leads_out

_TITLE: Final = "org.opencontainers.image.title"
_UNPACK: Final = "io.deis.oras.content.unpack"
"""ORAS marks a folder that it packed with this; what has a title and not this is a plain file, whatever its type."""
_ARCHIVES: Final = (".tar", ".tar+gzip", ".tar.gzip")
_WHITEOUT: Final = ".wh."


def unpack_artefact(reference: OciReference, scratch: Path, tree: Path, progress: Progress) -> str:
    """Write the files of an artefact into ``tree`` and return the digest of its manifest.

    Args:
        reference: The artefact.
        scratch: Folder for one layer at a time.
        tree: Folder to fill.
        progress: Gets bytes.

    Raises:
        RepositoryError: a blob is missing, corrupt or of an unknown kind, or a path leads out.
        OSError: something cannot be written.
    """
    artefact = find_artefact(reference)
    for layer in read_layers(reference.layout, artefact):
        title = layer.annotations.get(_TITLE)
        if title is not None and layer.annotations.get(_UNPACK) != "true":
            copy_blob(reference.layout, layer, _place(tree, title, reference), progress)
        else:
            _unpack_layer(reference, layer, scratch, tree, progress)
    return artefact.digest


def _place(tree: Path, title: str, reference: OciReference) -> Path:
    target = tree / title
    if leads_out(title):
        raise RepositoryError(f"{reference}: the title {title!r} of a layer leads out of the artefact")
    if target.exists():
        raise RepositoryError(f"{reference}: two layers have the title {title!r}; push the artefact again")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _unpack_layer(reference: OciReference, layer: Descriptor, scratch: Path, tree: Path, progress: Progress) -> None:
    if not layer.media_type.endswith(_ARCHIVES):
        raise RepositoryError(
            f"{reference}: the layer {layer.digest} of the type {layer.media_type!r} has no {_TITLE} and is no tar or "
            "tar+gzip archive; push the files with oras, or as one tar layer"
        )
    archive = scratch / "layer"
    copy_blob(reference.layout, layer, archive, progress)
    try:
        extract(archive, tree, progress)
    except RepositoryError as error:
        raise RepositoryError(f"{reference}: layer {layer.digest}: {error}") from error
    archive.unlink()
    for path in tree.rglob(f"{_WHITEOUT}*"):
        raise RepositoryError(
            f"{reference}: the layer {layer.digest} deletes files of another ({path.name}); push the artefact as "
            "one layer"
        )
