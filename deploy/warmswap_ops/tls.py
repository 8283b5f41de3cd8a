"""TLS on the gRPC port: which files, whether they can work, and how this program calls its own server.

They are tried before the server starts, by a handshake in memory: certificate and key belong together, the dates fit
the clock, and under mutual TLS the server's own certificate, with which the launcher calls it, is one that it lets in.
Triton reads them once: new ones need a restart.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warmswap_ops.errors import UsageError

TURNS: Final = 8
"""More than a handshake has."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of the gRPC port.

    Attributes:
        cert: Certificate of the server, with the chain that leads to its authority, in PEM form.
        key: Its private key.
        client_ca: Who may vouch for clients, which must show a certificate then; ``None`` = they need none.
        name: A name in the certificate, under which the launcher calls its own server.
    """

    cert: Path
    key: Path
    client_ca: Path | None
    name: str

    @classmethod
    def of(cls, cert: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
        """Check what was asked for; ``None`` = no TLS.

        Raises:
            UsageError: files are missing, do not belong together, or cannot be used at this time.
        """
        if cert is None and key is None:
            if client_ca is not None:
                raise UsageError("--tls-client-ca needs --tls-cert and --tls-key")
            return None
        if cert is None or key is None:
            raise UsageError(
                f"--tls-cert and --tls-key go together, --tls-{'key' if key is None else 'cert'} is missing"
            )
        return cls(cert, key, client_ca, _try(cert, key, client_ca))

    def flags(self) -> list[str]:
        """Return the arguments of tritonserver."""
        flags = [f"--grpc-server-cert={self.cert}", f"--grpc-server-key={self.key}"]
        if self.client_ca is None:
            return ["--grpc-use-ssl=1", *flags]
        return ["--grpc-use-ssl=1", "--grpc-use-ssl-mutual=1", *flags, f"--grpc-root-cert={self.client_ca}"]

    def client_arguments(self) -> dict[str, Any]:
        """Return what tritonclient takes to call this server from the same machine: its own certificate is trusted."""
        arguments: dict[str, Any] = {
            "ssl": True,
            "root_certificates": str(self.cert),
            "channel_args": [("grpc.ssl_target_name_override", self.name)],
        }
        if self.client_ca is not None:
            arguments |= {"private_key": str(self.key), "certificate_chain": str(self.cert)}
        return arguments


def _try(cert: Path, key: Path, client_ca: Path | None) -> str:
    """Shake hands in memory, and return a name of the server."""
    for what, path in (("--tls-cert", cert), ("--tls-key", key), ("--tls-client-ca", client_ca)):
        if path is not None and not path.is_file():
            raise UsageError(f"{what}: {path} is not a file")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted
    try:
        server.load_cert_chain(cert, key)
        client.load_verify_locations(cert)
        if client_ca is not None:
            server.load_verify_locations(client_ca)
            server.verify_mode = ssl.CERT_REQUIRED
            client.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise UsageError(
            f"TLS files {cert}, {key}{f', {client_ca}' if client_ca else ''} cannot be used: "
            f"{error.reason or error}; they must be in PEM form, and the key must be that of the certificate"
        ) from None
    except OSError as error:
        raise UsageError(f"TLS files {cert}, {key} cannot be read: {error.strerror or error}") from None
    answer = _shake_hands(server, client, cert, client_ca)
    names = [value for kind, value in answer.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    if not names:
        raise UsageError(f"--tls-cert: {cert} has no subjectAltName: clients would refuse it; make one with a DNS name")
    name = str(names[0])
    return f"warmswap{name[1:]}" if name.startswith("*.") else name


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, cert: Path, client_ca: Path | None) -> dict[str, Any]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(TURNS):
        for side, who in ((ours, "server"), (theirs, "client")):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                raise UsageError(_refusal(error, who, cert, client_ca)) from None
            except ssl.SSLError as error:
                raise UsageError(
                    f"--tls-cert: {cert}: no handshake with it succeeds: {error.reason or error}"
                ) from None
    return dict(ours.getpeercert() or {})


def _refusal(error: ssl.SSLCertVerificationError, who: str, cert: Path, client_ca: Path | None) -> str:
    reason = error.verify_message
    if who == "client":
        return (
            f"--tls-client-ca: the launcher calls its own server with {cert}, and {client_ca} does not let it in: "
            f"{reason}; the server's certificate must be of the same authority, and not only for servers"
        )
    clock = " (or the clock of this machine is wrong)" if "expired" in reason or "not yet" in reason else ""
    return f"--tls-cert: {cert}: {reason}{clock}"
