"""Verifies what a repository holds: files against manifest, graph against contract and references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from warmswap_ensemble.contract import STAGES, swapper_variant
from warmswap_ensemble.manifest import Manifest, ManifestError, read_manifest, verify_files, version_dirs
from warmswap_export.errors import ExportError
from warmswap_export.export import MODEL_FILE, PackBuild, Progress
from warmswap_export.packs import Pack, load_pack, pack_names
from warmswap_export.parity import Difference, as_manifest
from warmswap_export.sources import WeightOptions


@dataclass(slots=True)
class Verification:
    """What was found of one version.

    Attributes:
        model: Stage.
        version: Version directory.
        problems: What is wrong, in sentences; empty where nothing is.
        differences: Parity figures measured now.
    """

    model: str
    version: str
    problems: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there is nothing to complain of."""
        return not self.problems and all(item.passed for item in self.differences)

    def lines(self) -> list[str]:
        """Return one line per finding, for people."""
        figures = [
            f"{item.output}: differs from {item.check} by {item.largest:.2g}, allowed {item.tolerance:g}"
            + ("" if item.passed else "  <-- too much")
            for item in self.differences
        ]
        return [*self.problems, *figures]

    def as_json(self) -> dict[str, Any]:
        """Return the finding for scripts."""
        return {
            "model": self.model,
            "version": self.version,
            "passed": self.passed,
            "problems": self.problems,
            "parity": as_manifest(self.differences),
        }


def verify_repository(
    repository: Path,
    stages: Sequence[str],
    weights: WeightOptions | None = None,
    own_packs: Sequence[str] = (),
    progress: Progress = lambda model, step: None,
) -> list[Verification]:
    """Verify every version of the stages (all, or those named).

    Args:
        repository: What to verify.
        stages: Models; empty = all.
        weights: Where the published files lie that the versions were made of.
        own_packs: Paths of pack files that do not ship with this package.
        progress: Called with a stage and what is being done.

    Raises:
        ExportError: a name is no stage, the repository holds none, or a pack file is wrong.
    """
    variants = sorted(path.name for path in repository.glob("*") if swapper_variant(path.name))
    known = [*(spec.name for spec in STAGES), *variants]
    for name in stages:
        if name not in known:
            raise ExportError(f"{name!r} is no stage; stages are {', '.join(known)}")
    found = [path for name in stages or known for path in version_dirs(repository / name)]
    if not found:
        raise ExportError(f"{repository} holds no version of {', '.join(stages or known)}")
    packs = {stage.pack: pack for pack in map(load_pack, own_packs) for stage in pack.stages}
    return [_verify(path, packs, weights or WeightOptions(), progress) for path in found]


def _verify(version_dir: Path, packs: dict[str, Pack], weights: WeightOptions, progress: Progress) -> Verification:
    result = Verification(version_dir.parent.name, version_dir.name)
    try:
        manifest = read_manifest(version_dir)
        verify_files(version_dir, manifest)
    except ManifestError as error:
        result.problems.append(str(error))
        return result
    result.problems += _identity_problems(manifest, result)
    if manifest.pack not in {*packs, *pack_names()}:
        result.problems.append(f"parity was not measured: name the file of pack {manifest.pack!r} with --pack")
        return result
    try:
        pack = packs.get(manifest.pack) or load_pack(manifest.pack)
        data = (version_dir / MODEL_FILE).read_bytes()
        with PackBuild(pack, progress, replace(weights, twin_seed=manifest.twin_seed)) as build:
            result.differences = build.measure(manifest.model, data, manifest.precision)
    except (OSError, ExportError) as error:
        result.problems.append(f"parity was not measured: {error}")
    return result


def _identity_problems(manifest: Manifest, result: Verification) -> list[str]:
    problems = []
    if manifest.model != result.model:
        problems.append(f"manifest is of {manifest.model}, it lies under {result.model}")
    if str(manifest.version) != result.version:
        problems.append(f"manifest is of version {manifest.version}, it lies under {result.version}")
    return problems
