"""What a swapper must be told of the source's identity, and whether an embedder can tell it.

Embeddings of different networks never mix: a swapper that wants one names the *embedding space* it was trained on, an
embedder the space that it makes. Pure functions over manifest settings; standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

SOURCE_EMBEDDING: Final = "source_embedding"
IDENTITY_INPUTS: Final = ("source_crop_rgb", "source_landmarks", SOURCE_EMBEDDING)
"""Inputs of a swapper that tell whom to put in; its setting ``identity`` lists those that it uses."""


class IdentityError(Exception):
    """A version does not say what it needs or makes, or two versions do not fit."""


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """What embeddings may be compared, or fed to a swapper.

    Attributes:
        name: For example ``dlib_resnet_v1``.
        length: Numbers in one embedding.
    """

    name: str
    length: int

    def __str__(self) -> str:
        """Return both, for a message."""
        return f"{self.name} ({self.length} numbers)"


class SpaceMismatchError(IdentityError):
    """A swapper wants other embeddings than an embedder makes.

    Attributes:
        wanted: What the swapper wants.
        mismatch: Both versions and both spaces.
        remedy: What to do.
    """

    def __init__(self, wanted: EmbeddingSpace, mismatch: str, remedy: str) -> None:
        """Join both into one sentence."""
        super().__init__(f"{mismatch}: {remedy}")
        self.wanted = wanted
        self.mismatch = mismatch
        self.remedy = remedy


class Version(Protocol):
    """A stage or a manifest."""

    @property
    def model(self) -> str:
        """Name in the repository."""

    @property
    def version(self) -> int:
        """Number of the version directory."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """``settings`` of the manifest."""


def wanted_space(swapper: Version) -> EmbeddingSpace | None:
    """Return the space whose embeddings a swapper wants, or None when it uses none.

    Raises:
        IdentityError: its settings do not say so properly.
    """
    inputs = swapper.settings.get("identity")
    if not isinstance(inputs, list) or not inputs or any(name not in IDENTITY_INPUTS for name in inputs):
        raise IdentityError(
            f"{swapper.model} {swapper.version}: setting identity must list what the swapper uses out of "
            f"{', '.join(IDENTITY_INPUTS)}; got {inputs!r}"
        )
    return space_of(swapper) if SOURCE_EMBEDDING in inputs else None


def space_of(version: Version) -> EmbeddingSpace:
    """Return the space that the settings of a version name: what an embedder makes, or a swapper wants.

    Raises:
        IdentityError: they do not name it properly.
    """
    name, length = (version.settings.get(key) for key in ("embedding_space", "embedding_length"))
    if not isinstance(name, str) or not name:
        raise IdentityError(f"{version.model} {version.version}: setting embedding_space must be a name, got {name!r}")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise IdentityError(
            f"{version.model} {version.version}: setting embedding_length must be a whole number above 0, "
            f"got {length!r}"
        )
    return EmbeddingSpace(name, length)


def check_pair(swapper: Version, embedder: Version) -> None:
    """Refuse a swapper and an embedder that do not belong together.

    Raises:
        SpaceMismatchError: they do not; the text names both and what to do.
        IdentityError: one of them does not say what it wants or makes.
    """
    wanted = wanted_space(swapper)
    if wanted is None:
        return
    made = space_of(embedder)
    if made != wanted:
        raise SpaceMismatchError(
            wanted,
            f"{swapper.model} {swapper.version} wants embeddings of the space {wanted}, but {embedder.model} "
            f"{embedder.version} makes {made}",
            f"pin another version with parameter stage_version.{embedder.model} (or stage_version.{swapper.model}) in "
            "the pipeline's config.pbtxt, or export a matching pair",
        )
