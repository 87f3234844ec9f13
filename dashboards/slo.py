"""The objectives and what Prometheus records for them; ``rules/recording.yaml`` is written from here.

An objective is a share of good events over 30 days. For each there is, per job and window, the share of bad events; alerts compare
two windows of different length, so that they fire soon when the budget burns and end soon when it is over (Google's SRE workbook,
chapter 5: multi-window, multi-burn-rate).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DELIVERY", "HANDSHAKES", "WINDOWS", "Objective", "recording_rules"]

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


@dataclass(frozen=True)
class Objective:
    """A share of good events to keep; ``total`` and ``bad`` are rates over five minutes, per job."""

    name: str
    share: float
    total: str
    bad: str
    meaning: str


_JUDGED = 'outcome!="abandoned", reason=~"none|at-capacity|unavailable|internal-error"'
_FAILED = 'outcome!="abandoned", reason=~"at-capacity|unavailable|internal-error"'
_CONFIRMED = "sum by (job) (rate(tidegate_delivery_confirm_seconds_count[5m]))"
_TIMEOUTS = 'sum by (job) (rate(tidegate_delivery_confirms_total{result="timeout"}[5m]))'

HANDSHAKES = Objective(
    "handshake_errors",
    0.999,
    f"sum by (job) (rate(tidegate_handshakes_total{{{_JUDGED}}}[5m]))",
    f"sum by (job) (rate(tidegate_handshakes_total{{{_FAILED}}}[5m]))",
    "Of the clients that had a right to come in, those that could not: no slot, no broker, or an error of ours.",
)
DELIVERY = Objective(
    "delivery_errors",
    0.99,
    f"({_CONFIRMED} + ({_TIMEOUTS} or 0 * {_CONFIRMED}))",
    f'({_CONFIRMED} - sum by (job) (rate(tidegate_delivery_confirm_seconds_bucket{{le="1.0"}}[5m])) '
    f"+ ({_TIMEOUTS} or 0 * {_CONFIRMED}))",
    "Of the sampled deliveries, those that were not confirmed within a second of publishing.",
)

_HEAD = """\
# Written by `make dashboards` from dashboards/slo.py; change that file instead.
groups:
"""
_LEDGER = """\
  - name: tidegate-ledger
    rules:
      # The ledger made anew from the counters of one scrape, independently of the gateway's own arithmetic: 0, or there is a bug.
      - record: instance_namespace:tidegate_deliveries_unaccounted:residual
        expr: |
          tidegate_deliveries_expected_total - tidegate_deliveries_written_total - tidegate_deliveries_closed_total
            - (sum without (reason) (tidegate_deliveries_dropped_total) or 0 * tidegate_deliveries_expected_total)
            - tidegate_deliveries_buffered - tidegate_deliveries_in_progress
  - name: tidegate-slow-consumers
    rules:
      # Clients that did not keep up, whatever the outbox policy did about it, each once in ten minutes. Not messages: one client
      # that is closed may leave hundreds behind.
      - record: job:tidegate_slow_consumers:increase10m
        expr: |
          sum by (job) (increase(tidegate_slow_consumers_total[10m]))
"""


def recording_rules() -> str:
    """``rules/recording.yaml``."""
    return _HEAD + "".join(map(_group, (HANDSHAKES, DELIVERY))) + _LEDGER


def _group(objective: Objective) -> str:
    total, bad = f"job:tidegate_{objective.name}:total_rate5m", f"job:tidegate_{objective.name}:bad_rate5m"
    lines = [f"  - name: tidegate-{objective.name.replace('_', '-')}", "    rules:", f"      # {objective.meaning}"]
    lines += _rule(total, objective.total)
    lines += _rule(bad, objective.bad, f"  or 0 * {total}")
    lines += _rule(f"job:tidegate_{objective.name}:ratio_rate5m", f"{bad} / {total}")
    lines += ["      # Longer windows are added up from the two series above: three days of every counter would be a heavy query."]
    for window in WINDOWS[1:]:
        sums = [f"sum_over_time({record}[{window}])" for record in (bad, total)]
        lines += _rule(f"job:tidegate_{objective.name}:ratio_rate{window}", " / ".join(sums))
    return "\n".join(lines) + "\n"


def _rule(record: str, *expression: str) -> list[str]:
    return [f"      - record: {record}", "        expr: |", *(f"          {line}" for line in expression)]
