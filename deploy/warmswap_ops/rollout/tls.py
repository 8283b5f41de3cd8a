"""How the tool reaches replicas that speak TLS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from warmswap_client.grpc_transport import CHANNEL_ARGS
from warmswap_client.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class RolloutTls:
    """What tritonclient takes for a connection to another machine.

    Attributes:
        files: Whom to trust, and who we are.
        name: Name in the replica's certificate; ``None`` = the one it is called by.
    """

    files: TlsFiles
    name: str | None = None

    def under(self, name: str | None) -> Self:
        """Return the same for a replica whose certificate has another name than its address."""
        return replace(self, name=name)

    def client_arguments(self) -> dict[str, Any]:
        """Return arguments of ``InferenceServerClient``.

        Raises:
            InvalidTlsError: a file is missing or wrong.
        """
        self.files.check()
        names = ("root_certificates", "private_key", "certificate_chain")
        paths = (self.files.ca, self.files.key, self.files.cert)
        arguments: dict[str, Any] = {"ssl": True}
        if self.name is not None:
            arguments["channel_args"] = [*CHANNEL_ARGS, ("grpc.ssl_target_name_override", self.name)]
        return arguments | {name: str(path) for name, path in zip(names, paths, strict=True) if path is not None}
