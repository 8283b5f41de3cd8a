"""Options and tensors that are wrong; bad calls of the stages behind the pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.e2e.pictures import COLLINS, HOPPER, group
from tests.e2e.wire import Service, picture, swap_inputs
from warmswap_client import FaceIndexError, InvalidOptionError, NoFaceError, NotReadyError
from warmswap_ensemble.contract import SWAP_OPTIONS

pytestmark = pytest.mark.triton

BAD_VALUES: dict[str, list[Any]] = {
    "face_selector": [
        "",
        "every",
        "index:",
        "index:-1",
        "index:K",
        "index:1.5",
        "index:99999999999",
        "largest:1",
        "ALL",
    ],
    "source_face_selector": ["", "all", "reference", "index:x"],
    "reference_threshold": ["", "high", 1.01, -1.01, "nan", "inf"],
    "min_score": ["", "low", -0.01, 1.01, "nan", "-inf"],
    "max_faces": ["", "many", 0, -1, 129, "1.5", "1e2", "99999999999999999999"],
    "output_format": ["", "gif", "jpg", "PNG"],
    "quality": ["", "best", 0, 101, "92.5", -92],
    "on_no_face": ["", "ignore", "Error"],
    "swapper": ["", "513", "face_swapper_512", "../face_swapper"],
    "rollout_key": ["", "k" * 257],
}


def test_every_option_has_bad_values() -> None:
    assert BAD_VALUES.keys() == SWAP_OPTIONS.keys()


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_value_of_an_option_is_refused_and_named(service: Service, name: str) -> None:
    for value in BAD_VALUES[name]:
        answer = service.send("face_swap", swap_inputs(), parameters={name: value})
        service.check_answer(answer, "INVALID_ARG", f"invalid_option: {name} must be ")
        with pytest.raises(InvalidOptionError) as caught:
            service.client.swap(COLLINS, HOPPER, **{name: value})
        assert caught.value.code == "invalid_option"
    service.check_good_swap()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        pytest.param({"face_select": "all"}, "did you mean face_selector?", id="misspelt"),
        pytest.param({"prompt": "younger"}, "unknown option 'prompt'", id="foreign"),
        pytest.param({"Quality": 90}, "unknown option 'Quality'", id="capital"),
        pytest.param({"quality": True}, "quality must be", id="boolean"),
        pytest.param({"min_score": True}, "min_score must be", id="boolean for a number"),
    ],
)
def test_unknown_option_is_refused_with_the_known_ones(
    service: Service, parameters: dict[str, Any], words: str
) -> None:
    answer = service.send("face_swap", swap_inputs(), parameters=parameters)
    service.check_answer(answer, "INVALID_ARG", "invalid_option: ")
    assert words in answer.message
    service.check_good_swap()


def test_option_of_the_swap_is_unknown_to_the_analysis(service: Service) -> None:
    answer = service.send("face_analysis", {"image": picture(HOPPER)}, parameters={"quality": 90})
    service.check_answer(answer, "INVALID_ARG", "invalid_option: unknown option 'quality'")
    assert "max_faces, min_score" in answer.message
    service.check_good_swap()


@pytest.mark.parametrize(
    ("options", "image_name"),
    [
        pytest.param({"face_selector": "index:1"}, "target_image", id="target"),
        pytest.param({"face_selector": "index:999999999"}, "target_image", id="far"),
        pytest.param({"source_face_selector": "index:1"}, "source_image", id="source"),
    ],
)
def test_index_out_of_range_is_refused(service: Service, options: dict[str, Any], image_name: str) -> None:
    message = service.check_refused(FaceIndexError, "face_index_out_of_range", **options)
    assert f"{image_name} has 1 face(s)" in message


def test_reference_selector_without_a_reference_is_refused(service: Service) -> None:
    message = service.check_refused(InvalidOptionError, "invalid_option", face_selector="reference")
    assert "reference_image" in message


def test_reference_that_would_be_ignored_is_refused(service: Service) -> None:
    service.check_refused(InvalidOptionError, "invalid_option", reference=HOPPER)
    service.check_refused(InvalidOptionError, "invalid_option", reference_threshold=0.5)


def test_reference_that_nobody_resembles_is_no_face(service: Service) -> None:
    refused = {"target": group(), "reference": HOPPER, "face_selector": "reference", "reference_threshold": 0.9999}
    message = service.check_refused(NoFaceError, "no_face", **refused)  # type: ignore[arg-type]
    assert "best similarity" in message
    result = service.client.swap(
        COLLINS,
        group(),
        reference=HOPPER,
        face_selector="reference",
        reference_threshold=0.9999,
        on_no_face="passthrough",
    )
    assert result.image == group()
    assert [face.swapped for face in result.faces] == [False] * 4


TENSORS = {
    "no input": ({}, ()),
    "one input missing": ({"source_image": picture(COLLINS)}, ()),
    "UINT8 for BYTES": ({**swap_inputs(), "source_image": np.frombuffer(COLLINS, np.uint8)}, ()),
    "one UINT8 for BYTES": ({**swap_inputs(), "source_image": np.zeros(1, np.uint8)}, ()),
    "two pictures": ({**swap_inputs(), "target_image": picture(HOPPER, HOPPER)}, ()),
    "no picture": ({**swap_inputs(), "target_image": picture()}, ()),
    "one axis too many": ({**swap_inputs(), "target_image": picture(HOPPER).reshape(1, 1)}, ()),
    "two references": ({**swap_inputs(), "reference_image": picture(HOPPER, HOPPER)}, ()),
    "wrong input name": ({"source_image": picture(COLLINS), "target": picture(HOPPER)}, ()),
    "one input too many": ({**swap_inputs(), "mask_image": picture(HOPPER)}, ()),
    "unknown output": (swap_inputs(), ("picture",)),
    "known and unknown output": (swap_inputs(), ("image", "mask")),
}


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_tensors_are_refused(service: Service, name: str) -> None:
    inputs, outputs = TENSORS[name]
    service.check_answer(service.send("face_swap", inputs, outputs), "INVALID_ARG")
    service.check_good_swap()


def test_refusal_of_a_wrong_tensor_names_it(service: Service) -> None:
    answers = {name: service.send("face_swap", *TENSORS[name]).message for name in TENSORS if name != "no input"}
    for name, word in {
        "one input missing": "target_image",
        "UINT8 for BYTES": "'UINT8'",
        "two pictures": "Expected [1], got [2]",
        "wrong input name": "'target'",
        "unknown output": "'picture'",
    }.items():
        assert word in answers[name]


def test_one_output_is_enough(service: Service) -> None:
    answer = service.send("face_swap", swap_inputs(), ("report",))
    assert answer.status == service.status("OK")
    assert answer.outputs.keys() == {"report"}


def test_unknown_model_is_not_found(service: Service) -> None:
    service.check_answer(service.send("face_swop", swap_inputs()), "NOT_FOUND")
    assert not service.client.is_ready("face_swop")
    with pytest.raises(NotReadyError, match="not in the server's repository"):
        service.client.wait_until_ready(0.3, "face_swop")
    service.check_good_swap()


def swapper_inputs(**changed: Any) -> dict[str, Any]:
    return {
        "target_crop_rgb": np.zeros((1, 256, 256, 3), np.uint8),
        "source_crop_rgb": np.zeros((1, 256, 256, 3), np.uint8),
        "target_landmarks": np.zeros((1, 68, 2), np.float32),
        "source_landmarks": np.zeros((1, 68, 2), np.float32),
        "source_embedding": np.zeros((1, 128), np.float32),
        **changed,
    }


STAGE_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "detector, four channels": ("face_detector", {"image_rgb": np.zeros((1, 640, 640, 4), np.uint8)}),
    "detector, floats": ("face_detector", {"image_rgb": np.zeros((1, 640, 640, 3), np.float32)}),
    "detector, no batch axis": ("face_detector", {"image_rgb": np.zeros((640, 640, 3), np.uint8)}),
    "detector, batch too large": ("face_detector", {"image_rgb": np.zeros((5, 64, 64, 3), np.uint8)}),
    "detector, wrong name": ("face_detector", {"image": np.zeros((1, 640, 640, 3), np.uint8)}),
    "landmarker, two channels": ("face_landmarker", {"crop_rgb": np.zeros((1, 112, 112, 2), np.uint8)}),
    "embedder, floats": ("face_embedder", {"aligned_crop_rgb": np.zeros((1, 112, 112, 3), np.float32)}),
    "embedder, bytes": ("face_embedder", {"aligned_crop_rgb": picture(HOPPER)}),
    "swapper, inputs missing": ("face_swapper", {"target_crop_rgb": np.zeros((1, 256, 256, 3), np.uint8)}),
    "swapper, 67 points": ("face_swapper", swapper_inputs(target_landmarks=np.zeros((1, 67, 2), np.float32))),
    "swapper, uneven batch": ("face_swapper", swapper_inputs(source_embedding=np.zeros((2, 128), np.float32))),
}


@pytest.mark.parametrize("name", STAGE_CALLS)
def test_bad_call_of_a_stage_is_refused(service: Service, name: str) -> None:
    model, inputs = STAGE_CALLS[name]
    service.check_answer(service.send(model, inputs), "INVALID_ARG")
    service.check_good_swap()


def test_frame_size_that_the_detector_cannot_take_fails_alone(service: Service) -> None:
    """Config and graph leave the size open, so ONNX Runtime finds out; the pipeline never sends such a frame."""
    answer = service.send("face_detector", {"image_rgb": np.zeros((1, 100, 100, 3), np.uint8)})
    service.check_answer(answer, "INTERNAL")
    good = service.send("face_detector", {"image_rgb": np.zeros((1, 640, 640, 3), np.uint8)})
    assert good.status == service.status("OK")
    assert good.outputs["num_faces"].item() == 0
    service.check_good_swap()
