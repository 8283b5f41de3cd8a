"""TLS on the gRPC port: what is refused before the start, and who gets in after it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.ops.certificates import Pair, make_authority, make_certificate
from tests.ops.serve_process import ServeProcess
from tests.ops.toys import write_repository
from warmswap_client import NO_RETRIES, FaceSwapClient, InvalidTlsError, ServerUnreachableError, TlsFiles
from warmswap_client.cli import main
from warmswap_ops.errors import UsageError
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.tls import Tls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Pair:
    return make_authority(folder, "authority")


@pytest.fixture(scope="module")
def pair(folder: Path, authority: Pair) -> Pair:
    return make_certificate(authority, folder, "server")


def test_nothing_is_no_tls() -> None:
    assert Tls.of(None, None, None) is None


def test_good_files_give_flags_and_a_name(pair: Pair, authority: Pair) -> None:
    tls = Tls.of(pair.cert, pair.key, None)
    assert tls is not None
    assert tls.name == "warmswap.test"
    assert "--grpc-use-ssl=1" in tls.flags()
    assert not any("mutual" in flag for flag in tls.flags())
    mutual = Tls.of(pair.cert, pair.key, authority.cert)
    assert mutual is not None
    assert {"--grpc-use-ssl-mutual=1", f"--grpc-root-cert={authority.cert}"} <= set(mutual.flags())


def test_wildcard_gives_a_name_that_it_covers(folder: Path, authority: Pair) -> None:
    pair = make_certificate(authority, folder, "wildcard", names="DNS:*.faces.test")
    tls = Tls.of(pair.cert, pair.key, None)
    assert tls is not None
    assert tls.name == "warmswap.faces.test"


def test_what_is_missing_is_named(pair: Pair, folder: Path) -> None:
    with pytest.raises(UsageError, match="--tls-key is missing"):
        Tls.of(pair.cert, None, None)
    with pytest.raises(UsageError, match="--tls-cert is missing"):
        Tls.of(None, pair.key, None)
    with pytest.raises(UsageError, match="--tls-client-ca needs"):
        Tls.of(None, None, pair.cert)
    with pytest.raises(UsageError, match=r"--tls-cert: .*nowhere is not a file"):
        Tls.of(folder / "nowhere", pair.key, None)


def test_files_that_do_not_go_together(folder: Path, pair: Pair, authority: Pair) -> None:
    other = make_certificate(authority, folder, "other")
    with pytest.raises(UsageError, match="the key must be that of the certificate"):
        Tls.of(pair.cert, other.key, None)
    text = folder / "text"
    text.write_text("no certificate\n")
    with pytest.raises(UsageError, match="must be in PEM form"):
        Tls.of(text, pair.key, None)


@pytest.mark.parametrize(
    ("when", "message"), [("-30 days", "has expired"), ("+30 days", "not yet valid")], ids=["expired", "not yet"]
)
def test_dates_must_fit_the_clock(when: str, message: str, folder: Path, authority: Pair) -> None:
    pair = make_certificate(authority, folder, message.replace(" ", "-"), when=when)
    with pytest.raises(UsageError, match=rf"{message}.*clock of this machine is wrong"):
        Tls.of(pair.cert, pair.key, None)


def test_certificate_without_names(folder: Path, authority: Pair) -> None:
    pair = make_certificate(authority, folder, "nameless", names="")
    with pytest.raises(UsageError, match="has no subjectAltName"):
        Tls.of(pair.cert, pair.key, None)


def test_launcher_that_its_own_server_would_not_let_in(folder: Path, pair: Pair) -> None:
    stranger = make_authority(folder, "stranger")
    with pytest.raises(UsageError, match="the launcher calls its own server"):
        Tls.of(pair.cert, pair.key, stranger.cert)


def test_serve_refuses_bad_files_before_anything_runs(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    with ServeProcess(repository, f"--tls-cert={tmp_path / 'a'}", f"--tls-key={tmp_path / 'b'}") as serve:
        assert serve.wait() == 2
        assert "a is not a file" in serve.stderr()


def test_client_refuses_bad_files(pair: Pair, folder: Path) -> None:
    with pytest.raises(InvalidTlsError, match="has no TLS"):
        FaceSwapClient("grpc://127.0.0.1:1", tls=TlsFiles(ca=pair.cert))
    with pytest.raises(InvalidTlsError, match="the key is missing"):
        FaceSwapClient("grpcs://127.0.0.1:1", tls=TlsFiles(cert=pair.cert))
    with pytest.raises(InvalidTlsError, match="nowhere"):
        FaceSwapClient("grpcs://127.0.0.1:1", tls=TlsFiles(ca=folder / "nowhere"))


@pytest.fixture(scope="module")
def server(folder: Path, pair: Pair) -> Iterator[LocalTriton]:
    with LocalTriton(write_repository(folder / "repository"), tls=Tls.of(pair.cert, pair.key, None)) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(folder: Path, pair: Pair, authority: Pair) -> Iterator[LocalTriton]:
    tls = Tls.of(pair.cert, pair.key, authority.cert)
    with LocalTriton(write_repository(folder / "mutual"), tls=tls) as running:
        yield running


def asked(server: LocalTriton, tls: TlsFiles | None) -> bool:
    with FaceSwapClient(f"grpcs://{server.grpc_url}", tls=tls, retry=NO_RETRIES, timeout_s=10) as client:
        return client.status().ready


@pytest.mark.triton
def test_client_that_trusts_the_authority_gets_in(server: LocalTriton, authority: Pair) -> None:
    assert asked(server, TlsFiles(ca=authority.cert))


@pytest.mark.triton
def test_client_that_trusts_others_does_not(server: LocalTriton, folder: Path) -> None:
    for tls in (None, TlsFiles(ca=make_authority(folder, "unknown").cert)):
        with pytest.raises(ServerUnreachableError):
            asked(server, tls)


@pytest.mark.triton
def test_plain_grpc_does_not_get_in(server: LocalTriton) -> None:
    with (
        FaceSwapClient(f"grpc://{server.grpc_url}", retry=NO_RETRIES, timeout_s=5) as client,
        pytest.raises(ServerUnreachableError),
    ):
        client.status()


def request(server: LocalTriton, method: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.http_url, timeout=10)
    with closing(connection):
        connection.request(method, path, body=None if method == "GET" else b"{}")
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else None


@pytest.mark.triton
def test_plain_http_answers_probes_and_nothing_else(server: LocalTriton) -> None:
    assert request(server, "GET", "/v2/models/face_swap/ready")[0] == 200
    assert request(server, "GET", "/v2/health/live")[0] == 200
    for method, path in (
        ("POST", "/v2/models/face_swap/infer"),
        ("GET", "/v2/models/face_swap"),
        ("GET", "/v2/models/face_swap/config"),
        ("GET", "/v2/models/face_swap/stats"),
    ):
        status, answer = request(server, method, path)
        assert status == 403, path
        assert "warmswap-use-grpc-with-tls" in answer["error"]


@pytest.mark.triton
def test_mutual_tls_wants_a_certificate(mutual: LocalTriton, authority: Pair, folder: Path) -> None:
    with pytest.raises(ServerUnreachableError):
        asked(mutual, TlsFiles(ca=authority.cert))
    me = make_certificate(authority, folder, "me", names="", usage="clientAuth")
    assert asked(mutual, TlsFiles(authority.cert, me.cert, me.key))


@pytest.mark.triton
def test_command_line_takes_the_files(server: LocalTriton, authority: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"--url=grpcs://{server.grpc_url}"
    assert main(["wait", url, f"--tls-ca={authority.cert}", "--timeout=10"]) == 0
    assert main(["wait", url, "--tls-ca=/nowhere", "--timeout=10"]) == 2
    assert "/nowhere" in capsys.readouterr().err


@pytest.mark.triton
def test_the_judge_of_a_rollout_takes_the_files(
    server: LocalTriton, authority: Pair, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "picture").write_bytes(b"none")
    sides = [f"--stable={server.grpc_url}", f"--candidate={server.grpc_url}"]
    words = ["rollout", "judge", *sides, f"--source={folder / 'picture'}", f"--target={folder / 'picture'}", "--wait=5"]
    assert main([*words, f"--tls-ca={authority.cert}"]) == 2  # it got in: the toy behind it takes no pictures
    assert "is no use here" in capsys.readouterr().err
    assert main([*words, "--tls"]) == 7  # the system does not trust our authority
    assert "is not ready" in capsys.readouterr().err


@pytest.mark.triton
def test_rollouts_take_the_files(server: LocalTriton, authority: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    status = ["rollout", "status", f"--replica={server.grpc_url}"]
    assert main([*status, f"--tls-ca={authority.cert}"]) == 0
    assert "no rollout yet" in capsys.readouterr().out
    assert main(status) == 7
    assert main([*status, "--tls-ca=/nowhere"]) == 2


@pytest.mark.triton
def test_rollouts_call_a_pod_by_its_address_and_know_it_by_the_name_of_the_service(
    server: LocalTriton, authority: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    status = ["rollout", "status", f"--tls-ca={authority.cert}"]
    assert main([*status, f"--service={server.grpc_url}"]) == 0
    assert main([*status, f"--replica={server.grpc_url}", "--tls-name=warmswap.test"]) == 0
    assert "no rollout yet" in capsys.readouterr().out
    assert main([*status, f"--replica={server.grpc_url}", "--tls-name=other.test"]) == 7
