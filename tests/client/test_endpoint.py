from __future__ import annotations

import pytest

from warmswap_client import FaceSwapClient, InvalidUrlError
from warmswap_client.endpoint import Endpoint, parse_url


@pytest.mark.parametrize(
    ("url", "expected", "address"),
    [
        ("grpc://host:1", Endpoint("grpc", "host", 1), "host:1"),
        ("grpc://host", Endpoint("grpc", "host", 8001), "host:8001"),
        ("grpcs://host", Endpoint("grpcs", "host", 8001), "host:8001"),
        ("http://host/", Endpoint("http", "host", 8000), "host:8000"),
        ("HTTPS://Host:443", Endpoint("https", "host", 443), "host:443"),
        ("grpc://[::1]:9", Endpoint("grpc", "::1", 9), "[::1]:9"),
    ],
)
def test_url_names_protocol_host_and_port(url: str, expected: Endpoint, address: str) -> None:
    endpoint = parse_url(url)
    assert endpoint == expected
    assert endpoint.address == address
    assert parse_url(endpoint.url) == endpoint


def test_scheme_decides_protocol_and_tls() -> None:
    schemes = ("grpc", "grpcs", "http", "https")
    endpoints = [parse_url(f"{scheme}://h") for scheme in schemes]
    assert [(endpoint.protocol, endpoint.tls) for endpoint in endpoints] == [
        ("grpc", False),
        ("grpc", True),
        ("http", False),
        ("http", True),
    ]


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "scheme ''"),
        ("localhost:8001", "scheme 'localhost'"),
        ("ftp://host:1", "scheme 'ftp'"),
        ("grpc://", "no host"),
        ("grpc://host:port", "not a URL"),
        ("grpc://host:99999", "not a URL"),
        ("http://host:1/path", "more than a host"),
        ("http://user@host:1", "more than a host"),
    ],
)
def test_anything_else_is_refused_before_a_connection_is_tried(url: str, complaint: str) -> None:
    with pytest.raises(InvalidUrlError, match=complaint) as caught:
        FaceSwapClient(url)
    assert caught.value.url == url
