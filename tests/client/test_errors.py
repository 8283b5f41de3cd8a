from __future__ import annotations

import inspect
import pickle

import grpc
import pytest

from warmswap_client import errors, grpc_errors, http_errors
from warmswap_client.error_codes import CODE_ERRORS, split_code
from warmswap_ensemble.contract import ERROR_CODES

URL = "grpc://host:8001"
CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.WarmswapError)]


def test_every_code_of_the_contract_has_a_class() -> None:
    assert CODE_ERRORS.keys() == ERROR_CODES.keys()


def test_every_grpc_status_is_mapped() -> None:
    assert grpc_errors.STATUS_ERRORS.keys() == {status.name for status in grpc.StatusCode}


def test_tree_on_top_of_the_module_shows_every_class_its_place_and_whether_it_is_retried() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if "Error  " in line]
    drawn = {}
    parents: dict[int, str] = {}
    for line in lines:
        column = min(index for index, letter in enumerate(line) if letter.isalpha())
        name = line[column:].split()[0]
        parents[column] = name
        parent = parents.get(column - 4, "Exception")
        drawn[name] = (parent, line[column + len(name) :].strip().startswith("*"))
    assert drawn == {cls.__name__: (cls.__mro__[1].__name__, cls.retryable) for cls in CLASSES}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("", (None, ""), id="empty"),
        pytest.param("no_face: none found", ("no_face", "none found"), id="bare"),
        pytest.param(
            "in ensemble 'x', Failed to process the request(s) for model instance 'x_0', message: no_face: none",
            ("no_face", "none"),
            id="behind-words-of-the-backend",
        ),
        pytest.param("[400] invalid_option: quality: 1 to 100", ("invalid_option", "quality: 1 to 100"), id="status"),
        pytest.param("stage_failed: overloaded: full", ("stage_failed", "overloaded: full"), id="first-code-wins"),
        pytest.param("my_internal: thing", (None, "my_internal: thing"), id="part-of-a-longer-word"),
        pytest.param("internal error", (None, "internal error"), id="word-without-colon"),
    ],
)
def test_code_is_found_wherever_it_stands(message: str, expected: tuple[str | None, str]) -> None:
    assert split_code(message) == expected


@pytest.mark.parametrize(
    ("status", "message", "expected", "code"),
    [
        ("INVALID_ARGUMENT", "no_face: none", errors.NoFaceError, "no_face"),
        ("INVALID_ARGUMENT", "expected 1 inputs but got 2", errors.InvalidRequestError, None),
        ("UNAVAILABLE", "overloaded: full", errors.ServerBusyError, "overloaded"),
        ("UNAVAILABLE", "overloaded: connection refused by a stage", errors.ServerBusyError, "overloaded"),
        ("UNAVAILABLE", "Exceeds maximum queue size", errors.ServerBusyError, None),
        ("UNAVAILABLE", "failed to connect to all addresses", errors.ServerUnreachableError, None),
        ("UNAVAILABLE", "Stream removed (Socket closed)", errors.ServerUnreachableError, None),
        ("UNAVAILABLE", "errors resolving host:1: [...]", errors.ServerUnreachableError, None),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'x'", errors.AccessDeniedError, None),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", errors.UnknownModelError, None),
        ("NOT_FOUND", "Request for unknown model: 'x' has no available versions", errors.ModelNotLoadedError, None),
        ("NOT_FOUND", "Request for unknown model: 'face_swap' is not found", errors.ModelNotLoadedError, None),
        ("NOT_FOUND", "something else", errors.UnknownModelError, None),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", errors.RequestTimeoutError, None),
        ("CANCELLED", "cancelled: gone", errors.RequestCancelledError, "cancelled"),
        ("INTERNAL", "stage_failed: detector", errors.ServerFailedError, "stage_failed"),
        ("A_NEW_STATUS", "?", errors.ServerFailedError, None),
        (None, "tritonclient complains", errors.ServerFailedError, None),
    ],
)
def test_grpc_failures(
    status: str | None, message: str, expected: type[errors.WarmswapError], code: str | None
) -> None:
    prefixed = None if status is None else f"StatusCode.{status}"  # as tritonclient words it
    error = grpc_errors.status_error(prefixed, message, url=URL, model="face_swap")
    assert type(error) is expected
    assert (error.url, error.model, error.code) == (URL, "face_swap", code)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        ("400", "no_face: none", errors.NoFaceError),
        ("400", "Request for unknown model: 'x' has no available versions", errors.ModelNotLoadedError),
        ("404", "Request for unknown model: 'x' has no available versions", errors.ModelNotLoadedError),
        ("404", "Request for unknown model: 'x' is not found", errors.UnknownModelError),
        ("404", "Request for unknown model: 'face_analysis' is not found", errors.ModelNotLoadedError),
        ("400", "cancelled: gone", errors.RequestCancelledError),  # Triton 2.51 sends CANCELLED as 400
        ("403", "This API is restricted, expecting header 'x'", errors.AccessDeniedError),
        ("418", "", errors.InvalidRequestError),
        ("500", "internal: see the log", errors.ServerFailedError),
        ("503", "Exceeds maximum queue size", errors.ServerBusyError),
        ("504", "<html>", errors.RequestTimeoutError),
        ("599", "", errors.ServerFailedError),
        (None, "tritonclient complains", errors.ServerFailedError),
    ],
)
def test_http_failures(status: str | None, message: str, expected: type[errors.WarmswapError]) -> None:
    assert type(http_errors.status_error(status, message, url=URL, model=None)) is expected


def test_only_busy_and_unreachable_servers_are_asked_again() -> None:
    retried = {cls.__name__ for cls in CLASSES if cls.retryable}
    assert retried == {"ServerUnreachableError", "ServerBusyError", "ModelLoadingError", "ModelNotLoadedError"}


def test_sentence_names_server_reason_and_code() -> None:
    assert str(errors.ServerUnreachableError("refused", url=URL)) == "cannot reach grpc://host:8001: refused"
    refused = errors.NoFaceError("none found {here}", url=URL, code="no_face")
    assert str(refused) == "the server refused the input: no_face: none found {here}"


def test_errors_survive_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(errors.NoFaceError("none", url=URL, model="face_swap", code="no_face")))
    assert (str(error), error.url, error.model, error.code) == (
        "the server refused the input: no_face: none",
        URL,
        "face_swap",
        "no_face",
    )
