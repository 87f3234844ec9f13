"""Small questions to a list of Kubernetes objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .helm import Document

__all__ = ["container", "environment", "kinds", "matches", "one", "pod_specs", "selectors"]


def kinds(objects: Iterable[Document], kind: str) -> list[Document]:
    return [document for document in objects if document["kind"] == kind]


def one(objects: Iterable[Document], kind: str, suffix: str = "") -> Document:
    """The only object of a kind, with this end of its name."""
    found = [document for document in kinds(objects, kind) if document["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, f"{len(found)} {kind}: {[document['metadata']['name'] for document in found]}"
    return found[0]


def container(objects: Iterable[Document]) -> Document:
    """The gateway's own container."""
    (found,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def pod_specs(objects: Iterable[Document]) -> Iterator[tuple[Document, Document]]:
    """Metadata and specification of every pod that will run."""
    for document in objects:
        if document["kind"] == "Pod":
            yield document["metadata"], document["spec"]
        elif document["kind"] == "Deployment":
            yield document["spec"]["template"]["metadata"], document["spec"]["template"]["spec"]


def selectors(document: Document) -> list[dict[str, str]]:
    """The label selectors with which an object finds the gateway's pods (or Services, for a ServiceMonitor)."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "Deployment":
            spread = spec["template"]["spec"].get("topologySpreadConstraints", [])
            return [spec["selector"]["matchLabels"], *(constraint["labelSelector"]["matchLabels"] for constraint in spread)]
        case "Service":
            return [spec["selector"]]
        case "PodDisruptionBudget" | "PodMonitor" | "ServiceMonitor":
            return [spec["selector"]["matchLabels"]]
        case "NetworkPolicy":
            return [spec["podSelector"]["matchLabels"]]
    return []


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def environment(objects: list[Document], secrets: dict[str, str]) -> dict[str, Any]:
    """What the gateway's process will find in its environment; ``secrets`` stands for the Secrets' contents, by variable."""
    variables: dict[str, Any] = {}
    for source in container(objects)["envFrom"]:
        variables |= one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in container(objects).get("env", []):
        variables[entry["name"]] = secrets[entry["name"]] if "valueFrom" in entry else entry["value"]
    return variables
