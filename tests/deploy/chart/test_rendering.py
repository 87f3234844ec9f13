"""The chart renders, with Helm 3 and Helm 4 alike, into objects that Kubernetes takes."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .helm import CASES, HELMS, NEWEST, Document, case, output, rendered, template
from .objects import kinds, one
from .schemas import CUSTOM, KUBERNETES, custom_problems, problem
from .settings_schema import CHART


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("version", HELMS)
def test_lint_is_strict_and_finds_nothing(version: str, name: str) -> None:
    """``helm lint --strict`` neither warns nor fails, with any of the example values."""
    said = output(version, "lint", "--strict", "--values", CASES[name], CHART)
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


@pytest.mark.parametrize("name", CASES)
def test_both_helms_make_the_same_objects(name: str) -> None:
    """Whoever upgrades Helm upgrades nothing else."""
    newest, *older = (case(name, version=version) for version in reversed(HELMS))
    assert [newest] * len(older) == older
    assert len(newest) >= 6


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("name", CASES)
def test_the_objects_fit_the_strict_schemas_of_kubernetes(name: str, kubernetes: str) -> None:
    """No unknown field and no wrong type, from the oldest version that the chart takes to the newest."""
    for document in case(name, kubernetes):
        if not document["apiVersion"].startswith(CUSTOM):
            assert problem(json.dumps(document, sort_keys=True), kubernetes) is None, document["kind"]


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_the_schemas_find_what_is_wrong(kubernetes: str) -> None:
    """An unknown field and a wrong type."""
    account, budget = (copy.deepcopy(one(case("default"), kind)) for kind in ("ServiceAccount", "PodDisruptionBudget"))
    account["automountServiceToken"] = False
    budget["spec"]["maxUnavailable"] = [1]
    assert "'automountServiceToken' was unexpected" in str(problem(json.dumps(account), kubernetes))
    assert "maxUnavailable" in str(problem(json.dumps(budget), kubernetes))


@pytest.mark.parametrize("version", HELMS)
def test_an_older_kubernetes_is_refused(version: str) -> None:
    """The chart says what it needs: 1.27."""
    done = template([CASES["default"]], kubernetes="1.26")
    with pytest.raises(AssertionError, match=r"chart requires kubeVersion: >=1\.27\.0-0"):
        output(version, *done)


def spoilt() -> list[Document]:
    """An unknown field, a wrong type and a missing field."""
    monitor, scaled, route = (copy.deepcopy(next(iter(kinds(custom_resources(), kind)))) for kind in SPOILT)
    monitor["spec"]["podMetricsEndpoints"][0]["scrapeTimout"] = "1s"
    scaled["spec"]["minReplicaCount"] = "2"
    del route["spec"]["parentRefs"][0]["name"]
    return [monitor, scaled, route]


SPOILT = {
    "PodMonitor": '"scrapeTimout"',
    "ScaledObject": "minReplicaCount must be integer",
    "HTTPRoute": "must have required property name",
}


def custom_resources() -> Iterator[Document]:
    """Every custom resource of every case."""
    for name in CASES:
        yield from (document for document in case(name) if document["apiVersion"].startswith(CUSTOM))


def test_custom_resources_fit_their_schemas(tmp_path: Path) -> None:
    """HTTPRoute, ScaledObject, PodMonitor, ServiceMonitor and PrometheusRule; and spoilt ones are found out."""
    found = list(custom_resources())
    assert {document["kind"] for document in found} == SPOILT.keys() | {"ServiceMonitor", "PrometheusRule"}
    told = custom_problems([*found, *spoilt()], tmp_path)
    assert [told.get(index) for index in range(len(found))] == [None] * len(found)
    for index, sentence in enumerate(SPOILT.values(), len(found)):
        assert sentence in " ".join(told[index])


def test_the_notes_say_what_to_do_next() -> None:
    """After an installation: how to test, where clients connect, and what is still open."""
    said = notes("default")
    assert "helm test tide" in said
    assert "ws://tide-tidegate.realtime:8000/ws/<room>" in said
    assert "A pod has 40 s to end" in said
    assert "memory broker" in said
    assert "No token is asked for" in said
    assert "publish API is off" in said
    assert "The image is tidegate:0.1.0, without a registry" in said
    assert "without a registry" not in notes("default", "--set", "image.repository=registry.example.org/tidegate")


def test_the_notes_warn_of_a_proxy_that_nobody_trusts() -> None:
    """All clients would share the limits of one."""
    assert "WARNING" not in notes("ingress")
    assert "settings.trusted_proxies is empty" in notes("ingress", "--set-json", "settings.trusted_proxies=[]")
    assert "keepalive.interval_seconds is off" in notes("ingress", "--set", "settings.keepalive.interval_seconds=off")


def test_the_notes_say_how_clients_come_from_outside() -> None:
    """Where a load balancer or a node port is, and what it does with addresses and with pods that end."""
    balanced = notes("loadbalancer")
    assert "get service tide-tidegate --output jsonpath='{.status.loadBalancer.ingress[0]}'" in balanced
    assert "and whose port is 443" in balanced
    assert "preStopSeconds" not in balanced
    assert "--url ws://127.0.0.1:8000 --token …" in balanced
    assert "set preStopSeconds" in notes("loadbalancer", "--set", "preStopSeconds=0")
    assert "share the limits of" in notes("loadbalancer", "--set", "service.externalTrafficPolicy=Cluster")
    assert "at any node that runs a pod" in notes("loadbalancer", "--set", "service.type=NodePort")


def test_the_notes_say_what_watching_and_scaling_need() -> None:
    """A scraper that is let in, and series for the autoscaler."""
    assert "Only whom networkPolicy.opsFrom names may scrape." in notes("monitoring")
    assert "and it names nobody." in notes("monitoring", "--set-json", "networkPolicy.opsFrom=[]")
    assert "monitoring.enabled is false" not in notes("keda")
    assert "monitoring.enabled is false" in notes("keda", "--set", "monitoring.enabled=false")


def notes(name: str, *arguments: str) -> str:
    """The notes; only Helm 4 shows them without a cluster."""
    command: list[str | Path] = [
        "install",
        "tide",
        CHART,
        "--namespace",
        "realtime",
        "--dry-run=client",
        "--values",
        CASES[name],
        *arguments,
    ]
    return output(NEWEST, *command).partition("\nNOTES:\n")[2]


def test_the_package_holds_what_is_needed_and_nothing_else(tmp_path: Path) -> None:
    """``helm package`` works, and what is installed from it is the same as from the folder."""
    output(NEWEST, "package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("tidegate-*.tgz")
    listed = subprocess.run(["tar", "tzf", package], capture_output=True, text=True, timeout=30, check=True).stdout.split()
    assert not [name for name in listed if "/ci/" in name or "__pycache__" in name]
    assert rendered(None, CASES["monitoring"], chart=package) == list(case("monitoring"))


def test_the_chart_works_as_a_part_of_another(tmp_path: Path) -> None:
    """Helm gives a subchart ``global`` values, which the schema lets pass."""
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "tidegate").symlink_to(CHART)
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": "parent", "version": "1.0.0"}))
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"global": {"region": "north"}, "tidegate": {"commonLabels": {"a": "b"}}}))
    for version in HELMS:
        assert len(rendered(version=version, chart=tmp_path)) == len(case("default"))
