"""What ``bench batching`` sends and reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from warmswap_ensemble.contract import FACE_EMBEDDER, FACE_SWAPPER
from warmswap_loadtests.batching import (
    BATCH,
    ONE_BY_ONE,
    BatchingOptions,
    batching_lines,
    embedder_inputs,
    measure_batching,
    runtime_figures,
    swapper_inputs,
)
from warmswap_loadtests.errors import BenchError

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
BATCHES = {FACE_EMBEDDER.name: 3, FACE_SWAPPER.name: 2}


@pytest.mark.parametrize("side", [112, 150, 224])
def test_crops_have_the_size_of_the_version_and_differ(side: int) -> None:
    crops = embedder_inputs(REPOSITORY / FACE_EMBEDDER.name / "warmup", {"crop_size": side}, 4)["aligned_crop_rgb"]
    assert crops.shape == (4, side, side, 3)
    assert crops.dtype == np.uint8
    assert len({crop.tobytes() for crop in crops}) == 4


def test_swapper_gets_all_that_the_contract_names() -> None:
    settings = {"crop_size": 128, "source_crop_size": 112, "embedding_length": 512}
    inputs = swapper_inputs(REPOSITORY / FACE_SWAPPER.name / "warmup", settings, 5)
    assert set(inputs) == {tensor.name for tensor in FACE_SWAPPER.inputs}
    assert inputs["target_crop_rgb"].shape == (5, 128, 128, 3)
    assert inputs["source_crop_rgb"].shape == (5, 112, 112, 3)
    assert inputs["target_landmarks"].shape == (5, 68, 2)
    assert inputs["source_embedding"].shape == (5, 512)
    assert inputs["source_embedding"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(inputs["source_embedding"], axis=1), 1, rtol=1e-5)


def test_warmup_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "aligned_crop_rgb.raw").write_bytes(bytes(50))
    with pytest.raises(BenchError, match="50 bytes"):
        embedder_inputs(tmp_path, {"crop_size": 112}, 1)
    with pytest.raises(BenchError, match="warm-up"):
        embedder_inputs(tmp_path / "nowhere", {"crop_size": 112}, 1)


def test_figures_are_per_face_and_ratios_per_round() -> None:
    figures = runtime_figures({ONE_BY_ONE: [0.8, 1.6, 1.2], BATCH: [0.4, 0.4, 0.8]}, faces=4)
    assert figures["one_by_one_ms_per_face"] == pytest.approx(300)
    assert figures["batch_ms_per_face"] == pytest.approx(100)
    assert figures["ratio"] == pytest.approx(2.0)  # the median of 2, 4 and 1.5


def test_repository_without_the_models_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"has no face_embedder; .* warmswap export"):
        measure_batching(BatchingOptions(tmp_path, 1, BATCHES), lambda _: None)


@pytest.mark.triton
def test_on_the_real_triton() -> None:
    figures = measure_batching(BatchingOptions(REPOSITORY, 1, BATCHES, turn_s=0.01), lambda _: None)
    versions = figures["versions"]
    assert [(item["model"], item["version"], item["batch"]) for item in versions] == [
        (FACE_EMBEDDER.name, 1, 3),
        (FACE_SWAPPER.name, 1, 2),
    ]
    assert all(item["memory_mb"]["after_load"] > figures["memory_mb"]["no model"] > 0 for item in versions)
    assert len([line for line in batching_lines(figures) if "face_" in line]) == 2
