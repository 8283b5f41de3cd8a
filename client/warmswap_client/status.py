"""What a server says about itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

# "Internal: TritonModelException: <reason>\n\nAt:\n  <file>(<line>): initialize\n"
_WRAPPING: Final = re.compile(r"\A(?:[A-Z][A-Za-z ]{2,20}: )?(?:TritonModelException: )?|\n\s*At:\n.*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of one model.

    Attributes:
        name: The model.
        version: Empty if no version was ever loaded.
        state: ``READY``, ``LOADING``, ``UNLOADING``, ``UNAVAILABLE``, or empty if no load was ever tried.
        reason: Why it is in that state, in the server's words, without the trace of its Python code.
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


@dataclass(frozen=True, slots=True)
class NotReady:
    """A model of the contract that answers no requests.

    Attributes:
        model: Its name.
        reason: Why, as far as the server tells.
    """

    model: str
    reason: str


def not_ready(models: Iterable[ModelStatus], needed: Iterable[str]) -> list[NotReady]:
    """Return those of the needed models that have no version READY.

    Args:
        models: The repository index.
        needed: Names, in the order of the answer.
    """
    by_name: dict[str, list[ModelStatus]] = {}
    for model in models:
        by_name.setdefault(model.name, []).append(model)
    found: list[NotReady] = []
    for name in needed:
        versions = by_name.get(name, [])
        if any(version.state == "READY" for version in versions):
            continue
        reasons = [version.reason for version in versions if version.reason]
        states = [version.state.lower() for version in versions if version.state]
        default = states[0] if states else "not loaded" if versions else "not in the server's repository"
        found.append(NotReady(name, "; ".join(reasons) or default))
    return found


def readable_reason(reason: str) -> str:
    """Return what Triton says of a failed load in one line, without wrappers and the trace of the Python backend."""
    return " ".join(_WRAPPING.sub("", reason).split()).rstrip("; ")


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
