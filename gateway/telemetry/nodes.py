"""What the broker and the cluster tell of themselves, as metrics: histograms are fed, the rest is read at scrape time."""

from __future__ import annotations

from collections.abc import Mapping

from ..broker import Broker, BrokerStatistics, Reports
from ..broker.reports import OPERATIONS
from ..cluster import Cluster, ClusterStatistics
from .collector import GatewayCollector, Values

__all__ = ["report_nodes"]

_WELL = BrokerStatistics(True, 0, 0, 0, 0, dict.fromkeys(OPERATIONS, 0), 0, 0, 0.0)


def report_nodes(collector: GatewayCollector, broker: Broker, cluster: Cluster) -> None:
    """Let ``collector`` tell of both. A broker without an engine is always up, and nothing goes wrong with it."""
    if isinstance(broker, Reports):
        broker.on_publish_seconds = collector.histogram("broker_publish_seconds").observe
        broker.on_lag_seconds = collector.histogram("broker_lag_seconds").observe
    statistics = broker.statistics if isinstance(broker, Reports) else lambda: _WELL
    collector.add_source(lambda: _figures(statistics(), cluster.statistics()))


def _figures(told: BrokerStatistics, cluster: ClusterStatistics) -> Mapping[str, Values]:
    return {
        "nodes": {(): cluster.nodes},
        "nodes_ignored_total": {(reason,): count for reason, count in cluster.ignored.items()},
        "broker_up": {(): told.up},
        "broker_queue_messages": {(): told.queue_messages},
        "broker_reconnects_total": {(): told.reconnects},
        "broker_gaps_total": {(): told.gaps + cluster.gaps},  # it is the same to a room who has found it
        "broker_errors_total": {(operation,): count for operation, count in told.errors.items()},
    }
