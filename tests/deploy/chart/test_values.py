"""Values, their schema and the files that the chart has copies of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from gateway.settings import Settings
from gateway.settings.groups import DrainSettings
from gateway.version import __version__

from .helm import CASES, HELMS, NEWEST, case, output, template
from .settings_schema import CHART, CHART_OWN, SECRETS, settings_schema, whole_schema

ROOT = CHART.parents[1]
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
OF_KUBERNETES = {"affinity", "podSecurityContext", "securityContext", "resources", "probes"}
"""Values with a shape of Kubernetes: not every field of theirs has a default, and defaults may be taken away."""


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of the schema that describes an object, with its place."""
    if schema.get("type") == "object":
        yield path, schema
    for name, part in {**schema.get("properties", {}), **schema.get("definitions", {})}.items():
        yield from schemas(part, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from schemas(schema["items"], f"{path}[]")


def test_the_schema_is_made_from_the_settings() -> None:
    """Every setting of the gateway can be given, with its own bounds, and every broker named; the module says how to renew it."""
    assert settings_schema() == whole_schema()["properties"]["settings"]
    assert whole_schema() == SCHEMA, "renew it: make tables"


def test_every_object_of_the_schema_is_closed() -> None:
    """Unknown keys are errors, except where the keys are the user's own or the shape is one of Kubernetes."""
    open_ones = {path for path, schema in schemas(SCHEMA) if schema.get("additionalProperties", True) is not False}
    theirs = r"([lL]abels|[aA]nnotations|nodeSelector|seLinuxOptions)$"  # maps of texts
    kubernetes = r"(Affinity|valueFrom|elabelings\[\]|extraVolumes\[\])$"
    assert [path for path in open_ones if not re.search(f"{theirs}|{kubernetes}", path)] == ["global"]


def test_every_value_has_a_schema_and_every_key_of_the_schema_a_default() -> None:
    """Whoever reads values.yaml has seen all there is; what is there cannot be taken away by accident."""

    def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[str]:
        properties = schema["properties"]
        if sorted(values) != sorted(properties.keys() - {"global"}):
            yield f"{path}: {sorted(values.keys() ^ properties.keys())}"
        if sorted(schema["required"]) != sorted(values):
            yield f"{path}: required"
        for name, value in values.items():
            if isinstance(value, dict) and "properties" in properties[name] and name not in OF_KUBERNETES | {"settings"}:
                yield from compare(value, properties[name], f"{path}.{name}")

    assert list(compare(VALUES, SCHEMA, "values")) == []


def test_every_secret_setting_is_taken_from_a_secret() -> None:
    """A new one must get its place."""
    found = {path for path, annotation in _fields(Settings) if annotation is SecretStr or "SecretStr" in str(annotation)}
    assert found == SECRETS.keys()
    assert set(VALUES["secrets"]) == {"brokerUrl", *SECRETS.values()}
    assert Settings.model_fields.keys() >= CHART_OWN


def _fields(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


def test_defaults_that_the_chart_repeats_are_those_of_the_gateway() -> None:
    """Said in values.yaml because something depends on them."""
    settings = Settings(drain=DrainSettings(delay_seconds=5))  # its default, which is 0 at a terminal
    given = VALUES["settings"]
    assert given["drain"] == settings.drain.model_dump()
    assert given["auth"] == {"mode": settings.auth.mode}
    assert given["connection_limit"] == {"total": settings.connection_limit.total}
    assert given["keepalive"] == {"interval_seconds": settings.keepalive.interval_seconds}


def test_the_version_is_that_of_the_package() -> None:
    """Chart and image are released together."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_user_and_ports_are_those_of_the_image() -> None:
    """The Dockerfile's numbers."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    user = VALUES["podSecurityContext"]["runAsUser"]
    assert f"USER {user}:{VALUES['podSecurityContext']['runAsGroup']}" in dockerfile
    assert "EXPOSE 8000 9000" in dockerfile


COPIES = {"dashboards": ("dashboards", "*.json"), "rules": ("dashboards/rules", "*.yaml")}


@pytest.mark.parametrize("folder", COPIES)
def test_copies_are_equal(folder: str) -> None:
    """Helm reads only what is inside of the chart; `make dashboards` renews the copies."""
    source, pattern = COPIES[folder]

    def texts(place: Path) -> dict[str, str]:
        return {path.name: path.read_text(encoding="utf-8") for path in place.glob(pattern)}

    originals, copies = texts(ROOT / source), texts(CHART / folder)
    assert copies.keys() == originals.keys()
    assert [name for name in copies if copies[name] != originals[name]] == []
    assert copies


def test_the_examples_say_what_they_are_for() -> None:
    """The first line of each is a sentence."""
    for path in CASES.values():
        assert re.match(r"# [A-Z].*[.;,\w]\n", path.read_text(encoding="utf-8")), path.name


PAGE = ROOT / "docs" / "kubernetes.md"
FENCES = re.findall(r"```yaml\n# values\.yaml[^\n]*\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(FENCES)))
def test_the_values_of_the_page_work(number: int, tmp_path: Path) -> None:
    """Every fence of docs/kubernetes.md that is a values file renders with both Helms."""
    path = tmp_path / "values.yaml"
    path.write_text(FENCES[number], encoding="utf-8")
    for version in HELMS:
        assert "kind: Deployment" in output(version, *template([path]))


def test_the_page_has_values_and_names_existing_examples() -> None:
    """What it points to is there."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(FENCES) >= 3
    assert {Path(name).name.removesuffix("-values.yaml") for name in re.findall(r"ci/[\w-]+\.yaml", text)} <= CASES.keys()


def test_helm_shows_the_values(tmp_path: Path) -> None:
    """``helm show values`` is the manual: every value that has a consequence says which."""
    assert output(NEWEST, "show", "values", CHART).strip() == (CHART / "values.yaml").read_text(encoding="utf-8").strip()
    assert case("default")
