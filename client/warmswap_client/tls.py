"""Certificates of a TLS connection: whom to trust, and who we are."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_client.errors import InvalidTlsError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM form, for ``grpcs`` and ``https``.

    Attributes:
        ca: Certificates of those who may vouch for the server; ``None`` = those that the system trusts.
        cert: Our own certificate, where the server asks for one (mutual TLS).
        key: Its private key.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None

    def check(self) -> None:
        """Refuse what cannot work, before anything is sent.

        Raises:
            InvalidTlsError: a file is missing or not in PEM form, or certificate and key do not belong together.
        """
        if (self.cert is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise InvalidTlsError(f"a certificate and its key go together, the {missing} is missing")
        self.context()

    def context(self) -> ssl.SSLContext:
        """Return what Python's TLS takes.

        Raises:
            InvalidTlsError: as ``check``.
        """
        context = ssl.create_default_context()
        try:
            if self.ca is not None:
                context = ssl.create_default_context(cafile=str(self.ca))
            if self.cert is not None:
                context.load_cert_chain(str(self.cert), None if self.key is None else str(self.key))
        except (OSError, ssl.SSLError) as error:  # an SSLError is an OSError too
            which = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise InvalidTlsError(f"TLS files {which}: {error.strerror or error}") from error
        return context


SYSTEM_TRUST: Final = TlsFiles()
