"""Blobs of an OCI image layout, each read as far as its descriptor says and held against its size and sha256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warmswap_ops.errors import RepositoryError
from warmswap_ops.provisioning.source import BLOCK_BYTES, SHA256, Progress

MAX_JSON_BYTES: Final = 4 << 20
"""What registries accept as a manifest."""
_ALGORITHM: Final = "sha256:"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What an index or a manifest says of a blob.

    Attributes:
        media_type: Of the blob.
        digest: With its algorithm, for example ``sha256:1f...``.
        size: Bytes.
        annotations: Free texts by name.
    """

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str]


def check_digest(digest: object, where: str) -> str:
    """Return a digest that can be checked.

    Raises:
        RepositoryError: it is none, or of another algorithm than sha256.
    """
    if not isinstance(digest, str) or not digest.startswith(_ALGORITHM):
        raise RepositoryError(f"{where}: the digest {digest!r} is not supported; it must be a sha256:<hex>")
    if not SHA256.fullmatch(digest.removeprefix(_ALGORITHM)):
        raise RepositoryError(f"{where}: {digest!r} is no sha256 of 64 hexadecimal digits in small letters")
    return digest


def parse_descriptor(values: object, where: str) -> Descriptor:
    """Read one descriptor.

    Raises:
        RepositoryError: a field is missing or holds what it must not.
    """
    if not isinstance(values, dict):
        raise RepositoryError(f"{where}: a descriptor must be a JSON object, got {values!r}")
    digest = check_digest(values.get("digest"), where)
    size, media_type = values.get("size"), values.get("mediaType")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise RepositoryError(f"{where}: the size of {digest} must be a whole number from 0, got {size!r}")
    if not isinstance(media_type, str):
        raise RepositoryError(f"{where}: the mediaType of {digest} must be a text, got {media_type!r}")
    annotations = values.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(text, str) for text in annotations.values()):
        raise RepositoryError(f"{where}: the annotations of {digest} must be an object of texts, got {annotations!r}")
    return Descriptor(media_type, digest, size, annotations)


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RepositoryError: it is none.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RepositoryError(f"{where} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise RepositoryError(f"{where} must hold a JSON object, got {type(values).__name__}")
    return values


def read_blob(layout: Path, descriptor: Descriptor) -> bytes:
    """Return a small blob.

    Raises:
        RepositoryError: it is too large, missing, or not what its descriptor says.
    """
    if descriptor.size > MAX_JSON_BYTES:
        raise RepositoryError(
            f"{layout}: the manifest {descriptor.digest} is {descriptor.size} bytes, more than {MAX_JSON_BYTES}"
        )
    return b"".join(_checked_blocks(layout, descriptor))


def copy_blob(layout: Path, descriptor: Descriptor, target: Path, progress: Progress) -> None:
    """Copy a blob into a file.

    Raises:
        RepositoryError: it is missing, or not what its descriptor says.
        OSError: the file cannot be written.
    """
    with target.open("wb") as out:
        _copy(_checked_blocks(layout, descriptor), out.write, progress)
    target.chmod(0o644)


def _copy(blocks: Iterator[bytes], write: Callable[[bytes], object], progress: Progress) -> None:
    for block in blocks:
        write(block)
        progress(len(block))


def _checked_blocks(layout: Path, descriptor: Descriptor) -> Iterator[bytes]:
    path = layout / "blobs" / "sha256" / descriptor.digest.removeprefix(_ALGORITHM)
    if not path.is_file():
        raise RepositoryError(f"{layout}: the blob {descriptor.digest} is missing; copy the artefact again")
    sha256, left = hashlib.sha256(), descriptor.size
    with path.open("rb") as file:
        while left and (block := file.read(min(BLOCK_BYTES, left))):
            left -= len(block)
            sha256.update(block)
            yield block
        if left or file.read(1):
            actual, relation = path.stat().st_size, "truncated" if left else "too long"
            raise RepositoryError(
                f"{layout}: the blob {descriptor.digest} is {relation}: {actual} bytes, its descriptor says "
                f"{descriptor.size}; copy the artefact again"
            )
    if _ALGORITHM + sha256.hexdigest() != descriptor.digest:
        raise RepositoryError(
            f"{layout}: the blob {descriptor.digest} has the sha256 {sha256.hexdigest()}: corrupt or replaced; copy "
            "the artefact again"
        )
