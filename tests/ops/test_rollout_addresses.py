"""``warmswap rollout --service``: a name with several addresses is several replicas."""

from __future__ import annotations

import argparse
import socket

import pytest

from warmswap_client.tls import TlsFiles
from warmswap_ops.commands import rollout
from warmswap_ops.errors import ServerUnreachableError, UsageError
from warmswap_ops.rollout.addresses import addresses_of
from warmswap_ops.rollout.tls import RolloutTls

PODS = ("10.0.0.12", "10.0.0.9")
POD6 = "fd00::9"
Found = tuple[int, int, int, str, tuple[str | int, ...]]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give names the addresses that they would have: one pod twice, as resolvers may, and one of another family."""

    def getaddrinfo(host: str, port: int, **options: int) -> list[Found]:
        v4: list[Found] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (pod, port)) for pod in (*PODS, PODS[0])]
        v6: list[Found] = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (POD6, port, 0, 0))]
        return {"warmswap-headless": [*v4, *v6], "six": v6}[host]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def replicas(*words: str) -> dict[str, str | None]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    rollout.add_arguments(parser)
    return rollout._replicas(parser.parse_args(["status", *words]))


@pytest.mark.usefixtures("cluster")
def test_every_address_is_a_replica_once() -> None:
    assert addresses_of("warmswap-headless:8001") == ["10.0.0.12:8001", "10.0.0.9:8001"]
    assert addresses_of("six:8001") == ["[fd00::9]:8001"]


@pytest.mark.parametrize("service", ["warmswap", ":8001", "warmswap:", "warmswap:grpc", "warmswap:80010"])
def test_what_is_no_name_and_port_is_refused(service: str) -> None:
    with pytest.raises(UsageError, match="--service must be NAME:PORT"):
        addresses_of(service)


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(ServerUnreachableError, match=r"--service no-such-name\.invalid:8001"):
        addresses_of("no-such-name.invalid:8001")


@pytest.mark.usefixtures("cluster")
def test_certificates_are_held_to_the_name_of_the_service() -> None:
    assert replicas() == {"127.0.0.1:8001": None}
    assert replicas("--replica", "a:1", "--service", "warmswap-headless:8001") == {
        "a:1": None,
        "10.0.0.12:8001": "warmswap-headless",
        "10.0.0.9:8001": "warmswap-headless",
    }
    assert replicas("--replica", "10.0.0.9:8001", "--tls-name", "warmswap") == {"10.0.0.9:8001": "warmswap"}
    assert set(replicas("--service", "six:8001", "--tls-name", "x").values()) == {"x"}


def test_a_name_of_its_own_reaches_the_channel() -> None:
    tls = RolloutTls(TlsFiles())
    assert tls.client_arguments() == {"ssl": True}
    arguments = dict(tls.under("warmswap").client_arguments()["channel_args"])
    assert arguments["grpc.ssl_target_name_override"] == "warmswap"
    assert arguments["grpc.max_receive_message_length"] == -1  # else answers of over 4 MB would be refused
