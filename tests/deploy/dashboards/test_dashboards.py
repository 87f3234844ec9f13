"""The dashboards as they are in the repository: complete, consistent with the metric catalogue, and renewed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dashboards.build import outputs, places
from gateway.telemetry.catalogue import CATALOGUE as GATEWAY
from middleware.catalogue import CATALOGUE as LAYERS

from .catalogues import ALERTS, BOARDS, FOLDER, RECORDED, SERIES, concrete, metric_of, panels, selections, targets

UNITS = {"s", "bytes", "percentunit", "short", "mps", "reqps", "ops", "Bps"}
RATES = {"rate", "increase", "irate"}


@pytest.mark.parametrize("path", sorted(places()), ids=lambda path: str(path.relative_to(FOLDER.parent)))
def test_what_is_kept_is_what_the_code_says(path: Path) -> None:
    """`make dashboards` changes nothing, in dashboards/ or in the chart's copies."""
    assert path.read_text(encoding="utf-8") == places()[path], f"{path.name} is out of date: run `make dashboards`"


def test_runbooks_can_be_pointed_to_an_address() -> None:
    """With `--runbooks` no link is relative any more, in dashboards and alerts alike."""
    files = outputs("https://wiki.example.org/tidegate/")
    assert all("dashboards/runbooks" not in text for name, text in files.items() if name.endswith(".json"))
    assert "https://wiki.example.org/tidegate/BrokerDown.md" in files["overview.json"]
    assert "runbook_url: https://wiki.example.org/tidegate/BrokerDown.md" in files["rules/alerts.yaml"]


@pytest.mark.parametrize("board", BOARDS)
def test_every_panel_is_complete(board: str) -> None:
    """Title, description, unit, a legend for each series, the data source that was chosen, and one id each."""
    for panel in panels(board):
        assert panel["title"], panel["id"]
        assert len(panel["description"]) > 15, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["legendFormat"] not in {"", "__auto"}, panel["title"]
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]
    ids = [panel["id"] for panel in BOARDS[board]["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("board", BOARDS)
def test_no_two_panels_overlap(board: str) -> None:
    """Every cell of the grid belongs to one panel, within 24 columns."""
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[board]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for cell in (
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]


@pytest.mark.parametrize("board", BOARDS)
def test_nodes_can_be_chosen(board: str) -> None:
    """Data source, job and node are variables, and every query but those of whole jobs uses them."""
    assert [variable["name"] for variable in BOARDS[board]["templating"]["list"]] == ["datasource", "job", "instance"]
    for target in targets():
        names = {selection.series for selection in selections(target.expression)}
        whole_job = all(name.startswith("job:") or name == "ALERTS" for name in names)
        chosen = target.expression.count('job=~"$job", instance=~"$instance"')
        assert chosen >= len(names) or (whole_job and "$job" in target.expression), target.where


@pytest.mark.parametrize("board", BOARDS)
def test_dashboards_lead_to_each_other(board: str) -> None:
    """Each has a link to all others that keeps the time and the chosen nodes."""
    links = {link["url"] for link in BOARDS[board]["links"] if link["keepTime"] and link["includeVars"]}
    others = {f"/d/{other['uid']}" for name, other in BOARDS.items() if name != board}
    assert links == others


def test_every_runbook_that_a_panel_names_exists() -> None:
    """No dead link, and every alert's runbook can be reached from some panel unless no panel can show it."""
    linked = {link["url"] for board in BOARDS for panel in panels(board) for link in panel.get("links", ())}
    assert all((FOLDER.parent / url).is_file() for url in linked), linked
    unseen = {alert.name for alert in ALERTS} - {Path(url).stem for url in linked}
    assert unseen == {"GatewayAbsent", "GatewayDown"}


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.where)
def test_queries_ask_for_what_there_is(target: object) -> None:
    """Every metric is in the catalogue or recorded by a rule, counters are looked at as rates only, over Grafana's interval."""
    assert_sound(target.expression, target.where)  # type: ignore[attr-defined]
    windows = set(re.findall(r"\[(.+?)\]", target.expression))  # type: ignore[attr-defined]
    assert windows <= {"$__rate_interval"} or "job:" in target.expression, windows  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "rule", [*RECORDED.items(), *((alert.name, alert.expression) for alert in ALERTS)], ids=lambda rule: rule[0]
)
def test_rules_ask_for_what_there_is(rule: tuple[str, str]) -> None:
    """The same for recording rules and alerts. The ledger alone compares counters themselves: their difference is the point."""
    name, expression = rule
    ledger = "tidegate_deliveries_" if name == "instance_namespace:tidegate_deliveries_unaccounted:residual" else "-"
    assert_sound(expression, name, counters_as_they_are=ledger)


@pytest.mark.parametrize("path", sorted((FOLDER / "runbooks").glob("*.md")), ids=lambda path: path.stem)
def test_runbooks_ask_for_what_there_is(path: Path) -> None:
    """Every query of a runbook can be pasted: it is PromQL, over metrics that exist."""
    for block in re.findall(r"```promql\n(.+?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        for query in block.strip().splitlines():
            assert_sound(query, path.stem)


def assert_sound(expression: str, where: str, counters_as_they_are: str = "-") -> None:
    for series, function, _ in selections(expression):
        if series == "ALERTS" or series in RECORDED:
            continue
        assert series in SERIES, f"{where}: there is no {metric_of(series)}"
        if SERIES[series] == "counter" and not series.startswith(counters_as_they_are):
            assert function in RATES, f"{where}: the counter {series} is used without rate"
        if SERIES[series] == "gauge":
            assert function not in RATES, f"{where}: the gauge {series} is used with {function}"
    assert concrete(expression)


def test_every_metric_is_shown_somewhere() -> None:
    """What is measured can be seen: each metric of the catalogue is in a panel, a rule or an alert."""
    asked = [target.expression for target in targets()] + list(RECORDED.values()) + [alert.expression for alert in ALERTS]
    shown = {metric_of(selection.series) for expression in asked for selection in selections(expression)}
    unseen = {metric.full_name() for metric in (*GATEWAY, *LAYERS)} - shown
    assert not unseen, f"add a panel for {', '.join(sorted(unseen))} to dashboards/panels/"
