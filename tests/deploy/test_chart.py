"""The chart under Helm: wrong values, every feature at once, two releases in a namespace (``make test-manifests``)."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifest_files import KUBERNETES, PROFILES, Manifest, objects, of_kind, pod_templates, server
from warmswap_ops.commands import provision, serve

pytestmark = pytest.mark.manifests

ROOT = KUBERNETES.parents[1]
HELM = ROOT / "out/manifest-tools/helm"
CHART = KUBERNETES / "chart"


def serve_args(container: Manifest) -> argparse.Namespace:
    """Return what the server makes of its arguments."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.add_arguments(parser)
    return parser.parse_args(container["args"])


def template(*words: str, release: str = "warmswap", kube: str = "1.34.0") -> subprocess.CompletedProcess[str]:
    """Run ``helm template``."""
    command = [str(HELM), "template", release, str(CHART), "--namespace", "default", "--kube-version", kube, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def rendered(*words: str, release: str = "warmswap", kube: str = "1.34.0") -> list[Manifest]:
    """Return what the chart gives.

    Raises:
        AssertionError: Helm refuses it.
    """
    done = template(*words, release=release, kube=kube)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


WRONG = {
    "no replicas": ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
    "replicas is a word": ("replicas=two", "at '/replicas': got string, want integer"),
    "unknown key": ("replica=3", "additional properties 'replica' not allowed"),
    "unknown key, deep": (
        "probes.startup.period=3",
        "at '/probes/startup': additional properties 'period' not allowed",
    ),
    "tag latest": ("image.tag=latest", "at '/image/tag'"),
    "digest cut short": ("image.digest=sha256:abc", "at '/image/digest'"),
    "release": ("release=two words", "at '/release'"),
    "model source": ("models.source=nfs", "at '/models/source': value must be one of 'baked', 'imageVolume'"),
    "cold floor": ("autoscaling.hpa.minReplicas=0", "at '/autoscaling/hpa/minReplicas': minimum: got 0, want 1"),
    "no preStop": ("shutdown.preStopSeconds=0", "at '/shutdown/preStopSeconds': minimum: got 0, want 1"),
    "size": ("sharedMemory.sizeLimit=lots", "at '/sharedMemory/sizeLimit'"),
    "policy": ("serve.policy=strict", "at '/serve/policy'"),
    "trace URL": ("tracing.url=collector:4318", "at '/tracing/url'"),
    "placeholder's priority": ("placeholders.priority=10", "at '/placeholders/priority': maximum: got 10, want -1"),
    "PDB blocks drains": ("podDisruptionBudget.maxUnavailable=0", "at '/podDisruptionBudget/maxUnavailable'"),
    "min above max": (
        "autoscaling.hpa.minReplicas=20",
        "autoscaling.hpa.minReplicas (20) is above autoscaling.hpa.maxReplicas (10)",
    ),
    "two autoscalers": (
        "autoscaling.keda.enabled=true",
        "autoscaling.hpa.enabled and autoscaling.keda.enabled are both true",
    ),
    "KEDA floor": (
        "autoscaling.keda.minReplicas=30",
        "autoscaling.keda.minReplicas (30) is above autoscaling.keda.maxReplicas (20)",
    ),
    "fallback": ("autoscaling.keda.fallbackReplicas=99", "autoscaling.keda.fallbackReplicas (99) is above"),
    "HPA on nothing": ("autoscaling.hpa.cpuPercent=0", "the HPA would have nothing to scale on"),
    "CPU share of nothing": (
        "resources.requests.cpu=null",
        "autoscaling.hpa.cpuPercent is a share of resources.requests.cpu",
    ),
    "image volume of nothing": ("models.source=imageVolume", "set models.imageVolume.reference"),
    "stager of nothing": ("models.source=stager", "set models.stager.from"),
    "URL without digest": ("models.source=stager,models.stager.from=https://x/y.tar", "set models.stager.sha256"),
    "folder without volume": ("models.source=stager,models.stager.from=/source/x", "set models.stager.volume"),
    "volume of nothing": ("models.source=volume", "set models.volume"),
    "writable and nobody may": ("models.writable.enabled=true", "set controlToken.secretName, or nobody could roll"),
    "writable and compiled": (
        "models.writable.enabled=true,controlToken.secretName=t,compile.enabled=true",
        "models.writable.enabled and compile.enabled are both true",
    ),
    "writable and compiled by the server": (
        "models.writable.enabled=true,controlToken.secretName=t,serve.extraArgs={--compile=/tmp/x}",
        "serve.extraArgs has --compile=/tmp/x",
    ),
    "writable and Knative": (
        "models.writable.enabled=true,controlToken.secretName=t,knative.enabled=true,autoscaling.hpa.enabled=false",
        "models.writable.enabled and knative.enabled are both true",
    ),
    "writable and shared by a node": (
        "models.writable.enabled=true,controlToken.secretName=t,models.writable.volume.hostPath.path=/x",
        "models.writable.volume is a hostPath: each pod needs a volume of its own",
    ),
    "writable and shared by a claim": (
        "models.writable.enabled=true,controlToken.secretName=t,models.writable.volume.persistentVolumeClaim.claimName=x",
        "models.writable.volume is a persistentVolumeClaim: each pod needs a volume of its own",
    ),
    "writable without measure": ("models.writable.sizeLimit=much", "at '/models/writable/sizeLimit'"),
    "writable is a word": ("models.writable=true", "at '/models/writable': got boolean, want object"),
    "mTLS without secret": ("tls.clientCA=true", "tls.clientCA needs tls.secretName"),
    "GPU without GPU": ("serve.requireGpu=true", "resources.limits has no nvidia.com/gpu"),
    "gateway of nobody": ("gateway.enabled=true", "set gateway.parentRefs"),
    "Knative and HPA": ("knative.enabled=true", "Knative scales by itself"),
    "rollout cannot begin": ("rollout.maxSurge=0", "rollout.maxSurge and rollout.maxUnavailable are both 0"),
    "deadline": (
        "rollout.progressDeadlineSeconds=60",
        "rollout.progressDeadlineSeconds (60) must be above the startup budget",
    ),
    "probe cannot be met": (
        "keepAlive.maxLatencySeconds=90",
        "keepAlive.maxLatencySeconds (90) is above keepAlive.timeoutSeconds (30)",
    ),
}


@pytest.mark.parametrize(("setting", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_refused_by_name(setting: str, message: str) -> None:
    done = template("--set", setting)
    assert done.returncode != 0
    assert message in done.stderr


def test_an_image_volume_is_refused_where_the_cluster_drops_it() -> None:
    words = ["--set", "models.source=imageVolume,models.imageVolume.reference=x/y:1"]
    done = template(*words, kube="1.31.0")
    assert done.returncode != 0
    assert "models.source imageVolume needs Kubernetes 1.33 or newer, this is v1.31.0" in done.stderr
    rendered(*words, kube="1.33.0")


def test_a_cluster_that_is_too_old_is_refused() -> None:
    done = template(kube="1.28.0")
    assert done.returncode != 0
    assert "incompatible with Kubernetes v1.28.0" in done.stderr


@pytest.mark.parametrize(("kube", "action"), [("1.29.0", "exec"), ("1.30.0", "sleep")])
def test_the_hook_sleeps_by_what_the_cluster_has(kube: str, action: str) -> None:
    (container,) = server(rendered(kube=kube))["spec"]["containers"]
    assert list(container["lifecycle"]["preStop"]) == [action]


@pytest.mark.parametrize(("hook", "work", "margin"), [(5, 20, 5), (30, 60, 15)])
def test_grace_is_the_sum(hook: int, work: int, margin: int) -> None:
    values = f"shutdown.preStopSeconds={hook},shutdown.exitTimeoutSeconds={work},shutdown.marginSeconds={margin}"
    spec = server(rendered("--set", values))["spec"]
    assert spec["terminationGracePeriodSeconds"] == hook + work + margin
    assert f"--exit-timeout={work}" in spec["containers"][0]["args"]


def test_two_releases_in_one_namespace_do_not_collide() -> None:
    values = ["--values", str(KUBERNETES / "profiles/keda.yaml")]
    one, two = rendered(*values, release="red"), rendered(*values, release="blue")
    names = [{(each["kind"], each["metadata"]["name"]) for each in release} for release in (one, two)]
    assert not names[0] & names[1]
    labels = server(two)["metadata"]["labels"]
    for service in of_kind(one, "Service"):
        assert not service["spec"]["selector"].items() <= labels.items()


def test_secrets_are_named_and_never_optional() -> None:
    pod = server(rendered("--set", "controlToken.secretName=a,tls.secretName=b"))["spec"]
    secrets = {each["name"]: each["secret"] for each in pod["volumes"] if "secret" in each}
    assert {name: secret["secretName"] for name, secret in secrets.items()} == {"control-token": "a", "tls": "b"}
    assert not any(secret.get("optional") for secret in secrets.values())


def test_a_stager_writes_where_the_server_reads() -> None:
    stager = {"from": "/source/open", "volume": {"persistentVolumeClaim": {"claimName": "w"}}}
    pod = server(rendered("--set-json", "models=" + json.dumps({"source": "stager", "stager": stager})))["spec"]
    (init,) = pod["initContainers"]
    assert init["args"] == ["--from=/source/open", "--to=/cache"]
    assert "--repository=/cache/current" in pod["containers"][0]["args"]


WRITABLE = ("--set", "models.writable.enabled=true,controlToken.secretName=control")
SOURCES: dict[str, dict[str, Any]] = {
    "baked": {},
    "imageVolume": {"imageVolume": {"reference": "x/y:1"}},
    "volume": {"volume": {"persistentVolumeClaim": {"claimName": "models"}}, "path": "packs/open"},
    "stager": {"stager": {"from": "https://x/y.tar", "sha256": "0" * 64, "cache": {"hostPath": {"path": "/var/x"}}}},
}


def mounts(container: Manifest) -> dict[str, Manifest]:
    return {each["mountPath"]: each for each in container["volumeMounts"]}


@pytest.mark.parametrize("source", SOURCES)
def test_a_pod_may_write_to_a_copy_of_its_own_and_to_nothing_that_others_read(source: str) -> None:
    models = {"source": source, **SOURCES[source]}
    pod = server(rendered(*WRITABLE, "--set-json", "models=" + json.dumps(models)))["spec"]
    read_only = server(rendered("--set-json", "models=" + json.dumps(models)))["spec"]
    copier, container = pod["initContainers"][-1], pod["containers"][0]
    parser = argparse.ArgumentParser(exit_on_error=False)
    provision.add_arguments(parser)
    assert copier["command"] == ["warmswap", "provision"]
    args = parser.parse_args(copier["args"])
    plain = serve_args(read_only["containers"][0])
    assert (args.source, args.to, args.once) == (str(plain.repository), Path("/repository"), True)
    assert serve_args(container).repository == args.to / "current"
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes[mounts(container)["/repository"]["name"]]["emptyDir"] == {"sizeLimit": "4Gi"}
    assert mounts(container)["/repository"] == mounts(copier)["/repository"]
    assert not mounts(container)["/repository"].get("readOnly")
    shared = [each for each in mounts(copier).values() if each["name"] in ("models", "model-cache")]
    assert all(each["readOnly"] for each in shared)
    assert bool(shared) == (source != "baked")
    assert not {"models", "model-cache"} & {each["name"] for each in container["volumeMounts"]}
    assert container["resources"]["requests"]["ephemeral-storage"] == "4Gi"
    assert "ephemeral-storage" not in read_only["containers"][0]["resources"]["requests"]


def test_a_stager_without_a_cache_brings_the_own_copy_itself() -> None:
    stager = {"source": "stager", "stager": {"from": "https://x/y.tar", "sha256": "0" * 64}}
    pod = server(rendered(*WRITABLE, "--set-json", "models=" + json.dumps(stager)))["spec"]
    (copier,) = pod["initContainers"]
    assert {"--from=https://x/y.tar", "--to=/repository", "--once"} <= set(copier["args"])
    assert serve_args(pod["containers"][0]).repository == Path("/repository/current")
    assert {"repository"} == {each["name"] for each in pod["volumes"]} & {"repository", "model-cache"}
    assert mounts(copier)["/repository"] == mounts(pod["containers"][0])["/repository"]


def test_a_disk_of_its_own_is_not_the_nodes() -> None:
    template = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}}
    volume = json.dumps({"ephemeral": {"volumeClaimTemplate": template}})
    pod = server(rendered(*WRITABLE, "--set-json", f"models.writable.volume={volume}"))["spec"]
    (found,) = (each for each in pod["volumes"] if each["name"] == "repository")
    assert found == {"name": "repository", **json.loads(volume)}
    assert "ephemeral-storage" not in pod["containers"][0]["resources"]["requests"]


def test_resources_win_over_what_the_own_copy_asks_for() -> None:
    manifests = rendered(*WRITABLE, "--set", "resources.requests.ephemeral-storage=9Gi,placeholders.enabled=true")
    resources = server(manifests)["spec"]["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "9Gi"}
    placeholder = pod_templates(manifests)["Deployment/warmswap-placeholder"]["spec"]
    assert placeholder["containers"][0]["resources"] == resources  # also where it is the default
    placeholder = pod_templates(rendered(*WRITABLE, "--set", "placeholders.enabled=true"))[
        "Deployment/warmswap-placeholder"
    ]["spec"]
    assert placeholder["containers"][0]["resources"]["requests"]["ephemeral-storage"] == "4Gi"


def test_to_keep_the_autoscaler_still_changes_no_pod() -> None:
    still = rendered(*WRITABLE, "--set", "autoscaling.hpa.minReplicas=4,autoscaling.hpa.maxReplicas=4")
    changed = [each["kind"] for each, before in zip(still, rendered(*WRITABLE), strict=True) if each != before]
    assert changed == ["HorizontalPodAutoscaler"]


def test_a_job_that_leads_a_rollout_is_let_in() -> None:
    clients = ("--set-json", 'networkPolicy.clients=[{"podSelector": {"matchLabels": {"app": "web"}}}]')

    def let_in(*words: str) -> list[str]:
        (policy,) = of_kind(rendered(*clients, *words), "NetworkPolicy")
        peers = policy["spec"]["ingress"][0]["from"]
        labels = [peer["podSelector"]["matchLabels"] for peer in peers]
        return [each.get("app.kubernetes.io/component", "") for each in labels]

    assert let_in() == ["keep-alive", ""]
    assert let_in(*WRITABLE) == ["keep-alive", "rollout", ""]


def test_a_release_becomes_an_option_of_the_server_and_none_is_none() -> None:
    (named,) = server(rendered("--set", "release=blue"))["spec"]["containers"]
    (unnamed,) = server(rendered())["spec"]["containers"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.add_arguments(parser)
    assert parser.parse_args(named["args"]).release == "blue"
    assert set(named["args"]) - set(unnamed["args"]) == {"--release=blue"}
    knative = ["--values", str(KUBERNETES / "profiles/knative.yaml"), "--set", "release=blue"]
    assert "--release=blue" in server(rendered(*knative))["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_committed_is_what_the_chart_gives(profile: str) -> None:
    text = (KUBERNETES / "rendered" / profile / "manifests.yaml").read_text()
    assert rendered("--values", str(KUBERNETES / f"profiles/{profile}.yaml")) == objects(text)


@pytest.mark.parametrize("extreme", ["everything", "nothing", "writable"])
def test_extremes_render(extreme: str) -> None:
    kinds = {each["kind"] for each in rendered("--values", str(KUBERNETES / f"extremes/{extreme}.yaml"))}
    wanted = {"ScaledObject", "GRPCRoute", "PodMonitor", "DaemonSet"}
    assert wanted <= kinds if extreme == "everything" else not wanted & kinds


def test_an_edited_chart_is_seen(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"shutdown": {"preStopSeconds": 11}}))
    assert rendered("--values", str(values)) != rendered()


WITHOUT_TLS = {"fullnameOverride": "everything", "tls": {"secretName": "", "clientCA": False}}


@pytest.mark.parametrize(
    "overrides",
    [
        WITHOUT_TLS,
        {},
    ],
    ids=["without TLS", "with TLS"],
)
def test_serve_knows_every_option_that_the_chart_can_give(tmp_path: Path, overrides: dict[str, object]) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump(overrides))
    manifests = rendered("--values", str(KUBERNETES / "extremes/everything.yaml"), "--values", str(more))
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.add_arguments(parser)
    parser.parse_args(server(manifests)["spec"]["containers"][0]["args"])
