"""A minimal Debian 12, made from the package mirror of this machine: stands in for ``debian:bookworm-slim``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from images.machine import run
from images.store import Store

BASE: Final = "debian:bookworm-slim"
HOOKS: Final = "/usr/share/mmdebstrap/hooks/merged-usr"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The image of the hub has no manuals and translations either, but the copyright of each package.
EXCLUDED: Final = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
CLEANED: Final = 'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/* "$1"/var/log/*'


def make_base(store: Store, folder: Path) -> str:
    """Make the base image unless the store has it; return its name.

    Raises:
        ImageError: a step failed.
    """
    if store.has(BASE):
        return f"localhost/{BASE}"
    tarball = folder / "base.tar"
    if not tarball.is_file():
        print("making a Debian base image (once)", flush=True)
        partial = folder / "base.partial.tar"
        options = ["--variant=minbase", f"--hook-dir={HOOKS}", "--include=ca-certificates,usr-is-merged"]
        options += [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
        options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", f"--customize-hook={CLEANED}"]
        command = ["mmdebstrap", *options, "bookworm", str(partial)]
        run(command, env={**os.environ, "SOURCE_DATE_EPOCH": "0"}, log=folder / "base.log")
        partial.replace(tarball)
    name = store.buildah("from", "scratch")
    store.buildah("add", name, str(tarball), "/")
    store.buildah("config", "--env", f"PATH={PATH}", name)
    store.buildah("commit", "--timestamp", "0", "--squash", "--rm", name, f"localhost/{BASE}")
    return f"localhost/{BASE}"
