"""What a server says of models that are not ready, made readable."""

from __future__ import annotations

import pytest

from warmswap_client.errors import ServerBusyError
from warmswap_client.grpc_errors import status_error
from warmswap_client.status import ModelStatus, NotReady, not_ready, readable_reason

INDEX = (
    ModelStatus("face_swap", "1", "UNAVAILABLE", "unloaded"),
    ModelStatus("face_swap", "2", "READY", ""),
    ModelStatus("face_analysis", "1", "UNAVAILABLE", "version 1 is damaged"),
    ModelStatus("face_detector", "1", "LOADING", ""),
    ModelStatus("face_embedder", "", "", ""),
)


def test_models_without_a_ready_version_are_named_with_their_reason() -> None:
    needed = ("face_detector", "face_landmarker", "face_embedder", "face_analysis", "face_swap")
    assert not_ready(INDEX, needed) == [
        NotReady("face_detector", "loading"),
        NotReady("face_landmarker", "not in the server's repository"),
        NotReady("face_embedder", "not loaded"),
        NotReady("face_analysis", "version 1 is damaged"),
    ]


@pytest.mark.parametrize(
    ("said", "readable"),
    [
        ("", ""),
        ("unloaded", "unloaded"),
        (
            "Internal: TritonModelException: face_swap 1: no golden.json; make it\n\nAt:\n  /a/b.py(99): initialize\n",
            "face_swap 1: no golden.json; make it",
        ),
        (
            "Invalid argument: failed to run warmup sample 'golden': stage_failed: x;\n",
            "failed to run warmup sample 'golden': stage_failed: x",
        ),
        ("face_swap 1: two\nlines", "face_swap 1: two lines"),
    ],
)
def test_reason_is_one_line_without_wrappers(said: str, readable: str) -> None:
    assert readable_reason(said) == readable


def test_pipeline_whose_process_died_may_be_asked_again() -> None:
    message = "Stub process 'face_swap_0_1' is not healthy."
    error = status_error("INTERNAL", message, url="grpc://127.0.0.1:8001", model="face_swap")
    assert isinstance(error, ServerBusyError)
    assert error.retryable
