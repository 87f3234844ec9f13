"""What the objects mean together; no schema can judge it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from gateway.settings import load_settings
from gateway.settings.models import check_exposure

from .helm import CASES, NAMESPACE, Document, case, rendered
from .objects import container, environment, kinds, matches, one, pod_specs, selectors

SECRETS = {
    "TIDEGATE_BROKER": "redis://:a-password@redis:6379/0",
    "TIDEGATE_API_KEY": "k" * 32,
    "TIDEGATE_AUTH__SECRET": "s" * 32,
    "POD_NAME": "tide-tidegate-5d4f-abcde",
    "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
}


@pytest.fixture(params=CASES)
def objects(request: pytest.FixtureRequest) -> list[Document]:
    """The objects of every case in turn."""
    return list(case(request.param))


def test_every_selector_finds_the_gateways_pods_and_no_others(objects: list[Document]) -> None:
    """Services, budget, policy, spread and monitors mean the pods of the Deployment, not that of ``helm test``."""
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    services = [document["metadata"]["labels"] for document in kinds(objects, "Service")]
    for document in objects:
        for selector in selectors(document):
            if document["kind"] == "ServiceMonitor":
                assert [matches(selector, service) for service in services] == [
                    "tidegate/listener" in service for service in services
                ]
                continue
            assert matches(selector, labels), document["kind"]
            for pod in kinds(objects, "Pod"):
                assert not matches(selector, pod["metadata"]["labels"]), document["kind"]


def test_every_named_port_exists(objects: list[Document]) -> None:
    """In the container for Services, probes, policies and PodMonitors; in a Service for Ingresses and ServiceMonitors."""
    ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
    assert ports == {"public": 8000, "ops": 9000}
    served = {document["metadata"]["name"]: document["spec"]["ports"] for document in kinds(objects, "Service")}
    for service in served.values():
        assert all(port["targetPort"] in ports for port in service)
    for policy in kinds(objects, "NetworkPolicy"):
        assert all(port["port"] in ports for rule in policy["spec"]["ingress"] for port in rule["ports"])
    for monitor in kinds(objects, "PodMonitor"):
        assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["ops"]
    for monitor in kinds(objects, "ServiceMonitor"):
        assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == ["ops"]
    for ingress in kinds(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert backend["port"]["name"] in [port["name"] for port in served[backend["name"]]]
    for route in kinds(objects, "HTTPRoute"):
        for backend in route["spec"]["rules"][0]["backendRefs"]:
            assert backend["port"] in [port["port"] for port in served[backend["name"]]]


def test_all_probes_ask_the_ops_port(objects: list[Document]) -> None:
    """A flood on the public listener starves no probe."""
    asked = {name: container(objects)[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": "/startupz", "port": "ops"},
        "liveness": {"path": "/healthz", "port": "ops"},
        "readiness": {"path": "/readyz", "port": "ops"},
    }


def test_the_grace_period_is_longer_than_the_drain(objects: list[Document]) -> None:
    """preStop + delay + period + abort, recomputed from what the process will be told, and a margin of ten seconds."""
    variables = environment(objects, SECRETS)
    steps = [float(variables[f"TIDEGATE_DRAIN__{name}_SECONDS"]) for name in ("DELAY", "PERIOD", "ABORT_AFTER")]
    hook = container(objects).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = one(objects, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace == math.ceil(hook + sum(steps) + 10)


@pytest.mark.parametrize(
    ("drain", "margin", "hook", "grace"),
    [((5, 20, 5), 10, 0, 40), ((7.5, 60, 5), 10, 5, 88), ((0, 0, 0.1), 5, 0, 6), ((30, 1800, 60), 30, 10, 1930)],
)
def test_grace_arithmetic(drain: tuple[float, float, float], margin: int, hook: int, grace: int) -> None:
    """Halves of seconds are rounded up."""
    names = ("delay_seconds", "period_seconds", "abort_after_seconds")
    sets: dict[str, Any] = {f"settings.drain.{name}": value for name, value in zip(names, drain, strict=True)}
    made = rendered({**sets, "terminationGraceMarginSeconds": margin, "preStopSeconds": hook})
    assert one(made, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == grace


@pytest.mark.parametrize(
    ("kubernetes", "hook"),
    [("1.27", {"exec": {"command": ["python", "-c", "import time; time.sleep(5)"]}}), ("1.30", {"sleep": {"seconds": 5}})],
)
def test_the_hook_before_the_end_needs_no_shell(kubernetes: str, hook: dict[str, Any]) -> None:
    """The kubelet sleeps where it can, else the image's Python."""
    assert container(list(case("ha-nats", kubernetes)))["lifecycle"] == {"preStop": hook}
    assert "lifecycle" not in container(list(case("default", kubernetes)))


def test_the_budget_blocks_no_node_drain(objects: list[Document]) -> None:
    """It always lets one pod go, and pods that are not ready do not count."""
    for budget in kinds(objects, "PodDisruptionBudget"):
        allowed = budget["spec"]["maxUnavailable"]
        assert int(str(allowed).rstrip("%")) >= 1
        assert "minAvailable" not in budget["spec"]
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_rollout_never_lowers_capacity_and_comes_to_an_end(objects: list[Document]) -> None:
    """New pods first."""
    rolling = one(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("seconds", [0, 10, 1800])
def test_a_rollout_is_given_up_later_than_a_pod_counts_as_available(seconds: int) -> None:
    """The API server refuses a deadline that is not above ``minReadySeconds``."""
    spec = one(rendered({"minReadySeconds": seconds}), "Deployment")["spec"]
    assert spec["progressDeadlineSeconds"] == seconds + 600


def test_every_pod_meets_the_restricted_standard(objects: list[Document]) -> None:
    """Pod Security Standard "restricted": not root, no privilege, no capability, the runtime's seccomp profile."""
    for _, spec in pod_specs(objects):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert {next(iter(volume.keys() - {"name"})) for volume in spec.get("volumes", [])} <= {"emptyDir", "configMap"}
        for one_of_them in spec["containers"]:
            context = one_of_them["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["privileged"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert all("hostPort" not in port for port in one_of_them.get("ports", []))


def test_by_default_the_user_is_a_number_and_the_root_is_read_only() -> None:
    """The user is that of the image; /tmp is a small volume."""
    for _, spec in pod_specs(case("default")):
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] == 10001
        assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    (volume,) = one(case("default"), "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert volume == {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}
    assert container(list(case("default")))["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_the_platform_may_choose_the_user() -> None:
    """``null`` takes the numbers away and leaves the rest."""
    spec = one(case("openshift"), "Deployment")["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert "volumes" not in spec


def test_no_pod_gets_a_token_or_service_links(objects: list[Document]) -> None:
    """The gateway never speaks to the Kubernetes API, and ``TIDEGATE_PORT=tcp://…`` is kept out."""
    for _, spec in pod_specs(objects):
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
    for account in kinds(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    created = [account["metadata"]["name"] for account in kinds(objects, "ServiceAccount")]
    used = one(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    assert created in ([used], [])


def test_the_environment_makes_settings_that_work(objects: list[Document], monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway itself reads the variables: it knows all of them, and finds nothing wrong or risky."""
    variables = environment(objects, SECRETS)
    mounted = variables.pop("TIDEGATE_COMPRESSION__DICTIONARIES", "")  # the files are not here
    assert all(path.startswith("/etc/tidegate/dictionaries/") for path in filter(None, mounted.split(",")))
    assert all(isinstance(value, str) for value in variables.values())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    loaded = load_settings()
    check_exposure(loaded.settings)
    assert loaded.warnings == ()
    assert loaded.origins["auth.mode"] == "environment"


def test_large_numbers_reach_the_gateway_as_numbers() -> None:
    """Helm reads numbers of a file as floats: 1048576 must not become 1.048576e+06."""
    variables = one(case("ha-redis"), "ConfigMap")["data"]
    assert variables["TIDEGATE_MESSAGE__MAX_BYTES"] == "1048576"
    assert variables["TIDEGATE_RATE_LIMIT__HANDSHAKES_PER_SECOND"] == "0.5"
    assert variables["TIDEGATE_DRAIN__DELAY_SECONDS"] == "7.5"


def test_secrets_come_from_secrets_only() -> None:
    """By reference, never by value; what is not named is not there."""
    made = list(case("ha-redis"))
    given = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container(made)["env"]}
    assert given == {
        "TIDEGATE_API_KEY": {"name": "tidegate", "key": "api-key"},
        "TIDEGATE_AUTH__SECRET": {"name": "tidegate", "key": "jwt-secret"},
        "TIDEGATE_BROKER": {"name": "tidegate-redis", "key": "url"},
    }
    assert not given.keys() & one(made, "ConfigMap")["data"].keys()
    assert "env" not in container(list(case("default")))
    assert all(kinds(case(name), "Secret") == [] for name in CASES)


def test_no_name_is_in_a_pod_twice(objects: list[Document]) -> None:
    """Of variables, volumes and places: server-side apply refuses them."""
    for _, spec in pod_specs(objects):
        assert twice(volume["name"] for volume in spec.get("volumes", [])) == []
        for one_of_them in spec["containers"]:
            assert twice(entry["name"] for entry in one_of_them.get("env", [])) == []
            assert twice(mount["mountPath"] for mount in one_of_them.get("volumeMounts", [])) == []


def twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def test_what_is_given_stands_in_the_place_of_ours() -> None:
    """A variable by its name, /tmp by its path; and ours can name the variables that were given."""
    given = [{"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "a=b"}]
    made = rendered({"settings.telemetry.otlp_endpoint": "http://collector:4318", "extraEnv": given})
    assert [entry["name"] for entry in container(made)["env"]] == ["OTEL_RESOURCE_ATTRIBUTES", "POD_NAME"]
    assert container(made)["env"][0] == given[0]
    given = [{"name": "POD_NAME", "value": "mine"}]
    made = rendered({"settings.telemetry.otlp_endpoint": "http://collector:4318", "extraEnv": given})
    assert [entry["name"] for entry in container(made)["env"]] == ["POD_NAME", "OTEL_RESOURCE_ATTRIBUTES"]
    volume, mount = {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "tmp", "mountPath": "/tmp/"}
    made = rendered({"extraVolumes": [volume], "extraVolumeMounts": [mount]})
    assert one(made, "Deployment")["spec"]["template"]["spec"]["volumes"] == [volume]
    assert container(made)["volumeMounts"] == [mount]


def test_names_that_yaml_would_read_as_something_else_stay_names() -> None:
    """However a release and its namespace are called."""
    made = rendered({"fullnameOverride": "true", "nameOverride": "123", "monitoring.enabled": True, "tests.token.name": "456"})
    labels = one(made, "Deployment")["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "123"
    assert {document["metadata"]["name"].split("-")[0] for document in made} == {"true"}
    assert one(made, "Pod")["spec"]["containers"][0]["env"][-1]["valueFrom"]["secretKeyRef"]["name"] == "456"
    for document in made:
        assert all(isinstance(value, str) for value in document["metadata"]["labels"].values())


def test_a_changed_setting_rolls_the_pods_and_a_changed_label_does_not() -> None:
    """The checksum is that of the settings."""

    def checksum(sets: dict[str, Any]) -> str:
        return str(one(rendered(sets), "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"service.annotations": {"a": "b"}})
    assert checksum({}) != checksum({"settings.connection_limit.total": 9999})
    assert checksum({}) != checksum({"broker.url": "redis://redis:6379"})


def test_labels_of_ours_win_and_no_key_is_there_twice() -> None:
    """Labels from several places are merged."""
    made = list(case("monitoring"))
    labels = one(made, "PodMonitor")["metadata"]["labels"]
    assert labels["release"] == "kube-prometheus-stack"
    assert labels["app.kubernetes.io/component"] == "gateway"
    pod = one(case("read-only"), "Deployment")["spec"]["template"]["metadata"]
    assert pod["labels"]["tier"] == "edge"
    assert pod["annotations"]["example.org/owner"] == "realtime"


def test_no_name_is_too_long(objects: list[Document]) -> None:
    """Names of Services are DNS labels of at most 63 characters, and a label's value is no longer."""
    for document in objects:
        metadata = document["metadata"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"])
        assert metadata["namespace"] == NAMESPACE
        assert max(map(len, metadata["labels"].values())) <= 63


def test_the_longest_names_leave_room_for_every_suffix() -> None:
    """However a release is called."""
    sets = {"fullnameOverride": "a-name-of-sixty-three-characters-which-is-as-many-as-a-name-has", "monitoring.enabled": True}
    names = [document["metadata"]["name"] for document in rendered(sets)]
    assert max(map(len, names)) <= 63
    assert len(names) == len(set(zip(names, (document["kind"] for document in rendered(sets)), strict=True)))


def test_pods_spread_over_zones_and_hosts() -> None:
    """Both as a wish by default, each ReplicaSet for itself; a condition, or nothing, when that is said."""

    def spread(name: str) -> dict[str, str]:
        constraints = one(case(name), "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert all(constraint["matchLabelKeys"] == ["pod-template-hash"] for constraint in constraints)
        return {constraint["topologyKey"]: constraint["whenUnsatisfiable"] for constraint in constraints}

    zone, host = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
    assert spread("default") == {zone: "ScheduleAnyway", host: "ScheduleAnyway"}
    assert spread("ha-redis") == {zone: "DoNotSchedule", host: "ScheduleAnyway"}
    assert spread("read-only") == {host: "DoNotSchedule"}
