"""Pictures that cannot be swapped: refused with the right status and code, and the next request succeeds."""

from __future__ import annotations

import pytest

from tests.e2e import pictures
from tests.e2e.pictures import COLLINS, HOPPER
from tests.e2e.wire import Service, picture
from warmswap_client import ImageTooLargeError, InvalidImageError, NoFaceError

pytestmark = pytest.mark.triton

UNREADABLE = {
    "empty": b"",
    "one byte": b"\xff",
    "text": b"this is no picture, whatever its name says",
    "html": b"<!doctype html><title>404</title>" * 50,
    "zeros": bytes(5000),
    "jpeg marker only": HOPPER[:2],
    "jpeg cut in its header": HOPPER[:20],
    "jpeg cut after 1 kB": HOPPER[:1000],
    "jpeg cut at half": HOPPER[: len(HOPPER) // 2],
    "jpeg cut near its end": HOPPER[:-500],
    "png signature only": COLLINS[:8],
    "png cut at half": COLLINS[: len(COLLINS) // 2],
    "webp cut at half": pictures.encode(pictures.hopper(), "WEBP")[:9000],
    "png with a wrong byte": COLLINS[:5000] + bytes([COLLINS[5000] ^ 0xFF]) + COLLINS[5001:],
    "gif": pictures.encode(pictures.hopper(), "GIF"),
    "bmp": pictures.encode(pictures.hopper(), "BMP"),
    "tiff": pictures.encode(pictures.hopper(), "TIFF"),
    "animated gif": pictures.animated("GIF"),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_target_is_refused(service: Service, data: bytes) -> None:
    message = service.check_refused(InvalidImageError, "invalid_image", target=data)
    assert "target_image" in message


@pytest.mark.parametrize("name", ["gif", "bmp", "tiff", "animated gif", "text", "empty"])
def test_refusal_of_a_foreign_format_names_the_accepted_ones(service: Service, name: str) -> None:
    message = service.check_refused(InvalidImageError, "invalid_image", source=UNREADABLE[name])
    assert "source_image" in message
    assert "JPEG, PNG or WebP" in message


@pytest.mark.parametrize("name", ["empty", "text", "png cut at half"])
def test_unreadable_reference_is_refused(service: Service, name: str) -> None:
    message = service.check_refused(
        InvalidImageError, "invalid_image", reference=UNREADABLE[name], face_selector="reference"
    )
    assert "reference_image" in message


@pytest.mark.parametrize("name", ["empty", "text", "jpeg cut at half", "animated gif"])
def test_unreadable_picture_is_refused_by_the_analysis(service: Service, name: str) -> None:
    answer = service.send("face_analysis", {"image": picture(UNREADABLE[name])})
    service.check_answer(answer, "INVALID_ARG", "invalid_image: image ")
    with pytest.raises(InvalidImageError):
        service.client.analyze(UNREADABLE[name])
    assert len(service.client.analyze(HOPPER).faces) == 1
    service.check_good_swap()


@pytest.mark.parametrize("image_format", ["WEBP", "PNG"])
def test_animation_is_refused_and_called_so(service: Service, image_format: str) -> None:
    message = service.check_refused(InvalidImageError, "invalid_image", target=pictures.animated(image_format))
    assert "animated (2 frames)" in message


@pytest.mark.parametrize("role", ["source", "target"])
def test_decompression_bomb_is_refused_before_it_is_decoded(service: Service, role: str) -> None:
    bomb = pictures.png_bomb()
    assert len(bomb) < 200
    service.check_refused(ImageTooLargeError, "image_too_large", **{role: bomb})


FACELESS = {
    "1x1": pictures.encode(pictures.blank(1, 1)),
    "1x1 jpeg": pictures.encode(pictures.blank(1, 1), "JPEG"),
    "one line": pictures.encode(pictures.blank(3000, 1)),
    "one column": pictures.encode(pictures.blank(1, 3000)),
    "blank": pictures.encode(pictures.blank()),
}


@pytest.mark.parametrize("data", FACELESS.values(), ids=FACELESS.keys())
def test_target_without_a_face_is_refused(service: Service, data: bytes) -> None:
    message = service.check_refused(NoFaceError, "no_face", target=data)
    assert "target_image" in message


@pytest.mark.parametrize("on_no_face", ["error", "passthrough"])
def test_source_without_a_face_is_refused_whatever_the_target_may_do(service: Service, on_no_face: str) -> None:
    message = service.check_refused(NoFaceError, "no_face", source=FACELESS["blank"], on_no_face=on_no_face)
    assert "source_image" in message


def test_reference_without_a_face_is_refused(service: Service) -> None:
    message = service.check_refused(
        NoFaceError, "no_face", reference=FACELESS["blank"], face_selector="reference", on_no_face="passthrough"
    )
    assert "reference_image" in message


@pytest.mark.parametrize("data", FACELESS.values(), ids=FACELESS.keys())
def test_passthrough_gives_the_very_same_bytes(service: Service, data: bytes) -> None:
    result = service.client.swap(COLLINS, data, on_no_face="passthrough")
    assert result.image == data
    assert result.faces == ()
    assert result.source is None
    service.check_good_swap()


def test_passthrough_in_another_format_is_encoded_anew(service: Service) -> None:
    result = service.client.swap(COLLINS, FACELESS["blank"], on_no_face="passthrough", output_format="webp")
    assert result.image_format == "webp"
    assert pictures.decode(result.image).size == result.size_wh == (200, 200)


def test_analysis_of_a_picture_without_a_face_is_an_empty_answer(service: Service) -> None:
    answer = service.send("face_analysis", {"image": picture(FACELESS["blank"])})
    assert answer.status == service.status("OK")
    assert {name: array.shape for name, array in answer.outputs.items()} == {
        "bbox": (0, 4),
        "score": (0,),
        "kps": (0, 5, 2),
        "embedding": (0, 128),
    }
    assert service.client.analyze(FACELESS["blank"]).faces == ()
