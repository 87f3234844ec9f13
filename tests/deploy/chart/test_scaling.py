"""How many pods: what an autoscaler counts, what it may do, and what an upgrade leaves as it is."""

from __future__ import annotations

import re

import pytest

from gateway.telemetry.catalogue import CATALOGUE

from .api_server import api_server
from .helm import CASES, HELMS, NAMESPACE, RELEASE, Document, case, documents, output, template
from .objects import container, kinds, one


def test_the_metric_that_scales_is_one_that_the_gateway_has() -> None:
    """A gauge without labels, so one series per pod; HPA and KEDA use the same."""
    gauges = {f"tidegate_{metric.name}" for metric in CATALOGUE if metric.type == "gauge" and not metric.labels}
    pods, cpu = one(case("hpa"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert pods["pods"]["metric"]["name"] in gauges
    assert pods["pods"]["target"] == {"type": "AverageValue", "averageValue": "6000"}
    assert cpu["containerResource"]["container"] == container(list(case("hpa")))["name"]
    trigger, load = one(case("keda"), "ScaledObject")["spec"]["triggers"]
    metric = pods["pods"]["metric"]["name"]
    query = re.fullmatch(rf'sum\({metric}{{namespace="{NAMESPACE}", pod=~"(.+)"}}\)', trigger["metadata"]["query"])
    assert query
    assert re.fullmatch(query[1], "tide-tidegate-5d4f7c9b8-x2x7q")
    assert not re.fullmatch(query[1], "tide-tidegate-blue-5d4f7c9b8-x2x7q")  # of a release tide-tidegate-blue
    assert trigger["metadata"]["ignoreNullValues"] == "false"  # metrics that are lost are not a gateway without connections
    assert (trigger["metadata"]["threshold"], load["metadata"]["value"]) == ("7000", "75")


@pytest.mark.parametrize(("name", "kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
def test_an_autoscaler_scales_the_deployment_which_says_no_number(name: str, kind: str) -> None:
    """Else every `helm upgrade` would undo what the autoscaler did. Up at once, down late and pod by pod; who counts is there."""
    made = list(case(name))
    assert kinds(made, "PodMonitor")
    spec = one(made, kind)["spec"]
    deployment = one(made, "Deployment")
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    behavior = spec["behavior"] if kind != "ScaledObject" else spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 900
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]
    assert kinds(made, "HorizontalPodAutoscaler" if name == "keda" else "ScaledObject") == []


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize(("there", "replicas"), [([], None), ([3], 3), ([0], 0)])
def test_switching_an_autoscaler_on_leaves_as_many_pods_as_there_are(version: str, there: list[int], replicas: int | None) -> None:
    """An upgrade that says no number any more would make it one; a first installation says none."""
    running: Document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "tide-tidegate",
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE},
        },
    }
    with api_server(case("hpa"), *({**running, "spec": {"replicas": number}} for number in there)) as address:
        asking = ["--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", address]
        made = documents(output(version, *template([CASES["hpa"]]), *asking))
    assert one(made, "Deployment")["spec"].get("replicas") == replicas
