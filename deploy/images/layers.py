"""Sizes of an image, layer by layer: what a node stores and what it pulls."""

from __future__ import annotations

import gzip
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer.

    Attributes:
        what: The instruction that made it.
        diff_id: Digest of its content.
        unpacked_bytes: Size of its files.
        gzip_bytes: What is pulled if it was pushed as gzip.
        zstd_bytes: What is pulled if it was pushed as zstd.
    """

    what: str
    diff_id: str
    unpacked_bytes: int
    gzip_bytes: int
    zstd_bytes: int


def read_layers(gzip_layout: Path, zstd_layout: Path) -> list[Layer]:
    """Read two OCI layouts of the same image."""
    manifest, config = _manifest(gzip_layout)
    zstd_manifest, _ = _manifest(zstd_layout)
    steps = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
    diff_ids = config["rootfs"]["diff_ids"]
    rows = zip(steps, diff_ids, manifest["layers"], zstd_manifest["layers"], strict=True)
    return [
        Layer(
            what=_short(step),
            diff_id=diff_id,
            unpacked_bytes=_unpacked_bytes(_blob(gzip_layout, packed["digest"])),
            gzip_bytes=packed["size"],
            zstd_bytes=zstd["size"],
        )
        for step, diff_id, packed, zstd in rows
    ]


def size_table(layers: list[Layer]) -> str:
    """Return a Markdown table, in MB of 10^6 bytes."""
    lines = ["| layer | unpacked | pulled (gzip) | pulled (zstd) | content |", "| --- | --: | --: | --: | --- |"]
    for layer in layers:
        sizes = (layer.unpacked_bytes, layer.gzip_bytes, layer.zstd_bytes)
        lines.append(f"| {layer.what} | {' | '.join(map(_mb, sizes))} | {layer.diff_id[7:19]} |")
    totals = (
        sum(layer.unpacked_bytes for layer in layers),
        sum(layer.gzip_bytes for layer in layers),
        sum(layer.zstd_bytes for layer in layers),
    )
    lines.append(f"| **all, MB** | {' | '.join(map(_mb, totals))} | |")
    return "\n".join(lines)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / MB:.1f}"


def _short(step: str) -> str:
    text = step.removeprefix("/bin/sh -c #(nop) ")
    return text.split(" in ")[-1] if text.startswith("COPY") else text[:40]


def _unpacked_bytes(blob: Path) -> int:
    with gzip.open(blob) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        return sum(member.size for member in tar if member.isreg())


def _manifest(layout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text(encoding="utf-8"))
    config = json.loads(_blob(layout, manifest["config"]["digest"]).read_text(encoding="utf-8"))
    return manifest, config


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")
