"""MetricsMiddleware alone: what is counted, what is timed, and what never becomes a label."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from middleware import _codec, compression, connection_limit, handshake_limiter, rate_limit
from middleware.asgi import FRAMES_EXTENSION, SELF_CHECK, ASGIApp, Event, Receive, Scope, Send
from middleware.close import AT_CAPACITY, NAMED, SLOW_CONSUMER, Close
from middleware.layer import Guard, Layer, Link, Refuse
from middleware.metrics import CATALOGUE, OBSERVATIONS, Metric, MetricsMiddleware, catalogue_markdown
from middleware.series import Histogram

from .asgi_helpers import Clock, Server, binary, disconnect, echo, http_scope, run, text, websocket_scope
from .fake_frames import framed

DOCS = Path(__file__).parents[2] / "docs" / "layers" / "metrics.md"


class Figures:
    """A registry of its own, and what it says."""

    def __init__(self, namespace: str = "tidegate") -> None:
        self.registry = CollectorRegistry()
        self.namespace = namespace

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"{self.namespace}_{name}", labels)

    def series(self) -> int:
        return sum(len(family.samples) for family in self.registry.collect())

    def handshakes(self) -> dict[tuple[str, str], float]:
        """(outcome, reason) → how many; zeros left out."""
        samples = [s for family in self.registry.collect() for s in family.samples if s.name.endswith("_handshakes_total")]
        return {(s.labels["outcome"], s.labels["reason"]): s.value for s in samples if s.value}

    def closes(self) -> dict[tuple[str, str], float]:
        """(reason, initiator) → how many; zeros left out."""
        samples = [s for family in self.registry.collect() for s in family.samples if s.name.endswith("_closes_total")]
        return {(s.labels["reason"], s.labels["initiator"]): s.value for s in samples if s.value}


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.0, 5.0]), st.floats(-1, 9)), max_size=40))
def test_many_values_at_once_are_as_many_one_by_one(values: list[float]) -> None:
    """On a bound, between bounds, beyond the last."""
    one_by_one, at_once = Histogram((1.0, 2.0, 5.0)), Histogram((1.0, 2.0, 5.0))
    for value in values:
        one_by_one.observe(value)
    at_once.observe_all(values)
    assert at_once.buckets() == one_by_one.buckets()
    assert at_once.sum == pytest.approx(one_by_one.sum)


@pytest.fixture
def figures() -> Figures:
    return Figures()


def refusing(refusal: Refuse, app: ASGIApp = echo) -> ASGIApp:
    class Refusing(Layer):
        async def open(self, link: Link) -> Guard | None:
            raise refusal

    return Refusing(app)


def reporting(*observations: tuple[str, float]) -> ASGIApp:
    class Reporting(Layer):
        async def open(self, link: Link) -> Guard | None:
            for name, value in observations:
                link.observe(name, value)
            return None

    return Reporting(echo)


async def rejecting(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1008})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("a bug")


def with_route(path: str) -> Any:
    return {"route": SimpleNamespace(path=path)}


class TestCatalogue:
    def test_names_are_unique_and_say_type_and_unit(self) -> None:
        """A counter ends in _total and what has a unit ends in it: OpenMetrics 1.0, metric naming."""
        names = [metric.name for metric in CATALOGUE]
        assert len(set(names)) == len(names)
        for metric in CATALOGUE:
            assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
            assert metric.name.removesuffix("_total").endswith(metric.unit), metric.name
            assert bool(metric.buckets) == (metric.type == "histogram"), metric.name
            assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name
            assert metric.help.endswith("."), metric.name

    def test_metrics_are_frozen(self) -> None:
        """What documents are checked against does not change while a process runs."""
        with pytest.raises(AttributeError):
            CATALOGUE[0].name = "other"  # type: ignore[misc]

    def test_every_observation_feeds_a_metric_of_the_catalogue(self) -> None:
        """The table names metrics that exist, with a value for each label."""
        labels = {metric.name: metric.labels for metric in CATALOGUE}
        for name, (metric, values) in OBSERVATIONS.items():
            assert len(labels[metric]) == len(values), name

    @pytest.mark.parametrize(
        "name",
        [
            *(getattr(rate_limit, name) for name in ("DELAY_SECONDS", "DROPPED", "CLOSED", "HANDSHAKES_REFUSED")),
            *(getattr(handshake_limiter, name) for name in ("TABLE_FULL", "SHARED_UNAVAILABLE")),
            *(getattr(connection_limit, name) for name in ("TAKEN", "WAITING", "WAITED_SECONDS")),
            *(getattr(connection_limit, f"REFUSED_{what}") for what in ("TOTAL", "ROOM", "CLIENT", "USER", "ACCEPT_RATE")),
            *(value for name, value in vars(_codec).items() if re.fullmatch(r"(DE)?COMPRESSION_\w+", name)),
            compression.COMPRESSION_CONNECTIONS,
        ],
    )
    def test_every_name_that_a_layer_exports_is_known(self, name: str) -> None:
        """What the layers report under a constant is in the table."""
        assert name in OBSERVATIONS

    def test_every_name_written_in_a_layer_is_known(self) -> None:
        """What the layers report under a name written on the spot is in the table too."""
        sources = Path(rate_limit.__file__).parent.glob("*.py")
        found = {name for source in sources for name in re.findall(r'\.observe\("(\w+)"', source.read_text())}
        assert found
        assert found <= OBSERVATIONS.keys()

    async def test_everything_exposed_is_in_the_catalogue(self, figures: Figures) -> None:
        """A scrape shows the catalogue: no metric more, none less, with its type, unit and labels."""
        await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope(), text("hello"))
        families = {family.name: family for family in figures.registry.collect()}
        assert set(families) == {metric.full_name().removesuffix("_total") for metric in CATALOGUE}
        for metric in CATALOGUE:
            family = families[metric.full_name().removesuffix("_total")]
            assert (family.type, family.unit, family.documentation) == (metric.type, metric.unit, metric.help)
            assert {frozenset(s.labels) - {"le"} for s in family.samples} == {frozenset(metric.labels)}, metric.name

    async def test_both_formats_are_what_their_parsers_accept(self, figures: Figures) -> None:
        """The classic text format and OpenMetrics both parse, and the numbers survive."""
        await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope(), text("hello"))
        for families in (
            list(parse_text(generate_latest(figures.registry).decode())),
            list(parse_openmetrics(generate_openmetrics(figures.registry).decode())),
        ):
            samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}
            assert samples["tidegate_message_bytes_total", (("direction", "inbound"),)] == 5

    def test_the_documented_table_is_the_generated_one(self) -> None:
        """docs/layers/metrics.md holds what catalogue_markdown() returns, to the letter."""
        assert catalogue_markdown() in DOCS.read_text()

    def test_a_row_says_everything_about_a_metric(self) -> None:
        """Name, type, labels, unit and meaning; a dash where there is none."""
        rows = catalogue_markdown(
            (Metric("a_seconds", "histogram", ("b",), "seconds", "C.", (1.0,)), Metric("d", "gauge", (), "", "E."))
        )
        assert rows.splitlines()[2:] == [
            "| `tidegate_a_seconds` | histogram | `b` | seconds | C. |",
            "| `tidegate_d` | gauge | - | - | E. |",
        ]


class TestHandshakes:
    async def test_an_accepted_handshake(self, figures: Figures) -> None:
        """Accepted, with the reason none."""
        await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope())
        assert figures.handshakes() == {("accepted", "none"): 1}

    @pytest.mark.parametrize("denial", [True, False])
    async def test_a_layer_that_refuses(self, figures: Figures, denial: bool) -> None:
        """Refused, with the slug of the refusal, whether or not the server can answer with a status."""
        app = MetricsMiddleware(refusing(Refuse(503, AT_CAPACITY)), registry=figures.registry)
        await run(app, websocket_scope(denial=denial))
        assert figures.handshakes() == {("refused", "at-capacity"): 1}
        assert figures.closes() == {}

    async def test_an_app_that_refuses(self, figures: Figures) -> None:
        """A close before accept is a refusal: forbidden."""
        await run(MetricsMiddleware(rejecting, registry=figures.registry), websocket_scope())
        assert figures.handshakes() == {("refused", "forbidden"): 1}

    async def test_a_client_that_leaves_first(self, figures: Figures) -> None:
        """Abandoned: the client left before it was answered."""

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await receive()

        await run(MetricsMiddleware(slow, registry=figures.registry), websocket_scope(), disconnect(1006))
        assert figures.handshakes() == {("abandoned", "abnormal"): 1}

    async def test_an_app_that_fails(self, figures: Figures) -> None:
        """Failed: the app raised before it answered; its error goes on its way."""
        with pytest.raises(LookupError):
            await run(MetricsMiddleware(failing, registry=figures.registry), websocket_scope())
        assert figures.handshakes() == {("failed", "internal-error"): 1}

    async def test_a_cancelled_handshake(self, figures: Figures) -> None:
        """Failed, going-away; the cancellation is not swallowed."""
        started = asyncio.Event()

        async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
            started.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(run(MetricsMiddleware(stuck, registry=figures.registry), websocket_scope()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert figures.handshakes() == {("failed", "going-away"): 1}

    async def test_the_time_covers_layers_and_app(self, figures: Figures) -> None:
        """The handshake takes from the first layer to the accept, and a refusal is timed too."""
        clock = Clock()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            clock.advance(0.3)
            await send({"type": "websocket.accept"})
            clock.advance(100)

        await run(MetricsMiddleware(slow, registry=figures.registry, clock=clock), websocket_scope())
        assert figures("handshake_seconds_sum", outcome="accepted") == pytest.approx(0.3)
        assert figures("handshake_seconds_bucket", outcome="accepted", le="0.25") == 0
        assert figures("handshake_seconds_bucket", outcome="accepted", le="0.5") == 1
        await run(MetricsMiddleware(refusing(Refuse(503, AT_CAPACITY)), registry=figures.registry, clock=clock), websocket_scope())
        assert figures("handshake_seconds_count", outcome="refused") == 1

    async def test_the_process_checking_itself_is_nobody(self, figures: Figures) -> None:
        """The gateway's own self check is not a connection."""
        await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope(**{SELF_CHECK: True}), text("hello"))
        assert figures.handshakes() == {}
        assert figures("message_bytes_total", direction="inbound") == 0


class TestConnections:
    async def test_now_and_peak(self, figures: Figures) -> None:
        """Open connections go up and down; the peak stays."""
        app = MetricsMiddleware(echo, registry=figures.registry)
        servers = [Server(stay=True) for _ in range(3)]
        tasks = [asyncio.create_task(app(websocket_scope(), server.receive, server.send)) for server in servers]
        await until(lambda: figures("connections", route="other") == 3)
        for server in servers:
            server.feed(disconnect())
        await asyncio.gather(*tasks)
        assert figures("connections", route="other") == 0
        assert figures("connections_peak", route="other") == 3

    async def test_duration_starts_at_accept(self, figures: Figures) -> None:
        """A connection lasts from accept to its end, whoever ends it."""
        clock = Clock()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            clock.advance(1000)
            await send({"type": "websocket.accept"})
            clock.advance(42)

        await run(MetricsMiddleware(app, registry=figures.registry, clock=clock), websocket_scope())
        assert figures("connection_duration_seconds_sum", route="other") == 42

    async def test_closes_by_reason_and_initiator(self, figures: Figures) -> None:
        """The slug of the ending, and who decided it."""

        class Slow(Layer):
            async def open(self, link: Link) -> Guard | None:
                class Closing(Guard):
                    def inbound(self, event: Event) -> Event | None:
                        link.close(SLOW_CONSUMER)
                        return None

                return Closing()

        await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope(), disconnect(1001))
        await run(MetricsMiddleware(Slow(echo), registry=figures.registry), websocket_scope(), text("hello"), stay=True)
        assert figures.closes() == {("going-away", "client"): 1, ("slow-consumer", "server"): 1}

    @given(code=st.integers(0, 65535), reason=st.text(max_size=40))
    @hypothesis_settings(max_examples=40)
    def test_what_a_client_closes_with_is_no_label(self, code: int, reason: str) -> None:
        """Whatever code and reason a client sends, the label is one of the named endings."""
        figures = Figures()
        asyncio.run(run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope(), disconnect(code, reason)))
        assert all(slug in NAMED for slug, _ in figures.closes())

    async def test_what_a_layer_invents_is_no_label(self, figures: Figures) -> None:
        """An ending that is not one of the named ones is other."""
        refusal = Refuse(403, Close(4999, "of my own making"))
        await run(MetricsMiddleware(refusing(refusal), registry=figures.registry), websocket_scope())
        assert figures.handshakes() == {("refused", "other"): 1}


class TestTraffic:
    async def test_messages_and_bytes_by_direction_and_kind(self, figures: Figures) -> None:
        """Text counts as UTF-8; an empty message is one too."""
        app = MetricsMiddleware(echo, registry=figures.registry)
        await run(app, websocket_scope(), text("héllo"), text(""), binary(b"\0" * 300))
        for direction in ("inbound", "outbound"):
            assert figures("messages_total", direction=direction) == 3
            assert figures("message_size_bytes_count", direction=direction, kind="text") == 2
            assert figures("message_size_bytes_count", direction=direction, kind="binary") == 1
            assert figures("message_bytes_total", direction=direction) == 306
            assert figures("message_size_bytes_sum", direction=direction, kind="text") == 6
            assert figures("message_size_bytes_bucket", direction=direction, kind="binary", le="256.0") == 0
            assert figures("message_size_bytes_bucket", direction=direction, kind="binary", le="1024.0") == 1

    @pytest.mark.parametrize("event", [{"text": None, "bytes": b"ab"}, {"text": "ab", "bytes": None}])
    async def test_servers_that_send_both_keys(self, figures: Figures, event: dict[str, Any]) -> None:
        """The ASGI spec allows one of text and bytes to be None."""
        await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope(), {"type": "websocket.receive", **event})
        assert figures("message_bytes_total", direction="inbound") == 2

    async def test_open_connections_are_counted_before_they_close(self, figures: Figures) -> None:
        """A scrape sees what an open connection has carried so far."""
        server = Server(text("hello"), stay=True)
        app = MetricsMiddleware(echo, registry=figures.registry)
        task = asyncio.create_task(app(websocket_scope(), server.receive, server.send))
        await until(lambda: figures("message_bytes_total", direction="outbound") == 5)
        assert figures("connections", route="other") == 1
        server.feed(disconnect())
        await task
        assert figures("message_bytes_total", direction="outbound") == 5

    async def test_ready_made_frames_are_counted(self, figures: Figures) -> None:
        """Frames that a server writes to many pass no layer; they count, with their payload, but have no size."""

        async def publish(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "one"})
            scope["extensions"]["tidegate.frames"].write(b"\x81\x01a\x81\x01b", messages=2, payload_bytes=2)

        await MetricsMiddleware(publish, registry=figures.registry)(*framed(websocket_scope(), Server()))
        assert figures("messages_total", direction="outbound") == 3
        assert figures("message_size_bytes_count", direction="outbound", kind="text") == 1
        assert figures("message_bytes_total", direction="outbound") == 5

    @given(
        st.lists(st.tuples(st.sampled_from(["open", "text", "binary", "write", "scrape", "close"]), st.integers(0, 3)), max_size=60)
    )
    @hypothesis_settings(max_examples=60)
    def test_totals_are_exact_and_never_go_back(self, steps: list[tuple[str, int]]) -> None:
        """Through any sequence of opens, messages, frames, closes and scrapes: every scrape shows exactly what was carried."""
        asyncio.run(_play(steps))

    async def test_events_are_passed_on_as_they_are(self, figures: Figures) -> None:
        """One event may go to many connections, so nobody changes it."""
        seen: list[Event] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            seen.append(await receive())

        event = text("hello")
        await run(MetricsMiddleware(app, registry=figures.registry), websocket_scope(), event)
        assert seen[0] is event
        assert event == text("hello")

    async def test_no_series_is_looked_up_per_message(self, figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
        """What belongs to the connection is resolved at accept: messages find their histograms in place."""
        app = MetricsMiddleware(echo, registry=figures.registry)
        server = Server(stay=True)
        task = asyncio.create_task(app(websocket_scope(), server.receive, server.send))
        await until(lambda: figures("connections", route="other") == 1)
        with monkeypatch.context() as patch:
            patch.setattr(app.store, "number", None)
            patch.setattr(app.store, "histogram", None)
            server.feed(text("hello"), text("again"))
            await until(lambda: len(server.payloads) == 2)
        server.feed(disconnect())
        await task
        assert figures("handling_seconds_count", route="other") == 2


class TestHandling:
    async def test_handling_is_timed_and_waiting_is_not(self, figures: Figures) -> None:
        """From receive returning to the next receive; how long a client is silent does not matter."""
        clock = Clock()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                clock.advance(0.02)

        server = Server(text("one"), text("two"))
        receive = server.receive

        async def slow_client() -> Event:
            clock.advance(3600)
            return await receive()

        app = MetricsMiddleware(app, registry=figures.registry, clock=clock)
        await app(websocket_scope(), slow_client, server.send)
        assert figures("handling_seconds_count", route="other") == 2
        assert figures("handling_seconds_sum", route="other") == pytest.approx(0.04)

    async def test_a_dropped_message_is_not_timed(self, figures: Figures) -> None:
        """What a layer further in drops was never handled."""
        await run(MetricsMiddleware(dropping(echo), registry=figures.registry), websocket_scope(), text("a"), text("b"))
        assert figures("handling_seconds_count", route="other") == 0
        assert figures("messages_total", direction="inbound") == 2

    async def test_a_server_that_waits_after_a_drop(self, figures: Figures) -> None:
        """Nothing is timed for a message that was dropped, also where the server then says that it waits."""
        scope, _, _ = framed(websocket_scope(), Server())
        link = Link(scope, scope["extensions"][FRAMES_EXTENSION])
        guard = await MetricsMiddleware(echo, registry=figures.registry).open(link)
        assert guard is not None
        guard.accepting({"type": "websocket.accept"})
        guard.inbound(text("hello"))
        guard.dropped()
        guard.waiting()
        assert figures("handling_seconds_count", route="other") == 0


class TestRoutes:
    async def test_the_router_s_template_is_the_label(self, figures: Figures) -> None:
        """A real router: the template, not the path."""
        api = FastAPI()

        @api.websocket("/chat/{room}")
        async def chat(websocket: WebSocket, room: str) -> None:
            await websocket.accept()
            await websocket.close()

        await run(MetricsMiddleware(api, registry=figures.registry), websocket_scope("/chat/secret"))
        assert figures("handshakes_total", route="/chat/{room}", outcome="accepted", reason="none") == 1
        assert figures("connection_duration_seconds_count", route="/chat/{room}") == 1
        assert b"secret" not in generate_latest(figures.registry)

    async def test_a_route_that_was_not_declared_is_other(self, figures: Figures) -> None:
        """With routes= only those are labels; they are there from the start, at zero."""
        app = MetricsMiddleware(echo, registry=figures.registry, routes=["/a", "/b"])
        assert figures("connections_peak", route="/b") == 0
        await run(app, websocket_scope(**with_route("/c")))
        await run(app, websocket_scope(**with_route("/a")))
        assert figures("connections_peak", route="/a") == 1
        assert figures("connections_peak", route="other") == 1
        assert figures("connections_peak", route="/c") is None

    async def test_a_label_bomb_adds_no_series(self, figures: Figures) -> None:
        """300 random paths, users, agents, hosts and queries are not labels."""
        app = MetricsMiddleware(echo, registry=figures.registry)
        await run(app, websocket_scope(), text("hello"))
        before = figures.series()
        for number in range(300):
            headers = [(b"user-agent", b"agent-%d" % number), (b"host", b"host-%d" % number)]
            scope = websocket_scope(f"/{number}", headers=headers, query_string=b"q=%d" % number, user=f"u{number}")
            await run(app, scope, text("hello"))
        assert figures.series() == before

    async def test_a_router_that_names_ever_new_routes_is_capped(self, figures: Figures) -> None:
        """64 templates are labels; the rest is other, and the overflow says how often."""
        app = MetricsMiddleware(echo, registry=figures.registry)
        for number in range(100):
            await run(app, websocket_scope(**with_route(f"/{number}")))
        await run(app, websocket_scope(**with_route("/" + "x" * 1000)))
        peaks = [s for f in figures.registry.collect() if f.name == "tidegate_connections_peak" for s in f.samples]
        assert len(peaks) == 65
        assert figures("routes_overflow_total") == 37


class TestObservations:
    async def test_counters_gauges_and_histograms(self, figures: Figures) -> None:
        """A counter is raised, a gauge set, a histogram fed."""
        app = reporting(
            ("rate_limit_dropped", 1), ("rate_limit_dropped", 1), ("slots_taken", 7), ("slots_taken", 5),
            ("rate_limit_delay_seconds", 0.3), ("slots_refused_user", 1), ("decompression_raw_bytes", 900),
        )  # fmt: skip
        await run(MetricsMiddleware(app, registry=figures.registry), websocket_scope())
        assert figures("rate_limit_dropped_total") == 2
        assert figures("slots_taken") == 5
        assert figures("rate_limit_delay_seconds_sum") == 0.3
        assert figures("slots_refused_total", limit="user") == 1
        assert figures("compression_raw_bytes_total", direction="inbound") == 900

    async def test_an_unknown_name_makes_no_series(self, figures: Figures) -> None:
        """Names that no metric is known for are counted together."""
        app = MetricsMiddleware(echo, registry=figures.registry)
        before = figures.series()
        await run(MetricsMiddleware(reporting(("made_up", 1), ("made_up_too", 1)), registry=figures.registry), websocket_scope())
        assert figures("observations_unknown_total") == 2
        await run(app, websocket_scope())
        assert b"made_up" not in generate_latest(figures.registry)
        assert figures.series() - before < 20  # the first handshake and the first close

    async def test_a_layer_that_fails_to_report_costs_nobody_else_s_figures(
        self, figures: Figures, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The scrape has all that the others tell; the log names it."""

        class Broken(Layer):
            def report(self) -> None:
                raise RuntimeError("no figures")

        app = MetricsMiddleware(Broken(reporting(("rate_limit_dropped", 1))), registry=figures.registry)
        await run(app, websocket_scope())
        assert figures("rate_limit_dropped_total") == 1
        assert "a layer could not report" in caplog.text
        assert "Broken" in caplog.text

    async def test_a_refused_handshake_s_reports_are_heard(self, figures: Figures) -> None:
        """What a layer reports while it refuses counts."""

        class Full(Layer):
            async def open(self, link: Link) -> Guard | None:
                link.observe("slots_refused_total", 1.0)
                raise Refuse(503, AT_CAPACITY)

        await run(MetricsMiddleware(Full(echo), registry=figures.registry), websocket_scope())
        assert figures("slots_refused_total", limit="total") == 1


class TestExemplars:
    class Tracing(Layer):
        """Stands for a layer that samples everything."""

        async def open(self, link: Link) -> Guard | None:
            class Sampled(Guard):
                def accepting(self, event: Event) -> Event:
                    link.exemplar = ""
                    return event

                def inbound(self, event: Event) -> Event:
                    link.exemplar = "b" * 32
                    return event

            link.exemplar = "a" * 32
            return Sampled()

    async def test_a_sampled_trace_is_an_exemplar_in_openmetrics_only(self, figures: Figures) -> None:
        """Handshake and message leave their own trace ids; the classic format has no place for them."""
        app = self.Tracing(MetricsMiddleware(echo, registry=figures.registry))
        await run(app, websocket_scope(), text("hello"))
        assert exemplars(figures, "tidegate_handshake_seconds") == {"a" * 32}
        assert exemplars(figures, "tidegate_handling_seconds") == {"b" * 32}
        assert exemplars(figures, "tidegate_message_size_bytes") == {"b" * 32}
        assert b"trace_id" not in generate_latest(figures.registry)

    async def test_nothing_sampled_no_exemplar(self, figures: Figures) -> None:
        """Without a sampled trace there is nothing to point to."""
        await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope(), text("hello"))
        assert b"trace_id" not in generate_openmetrics(figures.registry)

    async def test_they_can_be_switched_off(self, figures: Figures) -> None:
        """exemplars=False keeps trace ids out."""
        app = self.Tracing(MetricsMiddleware(echo, registry=figures.registry, exemplars=False))
        await run(app, websocket_scope(), text("hello"))
        assert b"trace_id" not in generate_openmetrics(figures.registry)


class TestOneRegistry:
    async def test_two_apps_on_one_registry_add_up(self, figures: Figures) -> None:
        """The second one is no duplicate registration: both count into the same metrics."""
        for _ in range(2):
            await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope(), text("hello"))
        assert figures.handshakes() == {("accepted", "none"): 2}
        assert figures("message_bytes_total", direction="inbound") == 10

    async def test_namespaces_are_apart(self, figures: Figures) -> None:
        """Two namespaces on one registry share nothing."""
        await run(MetricsMiddleware(echo, registry=figures.registry, namespace="shop"), websocket_scope())
        await run(MetricsMiddleware(echo, registry=figures.registry), websocket_scope())
        assert figures("connections_peak", route="other") == 1
        assert figures.registry.get_sample_value("shop_connections_peak", {"route": "other"}) == 1

    async def test_a_connection_that_passes_two_is_counted_once(self, figures: Figures) -> None:
        """An app and the app around it may both have one; reports from inside the inner one are still heard."""
        inner = MetricsMiddleware(reporting(("rate_limit_dropped", 1)), registry=figures.registry)

        async def foreign(scope: Scope, receive: Receive, send: Send) -> None:
            await inner(scope, receive, send)

        await run(MetricsMiddleware(foreign, registry=figures.registry), websocket_scope(), text("hello"))
        assert figures.handshakes() == {("accepted", "none"): 1}
        assert figures("message_bytes_total", direction="inbound") == 5
        assert figures("rate_limit_dropped_total") == 1

    def test_two_in_a_row_are_a_mistake(self, figures: Figures) -> None:
        """Adjacent and into the same metrics: said at construction."""
        with pytest.raises(ValueError, match="two MetricsMiddleware in a row"):
            MetricsMiddleware(Layer(MetricsMiddleware(echo, registry=figures.registry)), registry=figures.registry)
        MetricsMiddleware(MetricsMiddleware(echo, registry=figures.registry), registry=CollectorRegistry())

    def test_a_name_that_somebody_else_has_taken(self, figures: Figures) -> None:
        """A foreign metric of the same name is an error at construction, every time."""
        Counter("tidegate_handshakes", "Mine.", registry=figures.registry)
        for _ in range(2):
            with pytest.raises(ValueError, match="tidegate_handshakes"):
                MetricsMiddleware(echo, registry=figures.registry)

    def test_a_registry_is_not_kept_alive(self) -> None:
        """A registry nobody holds any more goes, with its figures."""
        registry = CollectorRegistry()
        gone = weakref.ref(registry)
        MetricsMiddleware(echo, registry=registry)
        del registry
        gc.collect()
        assert gone() is None


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"namespace": "no spaces"}, "namespace"),
            ({"namespace": ""}, "namespace"),
            ({"namespace": "9lives"}, "namespace"),
            ({"routes": "/ws"}, "not one string"),
            ({"routes": [f"/{number}" for number in range(65)]}, "too many"),
        ],
    )
    def test_wrong_options_say_what_is_wrong(self, options: dict[str, Any], sentence: str) -> None:
        """ValueError with a sentence, at construction."""
        with pytest.raises(ValueError, match=sentence):
            MetricsMiddleware(echo, registry=CollectorRegistry(), **options)

    async def test_other_scopes_pass_untouched(self, figures: Figures) -> None:
        """HTTP and lifespan see the same scope, receive and send as without the layer."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append((scope, receive, send))

        server = Server()
        for scope in (http_scope(), {"type": "lifespan"}):
            call = (scope, server.receive, server.send)
            await MetricsMiddleware(app, registry=figures.registry)(*call)
            assert all(got is given for got, given in zip(seen.pop(), call, strict=True))

    async def test_the_caller_s_scope_is_not_changed(self, figures: Figures) -> None:
        """What the layer puts into the scope is seen further in only."""
        scope = websocket_scope()
        before = dict(scope)
        await run(MetricsMiddleware(echo, registry=figures.registry), scope)
        assert scope == before


async def test_the_snippet_in_the_documentation_runs() -> None:
    """Copied as it stands: the route counts, and the page of metrics shows it."""
    namespace: dict[str, Any] = {"__name__": "snippet"}
    exec(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[0], namespace)
    app = namespace["app"]
    assert (await run(app, websocket_scope("/rooms/lobby"), text("hello"))).payloads == ["hello"]
    page: list[Event] = []

    async def request() -> Event:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(event: Event) -> None:
        page.append(event)

    await app(http_scope("/metrics/"), request, keep)
    shown = b"".join(event.get("body", b"") for event in page).decode()
    assert 'tidegate_handshakes_total{outcome="accepted",reason="none",route="/rooms/{room}"} 1.0' in shown


@pytest.mark.parametrize("option", ["registry", "namespace", "routes", "exemplars", "clock"])
def test_every_option_is_documented(option: str) -> None:
    """The table of options has a row for each."""
    assert f"| `{option}` |" in DOCS.read_text()
    assert option in inspect.signature(MetricsMiddleware).parameters


def dropping(app: ASGIApp) -> Layer:
    class Dropping(Guard):
        def inbound(self, event: Event) -> Event | None:
            return None

    class DroppingLayer(Layer):
        async def open(self, link: Link) -> Guard | None:
            return Dropping()

    return DroppingLayer(app)


def exemplars(figures: Figures, name: str) -> set[str]:
    """The trace ids that an OpenMetrics scrape shows for a metric."""
    families = parse_openmetrics(generate_openmetrics(figures.registry).decode())
    found: Iterable[Any] = (s.exemplar for family in families if family.name == name for s in family.samples)
    return {exemplar.labels["trace_id"] for exemplar in found if exemplar}


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became true")


class _Model:
    """What was carried so far, kept by hand."""

    def __init__(self) -> None:
        self.messages = {"inbound": 0, "outbound": 0}
        self.size = {"inbound": 0, "outbound": 0}

    def count(self, direction: str, size: int, messages: int = 1) -> None:
        self.messages[direction] += messages
        self.size[direction] += size


async def _play(steps: list[tuple[str, int]]) -> None:
    figures, model = Figures(), _Model()
    app = MetricsMiddleware(echo, registry=figures.registry)
    servers: dict[int, tuple[Server, Any, asyncio.Task[None]]] = {}
    last: dict[Any, float] = {}
    for what, which in [*steps, ("scrape", 0)]:
        if what == "open" and which not in servers:
            server = Server(stay=True)
            scope, receive, send = framed(websocket_scope(), server)
            servers[which] = server, scope["extensions"]["tidegate.frames"], asyncio.create_task(app(scope, receive, send))
            await until(lambda server=server: server.accepted)
        elif what in ("text", "binary") and which in servers:
            server = servers[which][0]
            before = len(server.payloads)
            server.feed(text("é" * which) if what == "text" else binary(b"x" * which))
            await until(lambda server=server, before=before: len(server.payloads) > before)
            for direction in ("inbound", "outbound"):
                model.count(direction, which * (2 if what == "text" else 1))
        elif what == "write" and which in servers:
            servers[which][1].write(b"", messages=2, payload_bytes=7)
            model.count("outbound", 7, 2)
        elif what == "close" and which in servers:
            server, _, task = servers.pop(which)
            server.feed(disconnect())
            await task
        elif what == "scrape":
            last = _scrape(figures, model, last, len(servers))
    for server, _, task in servers.values():
        server.feed(disconnect())
        await task
    _scrape(figures, model, last, 0)


def _scrape(figures: Figures, model: _Model, last: dict[Any, float], opened: int) -> dict[Any, float]:
    counters = {
        (s.name, tuple(s.labels.items())): s.value
        for family in figures.registry.collect()
        if family.type == "counter"
        for s in family.samples
    }
    assert all(value >= last.get(name, 0) for name, value in counters.items()), "a counter went back"
    for direction in ("inbound", "outbound"):
        assert figures("messages_total", direction=direction) == model.messages[direction]
        assert figures("message_bytes_total", direction=direction) == model.size[direction]
    assert figures("connections", route="other") == opened
    return counters
