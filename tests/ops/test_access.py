"""Who may call the control API."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.ops.serve_process import stub_of
from tests.ops.toys import PIPELINE_NAMES, STAGE_NAMES, write_repository
from warmswap_client import FaceSwapClient
from warmswap_ops.access import HEADER, OPEN, RESTRICTED, Access, find_access, is_loopback
from warmswap_ops.control import ControlClient
from warmswap_ops.errors import ControlDeniedError, UsageError
from warmswap_ops.launcher import LocalTriton

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("replica.example", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_open_on_loopback_and_closed_elsewhere() -> None:
    assert find_access("127.0.0.1", None, {}) == OPEN
    first, second = (find_access("0.0.0.0", None, {}).token for _ in range(2))
    assert first
    assert second
    assert first != second
    assert len(first) >= 32


def test_token_comes_from_the_file_also_on_loopback(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert find_access("127.0.0.1", path, {}).token == TOKEN
    assert find_access("0.0.0.0", None, {"WARMSWAP_CONTROL_TOKEN_FILE": str(path)}).token == TOKEN
    assert TOKEN not in repr(find_access("0.0.0.0", path, {}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "has 0 characters"),
        (b"\n", "has 0 characters"),
        (b"short\n", "has 5 characters, at least 16"),
        (b"0123456789abcdef 0123", "only letters, digits"),
        (b"0123456789abcdef\n0123456789abcdef\n", "on one line"),
        (b"0123456789abcdef,x=y", "only letters, digits"),
        ("0123456789abcdef\u00e9".encode(), "only letters, digits"),
    ],
    ids=["missing", "empty", "newline", "short", "space", "two lines", "separators", "not ascii"],
)
def test_bad_token_file(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        find_access("0.0.0.0", path, {})
    assert str(path) in str(caught.value)


def test_flags_name_what_is_closed_and_nothing_else() -> None:
    assert OPEN.flags() == []
    assert OPEN.grpc_headers() == {}
    grpc, http_flag = Access(TOKEN).flags()
    assert grpc == f"--grpc-restricted-protocol={','.join(RESTRICTED)}:{HEADER}={TOKEN}"
    assert http_flag == grpc.replace("--grpc-restricted-protocol", "--http-restricted-api")
    assert not {"health", "metadata", "inference", "statistics"} & set(RESTRICTED)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A replica that wants a token."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "token").write_text(TOKEN)
    repository = write_repository(folder / "repository")
    with LocalTriton(repository, control_token_file=folder / "token") as running:
        yield running


def post(url: str, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url, timeout=10)
    with closing(connection):
        connection.request("POST", path, body="{}", headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


@pytest.mark.triton
def test_start_works_with_the_token(locked: LocalTriton) -> None:
    with locked.control() as control:
        assert {state.name for state in control.index() if state.state == "READY"} == {*STAGE_NAMES, *PIPELINE_NAMES}


@pytest.mark.triton
@pytest.mark.parametrize("access", [OPEN, Access("another-token-of-32-characters-")], ids=["none", "wrong"])
def test_grpc_without_the_token_changes_nothing(locked: LocalTriton, access: Access) -> None:
    with ControlClient(locked.grpc_url, access) as control:
        for call in (control.index, lambda: control.unload("face_swap"), lambda: control.load("face_swap")):
            with pytest.raises(ControlDeniedError, match=r"the control API of .* wants (a|another) token"):
                call()
        assert control.is_model_ready("face_swap")  # health stays open
    assert stub_of(locked.options.repository or Path(), "face_swap")


@pytest.mark.triton
@pytest.mark.parametrize("headers", [{}, {HEADER: "wrong"}], ids=["none", "wrong"])
@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/face_swap/unload",
        "/v2/repository/models/face_swap/load",
        "/v2/systemsharedmemory/unregister",
        "/v2/trace/setting",
        "/v2/logging",
    ],
)
def test_http_without_the_token_is_forbidden(locked: LocalTriton, path: str, headers: dict[str, str]) -> None:
    status, answer = post(locked.http_url, path, headers)
    assert status == 403
    assert HEADER in answer["error"]
    assert TOKEN not in answer["error"]


@pytest.mark.triton
def test_http_with_the_token_works(locked: LocalTriton) -> None:
    status, answer = post(locked.http_url, "/v2/repository/index", {HEADER: TOKEN})
    assert status == 200
    assert {row["name"] for row in answer} == {*STAGE_NAMES, *PIPELINE_NAMES}


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_status_of_a_locked_replica(locked: LocalTriton, protocol: str) -> None:
    with FaceSwapClient(f"{protocol}://{locked.grpc_url if protocol == 'grpc' else locked.http_url}") as client:
        status = client.status()
    assert status.ready
    assert {model.name for model in status.models if model.state == "READY"} >= {*STAGE_NAMES, *PIPELINE_NAMES}
