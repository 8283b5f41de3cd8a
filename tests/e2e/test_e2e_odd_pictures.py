"""Pictures that are unusual, and are swapped all the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e import pictures
from tests.e2e.pictures import COLLINS, HOPPER
from tests.e2e.wire import Service
from warmswap_client import SwapResult
from warmswap_ensemble.contract import MAX_FACES

pytestmark = pytest.mark.triton

MIN_GAIN = 0.03
HOPPER_BBOX = (174.8, 131.5, 357.0, 336.3)

TARGETS = {
    "16 bit": pictures.sixteen_bit(),
    "grey": pictures.encode(pictures.hopper().convert("L")),
    "grey jpeg": pictures.encode(pictures.hopper().convert("L"), "JPEG"),
    "cmyk jpeg": pictures.encode(pictures.hopper().convert("CMYK"), "JPEG"),
    "palette": pictures.encode(pictures.hopper().convert("P")),
    "progressive jpeg": pictures.encode(pictures.hopper(), "JPEG", progressive=True),
    "lossless webp": pictures.encode(pictures.hopper(), "WEBP", lossless=True),
    "jpeg with bytes behind it": HOPPER + bytes(100),
    "tilted by 35 degrees": pictures.encode(pictures.hopper().rotate(35, expand=True, fillcolor="grey")),
    "tilted by -35 degrees": pictures.encode(pictures.hopper().rotate(-35, expand=True, fillcolor="grey")),
    "sheared": pictures.encode(pictures.sheared()),
    "cut by the left edge": pictures.encode(pictures.hopper().crop((225, 0, 512, 600))),
    "cut by the right edge": pictures.encode(pictures.hopper().crop((0, 0, 305, 600))),
    "cut by the upper edge": pictures.encode(pictures.hopper().crop((0, 183, 512, 600))),
    "cut by the lower edge": pictures.encode(pictures.hopper().crop((0, 0, 512, 273))),
}


def check_swapped(result: SwapResult, count: int = 1) -> None:
    swapped = [face for face in result.faces if face.swapped]
    assert len(swapped) == count
    for face in swapped:
        assert (face.similarity_after or 0.0) - (face.similarity_before or 0.0) >= MIN_GAIN
    width, height = pictures.decode(result.image).size
    assert (width, height) == result.size_wh
    for face in result.faces:
        x1, y1, x2, y2 = face.bbox
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


@pytest.mark.parametrize("name", TARGETS)
def test_odd_target_is_swapped(service: Service, name: str) -> None:
    result = service.client.swap(COLLINS, TARGETS[name])
    check_swapped(result)
    assert result.size_wh == pictures.decode(TARGETS[name]).size
    assert result.image.startswith(pictures.MAGIC[result.image_format])
    assert result.image != TARGETS[name]
    service.check_good_swap()


@pytest.mark.parametrize("name", ["16 bit", "cmyk jpeg", "palette", "tilted by 35 degrees", "cut by the left edge"])
def test_odd_source_is_taken(service: Service, name: str) -> None:
    result = service.client.swap(TARGETS[name], COLLINS)
    check_swapped(result)
    service.check_good_swap()


@pytest.mark.parametrize("output_format", ["same", "png", "webp"])
def test_alpha_comes_back_unchanged(service: Service, output_format: str) -> None:
    target = pictures.with_alpha()
    result = service.client.swap(COLLINS, target, output_format=output_format)
    check_swapped(result)
    before, after = pictures.decode(target), pictures.decode(result.image)
    assert after.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(after)[..., 3], np.asarray(before)[..., 3])


def test_alpha_is_laid_onto_white_for_jpeg(service: Service) -> None:
    result = service.client.swap(COLLINS, pictures.with_alpha(), output_format="jpeg")
    pixels = np.asarray(pictures.decode(result.image).convert("RGB"))
    assert pixels[:, 0].min() > 240
    check_swapped(result)


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_exif_orientation_is_applied_once(service: Service, orientation: int) -> None:
    target = pictures.stored_turned(orientation)
    result = service.client.swap(COLLINS, target)
    check_swapped(result)
    np.testing.assert_allclose(result.faces[0].bbox, HOPPER_BBOX, atol=15)
    upright = pictures.decode(result.image)
    assert upright.size == result.size_wh == pictures.hopper().size
    assert upright.getexif().get(pictures.EXIF_ORIENTATION, 1) == 1
    corner = np.s_[:100, :100]  # far from the face: nothing but the JPEG's own noise may differ
    difference = np.asarray(upright.convert("RGB")).astype(int) - np.asarray(pictures.hopper()).astype(int)
    assert np.abs(difference[corner]).mean() < 8


def test_only_the_face_changes(service: Service) -> None:
    target = pictures.encode(pictures.hopper())
    result = service.client.swap(COLLINS, target)
    before, after = np.asarray(pictures.hopper()).astype(int), np.asarray(pictures.decode(result.image)).astype(int)
    changed = np.abs(after - before).max(axis=2) > 0
    x1, y1, x2, y2 = (round(value) for value in result.faces[0].bbox)
    margin = x2 - x1
    outside = changed.copy()
    outside[max(0, y1 - margin) : y2 + margin, max(0, x1 - margin) : x2 + margin] = False
    assert not outside.any()
    assert changed[y1:y2, x1:x2].mean() > 0.3


def test_a_hundred_and_twenty_faces_are_swapped_in_one_picture(service: Service) -> None:
    result = service.client.swap(COLLINS, pictures.contact_sheet(12, 10))
    assert len(result.faces) == 120
    assert all(face.swapped for face in result.faces)
    hoppers = [face for face in result.faces if (face.similarity_before or 0.0) < 0.93]
    assert len(hoppers) > 20
    centres = [face.bbox[0] + face.bbox[2] for face in result.faces]
    assert centres == sorted(centres)
    service.check_good_swap()


def test_more_faces_than_rows_are_cut_and_not_a_crash(service: Service) -> None:
    result = service.client.swap(COLLINS, pictures.contact_sheet(14, 12), max_faces=3)
    assert len(result.faces) == MAX_FACES
    assert sum(face.swapped for face in result.faces) == 3
    assert len(service.client.analyze(pictures.contact_sheet(14, 12)).faces) == MAX_FACES
    service.check_good_swap()


def test_max_faces_keeps_the_largest(service: Service) -> None:
    result = service.client.swap(COLLINS, pictures.contact_sheet(12, 10), max_faces=5)
    assert len(result.faces) == 120

    def area(bbox: tuple[float, float, float, float]) -> float:
        return (bbox[2] - bbox[0]) * (bbox[3] - bbox[1])

    swapped = [area(face.bbox) for face in result.faces if face.swapped]
    left = [area(face.bbox) for face in result.faces if not face.swapped]
    assert len(swapped) == 5
    assert min(swapped) >= max(left) - 1.0  # the report rounds
    assert all(face.similarity_after is None for face in result.faces if not face.swapped)
