"""The committed manifests agree with the code and with themselves."""

from __future__ import annotations

import argparse
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifest_files import (
    KUBERNETES,
    PROFILES,
    Manifest,
    committed,
    of_kind,
    pod_templates,
    server,
)
from warmswap_ops.commands import compile as compile_command
from warmswap_ops.commands import serve

WITH_DEPLOYMENT = ("cpu", "gpu", "keda")


def parsed(module: Any, words: list[str]) -> argparse.Namespace:
    """Return what a command makes of its arguments; one that it does not know ends the test."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    return parser.parse_args(words)


def main_container(profile: str) -> Manifest:
    (container,) = server(committed(profile))["spec"]["containers"]
    return dict(container)


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_serve_knows_every_option(profile: str) -> None:
    container = main_container(profile)
    assert container["command"] == ["python", "-m", "warmswap_ops"]
    args = parsed(serve, container["args"])
    assert (args.host, args.http_port, args.grpc_port, args.metrics_port) == ("0.0.0.0", 8000, 8001, 8002)
    assert str(args.repository).startswith("/models")
    assert args.grpc_max_connection_age == 60


def test_an_option_that_serve_does_not_know_is_found() -> None:
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed(serve, ["--hots=0.0.0.0"])


def test_jobs_and_init_containers_give_commands_that_exist(profile: str) -> None:
    modules = {"compile": "warmswap_ops", "provision": "warmswap_ops", "probe": "warmswap_client"}
    for template in pod_templates(committed(profile)).values():
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            command = container.get("command", [])
            if command[:1] == ["warmswap"]:
                module = importlib.import_module(f"{modules[command[1]]}.commands.{command[1]}")
                parsed(module, [*command[2:], *container.get("args", [])])


def test_the_options_of_the_compiling_init_container_exist() -> None:
    template = (KUBERNETES / "chart/templates/_pod.tpl").read_text()
    block = template[template.index("command: [warmswap, compile]") :].split("terminationMessagePolicy")[0]
    options = re.findall(r"- (--[a-z-]+)=", block)
    assert options
    parsed(compile_command, [f"{option}=/x" for option in options])


def test_probes_ask_the_pipeline_over_the_http_port(profile: str) -> None:
    container = main_container(profile)
    port = 8000 if profile == "knative" else "http"
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/v2/models/face_swap/ready", "port": port}
    if profile == "knative":  # which would send an httpGet to the port of the requests
        assert "http://127.0.0.1:8000/v2/health/live" in container["livenessProbe"]["exec"]["command"][-1]
    else:
        assert container["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": port}
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 60
    if profile != "knative":
        args = parsed(serve, container["args"])
        assert {each["name"]: each["containerPort"] for each in container["ports"]} == {
            "http": args.http_port,
            "grpc": args.grpc_port,
            "metrics": args.metrics_port,
        }


@pytest.mark.parametrize("profile", WITH_DEPLOYMENT)
def test_a_pod_has_time_to_end(profile: str) -> None:
    spec, container = server(committed(profile))["spec"], main_container(profile)
    wait_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    args = parsed(serve, container["args"])
    assert wait_s > 0
    assert args.drain_delay == 0  # the hook does that; both would wait twice
    assert spec["terminationGracePeriodSeconds"] >= wait_s + args.exit_timeout + 5


def test_knative_drains_after_the_signal() -> None:
    assert parsed(serve, main_container("knative")["args"]).drain_delay > 0


@pytest.mark.parametrize("profile", WITH_DEPLOYMENT)
def test_a_rollout_takes_no_replica_before_its_successor_is_ready(profile: str) -> None:
    (deployment,) = (
        each for each in of_kind(committed(profile), "Deployment") if each["metadata"]["name"] == "warmswap"
    )
    spec = deployment["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec["minReadySeconds"] > 0
    startup = main_container(profile)["startupProbe"]
    assert spec["progressDeadlineSeconds"] > startup["periodSeconds"] * startup["failureThreshold"]
    assert "replicas" not in spec  # an autoscaler's number would be reset by each apply
    (budget,) = of_kind(committed(profile), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] >= 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_pods_may_do_nothing_but_their_work(profile: str) -> None:
    for name, template in pod_templates(committed(profile)).items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            security = spec.get("securityContext", {}) | container["securityContext"]  # Knative allows the latter only
            assert security["runAsNonRoot"] is True, name
            assert security["runAsUser"] == 65532, name
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name


def test_images_have_a_tag_that_does_not_move(profile: str) -> None:
    for name, template in pod_templates(committed(profile)).items():
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            assert re.search(r":[^:/]+$", container["image"]), name
            assert not container["image"].endswith(":latest"), name


def test_shared_memory_is_memory(profile: str) -> None:
    (volume,) = (each for each in server(committed(profile))["spec"]["volumes"] if each["name"] == "shm")
    assert volume["emptyDir"]["medium"] == "Memory"
    assert {"name": "shm", "mountPath": "/dev/shm"} in main_container(profile)["volumeMounts"]


def test_every_mount_has_its_volume(profile: str) -> None:
    for name, template in pod_templates(committed(profile)).items():
        volumes = {each["name"] for each in template["spec"].get("volumes", [])}
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            assert {each["name"] for each in container.get("volumeMounts", [])} <= volumes, name


def test_selectors_find_the_server_and_nothing_else(profile: str) -> None:
    manifests = committed(profile)
    selectors = [
        (each["metadata"]["name"], each["spec"]["selector"])
        for each in of_kind(manifests, "Service")
        if each["apiVersion"] == "v1"
    ]
    for kind, key in (
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("PodMonitor", "selector"),
    ):
        selectors += [(kind, each["spec"][key]["matchLabels"]) for each in of_kind(manifests, kind)]
    serving = server(manifests)
    for name, selector in selectors:
        chosen = [
            template
            for template in pod_templates(manifests).values()
            if selector.items() <= template["metadata"]["labels"].items()
        ]
        assert chosen == [serving], name
    for manifest in [*of_kind(manifests, "Deployment"), *of_kind(manifests, "DaemonSet")]:
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("profile", WITH_DEPLOYMENT)
def test_services_lead_to_ports_that_exist(profile: str) -> None:
    names = {port["name"] for port in main_container(profile)["ports"]}
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(committed(profile), "Service")}
    assert set(services) == {"warmswap", "warmswap-headless"}
    assert services["warmswap-headless"]["clusterIP"] == "None"
    for service in services.values():
        assert {port["targetPort"] for port in service["ports"]} <= names
        assert {port["name"]: port["appProtocol"] for port in service["ports"]}["grpc"] == "kubernetes.io/h2c"


@pytest.mark.parametrize(("profile", "kind"), [("cpu", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
def test_autoscalers_have_a_target_and_a_floor(profile: str, kind: str) -> None:
    (scaler,) = of_kind(committed(profile), kind)
    target = scaler["spec"]["scaleTargetRef"]
    assert target["name"] in {each["metadata"]["name"] for each in of_kind(committed(profile), target["kind"])}
    assert scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount")) >= 1


def test_keda_has_a_floor_on_weekdays_and_on_both_days_of_the_weekend() -> None:
    (scaler,) = of_kind(committed("keda"), "ScaledObject")
    crons = [each["metadata"] for each in scaler["spec"]["triggers"] if each["type"] == "cron"]
    assert [cron["start"].split()[4] for cron in crons] == ["1-5", "0,6"]
    assert all(cron["timezone"] and int(cron["desiredReplicas"]) >= 1 for cron in crons)
    (prometheus,) = (each for each in scaler["spec"]["triggers"] if each["type"] == "prometheus")
    assert "nv_inference_pending_request_count" in prometheus["metadata"]["query"]
    assert prometheus["metadata"]["ignoreNullValues"] == "false"
    assert scaler["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"


@pytest.mark.parametrize("profile", ["gpu", "keda"])
def test_placeholders_give_way_and_are_as_large_as_a_replica(profile: str) -> None:
    (priority,) = of_kind(committed(profile), "PriorityClass")
    assert priority["value"] < 0
    assert priority["preemptionPolicy"] == "Never"
    placeholder = pod_templates(committed(profile))["Deployment/warmswap-placeholder"]["spec"]
    assert placeholder["priorityClassName"] == priority["metadata"]["name"]
    assert placeholder["containers"][0]["resources"] == main_container(profile)["resources"]


def test_the_keep_alive_goes_through_the_service_and_fails_loudly() -> None:
    (job,) = of_kind(committed("cpu"), "CronJob")
    spec = job["spec"]["jobTemplate"]["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    (container,) = spec["template"]["spec"]["containers"]
    assert "--url=grpc://warmswap:8001" in container["args"]
    assert "--max-latency=5" in container["args"]


def test_a_kustomization_names_the_manifests(profile: str) -> None:
    folder = KUBERNETES / "rendered" / profile
    assert "manifests.yaml" in (folder / "kustomization.yaml").read_text()


@pytest.mark.parametrize(
    ("copy", "source"),
    [("rules.yml", "rules.yml"), ("dashboard.json", "dashboard.json")],
)
def test_what_the_chart_carries_is_what_is_observed(copy: str, source: str) -> None:
    ours, theirs = KUBERNETES / "chart/files" / copy, KUBERNETES.parent / "observability" / source
    if ours.is_file() and theirs.is_file():
        assert ours.read_bytes() == theirs.read_bytes()


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads(Path(KUBERNETES / "chart/values.schema.json").read_text())
    values = yaml.safe_load((KUBERNETES / "chart/values.yaml").read_text())

    def compare(node: dict[str, Any], value: Any, path: str) -> None:
        if "properties" in node and isinstance(value, dict) and node.get("additionalProperties") is False:
            missing = set(value) - set(node["properties"])
            assert not missing, f"{path}: {missing} not in the schema"
            for key, inner in value.items():
                compare(node["properties"][key], inner, f"{path}.{key}")

    compare(schema, values, "values")
    assert set(schema["properties"]) - {"global"} == set(values)
