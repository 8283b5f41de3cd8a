"""``deploy/kubernetes/rollouts``: never run on a cluster, so held to the chart, to the command, and to schemas."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.manifest_files import KUBERNETES, Manifest, committed, objects, of_kind, pod_templates, server
from warmswap_ops.commands import rollout
from warmswap_ops.errors import CandidateStoppedError, RolloutBusyError
from warmswap_ops.rollout.plan import Plan

ROLLOUTS = KUBERNETES / "rollouts"
FILES = ("analysis-template", "hot-job", "job", "live-service", "rollout")
JUDGES = ("analysis-template", "job")
MANIFESTS_PYTHON = KUBERNETES.parents[1] / ".venv-manifests/bin/python"
VALIDATE = """
import sys
sys.path.insert(0, sys.argv[1])
import manifests
summary = manifests.Summary()
manifests.validate(sys.stdin.read(), (1, 34), "test", summary)
print(*summary.problems, sep="\\n")
"""


def of_file(name: str) -> list[Manifest]:
    return objects((ROLLOUTS / f"{name}.yaml").read_text())


def judge_pod(name: str) -> Manifest:
    """Return the pod template of the judge."""
    (manifest,) = of_file(name)
    if name == "job":
        return dict(manifest["spec"]["template"])
    (metric,) = manifest["spec"]["metrics"]
    return dict(metric["provider"]["job"]["spec"]["template"])


def judge_args(name: str) -> argparse.Namespace:
    """Return what the command makes of its arguments; one that it does not know ends the test."""
    (container,) = judge_pod(name)["spec"]["containers"]
    assert container["command"] == ["warmswap", "rollout", "judge"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    rollout.add_arguments(parser)
    return parser.parse_args(["judge", *container["args"]])


def hot_job() -> tuple[Manifest, argparse.Namespace]:
    """Return the Job of a hot rollout, and what the command makes of its arguments."""
    (job,) = of_file("hot-job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["warmswap", "rollout"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    rollout.add_arguments(parser)
    return job, parser.parse_args(container["args"])


def problems(text: str) -> str:
    """Return what ``make manifests`` has to say of a file."""
    command = [str(MANIFESTS_PYTHON), "-c", VALIDATE, str(KUBERNETES)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_the_folder_holds_these_files_and_each_says_that_it_was_never_run() -> None:
    assert {path.stem for path in ROLLOUTS.glob("*.yaml")} == set(FILES)
    for name in FILES:
        head = (ROLLOUTS / f"{name}.yaml").read_text().split("apiVersion")[0]
        assert "NEVER RUN ON A CLUSTER" in head, name


@pytest.mark.parametrize("name", JUDGES)
def test_the_judge_knows_its_options_and_has_time_for_them(name: str) -> None:
    args = judge_args(name)
    assert args.stable != args.candidate
    assert args.repository == Path("/models")  # of an image with models in it
    (container,) = judge_pod(name)["spec"]["containers"]
    assert container["image"].startswith("warmswap-full:")
    (manifest,) = of_file(name)
    spec = manifest["spec"] if name == "job" else manifest["spec"]["metrics"][0]["provider"]["job"]["spec"]
    assert spec["activeDeadlineSeconds"] >= args.max_duration + 2 * args.wait + args.timeout
    assert spec["backoffLimit"] == 0


@pytest.mark.parametrize("name", JUDGES)
def test_the_judge_may_do_no_more_than_the_jobs_of_the_chart(name: str) -> None:
    ours, theirs = judge_pod(name)["spec"], pod_templates(committed("cpu"))["CronJob/warmswap-keep-alive"]["spec"]
    for key in ("securityContext", "automountServiceAccountToken", "enableServiceLinks", "restartPolicy", "volumes"):
        assert ours[key] == theirs[key], key
    for key in ("securityContext", "terminationMessagePolicy", "volumeMounts", "imagePullPolicy"):
        assert ours["containers"][0][key] == theirs["containers"][0][key], key
    assert ours["containers"][0]["resources"]["limits"]["memory"]


def test_both_judges_are_the_same_pod_but_for_the_addresses() -> None:
    one, two = (judge_pod(name) for name in JUDGES)
    for pod in (one, two):
        del pod["spec"]["containers"][0]["args"][:2]
    assert one == two


def test_the_rollout_takes_the_pods_of_the_chart_and_loses_none() -> None:
    (argo,) = of_kind(of_file("rollout"), "Rollout")
    spec, canary = argo["spec"], argo["spec"]["strategy"]["canary"]
    reference = spec["workloadRef"]
    (deployment,) = (
        each
        for each in of_kind(committed("cpu"), reference["kind"])
        if (each["apiVersion"], each["metadata"]["name"]) == (reference["apiVersion"], reference["name"])
    )
    assert spec["selector"] == deployment["spec"]["selector"]
    assert "replicas" not in deployment["spec"]  # what the head of the file says of the HPA
    assert spec["progressDeadlineSeconds"] == deployment["spec"]["progressDeadlineSeconds"]
    assert (canary["maxSurge"], canary["maxUnavailable"]) == (1, 0)
    assert reference["scaleDown"] == "onsuccess"
    (scaler,) = of_kind(of_file("rollout"), "HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": argo["apiVersion"], "kind": "Rollout", "name": argo["metadata"]["name"]}
    least = canary["steps"][0]["setWeight"] / 100 * scaler["spec"]["minReplicas"]
    assert least >= 1  # else the first step has more traffic than it says


def test_every_weight_is_judged_between_the_two_groups() -> None:
    (argo,) = of_kind(of_file("rollout"), "Rollout")
    canary = argo["spec"]["strategy"]["canary"]
    assert [next(iter(step)) for step in canary["steps"]] == ["setWeight", "analysis"] * (len(canary["steps"]) // 2)
    weights = [step["setWeight"] for step in canary["steps"] if "setWeight" in step]
    assert weights == sorted(weights)
    (template,) = of_file("analysis-template")
    names = [arg["name"] for arg in template["spec"]["args"]]
    wanted = {"stable": f"{canary['stableService']}:8001", "candidate": f"{canary['canaryService']}:8001"}
    for step in canary["steps"]:
        if analysis := step.get("analysis"):
            assert analysis["templates"] == [{"templateName": template["metadata"]["name"]}]
            assert {arg["name"]: arg["value"] for arg in analysis["args"]} == wanted
    assert set(names) == set(wanted)
    args = judge_args("analysis-template")
    assert (args.stable, args.candidate) == (["{{args.stable}}"], ["{{args.candidate}}"])


@pytest.mark.parametrize("name", ["rollout", "live-service"])
def test_services_lead_to_the_servers_and_to_ports_that_they_have(name: str) -> None:
    labels = server(committed("cpu"))["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in server(committed("cpu"))["spec"]["containers"][0]["ports"]}
    services = of_kind(of_file(name), "Service")
    assert services
    for service in services:
        selector = dict(service["spec"]["selector"])
        if name == "live-service":
            assert selector.pop("app.kubernetes.io/instance") == "blue"
        assert selector.items() <= labels.items()
        assert {port["port"] for port in service["spec"]["ports"]} <= set(ports.values())
        assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
    if name == "rollout":
        canary = of_kind(of_file(name), "Rollout")[0]["spec"]["strategy"]["canary"]
        found = {service["metadata"]["name"] for service in services}
        assert found == {canary["stableService"], canary["canaryService"]}


def test_the_hot_job_has_time_and_goes_on_only_where_that_can_help() -> None:
    job, args = hot_job()
    assert args.action == "run"
    assert args.candidate.startswith("https://")
    assert len(args.sha256) == 64
    plan = Plan()
    steps_s = plan.shadow.max_duration_s + sum(step.max_soak_s for step in plan.steps) + plan.soak_s
    assert job["spec"]["activeDeadlineSeconds"] >= steps_s + 10 * (plan.trial.timeout_s + args.load_timeout)
    policy = job["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in policy] == ["Ignore", "Count", "FailJob"]
    codes = policy[1]["onExitCodes"]["values"]
    assert RolloutBusyError.exit_code in codes
    assert CandidateStoppedError.exit_code not in codes
    assert {rule["onExitCodes"]["containerName"] for rule in policy[1:]} == {
        container["name"] for container in job["spec"]["template"]["spec"]["containers"]
    }
    waits_s = [10 * 2**number for number in range(job["spec"]["backoffLimit"])]  # what Kubernetes waits before each
    assert sum(waits_s) > args.lease


def test_the_hot_job_may_do_no_more_than_the_jobs_of_the_chart() -> None:
    job, _ = hot_job()
    ours = job["spec"]["template"]["spec"]
    theirs = pod_templates(committed("cpu"))["CronJob/warmswap-keep-alive"]["spec"]
    for key in ("securityContext", "automountServiceAccountToken", "enableServiceLinks", "restartPolicy"):
        assert ours[key] == theirs[key], key
    assert ours["containers"][0]["securityContext"] == theirs["containers"][0]["securityContext"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    for service in of_kind(committed("cpu"), "Service"):
        assert not service["spec"]["selector"].items() <= labels.items()


@pytest.mark.manifests
def test_the_hot_job_reaches_the_pods_that_its_head_says_how_to_start() -> None:
    from tests.deploy.test_chart import rendered

    job, args = hot_job()
    pod = job["spec"]["template"]
    head = (ROLLOUTS / "hot-job.yaml").read_text().split("apiVersion")[0]
    (values,) = re.findall(r"--set (\S*writable\S*)", head)
    clients = 'networkPolicy.clients=[{"podSelector":{"matchLabels":{"app":"web"}}}]'
    manifests = rendered("--set", values, "--set-json", clients)
    headless = [each for each in of_kind(manifests, "Service") if each["spec"].get("clusterIP") == "None"]
    assert args.service == [f"{each['metadata']['name']}:8001" for each in headless]  # others have one address
    (policy,) = of_kind(manifests, "NetworkPolicy")
    peers = [peer["podSelector"]["matchLabels"] for peer in policy["spec"]["ingress"][0]["from"]]
    assert any(peer.items() <= pod["metadata"]["labels"].items() for peer in peers)
    secrets = [
        {each["secret"]["secretName"] for each in spec["volumes"] if "secret" in each}
        for spec in (pod["spec"], server(manifests)["spec"])
    ]
    assert secrets[0] == secrets[1]
    (container,) = server(manifests)["spec"]["containers"]
    assert f"--control-token-file={args.control_token_file}" in container["args"]
    (mount,) = (each for each in pod["spec"]["containers"][0]["volumeMounts"] if each["name"] == "control-token")
    assert args.control_token_file.parent == Path(mount["mountPath"])
    assert f"create secret generic {next(iter(secrets[0]))} --from-literal={args.control_token_file.name}=" in head


@pytest.mark.manifests
def test_the_job_asks_the_services_of_two_releases() -> None:
    from tests.deploy.test_chart import rendered

    args = judge_args("job")
    for release, addresses in (("blue", args.stable), ("green", args.candidate)):
        services = of_kind(rendered("--set", f"release={release}", release=release), "Service")
        known = {f"{each['metadata']['name']}:{port['port']}" for each in services for port in each["spec"]["ports"]}
        assert set(addresses) <= known


@pytest.mark.manifests
@pytest.mark.parametrize("name", FILES)
def test_files_are_valid(name: str) -> None:
    assert problems((ROLLOUTS / f"{name}.yaml").read_text()) == ""


@pytest.mark.manifests
@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("rollout", "maxSurge: 1", "maxSurges: 1", "maxSurges"),
        ("rollout", "setWeight: 25", "setWeight: a quarter", "a quarter"),
        ("rollout", "templateName:", "template:", "'template' was unexpected"),
        ("rollout", "      steps:", "      analysis: {template: []}\n      steps:", "'template' was unexpected"),
        ("rollout", "  selector:", "  restartsAt: now\n  selector:", "restartsAt"),
        ("rollout", "kind: Deployment", "kinds: Deployment", "kinds"),
        ("analysis-template", "failureLimit: 0", "failureLimits: 0", "failureLimits"),
        ("analysis-template", "backoffLimit: 0", "backoffLimits: 0", "backoffLimits"),
        ("analysis-template", "mountPath: /tmp", "mountpath: /tmp", "'mountPath' is a required"),
        ("job", "restartPolicy: Never", "restartPolicy: [Never]", "restartPolicy"),
        ("hot-job", "podFailurePolicy:", "podFailurePolicies:", "podFailurePolicies"),
        ("hot-job", "onPodConditions:", "onPodCondition:", "onPodCondition"),
    ],
)
def test_what_is_misspelt_is_found(name: str, old: str, new: str, words: str) -> None:
    text = (ROLLOUTS / f"{name}.yaml").read_text()
    assert old in text
    assert words in problems(text.replace(old, new))


@pytest.mark.manifests
def test_a_type_has_the_fields_of_the_one_that_it_extends() -> None:
    text = (ROLLOUTS / "rollout.yaml").read_text()
    analysis = "analysis: {startingStep: 1, templates: [{templateName: warmswap-judge}], args: [{name: a, value: b}]}"
    assert problems(text.replace("      steps:", f"      {analysis}\n      steps:")) == ""
