"""What the chart refuses, and that it says why in a sentence: no cluster gets what cannot work or opens a door by accident."""

from __future__ import annotations

from typing import Any

import pytest

from .helm import CASES, HELMS, refusal, rendered

JWT = {"settings.auth.mode": "jwt", "secrets.authSecret.name": "tidegate"}
REDIS = {"broker.url": "redis://redis:6379"}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two pods with the memory broker": (
        {"replicaCount": 2},
        "replicaCount is 2, but with the memory broker rooms live inside one pod",
    ),
    "autoscaling with the memory broker": (
        {"autoscaling.enabled": True},
        "autoscaling.enabled needs a broker that joins the pods",
    ),
    "KEDA with the memory broker": (
        {"autoscaling.enabled": True, "autoscaling.kind": "keda", "autoscaling.keda.prometheusAddress": "http://p:9090"},
        "autoscaling.enabled needs a broker that joins the pods",
    ),
    "a password in the values": (
        {"broker.url": "redis://user:password@redis:6379"},
        "broker.url carries credentials",
    ),
    "an Ingress without tokens": (
        {"ingress.enabled": True, "ingress.hosts": ["a.example.org"]},
        "reachable from outside (ingress.enabled) and everybody could join every room",
    ),
    "an HTTPRoute without tokens": (
        {"httpRoute.enabled": True, "httpRoute.parentRefs": [{"name": "public"}], "httpRoute.hostnames": ["a.example.org"]},
        "reachable from outside (httpRoute.enabled)",
    ),
    "a load balancer without tokens": ({"service.type": "LoadBalancer"}, "reachable from outside (service.type is LoadBalancer)"),
    "a node port without tokens": ({"service.type": "NodePort"}, "reachable from outside (service.type is NodePort)"),
    "tokens without a key": ({"settings.auth.mode": "jwt"}, "settings.auth.mode is jwt, with no key to check tokens with"),
    "tokens with two keys": (
        {**JWT, "settings.auth.jwks_url": "https://i.example.org/jwks"},
        "several keys (secrets.authSecret.name, settings.auth.jwks_url)",
    ),
    "a drain of more than an hour": ({"settings.drain.period_seconds": 3600}, "make more than an hour"),
    "fewer pods at most than at least": (
        {**REDIS, "autoscaling.enabled": True, "autoscaling.minReplicas": 20},
        "autoscaling.minReplicas (20) is above autoscaling.maxReplicas (10)",
    ),
    "a pod full before it scales": (
        {**REDIS, "autoscaling.enabled": True, "settings.connection_limit.total": 7000},
        "autoscaling.connectionsPerPod (7000) is not below settings.connection_limit.total (7000)",
    ),
    "KEDA without Prometheus": (
        {**REDIS, "autoscaling.enabled": True, "autoscaling.kind": "keda"},
        "set autoscaling.keda.prometheusAddress",
    ),
    "an Ingress for all hosts": ({**JWT, "ingress.enabled": True}, "ingress.enabled without ingress.hosts"),
    "an HTTPRoute that hangs nowhere": (
        {**JWT, "httpRoute.enabled": True, "httpRoute.hostnames": ["a.example.org"]},
        "httpRoute.enabled without httpRoute.parentRefs",
    ),
    "an HTTPRoute for all hosts": (
        {**JWT, "httpRoute.enabled": True, "httpRoute.parentRefs": [{"name": "public"}]},
        "httpRoute.enabled without httpRoute.hostnames would take /ws and /dictionaries of every host",
    ),
    "both kinds of addresses, one listened on": (
        {"service.ipFamilyPolicy": "PreferDualStack"},
        "service.ipFamilyPolicy is PreferDualStack, but listenAddress is 0.0.0.0",
    ),
    "a name that no Service can have": ({"fullnameOverride": f"{38 * 'g'}--w"}, f"the objects would be called {38 * 'g'}-,"),
    "a rollout that cannot move": (
        {"strategy.maxSurge": 0, "strategy.maxUnavailable": "0%"},
        "strategy.maxSurge and strategy.maxUnavailable are both 0",
    ),
    "a scrape longer than its interval": (
        {"monitoring.intervalSeconds": 5},
        "monitoring.scrapeTimeoutSeconds (10) is above monitoring.intervalSeconds (5)",
    ),
    "a percentage of nothing": (
        {**REDIS, "autoscaling.enabled": True, "resources.requests.cpu": None},
        "autoscaling.cpuPercent is a part of resources.requests.cpu",
    ),
    "a percentage of nothing at all": (
        {**REDIS, "autoscaling.enabled": True, "resources.requests": None},
        "autoscaling.cpuPercent is a part of resources.requests.cpu",
    ),
    "a volume with the name of the chart's own": (
        {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]},
        "extraVolumes has a volume tmp, which is what the chart calls its own",
    ),
    "a mount of a volume that is not there": (
        {"extraVolumeMounts": [{"name": "data", "mountPath": "/data"}]},
        "extraVolumeMounts mounts data, which is not in extraVolumes",
    ),
    "a variable given twice": ({"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "extraEnv has A twice"),
    "two volumes of one name": (
        {"extraVolumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]},
        "extraVolumes has a twice",
    ),
    "two volumes at one place": (
        {"extraVolumes": [{"name": "a", "emptyDir": {}}], "extraVolumeMounts": [{"name": "a", "mountPath": "/a"}] * 2},
        "extraVolumeMounts has /a twice",
    ),
    "pings too seldom for the proxy": (
        {**JWT, "ingress.enabled": True, "ingress.hosts": ["a.example.org"], "ingress.idleTimeoutSeconds": 20},
        "ingress.idleTimeoutSeconds (20) is not above settings.keepalive.interval_seconds (20)",
    ),
    "settings behind the chart's back": (
        {"extraEnv": [{"name": "TIDEGATE_BROKER", "value": "memory://"}]},
        "extraEnv sets TIDEGATE_BROKER behind the back",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("version", HELMS)
def test_what_cannot_work_is_refused(version: str, what: str) -> None:
    """With one sentence that names the value and says what to do."""
    sets, sentence = REFUSED[what]
    said = refusal(version, sets)
    assert "These values cannot work:" in said
    assert sentence in said
    assert said.count("\n- ") == 1


@pytest.mark.parametrize("version", HELMS)
def test_everything_that_is_wrong_is_said_at_once(version: str) -> None:
    """Nobody has to ask three times."""
    assert (
        refusal(version, {"replicaCount": 3, "service.type": "NodePort", "settings.drain.period_seconds": 3600}).count("\n- ") == 3
    )


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "a wrong type": (
        {"replicaCount": "three"},
        "replicaCount: Invalid type. Expected: integer",
        "'/replicaCount': got string, want",
    ),
    "an unknown key": (
        {"replicas": 3},
        "Additional property replicas is not allowed",
        "additional properties 'replicas' not allowed",
    ),
    "an unknown setting": (
        {"settings.rate_limit.burts": 9},
        "settings.rate_limit: Additional property burts is not allowed",
        "'/settings/rate_limit': additional properties 'burts' not allowed",
    ),
    "a setting out of bounds": (
        {"settings.connection_limit.total": 0},
        "settings.connection_limit.total: Must be greater than or equal to 1",
        "'/settings/connection_limit/total': minimum: got 0, want 1",
    ),
    "a secret as a value": (
        {"settings.api_key": "0123456789abcdef"},
        "settings: Additional property api_key is not allowed",
        "'/settings': additional properties 'api_key' not allowed",
    ),
    "off without quotes": (
        {"settings.connection_limit.per_client": False},
        "settings.connection_limit.per_client: Invalid type. Expected: [integer,string]",
        "'/settings/connection_limit/per_client': got boolean, want integer or string",
    ),
    "a default taken away": (
        {"settings.drain.delay_seconds": None},
        "settings.drain: delay_seconds is required",
        "'/settings/drain': missing property 'delay_seconds'",
    ),
    "a group taken away": ({"autoscaling": None}, "(root): autoscaling is required", "missing property 'autoscaling'"),
    "a budget that blocks": (
        {"podDisruptionBudget.maxUnavailable": 0},
        "podDisruptionBudget.maxUnavailable: Must be greater than or equal to 1",
        "'/podDisruptionBudget/maxUnavailable': minimum: got 0, want 1",
    ),
    "a budget that blocks in per cent": (
        {"podDisruptionBudget.maxUnavailable": "0%"},
        "podDisruptionBudget.maxUnavailable: Does not match pattern",
        "'/podDisruptionBudget/maxUnavailable': '0%' does not match pattern",
    ),
    "a broker of another kind": (
        {"broker.url": "kafka://k:9092"},
        "broker.url: Does not match pattern",
        "'kafka://k:9092' does not match",
    ),
    "root": ({"podSecurityContext.runAsUser": 0}, "podSecurityContext.runAsUser: Must be", "minimum: got 0, want 1"),
    "a label that is ours": (
        {"commonLabels": {"app.kubernetes.io/name": "x"}},
        'commonLabels: Property name of "app.kubernetes.io/name" does not match',
        "invalid propertyName 'app.kubernetes.io/name'",
    ),
    "the label by which a monitor finds its Service": (
        {"commonLabels": {"tidegate/listener": "x"}},
        'commonLabels: Property name of "tidegate/listener" does not match',
        "invalid propertyName 'tidegate/listener'",
    ),
    "a label that no object can have": (
        {"podLabels": {"team": "real time"}},
        "podLabels.team: Does not match pattern",
        "'/podLabels/team': 'real time' does not match pattern",
    ),
    "a name that begins with a figure": (
        {"fullnameOverride": "1gw"},
        "fullnameOverride: Does not match pattern",
        "'/fullnameOverride': '1gw' does not match pattern",
    ),
    "a peer that is two things": (
        {"networkPolicy.publicFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]},
        "networkPolicy.publicFrom.0: Must validate one and only one schema (oneOf)",
        "'/networkPolicy/publicFrom/0': 'oneOf' failed",
    ),
    "a peer that is nothing": (
        {"networkPolicy.opsFrom": [{}]},
        "networkPolicy.opsFrom.0: Must validate one and only one schema (oneOf)",
        "'/networkPolicy/opsFrom/0': 'oneOf' failed",
    ),
    "a selector misspelt, which would select everything": (
        {"networkPolicy.apiFrom": [{"podSelector": {"matchLabel": {"app": "backend"}}}]},
        "networkPolicy.apiFrom.0.podSelector: Additional property matchLabel is not allowed",
        "additional properties 'matchLabel' not allowed",
    ),
    "a rule that would let everything out": (
        {"networkPolicy.egress.rules": [{}]},
        "networkPolicy.egress.rules.0: Must have at least 1 properties",
        "'/networkPolicy/egress/rules/0': minProperties: got 0, want 1",
    ),
    "a margin shorter than stopping takes": (
        {"terminationGraceMarginSeconds": 4},
        "terminationGraceMarginSeconds: Must be greater than or equal to 5",
        "'/terminationGraceMarginSeconds': minimum: got 4, want 5",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_misspelt_or_of_the_wrong_type_is_refused(what: str) -> None:
    """By the schema, in the words of each Helm, with the place of the value."""
    sets, *sentences = WRONG[what]
    for version, sentence in zip(HELMS, sentences, strict=True):
        assert sentence in refusal(version, sets)


@pytest.mark.parametrize(
    "sets",
    [
        {"service.type": "NodePort", "allowPublicWithoutAuth": True},
        {**JWT, "service.type": "LoadBalancer"},
        {"replicaCount": 0},
        {"replicaCount": 5, "broker.url": "nats://nats:4222"},
        {"replicaCount": 5, "secrets.brokerUrl.name": "tidegate-redis"},
        {**REDIS, "autoscaling.enabled": True, "settings.connection_limit.total": "off"},
        {**JWT, "ingress.enabled": True, "ingress.hosts": ["a"], "settings.keepalive.interval_seconds": "off"},
        {"broker.url": "redis://redis:6379/0?client_name=a@b"},
        {"service.ipFamilyPolicy": "RequireDualStack", "listenAddress": "::"},
        {"strategy.maxSurge": 0, "strategy.maxUnavailable": 1},
        {**REDIS, "autoscaling.enabled": True, "autoscaling.cpuPercent": 350},
    ],
    ids=lambda sets: ", ".join(sets),
)
def test_what_is_meant_is_let_through(sets: dict[str, Any]) -> None:
    """The other side of each refusal."""
    assert rendered(sets)


def test_the_refusals_do_not_depend_on_the_file_that_is_asked_for() -> None:
    """``--show-only`` of another object refuses as well."""
    for version in HELMS:
        assert "cannot work" in refusal(version, {"replicaCount": 2}, CASES["monitoring"], only="templates/service.yaml")
