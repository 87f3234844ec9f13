"""The broker and the cluster: whether nodes hear each other, how fast, and what was missed."""

from __future__ import annotations

from .board import Board, Row
from .kit import COUNT, MESSAGES, PER_SECOND, SECONDS, Query, heat, lines, number, quantiles

__all__ = ["BROKER"]

_WELL = Row(
    "Do the nodes hear each other?",
    [
        number(
            "Broker",
            "1 when every chosen node can use it. 0: at least one node hears nothing, not even of itself.",
            COUNT,
            Query("min(tidegate_broker_up{@})", "up"),
            width=4,
            below="red",
            steps=[(1, "green")],
            alert="BrokerDown",
        ),
        number(
            "Nodes",
            "Scraped by Prometheus, and the fewest that a node hears of (itself included). The second below the first for "
            "more than a minute: that node is cut off. With the memory broker each node hears of itself alone.",
            COUNT,
            Query("count(tidegate_build_info{@})", "scraped"),
            Query("min(tidegate_nodes{@})", "heard of"),
            width=4,
            alert="NodesApart",
        ),
        number(
            "Gaps, all nodes",
            "Times per second that a node may have missed messages: a lost connection to the engine, or messages it says it "
            "dropped. The rooms' server code was told.",
            PER_SECOND,
            Query("sum(rate(tidegate_broker_gaps_total{@}[@]))", "gaps"),
            width=4,
            steps=[(1e-9, "red")],
            alert="BrokerGaps",
        ),
        number(
            "Lag, p99",
            "From publishing on one node to arrival on another, by the time in the message: the clocks' difference "
            "between machines is in it.",
            SECONDS,
            Query("histogram_quantile(0.99, sum by (le) (rate(tidegate_broker_lag_seconds_bucket{@}[@])))", "p99"),
            width=4,
            steps=[(0.1, "orange"), (1, "red")],
            alert="BrokerSlow",
        ),
        number(
            "Waiting to be published",
            "Messages in the nodes' queues to the engine.",
            COUNT,
            Query("sum(tidegate_broker_queue_messages{@})", "waiting"),
            width=4,
            alert="BrokerSlow",
        ),
        number(
            "Not taken",
            "Messages per second that the broker did not take: nobody got them. Publishers over HTTP were told with 503; "
            "clients were not.",
            MESSAGES,
            Query("sum(rate(tidegate_broker_refused_total{@}[@]))", "not taken"),
            width=4,
            steps=[(1e-9, "red")],
            alert="BrokerRefusing",
        ),
    ],
)

_SPEED = Row(
    "Speed",
    [
        heat(
            "Lag between nodes",
            "From publishing to arrival. A climbing band: the engine or a node's loop is overloaded.",
            SECONDS,
            "tidegate_broker_lag_seconds",
            alert="BrokerSlow",
        ),
        heat(
            "Time to publish, spread",
            "Until the engine has taken a message.",
            SECONDS,
            "tidegate_broker_publish_seconds",
            alert="BrokerSlow",
        ),
        lines(
            "Lag by node, p99",
            "One node alone is late: its loop or its network. All: the engine.",
            SECONDS,
            *quantiles("tidegate_broker_lag_seconds", by="instance", at=(0.99,)),
            steps=[(1, "red")],
            alert="BrokerSlow",
        ),
        lines(
            "Time to publish",
            "Quantiles, all chosen nodes.",
            SECONDS,
            *quantiles("tidegate_broker_publish_seconds", at=(0.5, 0.9, 0.99)),
            alert="BrokerSlow",
        ),
        lines(
            "Traffic",
            "Messages published to the engine and received from it; a message that five nodes listen for is received five times.",
            MESSAGES,
            Query("sum(rate(tidegate_broker_publish_seconds_count{@}[@]))", "published"),
            Query("sum(rate(tidegate_broker_lag_seconds_count{@}[@]))", "received"),
        ),
    ],
)

_TROUBLE = Row(
    "Trouble",
    [
        lines(
            "Up, by node",
            "1: usable. Down on one node: its network. Down on all: the engine.",
            COUNT,
            Query("tidegate_broker_up{@}", "{{instance}}"),
            width=6,
            most=1,
            alert="BrokerDown",
        ),
        lines(
            "Errors",
            "By what was tried: connect, publish, subscribe, receive, or the probe that a node sends to itself to see that "
            "messages "
            "really arrive.",
            PER_SECOND,
            Query("sum by (operation) (rate(tidegate_broker_errors_total{@}[@]))", "{{operation}}"),
            width=6,
            alert="BrokerDown",
        ),
        lines(
            "Reconnects",
            "By node. A steady rate is a connection that does not hold: time-outs, memory limits or evictions of the engine.",
            PER_SECOND,
            Query("sum by (instance) (rate(tidegate_broker_reconnects_total{@}[@]))", "{{instance}}"),
            width=6,
            alert="BrokerDown",
        ),
        lines(
            "Gaps",
            "By node. Each is a time in which messages of other nodes may have been missed.",
            PER_SECOND,
            Query("sum by (instance) (rate(tidegate_broker_gaps_total{@}[@]))", "{{instance}}"),
            width=6,
            alert="BrokerGaps",
        ),
        lines(
            "Queue to the engine",
            "By node; bounded. At the bound messages are not taken.",
            COUNT,
            Query("sum by (instance) (tidegate_broker_queue_messages{@})", "{{instance}}"),
            width=6,
            alert="BrokerSlow",
        ),
        lines(
            "Messages not taken",
            "By node. Nobody got them: the engine is away, or the queue to it is full.",
            MESSAGES,
            Query("sum by (instance) (rate(tidegate_broker_refused_total{@}[@]))", "{{instance}}"),
            width=6,
            alert="BrokerRefusing",
        ),
        lines(
            "Nodes heard of",
            "By node, itself included. Lines apart: the cluster is split.",
            COUNT,
            Query("tidegate_nodes{@}", "{{instance}}"),
            width=6,
            alert="NodesApart",
        ),
        lines(
            "Nodes' messages ignored",
            "What other nodes said and this one did not heed: `malformed`, `same-id` (two nodes with one name), "
            "`too-many-nodes`, "
            "`not-asked` (an answer that came too late). Rooms are not concerned, only what nodes know of each other.",
            PER_SECOND,
            Query("sum by (reason) (rate(tidegate_nodes_ignored_total{@}[@]))", "{{reason}}"),
            width=6,
        ),
        lines(
            "Subscriptions",
            "Rooms that each node listens to; after a reconnect it must come back to where it was.",
            COUNT,
            Query("tidegate_subscriptions{@}", "{{instance}}"),
            width=6,
            alert="BrokerGaps",
        ),
    ],
)

BROKER = Board(
    "tidegate-broker",
    "Whether the nodes hear each other through Redis or NATS, how fast, and what was missed.",
    [_WELL, _SPEED, _TROUBLE],
)
