"""The rendered manifests that are committed, and the objects in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

KUBERNETES: Final = Path(__file__).resolve().parents[2] / "deploy/kubernetes"
PROFILES: Final = ("cpu", "gpu", "keda", "knative")
Manifest = dict[str, Any]


def objects(text: str) -> list[Manifest]:
    """Return the objects of a file of manifests."""
    return [document for document in yaml.safe_load_all(text) if document]


def committed(profile: str) -> list[Manifest]:
    """Return the objects of a committed profile."""
    return objects((KUBERNETES / "rendered" / profile / "manifests.yaml").read_text())


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the objects of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the template of every pod that the objects make, by ``Kind/name``."""
    templates = {}
    for manifest in manifests:
        spec = manifest.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            templates[f"{manifest['kind']}/{manifest['metadata']['name']}"] = template
    return templates


def server(manifests: list[Manifest]) -> Manifest:
    """Return the pod template that serves."""
    (found,) = (
        template
        for template in pod_templates(manifests).values()
        if template["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    )
    return found
