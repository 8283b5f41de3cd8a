"""OCI image layouts on disk, as ``oras`` and ``skopeo`` write them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"
GZIP_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
TITLE = "org.opencontainers.image.title"
TAG = "org.opencontainers.image.ref.name"
UNPACK = "io.deis.oras.content.unpack"


def write_blob(layout: Path, content: bytes, media_type: str, annotations: dict[str, str] | None = None) -> Any:
    """Write a blob and return its descriptor."""
    sha256 = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / sha256).write_bytes(content)
    descriptor = {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": len(content)}
    return descriptor | ({"annotations": annotations} if annotations else {})


def blob_path(layout: Path, descriptor: Any) -> Path:
    return layout / "blobs/sha256" / str(descriptor["digest"]).removeprefix("sha256:")


def file_layers(layout: Path, folder: Path, prefix: str = "") -> list[Any]:
    """One layer a file, with the media type that ORAS gives to what it is told nothing of."""
    return [
        write_blob(layout, path.read_bytes(), TAR_TYPE, {TITLE: f"{prefix}{path.relative_to(folder).as_posix()}"})
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def packed(folder: Path, name: str, mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, name)
    return out.getvalue()


def write_manifest(layout: Path, layers: list[Any], **fields: Any) -> Any:
    """Write a manifest and return its descriptor."""
    config = write_blob(layout, b"{}", "application/vnd.oci.empty.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers} | fields
    return write_blob(layout, json.dumps(manifest).encode(), MANIFEST_TYPE)


def write_index(layout: Path, manifests: list[Any], **fields: Any) -> None:
    """Write the two files that make a folder a layout."""
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests} | fields
    (layout / "index.json").write_text(json.dumps(index))


def tagged(descriptor: Any, tag: str) -> Any:
    return descriptor | {"annotations": {TAG: tag}}
