"""The row of the overview about the service level objectives; what is recorded for them is in ``dashboards/slo.py``."""

from __future__ import annotations

from .board import Row
from .kit import SHARE, Query, lines, number

__all__ = ["OBJECTIVES"]


def _left(what: str, allowed: str) -> Query:
    sums = [f'sum(sum_over_time(job:tidegate_{what}:{part}_rate5m{{job=~"$job"}}[30d]))' for part in ("bad", "total")]
    return Query(f"1 - {sums[0]} / {sums[1]} / {allowed}", "left")


def _burn(what: str) -> list[Query]:
    return [
        Query(f'max(job:tidegate_{what}:ratio_rate{window}{{job=~"$job"}})', window) for window in ("5m", "30m", "1h", "6h", "3d")
    ]


OBJECTIVES = Row(
    "Service level objectives, whole jobs",
    [
        number(
            "Handshake budget left",
            "Of the failures that 99.9 % over 30 days allow, how much is left. Below 0 the objective is missed.",
            SHARE,
            _left("handshake_errors", "0.001"),
            width=4,
            height=8,
            instant=True,
            below="red",
            steps=[(0, "orange"), (0.25, "green")],
            alert="HandshakesFailing",
        ),
        lines(
            "Handshake errors by window",
            "Share of failed handshakes. Dashed: where the alert pages (14.4 and 6 times what the objective allows).",
            SHARE,
            *_burn("handshake_errors"),
            steps=[(0.006, "orange"), (0.0144, "red")],
            alert="HandshakesFailing",
        ),
        number(
            "Delivery budget left",
            "Of the late deliveries that 99 % over 30 days allow, how much is left.",
            SHARE,
            _left("delivery_errors", "0.01"),
            width=4,
            height=8,
            instant=True,
            below="red",
            steps=[(0, "orange"), (0.25, "green")],
            alert="DeliveriesSlow",
        ),
        lines(
            "Late deliveries by window",
            "Share of sampled deliveries that took more than a second or were never confirmed. Dashed: where the alert pages.",
            SHARE,
            *_burn("delivery_errors"),
            steps=[(0.06, "orange"), (0.144, "red")],
            alert="DeliveriesSlow",
        ),
    ],
)
