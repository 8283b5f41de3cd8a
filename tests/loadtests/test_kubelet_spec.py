"""What a manifest says, and what is wrong with it."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.pictures import ROOT
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.kubelet.container import local_command
from warmswap_loadtests.kubelet.pod_spec import DeploymentSpec, PodSpec, ProbeSpec, read_manifest
from warmswap_ops.commands import serve
from warmswap_ops.ports import Ports

RENDERED = ROOT / "deploy/kubernetes/rendered/cpu/manifests.yaml"
LEAST: dict[str, Any] = {
    "kind": "Deployment",
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "warmswap",
                        "command": ["python", "-m", "warmswap_ops"],
                        "ports": [{"name": "http", "containerPort": 8000}],
                        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                    }
                ]
            }
        }
    },
}


def write(path: Path, *documents: Any) -> Path:
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return path


def test_defaults_are_those_of_kubernetes(tmp_path: Path) -> None:
    spec = read_manifest(write(tmp_path / "least.yaml", LEAST))
    assert spec == DeploymentSpec(
        PodSpec(
            command=("python", "-m", "warmswap_ops"),
            ports={"http": 8000},
            readiness=ProbeSpec("/ready", "http", 0.0, 10.0, 1.0, 1, 3, None),
            grace_s=30.0,
        ),
        min_ready_s=0.0,
        progress_deadline_s=600.0,
    )
    assert [spec.surge(n) for n in (1, 2, 4, 5)] == [1, 1, 1, 2]  # 25 %, up
    assert [spec.unavailable(n) for n in (1, 3, 4, 8)] == [0, 0, 1, 2]  # 25 %, down


def test_the_rendered_manifest_can_be_run() -> None:
    spec = read_manifest(RENDERED)
    pod = spec.pod
    assert pod.startup is not None
    assert pod.readiness is not None
    assert pod.liveness is not None
    assert pod.startup.path == pod.readiness.path == "/v2/models/face_swap/ready"
    assert pod.liveness.path == "/v2/health/live"
    assert pod.grace_s > pod.pre_stop_s > 0
    assert spec.unavailable(2) == 0
    assert spec.surge(2) >= 1
    assert spec.budget_unavailable == 1
    command = local_command(pod, Ports(1, 2, 3), Path("/models-here"))
    assert command[:3] == [sys.executable, "-m", "warmswap_ops"]
    assert sum(word.startswith("--repository") for word in command) == 1
    assert {
        "--host=127.0.0.1",
        "--http-port=1",
        "--grpc-port=2",
        "--metrics-port=3",
        "--repository=/models-here",
    } <= set(command)
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    parser.parse_args(command[3:])  # exits over an option that there is not


def test_a_value_may_be_a_word_of_its_own() -> None:
    spec = PodSpec(("python3", "-m", "warmswap_ops"), ("--http-port", "8000", "--json", "--repository", "/models"))
    words = local_command(spec, Ports(1, 2, 3), Path("/here"))
    assert words[1:4] == ["-m", "warmswap_ops", "--json"]
    assert "8000" not in words
    assert "/models" not in words


def test_another_program_is_refused() -> None:
    with pytest.raises(BenchError, match="starts 'tini'"):
        local_command(PodSpec(("tini", "python")), Ports(1, 2, 3), Path("/here"))


def container(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"]["template"]["spec"]["containers"][0]
    return found


def probe(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = container(document)["readinessProbe"]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(kind="StatefulSet"), "has 0 objects of the kind Deployment"),
        (lambda d: d.pop("spec"), r"Deployment\.spec must be a mapping, got None"),
        (lambda d: d["spec"].update(strategy={"type": "Recreate"}), r"strategy\.type is Recreate"),
        (lambda d: d["spec"].update(strategy={"rollingUpdate": {"maxSurge": "some"}}), r"maxSurge must be a number"),
        (lambda d: d["spec"].update(minReadySeconds=-1), r"minReadySeconds must be a number of at least 0, got -1"),
        (lambda d: container(d).update(name="other"), r"has no 'warmswap', but other"),
        (lambda d: container(d).pop("command"), r"command must be a list of strings, got None"),
        (lambda d: container(d).update(args="--json"), r"args must be a list, got '--json'"),
        (lambda d: container(d).update(args=[1]), r"args must be a list of strings, got \[1\]"),
        (lambda d: probe(d).pop("httpGet"), r"readinessProbe is no httpGet"),
        (lambda d: probe(d)["httpGet"].update(port="web"), r"httpGet\.port is 'web', but the container's ports are"),
        (lambda d: probe(d)["httpGet"].update(scheme="HTTPS"), r"scheme is 'HTTPS'"),
        (lambda d: probe(d).update(periodSeconds=0), r"periodSeconds must be a number of at least 1, got 0"),
        (lambda d: probe(d).update(failureThreshold=True), r"failureThreshold must be a number .* got True"),
        (
            lambda d: container(d).update(livenessProbe={**probe(d), "successThreshold": 2}),
            r"livenessProbe\.successThreshold must be 1, got 2",
        ),
        (
            lambda d: container(d).update(lifecycle={"preStop": {"exec": {"command": ["touch", "/tmp/x"]}}}),
            r"only a sleep can be run",
        ),
        (lambda d: container(d).update(resources={"limits": {"memory": "a lot"}}), r"memory must be a size"),
        (
            lambda d: d["spec"]["template"]["spec"].update(restartPolicy="OnFailure"),
            r"restartPolicy is OnFailure, a Deployment wants Always",
        ),
    ],
)
def test_what_cannot_be_run_is_named_with_its_path(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    document = copy.deepcopy(LEAST)
    change(document)
    path = write(tmp_path / "manifest.yaml", document)
    with pytest.raises(BenchError, match=rf"^{path}: .*{message}"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "is not YAML"), (b"\xff\xfe\xff", "cannot read|is not YAML"), (b"", "has 0 objects"), (b"- 1", "has 0")],
)
def test_files_that_are_no_manifest(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=message):
        read_manifest(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BenchError, match=r"cannot read the manifest nowhere\.yaml: No such file.*--manifest"):
        read_manifest(Path("nowhere.yaml"))


@pytest.mark.parametrize(
    "hook",
    [{"sleep": {"seconds": 7}}, {"exec": {"command": ["sleep", "7"]}}, {"exec": {"command": ["sh", "-c", "sleep 7"]}}],
)
def test_sleeps_before_the_stop(tmp_path: Path, hook: dict[str, Any]) -> None:
    document = copy.deepcopy(LEAST)
    container(document)["lifecycle"] = {"preStop": hook}
    assert read_manifest(write(tmp_path / "manifest.yaml", document)).pod.pre_stop_s == 7.0
