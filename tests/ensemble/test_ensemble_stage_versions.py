from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from warmswap_ensemble.contract import FACE_ANALYSIS, FACE_SWAP, PIPELINE_STAGES
from warmswap_ensemble.manifest import Manifest, ManifestError
from warmswap_ensemble.stage_versions import resolve_stages, resolve_variants


def write_version(
    repository: Path,
    model: str,
    version: int,
    *,
    says: str | None = None,
    twin_seed: int | None = None,
    **settings: Any,
) -> None:
    folder = repository / model / str(version)
    folder.mkdir(parents=True)
    Manifest(
        model=says or model,
        version=version,
        name="toy",
        pack="open",
        files={"model.onnx": f"{model} {version}"},
        origin=[],
        licence="MIT",
        commercial_use=True,
        exporter="warmswap 0",
        opset=17,
        parity={},
        settings={"made_for": version, "identity": ["source_crop_rgb"], **settings},
        twin_seed=twin_seed,
    ).write(folder)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in PIPELINE_STAGES[FACE_SWAP.name]:
        for version in (2, 9, 10):
            write_version(tmp_path, model, version)
    return tmp_path


def test_highest_number_counts_and_not_the_last_in_the_alphabet(repository: Path) -> None:
    stages = resolve_stages(FACE_SWAP.name, repository, {})
    assert tuple(stages) == PIPELINE_STAGES[FACE_SWAP.name]
    assert {stage.version for stage in stages.values()} == {10}
    assert all(name == stage.model for name, stage in stages.items())


def test_pins_count_for_the_stage_they_name(repository: Path) -> None:
    stages = resolve_stages(FACE_SWAP.name, repository, {"face_swapper": "2"})
    assert {name: stage.version for name, stage in stages.items()} == {
        "face_detector": 10,
        "face_landmarker": 10,
        "face_embedder": 10,
        "face_swapper": 2,
    }
    assert stages["face_swapper"].settings["made_for"] == 2


def test_analysis_needs_no_swapper(tmp_path: Path) -> None:
    for model in PIPELINE_STAGES[FACE_ANALYSIS.name]:
        write_version(tmp_path, model, 1)
    assert tuple(resolve_stages(FACE_ANALYSIS.name, tmp_path, {})) == ("face_detector", "face_embedder")
    with pytest.raises(ManifestError, match="face_landmarker: has no version directory"):
        resolve_stages(FACE_SWAP.name, tmp_path, {})


@pytest.mark.parametrize("pin", ["", "3", "010", "latest", "../2"])
def test_pin_to_a_version_that_is_not_there(pin: str, repository: Path) -> None:
    with pytest.raises(ManifestError, match=rf"face_detector: has no version {pin}; it has 2, 9, 10"):
        resolve_stages(FACE_SWAP.name, repository, {"face_detector": pin})


def test_versions_have_different_digests(repository: Path) -> None:
    digests = [
        resolve_stages(FACE_SWAP.name, repository, {"face_detector": version})["face_detector"].sha256
        for version in ("2", "9", "10")
    ]
    assert len(set(digests)) == 3


def test_version_without_a_manifest_is_refused(repository: Path) -> None:
    (repository / "face_embedder/11").mkdir()
    with pytest.raises(ManifestError, match=r"face_embedder/11/manifest\.json: missing"):
        resolve_stages(FACE_SWAP.name, repository, {})


def test_manifest_of_another_model_is_refused(repository: Path) -> None:
    """Its name would be called, and its settings believed."""
    write_version(repository, "face_embedder", 11, says="face_detector")
    with pytest.raises(ManifestError, match=r"face_embedder/11: manifest\.json is of face_detector"):
        resolve_stages(FACE_SWAP.name, repository, {})


def test_twins_are_marked(repository: Path) -> None:
    write_version(repository, "face_detector", 11, twin_seed=0)
    stages = resolve_stages(FACE_SWAP.name, repository, {})
    assert [name for name, stage in stages.items() if stage.twin] == ["face_detector"]


ARCFACE: dict[str, Any] = {"embedding_space": "arcface", "embedding_length": 512}
DLIB: dict[str, Any] = {"embedding_space": "dlib", "embedding_length": 128}


def test_swapper_whose_embeddings_nobody_makes_is_refused(repository: Path) -> None:
    write_version(repository, "face_swapper", 11, identity=["source_embedding"], **ARCFACE)
    write_version(repository, "face_embedder", 11, **DLIB)
    write_version(repository, "face_embedder", 1, **ARCFACE)
    with pytest.raises(ManifestError) as caught:
        resolve_stages(FACE_SWAP.name, repository, {})
    assert str(caught.value) == (
        f"{repository}/face_swapper/11/manifest.json: face_swapper 11 wants embeddings of the space arcface (512 "
        "numbers), but face_embedder 11 makes dlib (128 numbers): pin another version with parameter "
        "stage_version.face_embedder (or stage_version.face_swapper) in the pipeline's config.pbtxt, or export a "
        "matching pair"
    )
    pinned = resolve_stages(FACE_SWAP.name, repository, {"face_embedder": "1"})
    assert (pinned["face_swapper"].version, pinned["face_embedder"].version) == (11, 1)
    assert resolve_stages(FACE_SWAP.name, repository, {"face_swapper": "10"})
    assert resolve_stages(FACE_ANALYSIS.name, repository, {}), "analysis swaps nothing"


def test_variants_beside_the_swapper_are_found_and_broken_ones_are_named(repository: Path) -> None:
    write_version(repository, "face_swapper_512", 1)
    write_version(repository, "face_swapper_512", 2)
    write_version(repository, "face_swapper_hq", 3, identity=["source_embedding"], **ARCFACE)
    write_version(repository, "face_swapper_liar", 1, says="face_swapper")
    write_version(repository, "face_swapper_default", 1)
    (repository / "face_swapper_empty").mkdir()
    (repository / "face_swapper_file").write_text("no folder")
    write_version(repository, "face_embedder", 11, embedding_space="dlib", embedding_length=128)
    embedder = resolve_stages(FACE_SWAP.name, repository, {})["face_embedder"]
    variants = resolve_variants(repository, {"face_swapper_512": "1", "face_swapper_gone": "4"}, embedder)
    assert {name: (stage.model, stage.version) for name, stage in variants.usable.items()} == {
        "512": ("face_swapper_512", 1)
    }
    assert variants.refused.keys() == {"hq", "liar", "empty", "gone"}
    assert "wants embeddings of the space arcface" in variants.refused["hq"]
    assert "is of face_swapper, not of face_swapper_liar" in variants.refused["liar"]
    assert "has no version directory" in variants.refused["empty"]
    assert variants.refused["gone"] == "it is pinned to version 4, and there is no face_swapper_gone"
