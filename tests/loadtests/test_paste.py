"""The parts of ``bench paste`` but for insightface itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from warmswap_ensemble.contract import NUM_KPS
from warmswap_ensemble.geometry import ImageArray
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.onnx_session import open_session
from warmswap_loadtests.paste import OurPaste, compare
from warmswap_loadtests.paste_scenes import CASES, SIZES_WH, SOURCE, TARGET, Case, box_mask, build_scene, swapped_crop
from warmswap_loadtests.tiny_swapper import CROP_SIZE, write_tiny_swapper

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def crop_rgb() -> ImageArray:
    return np.random.default_rng(1).integers(0, 256, (CROP_SIZE, CROP_SIZE, 3), np.uint8)


def test_tiny_swapper_has_the_ports_of_inswapper(tmp_path: Path, crop_rgb: ImageArray) -> None:
    path = tmp_path / "tiny.onnx"
    write_tiny_swapper(path, crop_rgb)
    assert list(onnx.load(str(path)).graph.initializer[-1].dims) == [512, 512]
    session = open_session(path, 1)
    assert [(port.name, port.shape) for port in session.get_inputs()] == [
        ("target", [1, 3, 128, 128]),
        ("source", [1, 512]),
    ]
    feeds = {"target": np.zeros((1, 3, 128, 128), np.float32), "source": np.zeros((1, 512), np.float32)}
    (planes,) = session.run(["output"], feeds)
    assert np.array_equal((255 * planes[0].transpose(1, 2, 0)).astype(np.uint8), crop_rgb)


def test_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(BenchError, match=r"bad\.onnx"):
        open_session(tmp_path / "bad.onnx", 1)


def test_mask_is_whole_inside_and_nothing_along_the_border() -> None:
    mask = box_mask()
    assert mask.shape == (128, 128)
    assert mask.dtype == np.float32
    assert mask[64, 64] == pytest.approx(1)
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0
    np.testing.assert_allclose(mask, mask.T, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_faces_lie_within_their_frame_and_apart(case: Case) -> None:
    scene = build_scene(case, TARGET.read(EXAMPLES))
    width, height = SIZES_WH[case.frame]
    assert scene.frame_rgb.shape == (height, width, 3)
    assert len(scene.kps) == len(scene.bboxes) == case.faces
    for kps, (x1, y1, x2, y2) in zip(scene.kps, scene.bboxes, strict=True):
        assert kps.shape == (NUM_KPS, 2)
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert ((kps > (x1, y1)) & (kps < (x2, y2))).all()
    centres = [(bbox[:2] + bbox[2:]) / 2 for bbox in scene.bboxes]
    apart = [float(np.abs(a - b).max()) for i, a in enumerate(centres) for b in centres[:i]]
    assert min(apart, default=scene.crop_px) >= scene.crop_px


def test_ours_changes_the_face_and_nothing_outside_of_the_mask(tmp_path: Path) -> None:
    target_rgb = TARGET.read(EXAMPLES)
    write_tiny_swapper(tmp_path / "tiny.onnx", swapped_crop(SOURCE.read(EXAMPLES), target_rgb))
    ours = OurPaste(open_session(tmp_path / "tiny.onnx", 1))
    scene = build_scene(Case("720p", 5, 210), target_rgb)
    pasted_rgb = scene.frame_rgb.copy()
    ours.swap(pasted_rgb, scene.kps)
    figures = compare(scene, ours.mask, scene.frame_rgb, pasted_rgb)
    assert figures["outside_mask"]["ours_max"] == figures["outside_mask"]["insightface_max"] == 0
    assert figures["in_face_boxes"]["mean"] > 5
    assert compare(scene, ours.mask, pasted_rgb, pasted_rgb)["in_face_boxes"] == {"mean": 0.0, "max": 0}


def test_demo_pictures_are_missing(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--examples"):
        TARGET.read(tmp_path)
