"""States of a rollout on disk, and what pipelines have observed of it: what the tests of rollouts share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.routes import OBSERVATIONS_SUFFIX, ROUTES_NAME, Rollout, Routes

WAIT_S: Final = 30.0
"""Longest wait for something that must come; nothing waits for it to pass."""
PATIENT_MS: Final = 60_000.0


def make_rollout(
    versions: Mapping[str, tuple[int, int]] | None = None,
    *,
    name: str = "r1",
    share: float = 1.0,
    shadow: float = 0.0,
    watched_s: float = 3600.0,
    patience_ms: float = PATIENT_MS,
) -> Rollout:
    return Rollout(name, versions or {"face_detector": (1, 2)}, share, shadow, time.time() + watched_s, patience_ms)


def write_text(repository: Path, text: str) -> None:
    """Replace the state as the operations side does."""
    new = repository / f".{ROUTES_NAME}-new"
    new.write_text(text, encoding="utf-8")
    os.replace(new, repository / ROUTES_NAME)


def write_routes(repository: Path, routes: Routes) -> None:
    write_text(repository, json.dumps(routes.as_json()))


def write_rollout(repository: Path, rollout: Rollout | None, **pins: int) -> None:
    write_routes(repository, Routes(pins=pins, rollout=rollout))


def observed(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the observations of all processes and rollouts."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"*{OBSERVATIONS_SUFFIX}")):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in found if kind is None or line["kind"] == kind]
