"""Who reaches the gateway: Services, Ingress, HTTPRoute, NetworkPolicy, and what watches it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.telemetry.catalogue import CATALOGUE
from middleware.catalogue import CATALOGUE as LAYERS

from .helm import CASES, NAMESPACE, case, rendered
from .objects import container, kinds, matches, one
from .settings_schema import CHART

TEST_POD = {"app.kubernetes.io/name": "tidegate", "app.kubernetes.io/instance": "tide", "app.kubernetes.io/component": "test"}


def test_the_ops_port_is_in_a_headless_service_of_its_own() -> None:
    """No load balancer and no Ingress ever leads to it."""
    for name in CASES:
        made = list(case(name))
        ops = one(made, "Service", "-ops")
        assert ops["spec"]["clusterIP"] == "None"
        assert [port["port"] for port in ops["spec"]["ports"]] == [9000]
        for service in kinds(made, "Service"):
            if service is not ops:
                assert [port["name"] for port in service["spec"]["ports"]] == ["public"]
        for document in [*kinds(made, "Ingress"), *kinds(made, "HTTPRoute")]:
            assert "ops" not in str(document["spec"])


def test_a_load_balancer_keeps_the_clients_addresses() -> None:
    """Limits per client count by them. In the example TLS ends at it, as its port says."""
    service = one(case("loadbalancer"), "Service", "tidegate")
    assert any("ssl-cert" in name for name in service["metadata"]["annotations"])
    spec = service["spec"]
    assert [port["port"] for port in spec["ports"]] == [443]
    assert (spec["type"], spec["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert spec["loadBalancerSourceRanges"] == ["203.0.113.0/24"]
    assert "externalTrafficPolicy" not in one(case("default"), "Service", "tidegate")["spec"]


def test_a_load_balancer_has_found_out_before_a_pod_refuses_anybody() -> None:
    """It goes on sending clients to the node until its checks have failed; so long the pod of the example is still ready."""
    annotations = one(case("loadbalancer"), "Service", "tidegate")["metadata"]["annotations"]
    check = "service.beta.kubernetes.io/aws-load-balancer-healthcheck"
    noticed = int(annotations[f"{check}-interval"]) * int(annotations[f"{check}-unhealthy-threshold"])
    hook = container(list(case("loadbalancer")))["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert hook > noticed


@pytest.mark.parametrize(
    ("controller", "timeouts"),
    [
        (
            "nginx",
            {"nginx.ingress.kubernetes.io/proxy-read-timeout": "900", "nginx.ingress.kubernetes.io/proxy-send-timeout": "900"},
        ),
        ("nginx-inc", {"nginx.org/proxy-read-timeout": "900s", "nginx.org/websocket-services": "tide-tidegate"}),
        ("haproxy", {"haproxy.org/timeout-tunnel": "900s"}),
        ("haproxy-ingress", {"haproxy-ingress.github.io/timeout-tunnel": "900s"}),
        ("alb", {"alb.ingress.kubernetes.io/load-balancer-attributes": "idle_timeout.timeout_seconds=900"}),
        ("", {}),
    ],
)
def test_an_ingress_gets_the_timeouts_of_its_controller(controller: str, timeouts: dict[str, str]) -> None:
    """In the controller's own words, beside the annotations that were given."""
    sets = {"ingress.controller": controller, "ingress.idleTimeoutSeconds": 900}
    ingress = one(rendered(sets, CASES["ingress"]), "Ingress")
    annotations = ingress["metadata"]["annotations"]
    assert timeouts.items() <= annotations.items()
    assert annotations["cert-manager.io/cluster-issuer"] == "letsencrypt"
    assert len(annotations) > 1 or controller == ""
    assert [path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]] == ["/ws", "/dictionaries"]


def test_an_annotation_that_was_given_wins() -> None:
    """What somebody wrote is what they meant."""
    given = {"haproxy.org/timeout-tunnel": "2h"}
    ingress = one(rendered({"ingress.annotations": given}, CASES["ingress"]), "Ingress")
    assert ingress["metadata"]["annotations"]["haproxy.org/timeout-tunnel"] == "2h"


def test_an_http_route_ends_no_websocket_after_a_while() -> None:
    """Its time-outs are for whole requests, and a WebSocket is one; "" leaves them to the Gateway."""
    (rule,) = one(case("httproute"), "HTTPRoute")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert [match["path"]["value"] for match in rule["matches"]] == ["/ws", "/dictionaries"]
    silent = {"httpRoute.timeouts": {"request": "", "backendRequest": ""}}
    (rule,) = one(rendered(silent, CASES["httproute"]), "HTTPRoute")["spec"]["rules"]
    assert "timeouts" not in rule
    assert one(case("httproute"), "Service", "tidegate")["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/ws"


def ingress_rules(made: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]] | None]:
    """Who may reach each port; ``None`` is everybody, a port that is not there is for nobody."""
    return {rule["ports"][0]["port"]: rule.get("from") for rule in one(made, "NetworkPolicy")["spec"]["ingress"]}


def test_only_monitoring_back_ends_and_the_test_reach_the_ops_port() -> None:
    """The public one is for everybody, unless somebody is named."""
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    backend, test = {"podSelector": {"matchLabels": {"app": "backend"}}}, {"podSelector": {"matchLabels": TEST_POD}}
    assert ingress_rules(list(case("default"))) == {"public": None, "ops": [monitoring, test]}
    assert ingress_rules(list(case("ha-redis"))) == {"public": None, "ops": [monitoring, backend, test]}
    ingress = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    assert ingress_rules(list(case("ingress")))["public"] == [ingress, test]
    assert matches(TEST_POD, one(case("default"), "Pod")["metadata"]["labels"])


def test_nobody_named_is_nobody() -> None:
    """An empty list of peers must not become a rule that lets everybody in."""
    assert ingress_rules(rendered({"networkPolicy.opsFrom": [], "tests.enabled": False})) == {"public": None}


def test_egress_is_restricted_only_when_asked_for_and_names_can_still_be_looked_up() -> None:
    """DNS first, then the rules that were given; those of the example lead to all that its settings name."""
    assert one(case("default"), "NetworkPolicy")["spec"]["policyTypes"] == ["Ingress"]
    spec = one(case("ha-nats"), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    dns, *rules = spec["egress"]
    assert dns["ports"] == [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    told = one(case("ha-nats"), "ConfigMap", "tidegate")["data"]
    for variable in ("TIDEGATE_BROKER", "TIDEGATE_TELEMETRY__OTLP_ENDPOINT", "TIDEGATE_AUTH__JWKS_URL"):
        address = urlsplit(told[variable])
        namespace = {"kubernetes.io/metadata.name": str(address.hostname).partition(".")[2]}
        inside = {"namespaceSelector": {"matchLabels": namespace}}
        outside = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}
        rule = {"to": [inside if address.port else outside], "ports": [{"port": address.port or 443, "protocol": "TCP"}]}
        assert rule in rules, variable


def test_nothing_that_watches_is_there_unless_asked_for() -> None:
    """Its kinds are unknown in a cluster without the operator."""
    silent = [name for name, path in CASES.items() if "monitoring:" not in path.read_text(encoding="utf-8")]
    assert "default" in silent
    made = [document for name in silent for document in case(name)]
    assert [document for document in made if document["apiVersion"].startswith("monitoring.coreos.com")] == []
    assert [document for document in kinds(made, "ConfigMap") if "dashboard" in document["metadata"]["name"]] == []


@pytest.mark.parametrize(("name", "kind"), [("monitoring", "PodMonitor"), ("monitoring-service", "ServiceMonitor")])
def test_rooms_keep_their_namespace_and_everything_else_gets_the_pods(name: str, kind: str) -> None:
    """Of the labels that the operator gives a target, ours have only `namespace`; the series that scales has none of them."""
    spec = one(case(name), kind)["spec"]
    (endpoint,) = spec["podMetricsEndpoints" if kind == "PodMonitor" else "endpoints"]
    assert endpoint["honorLabels"] is True
    of_the_target = {"job", "instance", "namespace", "pod", "container", "endpoint", "service"}
    ours = {f"tidegate_{metric.name}": set(metric.labels) for metric in (*CATALOGUE, *LAYERS)}
    assert set().union(*ours.values()) & of_the_target == {"namespace"}
    assert ours["tidegate_registered_connections"] == set()


def test_the_dashboards_are_installed_as_they_are() -> None:
    """Each in a ConfigMap that Grafana's sidecar finds, with links to the runbooks of the house."""
    found: dict[str, str] = {}
    for document in kinds(case("monitoring"), "ConfigMap"):
        if "-dashboard-" in document["metadata"]["name"]:
            assert document["metadata"]["labels"]["grafana_dashboard"] == "1"
            assert document["metadata"]["annotations"] == {"grafana_folder": "Tidegate"}
            found |= document["data"]
    files = {f"tidegate-{path.name}": path.read_text(encoding="utf-8") for path in (CHART / "dashboards").glob("*.json")}
    assert {name: text.strip() for name, text in found.items()} == {name: linked(text).strip() for name, text in files.items()}
    assert len(files) >= 4


def test_the_rules_are_installed_as_they_are() -> None:
    """What Prometheus has to fill in is not touched by Helm, and the operator is told the labels that it looks for."""
    from .helm import documents

    rules = kinds(case("monitoring"), "PrometheusRule")
    files = {path.stem: path.read_text(encoding="utf-8") for path in (CHART / "rules").glob("*.yaml")}
    assert {rule["metadata"]["name"].rpartition("-")[2] for rule in rules} == set(files) == {"alerts", "recording"}
    for rule in rules:
        text = files[rule["metadata"]["name"].rpartition("-")[2]]
        assert [rule["spec"]] == documents(linked(text))
        assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        assert rule["metadata"]["namespace"] == NAMESPACE
    assert "{{ $labels.job }}" in str(rules)


def linked(text: str) -> str:
    """A file whose runbooks are where the example values say."""
    return text.replace("dashboards/runbooks", "https://wiki.example.org/tidegate")


def test_without_an_address_the_runbooks_are_those_of_the_project() -> None:
    """The files are installed byte for byte."""
    rules = kinds(rendered({"monitoring.enabled": True}), "PrometheusRule")
    assert re.search(r"'runbook_url': 'dashboards/runbooks/\w+\.md'", str(rules))
