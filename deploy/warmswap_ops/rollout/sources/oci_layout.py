"""An OCI image layout on disk: which artefact is meant, and which layers it has.

``oci:DIR``, ``oci:DIR:TAG`` and ``oci:DIR@sha256:...``; the format is that of the OCI image specification 1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_ops.errors import RepositoryError, UsageError
from warmswap_ops.rollout.sources.oci_descriptor import (
    MAX_JSON_BYTES,
    Descriptor,
    check_digest,
    parse_descriptor,
    parse_json,
    read_blob,
)

SCHEME: Final = "oci:"
LAYOUT_NAME: Final = "oci-layout"
_INDEX_NAME: Final = "index.json"
_LAYOUT_VERSION: Final = "1.0.0"
_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_TAG: Final = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class OciReference:
    """One artefact of a layout.

    Attributes:
        layout: Folder with ``oci-layout``.
        tag: Its name in the layout; ``None`` = whatever is there.
        digest: Of its manifest; ``None`` = whatever is there.
    """

    layout: Path
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        """Write it as an operator would."""
        tag = "" if self.tag is None else f":{self.tag}"
        return f"{SCHEME}{self.layout}{tag}" + ("" if self.digest is None else f"@{self.digest}")


def parse_reference(source: str) -> OciReference:
    """Read ``[oci:]DIR[:TAG][@sha256:...]``; a folder that is there wins over a tag.

    Raises:
        UsageError: no folder is named, or an empty tag.
        RepositoryError: the digest is none, or there is no layout.
    """
    rest, digest, tag = source.removeprefix(SCHEME), None, None
    before, _, named = rest.rpartition("@")
    if before and ":" in named and "/" not in named and not Path(rest).is_dir():
        rest, digest = before, check_digest(named, source)
    if not Path(rest).is_dir() and ":" in rest:
        rest, _, tag = rest.rpartition(":")
    if not rest or tag == "":
        raise UsageError(f"--from {source!r} must be oci:DIR, oci:DIR:TAG or oci:DIR@sha256:<hex>")
    if not (Path(rest) / LAYOUT_NAME).is_file():
        raise RepositoryError(f"{source}: {rest} is no OCI image layout, for it has no file {LAYOUT_NAME}")
    return OciReference(Path(rest).resolve(), tag, digest)


def find_artefact(reference: OciReference) -> Descriptor:
    """Return the descriptor of the manifest that is meant.

    Raises:
        RepositoryError: the layout is of an unknown form, or holds no such artefact, or several.
    """
    layout = reference.layout
    version = _read_json(layout / LAYOUT_NAME).get("imageLayoutVersion")
    if version != _LAYOUT_VERSION:
        raise RepositoryError(f"{layout}: imageLayoutVersion must be {_LAYOUT_VERSION!r}, got {version!r}")
    index = _read_json(layout / _INDEX_NAME)
    where = f"{layout / _INDEX_NAME}"
    _check_form(index, _INDEX_TYPE, where)
    manifests = index.get("manifests")
    if not isinstance(manifests, list):
        raise RepositoryError(f"{where}: manifests must be a list, got {manifests!r}")
    there = [parse_descriptor(values, where) for values in manifests]
    chosen = {
        descriptor.digest: descriptor
        for descriptor in there
        if reference.tag in (None, descriptor.annotations.get(_TAG)) and reference.digest in (None, descriptor.digest)
    }
    if len(chosen) != 1:
        tags = ", ".join(sorted({descriptor.annotations.get(_TAG, descriptor.digest) for descriptor in there}))
        problem = f"matches {len(chosen)} artefacts" if chosen else "is not in the layout"
        raise RepositoryError(f"{reference} {problem}; name one of: {tags or '(the layout is empty)'}")
    return next(iter(chosen.values()))


def read_layers(layout: Path, artefact: Descriptor) -> list[Descriptor]:
    """Return what the manifest of an artefact lists; its config is not looked at.

    Raises:
        RepositoryError: it is no manifest of a form that is known, corrupt, or lists nothing.
    """
    where = f"{layout}: manifest {artefact.digest}"
    if artefact.media_type != _MANIFEST_TYPE:
        raise RepositoryError(
            f"{where} is of the type {artefact.media_type!r}, not {_MANIFEST_TYPE}; copy one artefact, not an index of "
            "several platforms or a Docker image"
        )
    manifest = parse_json(read_blob(layout, artefact), where)
    _check_form(manifest, _MANIFEST_TYPE, where)
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not layers:
        raise RepositoryError(f"{where}: layers must be a list of at least one, got {layers!r}")
    return [parse_descriptor(values, where) for values in layers]


def _check_form(values: dict[str, object], media_type: str, where: str) -> None:
    if values.get("schemaVersion") != 2:
        raise RepositoryError(f"{where}: schemaVersion must be 2, got {values.get('schemaVersion')!r}")
    if values.get("mediaType", media_type) != media_type:
        raise RepositoryError(f"{where}: mediaType must be {media_type!r}, got {values['mediaType']!r}")


def _read_json(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise RepositoryError(f"{path} is missing; copy the artefact again")
    with path.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise RepositoryError(
            f"{path} is larger than {MAX_JSON_BYTES} bytes; copy one artefact into a layout of its own"
        )
    return parse_json(content, f"{path}")
