"""A whole dashboard: its rows, the choice of nodes at the top, the links to the others, and where everything lies.

Ids and places follow from the order, so the same code gives the same JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from .kit import SOURCE

__all__ = ["Board", "Row", "render"]

TITLES = {
    "tidegate-overview": "Tidegate / Overview",
    "tidegate-delivery": "Tidegate / Delivery",
    "tidegate-capacity": "Tidegate / Capacity",
    "tidegate-broker": "Tidegate / Broker and cluster",
}
WIDTH = 24
"""Columns of Grafana's grid."""


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Any]


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    description: str
    rows: Sequence[Row]


def render(board: Board) -> str:
    """The dashboard's JSON."""
    builder = grafana.Dashboard(TITLES[board.uid]).uid(board.uid).description(board.description).tags(["tidegate"])
    builder = (
        builder.editable().tooltip(dashboard.DashboardCursorSync.CROSSHAIR).time("now-1h", "now").refresh("30s").timezone("browser")
    )
    builder = builder.variables(_variables()).annotations(_annotations()).links(_links(board.uid))
    at_y, identity = 0, 0
    for row in board.rows:
        identity += 1
        builder = builder.with_row(grafana.Row(row.title).id(identity).grid_pos(dashboard.GridPos(h=1, w=WIDTH, x=0, y=at_y)))
        at_y, at_x, tallest = at_y + 1, 0, 0
        for panel in row.panels:
            identity += 1
            size = panel.build().grid_pos
            if at_x + size.w > WIDTH:
                at_y, at_x, tallest = at_y + tallest, 0, 0
            builder = builder.with_panel(panel.id(identity).grid_pos(dashboard.GridPos(h=size.h, w=size.w, x=at_x, y=at_y)))
            at_x, tallest = at_x + size.w, max(tallest, size.h)
        at_y += tallest
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


def _variables() -> list[Any]:
    everything = dashboard.VariableOption(True, ["All"], ["$__all"])
    chosen = (
        ("job", "Job", "label_values(tidegate_build_info, job)"),
        ("instance", "Node", 'label_values(tidegate_build_info{job=~"$job"}, instance)'),
    )
    source = grafana.DatasourceVariable("datasource").label("Data source").description("The Prometheus that scrapes the gateway.")
    return [
        source.type("prometheus"),
        *(
            grafana.QueryVariable(name)
            .label(label)
            .description(f"Which {label.lower()}s to show.")
            .datasource(SOURCE)
            .query({"query": query, "refId": name})
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(everything)
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
            for name, label, query in chosen
        ),
    ]


def _annotations() -> list[Any]:
    alerts = grafana.AnnotationQuery().name("Alerts").datasource(SOURCE).enable(True).icon_color("red")
    return [alerts.expr('ALERTS{service="tidegate", alertstate="firing"}')]


def _links(here: str) -> list[Any]:
    """The other dashboards, with the same time and the same choice of instances."""
    return [
        grafana.DashboardLink(title.removeprefix("Tidegate / "))
        .type(dashboard.DashboardLinkType.LINK)
        .icon("dashboard")
        .url(f"/d/{uid}")
        .tooltip(title)
        .keep_time(True)
        .include_vars(True)
        .target_blank(False)
        for uid, title in TITLES.items()
        if uid != here
    ]
