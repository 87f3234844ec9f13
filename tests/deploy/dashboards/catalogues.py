"""What the dashboards, rules and alerts ask for, and what the gateway offers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import yaml

from gateway.telemetry.catalogue import CATALOGUE as GATEWAY
from middleware.catalogue import CATALOGUE as LAYERS

__all__ = [
    "ALERTS",
    "BOARDS",
    "RECORDED",
    "SERIES",
    "Rule",
    "Target",
    "concrete",
    "metric_of",
    "rules",
    "selections",
    "targets",
    "title",
]

FOLDER = Path(__file__).parents[3] / "dashboards"
RULES = FOLDER / "rules"
BOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
OTHERS = {
    "up": "gauge",
    "process_cpu_seconds_total": "counter",
    "process_max_fds": "gauge",
    "process_open_fds": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "python_gc_collections_total": "counter",
}
"""Series of Prometheus and of its client library."""
METRICS = {metric.full_name(): metric.type for metric in (*GATEWAY, *LAYERS)} | OTHERS
SERIES: dict[str, str] = {}
"""Every series that may be asked for, and whether it only ever rises (``counter``)."""
for _name, _type in METRICS.items():
    if _type == "histogram":
        SERIES |= {f"{_name}{part}": "counter" for part in ("_bucket", "_sum", "_count")}
    else:
        SERIES[_name] = _type


class Target(NamedTuple):
    """One query of a panel."""

    board: str
    panel: str
    expression: str
    instant: bool

    @property
    def where(self) -> str:
        return f"{self.board}: {self.panel}"


class Rule(NamedTuple):
    """A recording rule or an alert."""

    name: str
    expression: str
    labels: dict[str, str]
    annotations: dict[str, str]
    wait: str


def rules(kind: str) -> list[Rule]:
    """The rules of ``recording.yaml`` (``record``) or ``alerts.yaml`` (``alert``)."""
    path = RULES / {"record": "recording.yaml", "alert": "alerts.yaml"}[kind]
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return [
        Rule(rule[kind], rule["expr"], rule.get("labels", {}), rule.get("annotations", {}), rule.get("for", "0s"))
        for group in groups
        for rule in group["rules"]
    ]


def title(alert: Rule) -> str:
    """What tells alerts of one name apart."""
    return " ".join(filter(None, (alert.name, alert.labels["severity"], alert.labels.get("window"))))


ALERTS = rules("alert")
RECORDED = {rule.name: rule.expression for rule in rules("record")}


def panels(board: str) -> list[dict[str, Any]]:
    """The panels that show something; rows and notes left out."""
    return [panel for panel in BOARDS[board]["panels"] if panel["type"] not in {"row", "text"}]


def targets() -> list[Target]:
    """Every query of every panel."""
    return [
        Target(board, panel["title"], target["expr"], target["instant"])
        for board in BOARDS
        for panel in panels(board)
        for target in panel["targets"]
    ]


def concrete(expression: str, window: str = "1m") -> str:
    """The expression with Grafana's variables filled in: every job and instance, and one window."""
    filled = expression.replace("$__rate_interval", window).replace("$job", ".*").replace("$instance", ".*")
    assert "$" not in filled, f"an unknown variable is left in {filled}"
    return filled


class Selection(NamedTuple):
    """What an expression asks for: a series, the function around its range (``""``: its newest value), and the whole selector."""

    series: str
    function: str
    selector: str


def selections(expression: str) -> Iterator[Selection]:
    """Every series of an expression."""
    yield from _walk(promql_parser.parse(concrete(expression)), "")


def _walk(node: Any, function: str) -> Iterator[Selection]:
    match type(node).__name__:
        case "VectorSelector":
            yield Selection(node.name, "", str(node).split(" offset ")[0])
        case "MatrixSelector":
            yield Selection(node.vector_selector.name, function, str(node.vector_selector).split(" offset ")[0])
        case "Call":
            for argument in node.args:
                yield from _walk(argument, node.func.name)
        case "BinaryExpr":
            yield from _walk(node.lhs, "")
            yield from _walk(node.rhs, "")
        case "AggregateExpr" | "ParenExpr" | "UnaryExpr":
            yield from _walk(node.expr, "")
        case "NumberLiteral" | "StringLiteral":
            pass
        case other:
            raise AssertionError(f"{other} is not looked into")


def metric_of(series: str) -> str:
    """The metric that a series belongs to: ``x_bucket`` to ``x``."""
    return series if series in METRICS else re.sub(r"_(bucket|sum|count)$", "", series)
