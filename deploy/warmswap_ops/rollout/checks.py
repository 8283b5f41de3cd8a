"""What is wrong with a candidate, as far as its files tell: asked before anything is sent to a replica."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import PIPELINE_STAGES, model_spec
from warmswap_ensemble.manifest import MANIFEST_NAME, Manifest, ManifestError, read_manifest, verify_files
from warmswap_ops.errors import CandidateStoppedError, UsageError
from warmswap_ops.licences import check_policy
from warmswap_ops.rollout.staging import file_table

PIPELINE_FILE: Final = "model.py"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is to be rolled out.

    Attributes:
        model: Whose version it is to become.
        folder: Its files; nobody else changes them.
        origin: Where it came from, for the history.
        digest: Of its content.
        files: Name to sha256 of each.
        manifest: ``None`` for a pipeline without one.
    """

    model: str
    folder: Path
    origin: str
    digest: str
    files: Mapping[str, str]
    manifest: Manifest | None

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the history tells of it."""
        facts: dict[str, Any] = {"origin": self.origin, "digest": self.digest}
        if self.manifest is not None:
            facts |= {"name": self.manifest.name, "sha256": self.manifest.sha256, "licence": self.manifest.licence}
        return facts


def check_candidate(model: str, folder: Path, origin: str, digest: str, policy: str) -> Candidate:
    """Verify a candidate.

    Args:
        model: Whose version it is to become.
        folder: Its files.
        origin: Where it came from.
        digest: Of its content.
        policy: Whose licences may be served.

    Raises:
        UsageError: there is no such model.
        CandidateStoppedError: its manifest, its files or its parity figures speak against it.
        LicenceError: the policy forbids its licence.
    """
    if model_spec(model) is None:
        raise UsageError(f"there is no model {model!r}; known are the stages, their variants and the pipelines")
    if model in PIPELINE_STAGES:
        if not (folder / PIPELINE_FILE).is_file():
            raise CandidateStoppedError(f"{origin}: a version of the pipeline {model} needs {PIPELINE_FILE}")
        manifest = None
    else:
        manifest = _check_manifest(model, folder, origin)
        check_policy(policy, [manifest])
    return Candidate(model, folder, origin, digest, file_table(folder), manifest)


def _check_manifest(model: str, folder: Path, origin: str) -> Manifest:
    try:
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
    except ManifestError as error:
        raise CandidateStoppedError(f"{origin}: {error.path.name}: {error.reason}") from error
    if manifest.model != model:
        raise CandidateStoppedError(
            f"{origin}: {MANIFEST_NAME} is of {manifest.model}, not of {model}: roll it out as that, or choose another"
        )
    if not manifest.files:
        raise CandidateStoppedError(f"{origin}: {MANIFEST_NAME} names no files: export the model again")
    if manifest.compiled is not None:
        raise CandidateStoppedError(
            f"{origin}: it was compiled for one machine; roll out what was exported, and compile on the replicas"
        )
    _check_parity(manifest, origin)
    return manifest


def _check_parity(manifest: Manifest, origin: str) -> None:
    """Refuse a version whose exporter did not compare it with anything, or found that it differs."""
    if not manifest.parity:
        raise CandidateStoppedError(f"{origin}: no parity figures in {MANIFEST_NAME}: export it with warmswap export")
    for reference, outputs in manifest.parity.items():
        for output, figures in outputs.items():
            if not isinstance(figures, dict):
                continue
            difference, tolerance = figures.get("largest_difference"), figures.get("tolerance")
            if not isinstance(difference, int | float) or not isinstance(tolerance, int | float):
                continue
            if not (math.isfinite(difference) and difference <= tolerance):
                raise CandidateStoppedError(
                    f"{origin}: against {reference}, {output} differs by {difference:g}, allowed is {tolerance:g}"
                )
