"""Which versions answer requests, and how a rollout shares them out: ``rollout.json`` in the model repository.

One file holds the whole state, so that it changes at once: it is replaced, never written in place. Every pipeline
process looks at its inode before each request, a matter of microseconds; a change needs no reload, holds for all
processes that see the file, and outlives them. Standard library only: the operations side writes what this reads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import PIPELINE_STAGES

ROUTES_NAME: Final = "rollout.json"
SCHEMA_VERSION: Final = 1
DEFAULT_PATIENCE_MS: Final = 3000.0
CANDIDATE_SUFFIX: Final = "_candidate"
"""A candidate of a pipeline is loaded as a model of its own: Triton sends whoever names no version to the highest."""

ROLLOUT_FOLDER_VARIABLE: Final = "WARMSWAP_ROLLOUT_FOLDER"
"""Where the launcher lets pipelines leave what they observe; without it they observe nothing."""
OBSERVATIONS_SUFFIX: Final = ".observed"
SERVED_REPOSITORY_VARIABLE: Final = "WARMSWAP_SERVED_REPOSITORY"
"""Where the launcher tells the rollout agent what is served: the agent's own folder is a temporary one."""
PYTHON_VARIABLE: Final = "WARMSWAP_PYTHON"
"""The interpreter to start other processes with: a stub does not know its own."""
CONTROL_DIGEST_VARIABLE: Final = "WARMSWAP_CONTROL_SHA256"
"""sha256 of the control token, for the rollout agent; empty where the control API is open."""

MAX_PATIENCE_MS: Final = 3.6e6

_BUCKETS: Final = 1 << 32
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Of a rollout; part of file names."""


class RoutesError(Exception):
    """The file cannot be understood; the text names it."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout under way.

    Attributes:
        id: Its name; also what shares requests out, so that all processes and replicas do it alike.
        versions: Model to (stable, candidate). Several models are one set: a request meets either all of the first or
            all of the second.
        share: Part of the requests that the candidate answers, 0 to 1.
        shadow: Part of the requests that the candidate is shown after the stable version has answered them, 0 to 1.
        expires_s: Seconds since 1970; after that both shares count as 0: nobody watches over it any more.
        patience_ms: How long a request waits for the candidate before the stable version answers it.
    """

    id: str
    versions: Mapping[str, tuple[int, int]]
    share: float = 0.0
    shadow: float = 0.0
    expires_s: float = 0.0
    patience_ms: float = DEFAULT_PATIENCE_MS

    @property
    def stable(self) -> dict[str, int]:
        """Model to the version that answers now."""
        return {model: versions[0] for model, versions in self.versions.items()}

    @property
    def candidate(self) -> dict[str, int]:
        """Model to the version that may."""
        return {model: versions[1] for model, versions in self.versions.items()}

    def is_watched(self, now_s: float | None = None) -> bool:
        """Whether whoever leads it has been heard of lately."""
        return (time.time() if now_s is None else now_s) < self.expires_s

    def is_candidates(self, key: str) -> bool:
        """Whether the candidate answers requests of this key; one that does goes on to as the share grows."""
        return _position(f"{self.id}:answer:{key}") < self.share

    def is_shadowed(self, key: str) -> bool:
        """Whether the candidate is shown the request of this key."""
        return _position(f"{self.id}:shadow:{key}") < self.shadow


@dataclass(frozen=True, slots=True)
class Routes:
    """The state of a repository.

    Attributes:
        generation: Goes up with every change.
        pins: Model to the version that answers; one that is not named answers with its highest.
        rollout: The one under way, if there is one.
        used: Model to the highest number that a version ever had: no number is used twice.
        record: What the operations side remembers of the rollout; pipelines do not look at it.
    """

    generation: int = 0
    pins: Mapping[str, int] = field(default_factory=dict)
    rollout: Rollout | None = None
    used: Mapping[str, int] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stable(self) -> dict[str, int]:
        """Model to the version that answers, where that is not the highest for sure."""
        return {**self.pins, **(self.rollout.stable if self.rollout else {})}

    def needed(self, model: str) -> tuple[int, ...]:
        """Return the versions of a model that must be loaded; empty = its configuration decides.

        Of a pipeline none that is higher than the one that answers: Triton would send everybody there.
        """
        versions = {self.stable[model]} if model in self.stable else set()
        if self.rollout and model in self.rollout.versions:
            versions |= set(self.rollout.versions[model])
        if model in PIPELINE_STAGES:
            versions = {version for version in versions if version <= self.stable[model]}
        return tuple(sorted(versions))

    def as_json(self) -> dict[str, Any]:
        """Return JSON values, for ``parse_routes``."""
        rollout = self.rollout
        return {
            "schema_version": SCHEMA_VERSION,
            "generation": self.generation,
            "pins": dict(self.pins),
            "rollout": None
            if rollout is None
            else {
                "id": rollout.id,
                "versions": {model: list(versions) for model, versions in rollout.versions.items()},
                "share": rollout.share,
                "shadow": rollout.shadow,
                "expires_s": rollout.expires_s,
                "patience_ms": rollout.patience_ms,
            },
            "used": dict(self.used),
            "record": dict(self.record),
        }


def parse_routes(values: Any, origin: str) -> Routes:
    """Return the state that JSON values hold.

    Raises:
        RoutesError: they are not what ``as_json`` gives.
    """
    try:
        if values["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version must be {SCHEMA_VERSION}, got {values['schema_version']!r}")
        of = values["rollout"]
        rollout = None
        if of is not None:
            versions = {str(model): _pair(pair) for model, pair in of["versions"].items()}
            shares = {name: _share(of[name], name) for name in ("share", "shadow")}
            rollout = Rollout(
                _id(of["id"]),
                versions,
                **shares,
                expires_s=_seconds(of["expires_s"]),
                patience_ms=_patience(of["patience_ms"]),
            )
        return Routes(
            generation=_generation(values["generation"]),
            pins={str(model): _version(version) for model, version in values["pins"].items()},
            rollout=rollout,
            used={str(model): _version(version) for model, version in values["used"].items()},
            record=dict(values["record"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RoutesError(f"{origin} is no rollout state: {type(error).__name__}: {error}") from error


def read_routes(repository: Path) -> Routes:
    """Return the state of a repository; one without the file never had a rollout.

    Raises:
        RoutesError: the file cannot be read or understood.
    """
    path = repository / ROUTES_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Routes()
    except (OSError, UnicodeDecodeError) as error:
        raise RoutesError(f"{path} cannot be read: {error}") from error
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RoutesError(f"{path} is not JSON: {error}") from error
    return parse_routes(values, str(path))


class RouteFile:
    """The state of a repository as a pipeline process sees it: ``look`` before each request."""

    def __init__(self, repository: Path) -> None:
        """Read the file for the first time.

        Raises:
            RoutesError: it cannot be understood; there is nothing to fall back to.
        """
        self._repository = repository
        self._path = repository / ROUTES_NAME
        self._seen = self._identity()
        self.routes = read_routes(repository)

    def look(self) -> str | None:
        """Read the file again if it is another one; ``routes`` stays as it was where the new one is of no use.

        Returns:
            What is wrong with a new file, once.
        """
        identity = self._identity()
        if identity == self._seen:
            return None
        self._seen = identity
        if identity is None:  # whoever removes it does not know better than the last rollout did
            return f"{self._path} is gone; its last state stays in force until the process is started again"
        try:
            self.routes = read_routes(self._repository)
        except RoutesError as error:
            return f"{error}; the last state stays in force"
        return None

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def _position(text: str) -> float:
    """Return a place in [0, 1) that any process finds for this text."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:4]) / _BUCKETS


def _version(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"a version must be a whole number above 0, got {value!r}")
    return value


def _pair(value: Any) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"versions must name two of each model, got {value!r}")
    return _version(value[0]), _version(value[1])


def _generation(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"generation must be a whole number from 0, got {value!r}")
    return value


def _id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"id must be 1 to 128 letters, digits, dots, dashes and underscores, got {value!r}")
    return value


def _seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < math.inf:
        raise ValueError(f"expires_s must be a number, got {value!r}")
    return float(value)


def _patience(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_PATIENCE_MS:
        raise ValueError(f"patience_ms must be a number above 0, at most {MAX_PATIENCE_MS:g}, got {value!r}")
    return float(value)


def _share(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)
