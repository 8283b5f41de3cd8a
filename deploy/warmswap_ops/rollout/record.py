"""What is remembered of a rollout on every replica, and which state of the routes each of its phases is.

    begun, staged, proven, loaded, shadow, canary (one step after the other), promoted, done
    from each of them: rolling_back, rolled_back

The phase is written down before what it stands for is done, and everything done for it may be done again: so whoever
finds the record can go on, wherever the tool was killed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from warmswap_ensemble.routes import Rollout, Routes
from warmswap_ops.errors import RepositoryError


class Phase(StrEnum):
    """Where a rollout is."""

    BEGUN = "begun"
    STAGED = "staged"
    PROVEN = "proven"
    LOADED = "loaded"
    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTED = "promoted"
    DONE = "done"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


OVER = (Phase.DONE, Phase.ROLLED_BACK)
_SHARED_OUT = (Phase.LOADED, Phase.SHADOW, Phase.CANARY)


@dataclass(frozen=True, slots=True)
class Record:
    """A rollout.

    Attributes:
        id: Its name.
        phase: Where it is.
        versions: Model to (stable, candidate).
        candidates: Model to ``origin`` and ``digest`` of what was brought.
        plan: As JSON values.
        who: Who leads it, for people.
        owner: The same for programs: another one may take over when the lease is over.
        sequence: Goes up with every change; of two replicas the higher one knows better.
        step: Of the plan, from 0, in the phase ``canary``.
        since_s: When the phase, or the step, began; the tool's clock.
        started_s: When the rollout began.
        reason: Why it is rolled back.
        gates: The last verdicts.
        proofs: Replica to what its trial has found.
        lease_until_s: Set by the replica.
    """

    id: str
    phase: Phase
    versions: Mapping[str, tuple[int, int]]
    candidates: Mapping[str, Mapping[str, str]]
    plan: Mapping[str, Any]
    who: str
    owner: str
    sequence: int = 0
    step: int = 0
    since_s: float = 0.0
    started_s: float = 0.0
    reason: str = ""
    gates: list[dict[str, Any]] = field(default_factory=list)
    proofs: Mapping[str, Any] = field(default_factory=dict)
    lease_until_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase in OVER

    @property
    def stable(self) -> dict[str, int]:
        """Model to the version that served when it began."""
        return {model: pair[0] for model, pair in self.versions.items()}

    @property
    def candidate(self) -> dict[str, int]:
        """Model to the version that is to serve."""
        return {model: pair[1] for model, pair in self.versions.items()}

    @property
    def versions_json(self) -> dict[str, list[int]]:
        """The versions as JSON values."""
        return {model: list(pair) for model, pair in self.versions.items()}

    def is_of(self, digests: Mapping[str, str]) -> bool:
        """Whether it brings these candidates: model to digest."""
        return {model: candidate["digest"] for model, candidate in self.candidates.items()} == dict(digests)

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"versions": self.versions_json}


def parse_record(values: Mapping[str, Any]) -> Record | None:
    """Return the record of a replica; ``None`` where there was no rollout yet.

    Raises:
        RepositoryError: it cannot be understood.
    """
    if not values:
        return None
    try:
        versions = {model: (int(pair[0]), int(pair[1])) for model, pair in values["versions"].items()}
        return Record(**{**values, "versions": versions, "phase": Phase(values["phase"])})
    except (AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise RepositoryError(f"the record of the last rollout cannot be understood: {error}") from error


def routes_for(record: Record, before: Routes, share: float, shadow: float, patience_ms: float) -> Routes:
    """Return the state that a replica must have now.

    Args:
        record: The rollout.
        before: The replica's last state.
        share: Of the requests that the candidate answers, in the phase ``canary``.
        shadow: Of the requests that the candidate is shown, in the phases ``shadow`` and ``canary``.
        patience_ms: How long a request waits for the candidate.
    """
    pins = {model: version for model, version in before.pins.items() if model not in record.versions}
    rollout = None
    if record.phase in _SHARED_OUT:
        rollout = Rollout(
            record.id,
            record.versions,
            share=share if record.phase is Phase.CANARY else 0.0,
            shadow=0.0 if record.phase is Phase.LOADED else shadow,
            patience_ms=patience_ms,
        )
    elif record.phase is Phase.PROMOTED:  # the other way round: now the old version is the one that waits
        rollout = Rollout(record.id, {model: (pair[1], pair[0]) for model, pair in record.versions.items()})
    serving = record.candidate if record.phase in (Phase.PROMOTED, Phase.DONE) else record.stable
    used = {
        **before.used,
        **{model: max(before.used.get(model, 0), *pair) for model, pair in record.versions.items()},
    }
    return Routes(before.generation + 1, {**pins, **serving}, rollout, used, record.as_json())


def without_needless_pins(routes: Routes, highest: Mapping[str, int]) -> Routes:
    """Return the state without pins to versions that would answer anyway: the highest ones."""
    pins = {model: version for model, version in routes.pins.items() if highest.get(model) != version}
    return replace(routes, pins=pins)
