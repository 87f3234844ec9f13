"""``examples/compose.yaml``: what can be known of it without pulling images, and its Prometheus and Grafana configuration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from gateway.cli import main as command
from gateway.settings import Loaded, Settings, check_exposure, env_name, load_settings
from gateway.settings.environment import field_paths
from tests.deploy.compose import FILE, GATEWAYS, PROMETHEUS_PACKAGE, RULES, SERVICES, environment, mounts, prometheus_files
from tests.deploy.tools import ROOT, run
from tests.needs import need


@pytest.fixture(params=GATEWAYS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """What a gateway reads from its variables and those that the image sets."""
    image = dict(re.findall(r"(TIDEGATE_\w+)=(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8")))
    for variable, value in {**image, **environment(name)}.items():
        monkeypatch.setenv(variable, value)
    return load_settings()


def test_it_is_a_compose_file() -> None:
    """The Compose specification's own schema takes it."""
    run(need("check-jsonschema", how="pip install check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FILE)


def test_compose_itself_takes_it() -> None:
    """Where Compose 2 is installed, as a plugin or by itself, it resolves the file.

    Skipped elsewhere, in CI too: not every Debian that is tested on has a package of it, and Compose 1 does not know `name`.
    """
    compose = compose_2()
    if compose is None:
        pytest.skip("no Compose 2 here, nor a package of it everywhere; the schema is checked all the same")
    run(*compose, "--file", FILE, "config", "--quiet")


def compose_2() -> list[str] | None:
    """The command, if there is one."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            said = subprocess.run([*words, "version", "--short"], capture_output=True, text=True, check=False)
            if said.returncode == 0 and not said.stdout.startswith("1."):
                return words
    return None


def test_the_whole_set_is_there() -> None:
    """Two gateways that differ in nothing but their ports, a broker, and who watches."""
    assert set(SERVICES) == {*GATEWAYS, "redis", "prometheus", "grafana"}
    first, second = ({key: value for key, value in SERVICES[name].items() if key != "ports"} for name in GATEWAYS)
    assert first == second


def test_a_gateway_gets_settings_that_exist_and_may_start(name: str, loaded: Loaded) -> None:
    """Every variable is a setting; with what the image sets they load without a warning and pass the check of exposure."""
    assert environment(name).keys() <= {env_name(path) for path in field_paths(Settings)}
    assert loaded.warnings == ()
    check_exposure(loaded.settings)
    assert loaded.settings.host == loaded.settings.ops_host == "0.0.0.0"
    assert loaded.settings.broker.startswith("redis://redis:")


def test_a_gateway_is_asked_whether_it_is_ready(name: str) -> None:
    """With the command's own `healthcheck`, in a form that it parses, at the ops port of the settings."""
    kind, program, subcommand, *arguments = SERVICES[name]["healthcheck"]["test"]
    assert (kind, program, subcommand) == ("CMD", "tidegate", "healthcheck")
    context = click.Context(command)
    found = command.get_command(context, subcommand)
    assert found is not None
    parsed = found.make_context(subcommand, arguments, parent=context).params
    assert parsed["ready"] is True
    assert parsed["ops_url"] == f"http://127.0.0.1:{Settings().ops_port}"


def test_a_gateway_may_finish_draining(name: str, loaded: Loaded) -> None:
    """The grace period is longer than the drain of these settings, by five seconds at least."""
    match = re.fullmatch(r"(\d+)s", SERVICES[name]["stop_grace_period"])
    assert match
    assert int(match[1]) >= loaded.settings.drain.total_seconds + 5


def test_a_gateway_may_do_nothing_but_serve(name: str) -> None:
    """Read-only root, no capabilities, bounded memory, descriptors for its connections."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert "user" not in service  # the image's own, which is not root
    assert service["ulimits"]["nofile"] > (Settings().connection_limit.total or 0) + 1000


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_is_privileged(name: str) -> None:
    """No capability, no new privilege, no host namespace, no Docker socket, and no file mounted writable."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "userns_mode"} & service.keys()
    for volume in service.get("volumes", []):
        assert not volume.startswith("/")
        assert volume.endswith(":ro") or not volume.startswith(".")


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    """By version and digest, or built here."""
    service = SERVICES[name]
    if "build" in service:
        assert (FILE.parent / service["build"]).resolve() == ROOT
        assert (ROOT / "Dockerfile").is_file()
    else:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-alpine)?@sha256:[0-9a-f]{64}", service["image"])


def test_no_two_builds_make_one_image() -> None:
    """Compose builds both at once, and the second could not store what the first has just stored under the same name."""
    built = [service.get("image", name) for name, service in SERVICES.items() if "build" in service]
    assert len(built) == len(set(built)) == len(GATEWAYS)


@pytest.mark.parametrize("name", SERVICES)
def test_everything_tells_whether_it_is_well(name: str) -> None:
    """A health check without a shell, and a restart after a crash."""
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_waiting_is_for_what_exists_and_is_healthy() -> None:
    """`depends_on` names services and waits for their health checks."""
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES
            assert how == {"condition": "service_healthy"}


def test_ports_are_this_machines_only_and_differ() -> None:
    """Every published port is bound to loopback; no two are the same; the gateways' are those of the settings."""
    published = [port.split(":") for service in SERVICES.values() for port in service.get("ports", [])]
    assert {address for address, _, _ in published} == {"127.0.0.1"}
    outside = [host for _, host, _ in published]
    assert len(set(outside)) == len(outside)
    for name in GATEWAYS:
        assert [int(port.split(":")[2]) for port in SERVICES[name]["ports"]] == [Settings().port, Settings().ops_port]
    text = FILE.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:ws|http)://127\.0\.0\.1:(\d+)", text.split("name: tidegate")[0])) <= set(outside)


def test_what_is_mounted_exists() -> None:
    """Each path on the left is in the repository."""
    for name in ("prometheus", "grafana"):
        for path in mounts(name).values():
            assert path.exists(), path


def test_prometheus_takes_its_configuration_and_the_rules(tmp_path: Path) -> None:
    """promtool checks the file as it is mounted, with every rule file that it includes."""
    said = run(need("promtool", how=PROMETHEUS_PACKAGE), "check", "config", prometheus_files(tmp_path)).stdout
    assert all(re.search(rf"Checking .*/rules/{name}", said) for name in RULES)


def test_prometheus_scrapes_both_gateways() -> None:
    """By service name, at the ops port."""
    config = yaml.safe_load(mounts("prometheus")["/etc/prometheus/prometheus.yml"].read_text(encoding="utf-8"))
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets["tidegate"] == [f"{name}:{Settings().ops_port}" for name in GATEWAYS]


# What Grafana's documentation names; Grafana itself ignores a misspelt key without a word.
DATASOURCE_KEYS = {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData", "orgId", "version"}
PROVIDER_KEYS = {
    "name", "orgId", "folder", "folderUid", "type", "disableDeletion", "allowUiUpdates", "updateIntervalSeconds", "options",
}  # fmt: skip
GRAFANA_VARIABLES = {
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", "GF_ANALYTICS_CHECK_FOR_UPDATES", "GF_ANALYTICS_REPORTING_ENABLED",
    "GF_AUTH_ANONYMOUS_ENABLED", "GF_AUTH_ANONYMOUS_ORG_ROLE", "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
    "GF_SECURITY_ADMIN_PASSWORD",
}  # fmt: skip


def provisioned(folder: str) -> dict[str, Any]:
    (path,) = (path for path in mounts("grafana")[f"/etc/grafana/provisioning/{folder}"].iterdir() if path.suffix == ".yaml")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert loaded["apiVersion"] == 1
    return loaded


def test_grafana_finds_prometheus() -> None:
    """One default data source, at the service's name and port, that knows how often is scraped."""
    (source,) = provisioned("datasources")["datasources"]
    assert source.keys() <= DATASOURCE_KEYS
    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    assert source["url"] == "http://prometheus:9090"
    config = yaml.safe_load(mounts("prometheus")["/etc/prometheus/prometheus.yml"].read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_grafana_shows_our_dashboards() -> None:
    """The provider reads the folder that is mounted, and the home dashboard is one of it."""
    (provider,) = provisioned("dashboards")["providers"]
    assert provider.keys() <= PROVIDER_KEYS
    assert provider["type"] == "file"
    inside = provider["options"]["path"]
    folder = mounts("grafana")[inside]
    assert {path.stem for path in folder.rglob("*.json")} == {"overview", "capacity", "delivery", "broker"}
    home = Path(environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (folder / home.relative_to(inside)).is_file()
    for path in folder.rglob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["title"]


def test_grafana_shows_to_anybody_changes_for_nobody_and_tells_nobody() -> None:
    """Visitors are viewers; nothing is reported home; every variable is one that Grafana knows."""
    variables = environment("grafana")
    assert variables.keys() <= GRAFANA_VARIABLES
    assert variables["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert {variables[name] for name in variables if name.startswith("GF_ANALYTICS_")} == {"false"}
