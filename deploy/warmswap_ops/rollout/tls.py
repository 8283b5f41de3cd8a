"""How the tool reaches replicas that speak TLS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from warmswap_client.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class RolloutTls:
    """What tritonclient takes for a connection to another machine.

    Attributes:
        files: Whom to trust, and who we are.
    """

    files: TlsFiles

    def client_arguments(self) -> dict[str, Any]:
        """Return arguments of ``InferenceServerClient``.

        Raises:
            InvalidTlsError: a file is missing or wrong.
        """
        self.files.check()
        names = ("root_certificates", "private_key", "certificate_chain")
        paths = (self.files.ca, self.files.key, self.files.cert)
        return {"ssl": True} | {name: str(path) for name, path in zip(names, paths, strict=True) if path is not None}
