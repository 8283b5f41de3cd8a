"""Buildah with a store of its own, so that nothing of the machine's images is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.machine import run


@dataclass(frozen=True, slots=True)
class Store:
    """Images in a folder.

    Attributes:
        folder: Where they are; on a file system that overlayfs can lie upon (ext4, xfs).
    """

    folder: Path

    def buildah(self, *arguments: str, log: Path | None = None) -> str:
        """Run buildah; return what it prints."""
        roots = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        return run(["buildah", *roots, "--storage-driver", "overlay", *arguments], log=log)

    def build(
        self, dockerfile: Path, context: Path, tag: str, arguments: Mapping[str, str], log: Path, *, cached: bool = True
    ) -> None:
        """Build an image; all times in it are 1970, so the same content gives the same digests.

        Raises:
            ImageError: the build failed; ``log`` has all of its output.
        """
        options = ["--isolation", "chroot", "--pull-never", "--force-rm", "--format", "docker", "--timestamp", "0"]
        options += ["--layers"]  # or buildah makes one layer of a whole stage
        options += [] if cached else ["--no-cache"]
        for name, value in arguments.items():
            options += ["--build-arg", f"{name}={value}"]
        self.buildah("bud", *options, "--file", str(dockerfile), "--tag", f"localhost/{tag}", str(context), log=log)

    def has(self, tag: str) -> bool:
        """Whether there is an image of this name."""
        return f"localhost/{tag}" in self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()

    def config(self, tag: str) -> dict[str, Any]:
        """Return the image's configuration (``Env``, ``User``, ``Entrypoint``, ...)."""
        inspected = json.loads(self.buildah("inspect", "--type", "image", f"localhost/{tag}"))
        return dict(inspected["Docker"]["config"])

    def diff_ids(self, tag: str) -> list[str]:
        """Return the digests of the image's layers, uncompressed."""
        inspected = json.loads(self.buildah("inspect", "--type", "image", f"localhost/{tag}"))
        return list(inspected["OCIv1"]["rootfs"]["diff_ids"])

    def push(self, tag: str, layout: Path, compression: str = "gzip") -> Path:
        """Write the image as an OCI layout, as a registry would hold it."""
        shutil.rmtree(layout, ignore_errors=True)
        options = ["--format", "oci", "--compression-format", compression]
        self.buildah("push", *options, f"localhost/{tag}", f"oci:{layout}:latest")
        return layout

    @contextmanager
    def mounted(self, tag: str) -> Iterator[Path]:
        """Mount the image's file system."""
        name = self.buildah("from", "--pull-never", f"localhost/{tag}")
        try:
            yield Path(self.buildah("mount", name))
        finally:
            self.buildah("umount", name)
            self.buildah("rm", name)
