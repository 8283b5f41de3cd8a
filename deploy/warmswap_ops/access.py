"""Who may call the control API of a replica: anyone who reaches it, or only who has the token.

Loads, unloads, shared memory, trace and log settings come over the same port as requests, so no network policy can tell
them apart. Triton can: it wants a header of its own for them. Health, metadata, statistics and inference stay open.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from warmswap_ensemble.routes import CONTROL_DIGEST_VARIABLE
from warmswap_ops.errors import UsageError

TOKEN_FILE_VARIABLE: Final = "WARMSWAP_CONTROL_TOKEN_FILE"
HEADER: Final = "warmswap-control-token"
GRPC_HEADER_PREFIX: Final = "triton-grpc-protocol-"
"""What Triton puts before the key in gRPC metadata; over HTTP it is the key itself."""
RESTRICTED: Final = ("model-repository", "shared-memory", "trace", "logging")
CLOSED_WITH_TLS: Final = ("metadata", "inference", "model-config", "statistics")
CLOSED_HEADER: Final = "warmswap-use-grpc-with-tls"
"""Named so that the refusal says what to do; nobody knows its value."""
LEAST_LENGTH: Final = 16

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call the control API.

    Attributes:
        token: What a caller must bring; ``None`` = nothing, it is open.
    """

    token: str | None = field(default=None, repr=False)

    def flags(self) -> list[str]:
        """Return the arguments of tritonserver.

        The token is in them: whoever may read ``/proc`` of the pod's processes can read it too, as the file.
        """
        if self.token is None:
            return []
        setting = f"{','.join(RESTRICTED)}:{HEADER}={self.token}"
        return [f"--grpc-restricted-protocol={setting}", f"--http-restricted-api={setting}"]

    def environment(self) -> dict[str, str]:
        """Return what lets the rollout agent, a model of the server, ask for the token as the control API does."""
        digest = "" if self.token is None else hashlib.sha256(self.token.encode()).hexdigest()
        return {CONTROL_DIGEST_VARIABLE: digest}

    def grpc_headers(self) -> dict[str, str]:
        """Return what a gRPC call of the control API must bring."""
        return {} if self.token is None else {GRPC_HEADER_PREFIX + HEADER: self.token}


OPEN: Final = Access()


def closed_http_flags() -> list[str]:
    """Return what leaves nothing but health on the plain HTTP port, which probes need: for where gRPC has TLS."""
    return [f"--http-restricted-api={','.join(CLOSED_WITH_TLS)}:{CLOSED_HEADER}={secrets.token_urlsafe(32)}"]


def find_access(host: str, token_file: Path | None, environ: Mapping[str, str]) -> Access:
    """Return who may call the control API.

    Args:
        host: What the replica listens on.
        token_file: Holds the token; ``None`` = what ``$WARMSWAP_CONTROL_TOKEN_FILE`` names. Without either the API is
            open where only this machine reaches it, else closed to all but the launcher, with a token of chance.
        environ: The environment.

    Raises:
        UsageError: the file cannot be read, or holds no token.
    """
    path = token_file or (Path(given) if (given := environ.get(TOKEN_FILE_VARIABLE)) else None)
    if path is not None:
        return Access(_read_token(path))
    return OPEN if is_loopback(host) else Access(secrets.token_urlsafe(32))


def given_access(token_file: Path | None, environ: Mapping[str, str]) -> Access:
    """Return what a tool brings along: the token of the file, or of ``$WARMSWAP_CONTROL_TOKEN_FILE``, else nothing.

    Raises:
        UsageError: the file cannot be read, or holds no token.
    """
    given = token_file or environ.get(TOKEN_FILE_VARIABLE)
    return Access(_read_token(Path(given))) if given else OPEN


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        raise UsageError(f"control token {path}: only letters, digits and . _ ~ + / - may be in it") from None
    except OSError as error:
        raise UsageError(f"control token {path} cannot be read: {error.strerror or error}") from None
    if len(token) < LEAST_LENGTH:
        raise UsageError(
            f"control token {path} has {len(token)} characters, at least {LEAST_LENGTH} are needed; "
            f"make one with: openssl rand -hex 32 > {path}"
        )
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"control token {path}: only letters, digits and . _ ~ + / - may be in it, on one line")
    return token
