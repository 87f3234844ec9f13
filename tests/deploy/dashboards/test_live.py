"""Every query, rule and alert, asked of a real Prometheus that has watched a real gateway under load."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.gateway_process import GatewayProcess, running
from tests.needs import need

from .catalogues import ALERTS, RECORDED, SERIES, Rule, Target, concrete, selections, targets, title
from .load import SETTINGS, Load
from .services import Prometheus, alertmanager, prometheus, receiver, redis

pytestmark = pytest.mark.timeout(240)

SETTLING_SECONDS, LOAD_SECONDS = 5, 8
"""Prometheus misses the gateways until its first scrape; a rate needs two."""
WINDOW = "8s"
ON_CALL = "GatewayAtCapacity"
WELL = {"DescriptorsRunningOut", "DrainStuck", "MessagesUnaccounted"}
"""Alerts that a load must not set off, however slow the machine is."""

COUNTERS = sorted(
    {one.series for target in targets() for one in selections(target.expression) if SERIES.get(one.series) == "counter"}
)
"""What the panels' queries add up."""
STILL = {
    f"tidegate_{name}_total"
    for name in (
        "access_log_suppressed", "auth_key_fetches", "auth_refused", "broker_errors", "broker_gaps", "broker_reconnects",
        "broker_refused", "deliveries_closed", "nodes_ignored", "observations_unknown", "rate_limit_closed", "rate_limit_dropped",
        "rate_limit_handshakes_refused", "rate_limit_shared_unavailable", "rate_limit_table_full", "routes_overflow",
    )
}  # fmt: skip
"""Those of what the load does not bring about."""


@dataclass
class Watched:
    """What was seen of a gateway that is gone by now; Prometheus still knows."""

    prometheus: Prometheus
    since: float
    until: float
    scrape: str
    notifications: list[dict[str, Any]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two gateways on one Redis under load, watched by a Prometheus with our rules, which tells Alertmanager, which tells us."""
    folder = tmp_path_factory.mktemp("watched")
    with ExitStack() as stack:
        collector, spans = stack.enter_context(receiver())
        webhook, notified = stack.enter_context(receiver())
        manager = stack.enter_context(alertmanager(folder, webhook))
        broker = stack.enter_context(redis(folder))
        settings = {**SETTINGS, "BROKER": broker, "TELEMETRY__OTLP_ENDPOINT": collector}

        async def watch() -> Watched:
            async with running(**settings) as one, running(**settings) as two, loading(one, two):
                seen = stack.enter_context(prometheus(folder, [one.ops, two.ops], [manager]))
                await asyncio.sleep(SETTLING_SECONDS)
                since = time.time()
                await asyncio.sleep(LOAD_SECONDS)
                for _ in range(30):  # a busy machine takes longer to have something to say about everything
                    lacking = await asyncio.to_thread(without_data, seen, since)
                    if not lacking and any(ON_CALL.encode() in body for body in notified):
                        break
                    await asyncio.sleep(1)
                scrape = (await one.get("/metrics"))[1]
                return Watched(seen, since, time.time(), scrape, [json.loads(body) for body in notified])

        yield asyncio.run(watch())
        assert spans, "no span was exported"


@asynccontextmanager
async def loading(*gateways: GatewayProcess) -> AsyncIterator[None]:
    loads = [Load(gateway) for gateway in gateways]
    try:
        yield
    finally:
        await asyncio.gather(*(load.stop() for load in loads))


def values_of(prometheus: Prometheus, target: Target, since: float, until: float) -> list[dict[str, Any]]:
    """What Prometheus answers to the query of a panel."""
    expression = concrete(target.expression, WINDOW)
    if target.instant:
        return prometheus.query(expression, until)
    series: list[dict[str, Any]] = prometheus.get("query_range", query=expression, start=since, end=until, step=1)["result"]
    return series


def without_data(prometheus: Prometheus, since: float) -> list[Target]:
    """The queries that have no number yet."""
    return [target for target in targets() if not finite(values_of(prometheus, target, since, time.time()))]


def finite(series: list[dict[str, Any]]) -> bool:
    """Whether some value is a number."""
    values = [float(pair[1]) for one in series for pair in (*one.get("values", ()), *([one["value"]] if "value" in one else ()))]
    return any(map(math.isfinite, values))


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.where)
def test_every_query_of_every_panel_has_data(watched: Watched, target: Target) -> None:
    """Prometheus understands it and answers with at least one number."""
    assert finite(values_of(watched.prometheus, target, watched.since, watched.until)), f"no data for {target.expression}"


@pytest.mark.parametrize("name", [name for name in COUNTERS if name not in STILL])
def test_every_counter_of_a_panel_has_counted(watched: Watched, name: str) -> None:
    """What the load does is above 0: a counter that nothing ever raises would look like a quiet day."""
    [total] = watched.prometheus.query(f"sum(last_over_time({name}[1m]))", watched.until)
    assert float(total["value"][1]) > 0


@pytest.mark.parametrize("name", RECORDED)
def test_every_recording_rule_records(watched: Watched, name: str) -> None:
    """It is evaluated without an error, and its series has numbers."""
    assert finite(watched.prometheus.query(f"last_over_time({name}[1m])", watched.until))
    found = [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"] if rule["name"] == name]
    assert [rule["health"] for rule in found] == ["ok"], found


@pytest.mark.parametrize("alert", ALERTS, ids=title)
def test_every_alert_looks_at_series_that_exist(watched: Watched, alert: Rule) -> None:
    """Prometheus understands it, and none of its series is a misspelt one that would keep it silent for ever."""
    watched.prometheus.query(alert.expression, watched.until)
    for selection in selections(alert.expression):
        assert watched.prometheus.query(f"last_over_time({selection.selector}[1m])", watched.until), selection.selector


def test_the_ledger_adds_up_at_every_scrape(watched: Watched) -> None:
    """Made anew by Prometheus from the counters: 0 for every namespace and node, all the time."""
    record = "instance_namespace:tidegate_deliveries_unaccounted:residual"
    worst = watched.prometheus.query(f"max_over_time(abs({record})[1m:1s])", watched.until)
    assert {series["metric"]["namespace"] for series in worst} == {"chat", "feed", "other"}
    assert {float(series["value"][1]) for series in worst} == {0.0}


def test_a_load_sets_off_no_alert_about_health(watched: Watched) -> None:
    """Full is an alert here (the limit is small); messages that nobody can account for are not seen."""
    window = f"{int(watched.until - watched.since)}s"
    fired = watched.prometheus.query(f'max by (alertname) (max_over_time(ALERTS{{alertstate="firing"}}[{window}]))', watched.until)
    names = {series["metric"]["alertname"] for series in fired}
    assert ON_CALL in names
    assert not names & WELL


@pytest.mark.parametrize("name", ["handshake_seconds", "handling_seconds", "message_size_bytes", "delivery_confirm_seconds"])
def test_exemplars_lead_from_a_figure_to_its_trace(watched: Watched, name: str) -> None:
    """Prometheus gives back trace ids for what a panel shows."""
    found = watched.prometheus.get("query_exemplars", query=f"tidegate_{name}_bucket", start=watched.since, end=watched.until + 1)
    exemplars = [exemplar for series in found for exemplar in series["exemplars"]]
    assert exemplars
    assert all(len(exemplar["labels"]["trace_id"]) == 32 for exemplar in exemplars)


def test_an_alert_reaches_who_is_on_call(watched: Watched) -> None:
    """Through Alertmanager to a webhook, with summary, description and runbook filled in."""
    alerts = [alert for note in watched.notifications for alert in note["alerts"] if alert["labels"]["alertname"] == ON_CALL]
    alert = alerts[0]
    assert alert["status"] == "firing"  # it may have been resolved since, and said so
    assert alert["labels"]["service"] == "tidegate"
    assert alert["annotations"]["summary"] == f"{alert['labels']['instance']} is full"
    assert alert["annotations"]["runbook_url"].endswith("/GatewayAtCapacity.md")


def test_promtool_finds_nothing_wrong_with_the_metrics(watched: Watched) -> None:
    """`promtool check metrics` on a live scrape: names, units and help texts are as Prometheus wants them."""
    checked = subprocess.run([need("promtool"), "check", "metrics"], input=watched.scrape.encode(), capture_output=True, timeout=30)
    assert (checked.returncode, checked.stdout.decode(), checked.stderr.decode()) == (0, "", "")
