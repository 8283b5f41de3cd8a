"""From a URL to an address and a protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from warmswap_client.errors import InvalidTlsError, InvalidUrlError
from warmswap_client.tls import SYSTEM_TRUST, TlsFiles

DEFAULT_URL: Final = "grpc://127.0.0.1:8001"

_DEFAULT_PORTS: Final = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 8000}  # Triton's own
_FORM: Final = "expected grpc://host:port, http://host:port, grpcs://host:port or https://host:port"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server listens.

    Attributes:
        scheme: ``grpc``, ``grpcs``, ``http`` or ``https``.
        host: Name or address, an IPv6 address without brackets.
        port: TCP port.
        tls_files: For the TLS forms.
    """

    scheme: str
    host: str
    port: int
    tls_files: TlsFiles = SYSTEM_TRUST

    @property
    def protocol(self) -> str:
        """``grpc`` or ``http``."""
        return self.scheme.removesuffix("s")

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme.endswith("s")

    @property
    def address(self) -> str:
        """``host:port``, as tritonclient wants it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL with its port."""
        return f"{self.scheme}://{self.address}"


def parse_url(url: str, tls: TlsFiles | None = None) -> Endpoint:
    """Read ``scheme://host[:port]``; the port defaults to 8001 for gRPC and 8000 for HTTP.

    Raises:
        InvalidUrlError: any other form, paths and user names included.
        InvalidTlsError: the TLS files cannot be used, or the URL has no TLS.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidUrlError(f"{url!r} is not a URL: {error}", url=url) from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidUrlError(f"{url!r} has the scheme {parts.scheme!r}: {_FORM}", url=url)
    if not parts.hostname:
        raise InvalidUrlError(f"{url!r} names no host: {_FORM}", url=url)
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidUrlError(f"{url!r} has more than a host and a port: {_FORM}", url=url)
    endpoint = Endpoint(parts.scheme, parts.hostname, _DEFAULT_PORTS[parts.scheme] if port is None else port)
    if tls is None:
        return endpoint
    if not endpoint.tls:
        raise InvalidTlsError(f"{url!r} has no TLS, so its files are of no use: grpcs:// or https:// has", url=url)
    tls.check()
    return replace(endpoint, tls_files=tls)
