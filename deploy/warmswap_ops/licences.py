"""Which licences may be served: ``commercial`` refuses what is not clearly allowed, ``any`` only warns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from warmswap_ensemble.manifest import Manifest, commercial_use_as_json
from warmswap_ops.errors import LicenceError, UsageError

POLICY_VARIABLE: Final = "WARMSWAP_POLICY"
COMMERCIAL: Final = "commercial"
ANY: Final = "any"

REMEDY: Final = (
    "remove the version, or get a licence and set commercial_use to true in your own manifest, or use --policy any"
)


def find_policy(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the policy: the given one, ``$WARMSWAP_POLICY``, or ``any``.

    Raises:
        UsageError: there is no such policy.
    """
    source, policy = "--policy", given
    if policy is None:
        source, policy = f"${POLICY_VARIABLE}", environ.get(POLICY_VARIABLE) or ANY
    if policy not in (COMMERCIAL, ANY):
        raise UsageError(f"{source} must be {COMMERCIAL} or {ANY}, got {policy!r}")
    return policy


def uncleared(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return those that do not say that commercial use is allowed."""
    return [manifest for manifest in manifests if manifest.commercial_use is not True]


def check_policy(policy: str, manifests: Sequence[Manifest]) -> None:
    """Refuse what the policy forbids.

    Raises:
        LicenceError: names every version that it forbids, and what to do.
    """
    forbidden = uncleared(manifests) if policy == COMMERCIAL else []
    if forbidden:
        raise LicenceError(f"policy {policy} refuses {'; '.join(map(describe, forbidden))}: {REMEDY}")


def describe(manifest: Manifest) -> str:
    """Return what a human must know of a licence that does not clearly allow commercial use."""
    known = (
        "unknown whether commercial use is allowed" if manifest.commercial_use is None else "commercial use forbidden"
    )
    note = f" ({manifest.licence_note})" if manifest.licence_note else ""
    return f"{manifest.model} {manifest.version}, {manifest.name}, licence {manifest.licence}, {known}{note}"


def licence_warnings(manifests: Sequence[Manifest]) -> list[str]:
    """Return a line for each version that ``commercial`` would refuse."""
    return [f"licence: {describe(manifest)}" for manifest in uncleared(manifests)]


def licence_facts(manifest: Manifest) -> dict[str, Any]:
    """Return the licence of a version as JSON values."""
    return {
        "model": manifest.model,
        "version": manifest.version,
        "name": manifest.name,
        "licence": manifest.licence,
        "commercial_use": commercial_use_as_json(manifest.commercial_use),
    }


def twin_warnings(manifests: Sequence[Manifest]) -> list[str]:
    """Return a line for each version whose weights are random numbers."""
    return [
        f"TWIN: {manifest.model} {manifest.version}, {manifest.name}: its weights are random numbers "
        f"(seed {manifest.twin_seed}); serve it to measure with, its pictures mean nothing"
        for manifest in manifests
        if manifest.twin
    ]
