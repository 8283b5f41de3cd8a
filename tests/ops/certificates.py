"""Certificates made by ``openssl``, as a test needs them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

LOCAL = "DNS:warmswap.test,IP:127.0.0.1"
WAIT_S = 60


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path


def make_authority(folder: Path, name: str) -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl("req", "-x509", *_new_key(pair.key), "-subj", f"/CN={name}", "-days", "30", "-out", pair.cert)
    return pair


def make_certificate(
    authority: Pair, folder: Path, name: str, *, names: str = LOCAL, usage: str = "", when: str = ""
) -> Pair:
    """Make a certificate; ``when`` is faketime's, such as ``-30 days``: it is valid for a day from then."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    lines = [f"subjectAltName={names}" if names else "", f"extendedKeyUsage={usage}" if usage else ""]
    extensions.write_text("\n".join(filter(None, lines)) + "\n")
    _openssl("req", *_new_key(pair.key), "-subj", f"/CN={name}", "-out", request)
    ca = ("-CA", authority.cert, "-CAkey", authority.key, "-CAcreateserial")
    _openssl("x509", "-req", "-in", request, *ca, "-days", "1", "-extfile", extensions, "-out", pair.cert, when=when)
    return pair


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)


def _openssl(*arguments: str | Path, when: str = "") -> None:
    command = [*(("faketime", when) if when else ()), "openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
