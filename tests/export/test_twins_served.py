"""Twins of the shipped packs on the real Triton: exported, verified, served, and asked for a swap."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pictures import ROOT
from tests.e2e.repositories import copy_repository
from warmswap_ensemble.manifest import read_manifest, version_dirs

pytestmark = [pytest.mark.export, pytest.mark.triton]

SEED = 2
EXAMPLES = ROOT / "examples"
SOURCE, TARGET = EXAMPLES / "grace_hopper.jpg", EXAMPLES / "eileen_collins.png"
SPACES = {"1": "dlib_resnet_v1", "2": "arcface_w600k_r50"}
CONSISTENT = [(d, e, s) for d in "123" for e in "12" for s in "12" if (e, s) != ("1", "2")]
INCONSISTENT = [(d, "1", "2") for d in "123"]

PACKS = ("buffalo_l+simswap_256", "ghost_1")
"""An embedding through a converter, and a crop; a plain embedding is in the mixed repository."""
LARGE_PACKS = (
    "buffalo_l+inswapper_128",
    "buffalo_l+hyperswap_1a_256",
    "buffalo_l+reswapper_256",
    "buffalo_l+ghost_1_256",
    "buffalo_l+ghost_2_256",
    "buffalo_l+ghost_3_256",
    "buffalo_l+simswap_unofficial_512",
    "antelopev2",
    "retinaface_mnet025",
    "retinaface_r50",
    "scrfd_2.5g",
    "simswap_224",
    "simswap_512",
    "ghost_2",
    "ghost_3",
)
"""Many gigabytes and minutes: make test-packs."""


def export_twin(pack: str, repository: Path, version: int = 1, **options: Any) -> list[str]:
    """Export a twin and complete the repository; return what was copied."""
    from warmswap_export.export import export_pack
    from warmswap_export.packs import load_pack
    from warmswap_export.scaffold import complete_repository
    from warmswap_export.sources import WeightOptions

    manifests = export_pack(load_pack(pack), repository, version, weights=WeightOptions(twin_seed=SEED), **options)
    return complete_repository(repository, [item.model for item in manifests])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shipped repository, with twins beside the shipped versions of detector, embedder and swapper."""
    repository = copy_repository(tmp_path_factory.mktemp("mixed") / "model_repository")
    export_twin("buffalo_l+inswapper_128", repository, 2)
    export_twin("retinaface_mnet025", repository, 3)
    for model in ("face_detector", "face_embedder", "face_swapper"):
        path = repository / model / "config.pbtxt"
        path.write_text(path.read_text() + "\nversion_policy: { all { } }\n")
    yield repository
    shutil.rmtree(repository)


@pytest.fixture(scope="module")
def server(mixed: Path) -> Iterator[Any]:
    from warmswap_ops.launcher import LocalTriton

    with LocalTriton(mixed) as running:
        yield running


def load_with(server: Any, detector: str, embedder: str, swapper: str) -> None:
    """Load ``face_swap`` once more, pinned to other versions of its stages."""
    from warmswap_ops.control import ControlClient

    pins = {"face_detector": detector, "face_embedder": embedder, "face_swapper": swapper}
    with ControlClient(server.grpc_url) as control:
        if server.grpc_url not in PIPELINE_CONFIG:  # as it was loaded first
            PIPELINE_CONFIG[server.grpc_url] = control.model_config("face_swap")
        config = PIPELINE_CONFIG[server.grpc_url]
        pinned = {f"stage_version.{model}": {"string_value": version} for model, version in pins.items()}
        control.load("face_swap", {**config, "parameters": {**config["parameters"], **pinned}})


PIPELINE_CONFIG: dict[str, dict[str, Any]] = {}


def swap(server: Any) -> Any:
    from warmswap_client import FaceSwapClient

    with FaceSwapClient(f"grpc://{server.grpc_url}", timeout_s=120) as client:
        return client.swap(SOURCE.read_bytes(), TARGET.read_bytes())


def test_the_mixed_repository_has_the_versions_that_it_should(mixed: Path) -> None:
    manifests = {
        (path.parent.name, path.name): read_manifest(path)
        for model in ("face_detector", "face_embedder", "face_swapper")
        for path in version_dirs(mixed / model)
    }

    assert {key: item.pack for key, item in manifests.items()} == {
        ("face_detector", "1"): "open",
        ("face_detector", "2"): "buffalo_l",
        ("face_detector", "3"): "retinaface_mnet025",
        ("face_embedder", "1"): "open",
        ("face_embedder", "2"): "buffalo_l",
        ("face_swapper", "1"): "open",
        ("face_swapper", "2"): "inswapper_128",
    }
    assert {key for key, item in manifests.items() if item.twin_seed is not None} == {
        key for key in manifests if key[1] != "1"
    }
    checks = set(manifests["face_detector", "2"].parity)
    assert {"insightface SCRFD.detect", "insightface RetinaFace.detect"} <= checks
    assert "insightface ArcFaceONNX.get_feat" in manifests["face_embedder", "2"].parity
    assert "insightface INSwapper.get" in manifests["face_swapper", "2"].parity
    sizes_mb = {
        model: (mixed / model / "2" / "model.onnx").stat().st_size / 1e6
        for model in ("face_detector", "face_embedder", "face_swapper")
    }
    assert sizes_mb == pytest.approx({"face_detector": 17, "face_embedder": 174, "face_swapper": 554}, rel=0.02)


def test_the_server_names_its_twins_loudly(server: Any) -> None:
    assert server.phases[-1].details["twins"] == [
        "face_detector 2",
        "face_detector 3",
        "face_embedder 2",
        "face_swapper 2",
    ]


@pytest.mark.parametrize(("detector", "embedder", "swapper"), CONSISTENT)
def test_every_consistent_combination_answers(server: Any, detector: str, embedder: str, swapper: str) -> None:
    load_with(server, detector, embedder, swapper)

    result = swap(server)

    assert result.models["face_detector"] == detector
    assert result.models["face_embedder"] == embedder
    assert result.models["face_swapper"] == swapper
    assert any(face.swapped for face in result.faces)
    assert result.image.startswith(b"\x89PNG")
    twins = {f"{name} {version}" for name, version in result.models.items() if name != "face_swap" and version != "1"}
    assert set(result.twins) == twins


@pytest.mark.parametrize(("detector", "embedder", "swapper"), INCONSISTENT)
def test_an_inconsistent_combination_is_refused_at_load_and_nothing_else_is_lost(
    server: Any, detector: str, embedder: str, swapper: str
) -> None:
    from warmswap_ops.errors import ModelLoadError

    load_with(server, "1", "1", "1")
    with pytest.raises(ModelLoadError) as caught:
        load_with(server, detector, embedder, swapper)

    message = str(caught.value)
    assert f"face_swapper {swapper} wants embeddings of the space {SPACES['2']}" in message
    assert f"face_embedder {embedder} makes {SPACES['1']}" in message
    load_with(server, "1", "2", "2")
    assert swap(server).models["face_swapper"] == "2"


def test_a_golden_answer_of_twins_holds_them_to_it(mixed: Path, server: Any) -> None:
    from warmswap_export.golden import write_golden
    from warmswap_ops.errors import ModelLoadError
    from warmswap_ops.launcher import LocalTriton

    (path,) = [path for path in write_golden(mixed) if path.parent.parent.name == "face_swap"]
    recorded = json.loads(path.read_text())
    assert recorded["stages"]["face_swapper"] == read_manifest(mixed / "face_swapper" / "2").sha256
    load_with(server, "3", "2", "2")

    # In a server of its own: Triton 24.10 crashes over every second refused warm-up.
    path.write_text(json.dumps({**recorded, "thumbnail_rgb": [255 - value for value in recorded["thumbnail_rgb"]]}))
    with pytest.raises(ModelLoadError, match="grey values"), LocalTriton(mixed):
        pass
    path.write_text(json.dumps(recorded))


def test_verify_measures_the_twins_again(mixed: Path) -> None:
    from warmswap_export.verify import verify_repository

    results = verify_repository(mixed, ["face_detector", "face_embedder"])

    assert [(item.model, item.version, item.problems) for item in results] == [
        ("face_detector", "1", []),
        ("face_detector", "2", []),
        ("face_detector", "3", []),
        ("face_embedder", "1", []),
        ("face_embedder", "2", []),
    ]
    assert all(item.passed and item.differences for item in results)


def test_verify_sees_a_twin_of_another_seed(mixed: Path) -> None:
    from warmswap_export.verify import verify_repository

    path = mixed / "face_detector" / "3" / "manifest.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(text), "twin_seed": SEED + 1}))
        (result,) = [item for item in verify_repository(mixed, ["face_detector"]) if item.version == "3"]
    finally:
        path.write_text(text)

    assert not result.passed
    assert any("too much" in line for line in result.lines())


def test_twins_are_the_same_for_the_same_seed(mixed: Path, tmp_path: Path) -> None:
    export_twin("retinaface_mnet025", tmp_path)

    again, before = (
        read_manifest(folder / "face_detector" / version) for folder, version in ((tmp_path, "1"), (mixed, "3"))
    )
    assert again.files == before.files


@pytest.mark.parametrize(
    "pack",
    [*PACKS, *(pytest.param(pack, marks=pytest.mark.large) for pack in LARGE_PACKS)],
)
def test_a_pack_is_exported_verified_served_and_swaps(tmp_path: Path, pack: str) -> None:
    from warmswap_export.verify import verify_repository
    from warmswap_ops.launcher import LocalTriton

    copied = export_twin(pack, tmp_path)
    assert any("face_landmarker" in sentence for sentence in copied)

    with LocalTriton(tmp_path) as server:
        result = swap(server)
    assert any(face.swapped for face in result.faces)
    assert result.twins
    assert all(item.passed for item in verify_repository(tmp_path, []))
    shutil.rmtree(tmp_path)
