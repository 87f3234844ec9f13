"""``docs/scaling.md``: what it names exists, what it says of times and bounds is so, and the rights that it gives suffice."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from benchmarks.reporting.scaling import with_figures
from benchmarks.results import Results
from gateway.broker import EngineOptions, open_broker
from gateway.broker.reports import OPERATIONS
from gateway.cluster.nodes import LONGEST_TABLE
from gateway.envelope import Envelope
from gateway.message import Message
from gateway.settings import Settings, env_name
from gateway.settings.environment import field_paths
from tests.servers import Nats, Redis, Server

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "scaling.md").read_text(encoding="utf-8")
OPTIONS = EngineOptions()


def test_settings_that_are_named_exist() -> None:
    """Every variable."""
    named = set(re.findall(r"\bTIDEGATE_[A-Z_]+[A-Z]\b", TEXT))
    assert len(named) > 5
    assert named - {env_name(path) for path in field_paths(Settings)} == set()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tidegate_\w+)", TEXT))))
def test_metrics_that_are_named_exist(name: str) -> None:
    """As the table of all metrics has them."""
    assert f"`{name}`" in (DOCS / "metrics.md").read_text(encoding="utf-8")


def test_what_goes_wrong_has_the_names_that_are_given() -> None:
    """Values of the label ``operation``, and alerts."""
    assert set(re.findall(r'operation="(\w+)"', TEXT)) <= set(OPERATIONS)
    rules = (DOCS.parent / "dashboards" / "rules" / "alerts.yaml").read_text(encoding="utf-8")
    alerts = re.findall(r"`(Broker\w+)`", TEXT)
    assert set(re.findall(r"alert: (Broker\w+)", rules)) == set(alerts) - {"BrokerUnavailable"}


def test_times_and_bounds_are_those_of_the_broker() -> None:
    """The page's figures, from the options that are in use."""
    assert f"to itself every {OPTIONS.probe_interval_seconds:g} s" in TEXT
    assert f"not back after {OPTIONS.probe_late_seconds:g} s" in TEXT
    assert f"not back after {OPTIONS.probe_timeout_seconds:g} s" in TEXT
    assert f"found within {OPTIONS.probe_interval_seconds + OPTIONS.probe_late_seconds:g} s" in TEXT
    assert f"after at most {OPTIONS.retry_max_seconds:g} s (random, growing from {OPTIONS.retry_seconds:g} s)" in TEXT
    assert f"at {OPTIONS.max_queue_messages:,} (or {OPTIONS.max_queue_bytes >> 20} MiB are waiting)" in TEXT
    assert f"with a sentence, after {OPTIONS.start_seconds:g} s" in TEXT
    assert 10_000 / OPTIONS.batch_rooms == 10
    assert f"{LONGEST_TABLE}\n  others are kept" in TEXT


def test_links_lead_somewhere() -> None:
    """Files of the repository, and headings in them."""
    for target, heading in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", TEXT):
        assert (DOCS / target).exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", (DOCS / target).read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [one.lower().replace(" ", "-") for one in headings], heading


def test_figures_are_those_that_were_measured() -> None:
    """As the reporting writes them from the saved run."""
    assert with_figures(TEXT, Results.load(DOCS.parent / "benchmarks" / "results" / "latest.json")) == TEXT
    assert TEXT.count("<!-- figures") == TEXT.count("<!-- /figures -->") == 1


def block(language: str) -> str:
    """The rights for ``language``, without comments."""
    match = re.search(rf"```\n# {language}\n(.*?)```", TEXT, re.DOTALL)
    assert match
    return match[1].split("\n#", 1)[0]


@pytest.mark.parametrize("kind", ["Redis", "Redis Cluster", "NATS"])
async def test_the_rights_that_are_given_suffice(kind: str, tmp_path: Path) -> None:
    """Connect, subscribe, hear what one publishes and be probed, with nothing else allowed; and other prefixes are shut."""
    server: Server
    if kind == "NATS":
        (tmp_path / "nats.conf").write_text(block("NATS"))
        server = Nats(tmp_path, options=("-c", str(tmp_path / "nats.conf")))
    else:
        server = Redis(tmp_path, cluster=kind == "Redis Cluster")
    server.start()
    try:
        if isinstance(server, Redis):
            heading = "# Redis, Valkey" if kind == "Redis" else "# Redis Cluster"
            assert "+OK" in server.ask(TEXT.split(f"{heading}\n", 1)[1].split("\n", 1)[0])
        url = server.url.replace("//", "//tidegate:secret@")
        heard: asyncio.Queue[Envelope] = asyncio.Queue()
        broker = open_broker(url, options=EngineOptions(probe_interval_seconds=0.1))
        await broker.start(heard.put_nowait)
        try:
            await broker.subscribe("a room of *")
            await broker.publish(Envelope("a room of *", Message("x"), id="n-1", node="n"))
            async with asyncio.timeout(10):
                assert (await heard.get()).id == "n-1"
                while not broker._probes._number > 2:  # type: ignore[attr-defined]  # nothing else tells how often it has probed
                    await asyncio.sleep(0.02)
            await broker.check()
            assert not any(broker.statistics().errors.values())  # type: ignore[attr-defined]  # it reports
        finally:
            await broker.close()
    finally:
        server.stop()
