"""What ``tidegate top`` shows: a snapshot of ``GET /api/stats`` as lines of text. Pure; knows no terminal.

Names of rooms are the clients' own: control characters are written out, and what is too long or too wide is cut.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..visible import visible

__all__ = ["BOLD", "DIM", "REVERSE", "Styled", "bytes_text", "cut", "render", "time_text"]

Snapshot = Mapping[str, Any]
Styled = tuple[str, str]
"""A line, and how it is to look: ``""`` or one of the words below."""

BOLD, DIM, REVERSE, RED = "bold", "dim", "reverse", "red"
_NARROWEST = 60
_SIDE_BY_SIDE = 100
_TABLE = 55
"""Columns of the tables of latencies and closes."""
_LATENCIES = {
    "delivery_confirm": "delivery confirmed",
    "delivery_residency": "queue residency",
    "fanout": "fan-out",
    "ping_rtt": "ping round trip",
}
_SIGNS = {"at_most": "≤", "more_than": ">"}


def render(snapshot: Snapshot, *, width: int, height: int | None = None, note: str = "") -> list[Styled]:
    """The lines.

    Args:
        snapshot: as ``GET /api/stats`` gives it. Raises ``KeyError`` or ``TypeError`` when it is none.
        width: columns; what is longer is cut.
        height: lines there are room for; ``None`` for all.
        note: a last word for the title line, such as that the connection is lost.
    """
    width = max(width, _NARROWEST)
    lines: list[Styled] = [(_title(snapshot["node"], snapshot["broker"], note, width), REVERSE)]
    for name, parts, look in _summary(snapshot):
        lines += ((line, look) for line in _wrapped(name, parts, width))
    latency, rooms, closes = _latency(snapshot["latency"]), snapshot["rooms"], _closes(snapshot["closes"])
    left = None if height is None else height - len(lines)
    if width >= _SIDE_BY_SIDE:
        half = width - _TABLE - 3
        right = [*latency, ("", ""), *closes]
        lines += _beside(_rooms(rooms, half, 20 if left is None else max(3, left - 2)), right, half)
    else:
        room_lines = _rooms(rooms, width, 20 if left is None else max(3, left - len(latency) - len(closes) - 3))
        lines += [("", ""), *room_lines, ("", ""), *latency, ("", ""), *closes]
    return [(cut(line, width), look) for line, look in lines[:height]]


def _title(node: Snapshot, broker: Snapshot, note: str, width: int) -> str:
    state = visible(str(node["state"]))
    up = {True: "", False: " (down)", None: ""}[broker["up"]]
    text = f" tidegate {node['id']}  {node['version']}  {state}  up {_span(node['uptime_seconds'])}  broker {broker['kind']}{up}"
    text = cut(visible(text), width - columns(note) - 1)
    return text + " " * (width - columns(text) - columns(note)) + note


def _summary(snapshot: Snapshot) -> Iterable[tuple[str, Sequence[str], str]]:
    """Of each line its name, its parts and how it looks."""
    connections, messages, process = snapshot["connections"], snapshot["messages"], snapshot["process"]
    ledger, drain = snapshot["ledger"], snapshot["drain"]
    limit = "no limit" if connections["limit"] is None else f"of {_count(connections['limit'])}"
    yield _line(
        "connections",
        f"{_count(connections['now'])} now",
        f"peak {_count(connections['peak'])}",
        f"slots {_count(connections['slots_taken'])} {limit}",
        f"waiting {_count(connections['slots_waiting'])}",
    )
    yield _line(
        "handshakes",
        f"{_rate(connections['accepted_per_second'])}/s",
        f"refused {_rate(connections['refused_per_second'])}/s",
        f"ended {_rate(connections['closed_per_second'])}/s",
    )
    yield _line(
        "messages",
        f"in {_rate(messages['received_per_second'])}/s ({bytes_text(messages['received_bytes_per_second'])}/s)",
        f"out {_rate(messages['sent_per_second'])}/s ({bytes_text(messages['sent_bytes_per_second'])}/s)",
    )
    yield _line(
        "deliveries",
        f"due {_count(ledger['expected'])}",
        f"unaccounted {_count(ledger['unaccounted'])}",
        f"written {_count(ledger['written'])}",
        f"waiting {_count(ledger['buffered'] + ledger['in_progress'])}",
        f"dropped {_count(ledger['dropped'])}",
        f"closed {_count(ledger['closed'])}",
        look=RED if ledger["unaccounted"] else "",
    )
    yield _line(
        "process",
        "cpu -" if process["cpu_ratio"] is None else f"cpu {process['cpu_ratio'] * 100:.0f} %",
        f"memory {bytes_text(process['resident_bytes'])}",
        f"loop lag {time_text(process['loop_lag_mean_seconds'])} (most {time_text(process['loop_lag_max_seconds'])})",
        f"descriptors {_count(process['open_descriptors'])} of {_count(process['most_descriptors'])}",
    )
    if drain["draining"]:
        overdue = [f"{drain['overdue_seconds']:.0f} s overdue"] if drain["overdue_seconds"] else []
        yield _line("drain", f"{_counted(drain['connections_left'], 'connection')} left", *overdue, look=BOLD)


def _line(name: str, *parts: str, look: str = "") -> tuple[str, Sequence[str], str]:
    return name, parts, look


def _wrapped(name: str, parts: Sequence[str], width: int) -> list[str]:
    """The parts behind the name, and on as many lines as they need."""
    lines = [f"{name:<13}{parts[0]}"]
    for part in parts[1:]:
        if columns(lines[-1]) + columns(part) + 3 <= width:
            lines[-1] += f", {part}"
        else:
            lines[-1] += ","
            lines.append(f"{'':<13}{part}")
    return [cut(line, width) for line in lines]


def _latency(latencies: Sequence[Snapshot]) -> list[Styled]:
    window = next((one["window_seconds"] for one in latencies if one["window_seconds"]), None)
    seen = any(one["count"] for one in latencies)
    title = f"latency, {window:.0f} s" if window is not None else "latency, since start" if seen else "latency"
    lines: list[Styled] = [(f"{title:<22}{'p50':>8}{'p90':>9}{'p99':>9}{'seen':>7}", DIM)]
    for one in latencies:
        name = visible(_LATENCIES.get(one["name"], one["name"].replace("_", " ")))
        times = "".join(f"{_percentile(one, part):>9}" for part in ("p50", "p90", "p99"))
        lines.append((f"{cut(name, 20):<21}{times}{_count(one['count']):>7}", ""))
    return lines


def _percentile(latency: Snapshot, part: str) -> str:
    """Of a bucket's bound it is said that it is one."""
    seconds, sign = latency[f"{part}_seconds"], _SIGNS.get(latency["bounds"].get(part), "")
    if seconds is None or not sign:
        return time_text(seconds)
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms") if seconds >= 0.001 else (seconds * 1e6, "µs")
    return f"{sign} {value:.4g} {unit}"


def _rooms(rooms: Snapshot, width: int, most: int) -> list[Styled]:
    """The busiest; when nobody says anything, the largest."""
    listed = rooms["top_by_rate"] or rooms["top_by_members"]
    name_width = max(10, width - 20)
    title = f"{_counted(rooms['rooms'], 'room')}, {_counted(rooms['users'], 'user')}"
    lines: list[Styled] = [(f"{title:<{name_width}}{'members':>10}{'msg/s':>9}", DIM)]
    for room in listed[: max(most, 1)]:
        name = cut(visible(room["name"]), name_width - 1)
        padding = " " * (name_width - columns(name))
        lines.append((f"{name}{padding}{_count(room['members']):>10}{_rate(room['messages_per_second']):>9}", ""))
    return lines


def _closes(closes: Sequence[Snapshot]) -> list[Styled]:
    lines: list[Styled] = [(f"{'closes':<22}{'by':<10}{'total':>14}{'/s':>9}", DIM)]
    for one in closes:
        reason, initiator = cut(visible(one["reason"]), 21), visible(one["initiator"])
        lines.append((f"{reason:<22}{initiator:<10}{_count(one['total']):>14}{_rate(one['per_second']):>9}", ""))
    return lines if closes else [*lines, ("none yet", "")]


def _beside(left: Sequence[Styled], right: Sequence[Styled], half: int) -> list[Styled]:
    """Two columns; a row looks dim only where both sides do."""
    rows: list[Styled] = [("", "")]
    for at in range(max(len(left), len(right))):
        one, look = left[at] if at < len(left) else ("", "")
        two, other = right[at] if at < len(right) else ("", "")
        one = cut(one, half)
        both = look if look == other or not two else other if not one else ""
        rows.append((one + " " * (half + 3 - columns(one)) + two, both))
    return rows


def columns(text: str) -> int:
    """How wide a terminal shows ``text``: wide characters take two columns, combining ones none."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """``text``, or as much of it as fits with a mark that it goes on."""
    if columns(text) <= width:
        return text
    kept, taken = [], 0
    for char in text:
        taken += _columns_of(char)
        if taken > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _counted(value: float, what: str) -> str:
    return f"{_count(value)} {what}{'' if value == 1 else 's'}"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if 0 < value < 10 else f"{value:,.0f}"


def bytes_text(value: float | None) -> str:
    """Bytes in the unit that suits them."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def time_text(seconds: float | None) -> str:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} µs"


def _span(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)} d {int(hours % 24)} h"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(minutes)} min {int(seconds % 60)} s" if minutes >= 1 else f"{int(seconds)} s"
