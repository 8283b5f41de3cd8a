"""Brings the files of a stage together: fetched from packages, found in the user's folders, or made as twins.

Whatever they are, ONNX files come out: checkpoints are loaded into their network and published first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto, numpy_helper

from warmswap_export.errors import PackError
from warmswap_export.fetch import fetch
from warmswap_export.packs import StagePack
from warmswap_export.weights import FoundFile, default_folders, find_weights, read_emap, sha256_of

EMAP: Final = "emap"


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """Where the files that users bring come from.

    Attributes:
        folders: Folders to search; empty = where InsightFace keeps its models.
        accept_unpinned: Take files whose sha256 the pack does not know.
        twin_seed: Make files of random weights of this seed instead.
        twin_folder: Where those are kept; ``None`` = in the scratch folder.
    """

    folders: tuple[Path, ...] = ()
    accept_unpinned: bool = False
    twin_seed: int | None = None
    twin_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class StageFiles:
    """The files of a stage.

    Attributes:
        paths: Role to file.
        origin: Where each comes from, for the manifest.
        twin_seed: Set when the weights are random.
    """

    paths: dict[str, Path]
    origin: list[dict[str, str]] = field(default_factory=list)
    twin_seed: int | None = None


def collect(stage: StagePack, options: WeightOptions, scratch: Path, progress: Callable[[str], None]) -> StageFiles:
    """Return all files that a stage is built from.

    Raises:
        ExportError: one is missing, is another one than published, or no twin can be made.
    """
    paths: dict[str, Path] = {}
    origin: list[dict[str, str]] = []
    if stage.sources:
        progress("fetching")
    for role, source in stage.sources.items():
        paths[role] = fetch(source)
        origin.append(source.describe())
    if not stage.weights:
        return StageFiles(paths, origin)
    if options.twin_seed is not None:
        from warmswap_export.twins import make_twin_files

        progress("making a twin of random weights")
        made = make_twin_files(stage, options.twin_seed, options.twin_folder or scratch / "twins")
        origin += [
            {"file": path.name, "twin_of": stage.networks[role], "seed": str(options.twin_seed)}
            for role, path in made.items()
        ]
        return StageFiles({**paths, **made}, origin, options.twin_seed)
    progress("reading weights")
    found: dict[str, FoundFile] = {}
    for role, forms in stage.weights.items():
        if role != EMAP:
            folders = options.folders or tuple(default_folders())
            found[role] = find_weights(forms, folders, scratch, accept_unpinned=options.accept_unpinned)
            origin.append(found[role].describe())
    for role, file in found.items():
        paths[role] = _as_onnx(stage, role, file, options, scratch, origin)
    return StageFiles(paths, origin)


def _as_onnx(
    stage: StagePack, role: str, file: FoundFile, options: WeightOptions, scratch: Path, origin: list[dict[str, str]]
) -> Path:
    from warmswap_export.checkpoints import is_checkpoint, load_into
    from warmswap_export.networks.registry import create_network
    from warmswap_export.published import check_published, publish

    if not is_checkpoint(file.path):
        return file.path
    if role not in stage.networks:
        raise PackError(f"pack {stage.pack}: [stages.{stage.model}.networks] must say which network {file.path} is of")
    extra: list[TensorProto] = []
    if stage.options.get("project"):
        emap = _read_emap(stage, options, scratch, origin)
        extra = [numpy_helper.from_array(emap, EMAP)]
    network = create_network(stage.networks[role])
    load_into(network, file.path)
    path = publish(network, scratch / "published" / f"{stage.model}-{role}.onnx", extra)
    check_published(network, path)
    return path


def _read_emap(
    stage: StagePack, options: WeightOptions, scratch: Path, origin: list[dict[str, str]]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    forms = stage.weights.get(EMAP)
    if not forms:
        raise PackError(f"pack {stage.pack}: a checkpoint with option project needs [[weights.{EMAP}]]")
    folders = options.folders or tuple(default_folders())
    path = find_weights(forms, folders, scratch, accept_unpinned=options.accept_unpinned).path
    emap = read_emap(path)
    origin.append({"file": path.name, "sha256": sha256_of(path), "pinned": "no"})
    return emap
