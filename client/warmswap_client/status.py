"""What a server says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of one model.

    Attributes:
        name: The model.
        version: Empty if no version was ever loaded.
        state: ``READY``, ``LOADING``, ``UNLOADING``, ``UNAVAILABLE``, or empty if no load was ever tried.
        reason: Why it is in that state, in the server's words.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server at one moment.

    Attributes:
        url: Where it was asked.
        live: Whether it runs.
        ready: Whether ``face_swap`` answers requests. This is the signal to rely on.
        server_ready: Triton's own readiness: false while, or for ever after, any load fails (``--strict-readiness``).
        name: As given by ``--id``; ``triton`` for a server that warmswap did not start.
        version: Of Triton.
        runtime: Versions of ``triton``, ``warmswap`` and ``onnxruntime``; None where the server does not say.
        models: Every version in the repository index.
    """

    url: str
    live: bool
    ready: bool
    server_ready: bool
    name: str
    version: str
    runtime: Mapping[str, str | None]
    models: tuple[ModelStatus, ...]


def parse_runtime(name: str, version: str) -> dict[str, str | None]:
    """Read the versions out of the server's metadata.

    Args:
        name: Such as ``warmswap/0.1.0 onnxruntime/1.32.0``; words without a slash say nothing.
        version: Of Triton.
    """
    runtime: dict[str, str | None] = {"triton": version or None, "warmswap": None, "onnxruntime": None}
    for word in name.split():
        part, slash, part_version = word.partition("/")
        if slash and part and part_version and part != "triton":
            runtime[part] = part_version
    return runtime
