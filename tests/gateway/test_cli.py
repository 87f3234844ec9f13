"""``tidegate``: what each command prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import click
import jwt
import pytest
from click.testing import CliRunner, Result
from websockets.sync.server import ServerConnection, serve

import gateway
from gateway.cli import main, options
from gateway.errors import StartupError
from gateway.settings import Settings, check_exposure
from gateway.settings.text import MASK, settings_table_markdown
from tests.gateway.test_client import Ops

SECRET = "s3cr3t-" * 6


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test; logging is left as pytest has it."""
    for name in [name for name in os.environ if name.upper().startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("gateway.logs.configure_logging", lambda *arguments: None)


def run(*arguments: str, env: dict[str, str] | None = None, stdin: bytes | str | None = None) -> Result:
    """``tidegate`` with these arguments; anything but an exit is an error of the test."""
    result = CliRunner().invoke(main, arguments, env=env, input=stdin, prog_name="tidegate")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Replaces the runner by one that only checks what it is given and exits 0; the list holds its settings."""
    given: list[Settings] = []

    def fake_serve(settings: Settings) -> int:
        check_exposure(settings)
        if settings.port == 1:
            raise StartupError("port 1 is taken")
        given.append(settings)
        return 7 if settings.port == 7 else 0

    runner = types.ModuleType("gateway.runner")
    runner.serve = fake_serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gateway.runner", runner)
    monkeypatch.setattr(gateway, "runner", runner, raising=False)
    return given


# ── the command itself ───────────────────────────────────────────────────────────────────────────────────────────────


def test_version() -> None:
    """--version names the version."""
    assert run("--version").stdout.strip() == f"tidegate, version {gateway.__version__}"


def command_names() -> list[str]:
    """Every command there is."""
    assert isinstance(main, click.Group)
    return main.list_commands(click.Context(main))


@pytest.mark.parametrize("command", command_names())
def test_every_command_explains_itself(command: str) -> None:
    """--help works for each, and the list shows each with a whole sentence."""
    assert run(command, "--help").exit_code == 0
    (line,) = (line for line in run("--help").stdout.splitlines() if line.startswith(f"  {command} "))
    assert line.endswith(".")
    assert not line.endswith("...")


def test_the_commands_that_users_rely_on_are_there() -> None:
    """Each with at least one example in its help."""
    for command in ("config", "explain", "healthcheck", "listen", "publish", "serve", "token"):
        assert "Examples:" in run(command, "--help").stdout


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_serve_hands_the_settings_to_the_runner(runs: list[Settings]) -> None:
    """Options, --set and the environment arrive together; the options win."""
    result = run(
        "serve", "--host", "::1", "--port", "8001", "--ops-host", "127.0.0.2", "--ops-port", "9001", "--broker", "memory",
        "--log-level", "warning", "--log-format", "json", "--set", "rate_limit.burst=7", "--set", "MESSAGE__ALLOW=text",
        env={"TIDEGATE_PORT": "1", "TIDEGATE_OUTBOX__POLICY": "drop"},
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (settings,) = runs
    assert (settings.host, settings.port, settings.ops_host, settings.ops_port) == ("::1", 8001, "127.0.0.2", 9001)
    assert (settings.broker, settings.log_level, settings.log_format) == ("memory://", "warning", "json")
    assert (settings.rate_limit.burst, settings.message.allow, settings.outbox.policy) == (7, "text", "drop")


def test_serve_exits_as_the_runner_says(runs: list[Settings]) -> None:
    """The runner's return value is the exit code."""
    assert run("serve", "--port", "7").exit_code == 7


def test_serve_says_in_one_sentence_why_it_cannot_start(runs: list[Settings]) -> None:
    """A StartupError is one line and exit code 1."""
    result = run("serve", "--port", "1")
    assert result.exit_code == 1
    assert result.stderr == "tidegate: port 1 is taken\n"


def test_wrong_settings_are_one_table_and_exit_code_2(runs: list[Settings], tmp_path: Path) -> None:
    """All problems at once on standard error, nothing on standard output, no traceback."""
    file = tmp_path / "g.toml"
    file.write_text("prot = 1\n")
    result = run("serve", "--port", "x", "--config", str(file), env={"TIDEGATE_MESSAGE__ALLOW": "images"})
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == "These settings cannot work:"
    assert {line.split("  ")[0] for line in lines[4:]} == {"--port", "TIDEGATE_MESSAGE__ALLOW", f"prot in {file}"}
    assert "Traceback" not in result.stderr
    assert runs == []


def test_exposure_without_a_decision_is_refused_like_a_wrong_setting(runs: list[Settings]) -> None:
    """The runner's check ends in the same table; saying ``none`` aloud passes."""
    refused = run("serve", "--host", "0.0.0.0")
    assert refused.exit_code == 2
    assert "TIDEGATE_AUTH__MODE" in refused.stderr
    assert run("serve", "--host", "0.0.0.0", env={"TIDEGATE_AUTH__MODE": "none"}).exit_code == 0


@pytest.mark.parametrize("assignment", ["burst", "=5", ""])
def test_set_wants_a_name_and_a_value(assignment: str) -> None:
    """Anything else is a wrong command line."""
    result = run("serve", "--set", assignment)
    assert result.exit_code == 2
    assert "NAME=VALUE" in result.stderr


# ── config ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_config_shows_values_origins_and_warnings_but_no_secret() -> None:
    """One line per setting; warnings go to standard error."""
    result = run("config", "--set", "port=8001", env={"TIDEGATE_API_KEY": SECRET, "TIDEGATE_HOSTNAME": "1"})
    rows = {parts[0]: parts[1:] for line in result.stdout.splitlines() if (parts := line.split("  ")[0:1] + line.split()[1:])}
    assert rows["port"] == ["8001", "command", "line"]
    assert rows["api_key"] == [MASK, "environment"]
    assert rows["connection_limit.total"] == ["10000", "default"]
    assert SECRET not in result.output
    assert result.stderr == "warning: TIDEGATE_HOSTNAME is not a setting and was ignored; did you mean TIDEGATE_HOST?\n"


def test_config_as_json() -> None:
    """Machines get the same as an object."""
    result = run("config", "--json", env={"TIDEGATE_BROKER": "redis://me:hunter2@h"})
    shown = json.loads(result.stdout)
    assert shown["broker"] == {"value": f"redis://{MASK}@h", "from": "environment"}
    assert shown["port"] == {"value": "8000", "from": "default"}


def test_config_schema_is_the_table_of_the_docs() -> None:
    """--schema prints it without reading any setting."""
    result = run("config", "--schema", env={"TIDEGATE_PORT": "wrong"})
    assert result.exit_code == 0
    assert result.stdout == settings_table_markdown()


def test_config_with_wrong_settings_exits_2() -> None:
    """There is nothing effective to show then."""
    assert run("config", env={"TIDEGATE_PORT": "wrong"}).exit_code == 2


# ── token ────────────────────────────────────────────────────────────────────────────────────────────────────────────

AUTH = {"TIDEGATE_AUTH__MODE": "jwt", "TIDEGATE_AUTH__SECRET": SECRET}


@pytest.mark.parametrize(("expires", "seconds"), [("90", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800)])
def test_token_mints_what_the_gateway_checks(expires: str, seconds: int) -> None:
    """Signed with the configured secret, for the user, the rooms, the audience and issuer, for so long."""
    env = AUTH | {"TIDEGATE_AUTH__AUDIENCE": "aud", "TIDEGATE_AUTH__ISSUER": "iss"}
    result = run("token", "--user", "ann", "--room", "chat:*", "--room", "lobby", "--expires", expires, env=env)
    claims = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"], audience="aud", issuer="iss")
    assert claims["sub"] == "ann"
    assert claims["rooms"] == ["chat:*", "lobby"]
    assert claims["exp"] - claims["iat"] == seconds


def test_a_token_without_rooms_names_none() -> None:
    """No claim means all rooms."""
    claims = jwt.decode(run("token", "--user", "ann", env=AUTH).stdout.strip(), SECRET, algorithms=["HS256"])
    assert "rooms" not in claims


def test_token_needs_no_mode() -> None:
    """Who mints a token means it to be asked for; the secret is all that counts."""
    for env in ({"TIDEGATE_AUTH__SECRET": SECRET}, {**AUTH, "TIDEGATE_AUTH__MODE": "none"}):
        result = run("token", "--user", "ann", env=env)
        assert jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"])["sub"] == "ann"


def test_token_without_a_secret_says_what_to_set() -> None:
    """There is nothing to sign with."""
    result = run("token", "--user", "ann")
    assert result.exit_code == 2
    assert "TIDEGATE_AUTH__SECRET" in result.stderr


@pytest.mark.parametrize("expires", ["0", "-5", "1w", "", "m", "1.5h", "9" * 30, "²"])
def test_token_refuses_a_duration_that_is_none(expires: str) -> None:
    """Wrong durations are a wrong command line."""
    result = run("token", "--user", "ann", "--expires", expires, env=AUTH)
    assert result.exit_code == 2
    assert "duration" in result.stderr


# ── the clients ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_healthcheck_exits_by_the_status(status: int, code: int) -> None:
    """0 only for 200; the body is printed."""
    with Ops(status, b'{"status": "x"}') as ops:
        result = run("healthcheck", "--ops-url", ops.url)
    assert result.exit_code == code
    assert result.stdout == '{"status": "x"}\n'
    assert ops.seen[0][1] == "/healthz"


def test_healthcheck_finds_the_listener_by_the_settings() -> None:
    """A listener on all addresses is asked on loopback; --ready asks /readyz."""
    with Ops(200, b"") as ops:
        env = {"TIDEGATE_OPS_HOST": "0.0.0.0", "TIDEGATE_OPS_PORT": ops.url.rpartition(":")[2]}
        result = run("healthcheck", "--ready", env=env)
    assert (result.exit_code, result.stdout) == (0, "200\n")
    assert ops.seen[0][1] == "/readyz"


def test_healthcheck_loads_no_settings_where_two_variables_say_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container asks every few seconds; what is said on the command line still counts more."""
    with Ops(200, {"status": "ok"}) as ops:
        host, _, port = ops.url.removeprefix("http://").partition(":")
        env = {"TIDEGATE_OPS_HOST": host, "TIDEGATE_OPS_PORT": port}
        with monkeypatch.context() as without:
            without.setattr("gateway.cli.client_commands.load", lambda *arguments: pytest.fail("settings were loaded"))
            assert run("healthcheck", env=env).exit_code == 0
        assert run("healthcheck", env={**env, "TIDEGATE_OPS_PORT": "9"}).exit_code == 1
        assert run("healthcheck", "--set", f"ops_port={port}", env={**env, "TIDEGATE_OPS_PORT": "9"}).exit_code == 0


def test_the_commands_know_the_defaults_of_the_settings() -> None:
    """They are written down twice, so that asking loads no settings."""
    made = Settings()
    assert (made.ops_host, str(made.ops_port)) == (options.OPS_HOST, options.OPS_PORT)


@pytest.mark.parametrize(
    ("env", "arguments", "config", "url", "key"),
    [
        ({}, {}, None, "http://127.0.0.1:9000", None),
        ({"TIDEGATE_API_KEY": "k"}, {}, None, "http://127.0.0.1:9000", "k"),
        ({"TIDEGATE_OPS_PORT": "9001", "TIDEGATE_API_KEY": "k"}, {}, None, "http://127.0.0.1:9001", "k"),
        ({"TIDEGATE_OPS_PORT": "9001"}, {"ops_host": "::1"}, None, "http://[::1]:9001", None),
        ({}, {}, "ops_port = 9002\napi_key = 'file'", "http://127.0.0.1:9002", "file"),
        ({"TIDEGATE_API_KEY": "k"}, {}, "ops_port = 9002\napi_key = 'file'", "http://127.0.0.1:9002", "k"),
        ({"TIDEGATE_OPS_HOST": "0.0.0.0", "TIDEGATE_OPS_PORT": "9"}, {}, "api_key = 'file'", "http://127.0.0.1:9", "file"),
    ],
)
def test_where_and_with_which_key_is_what_the_settings_say(
    env: dict[str, str], arguments: dict[str, str], config: str | None, url: str, key: str | None,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whether or not they have to be loaded for it: assignments, variables, the file, the defaults, in this order."""
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "gateway.toml" if config else None
    if file is not None and config is not None:
        file.write_text(config)
    assert options.ops_of(None, file, arguments) == (url, key)
    assert options.ops_of("http://there", file, arguments) == ("http://there", key)
    loaded = options.load(file, arguments).settings
    assert (options.ops_url_of(loaded), loaded.api_key and loaded.api_key.get_secret_value()) == (url, key)


@pytest.mark.parametrize("variables", [{"TIDEGATE_OPS_PORT": "many"}, {"TIDEGATE_API_KEY": "with\nline"}])
def test_variables_that_are_wrong_are_one_sentence(variables: dict[str, str]) -> None:
    """No traceback: the settings' own words, or that HTTP carries no such key."""
    result = run("publish", "lobby", "x", env=variables)
    assert (result.exit_code, isinstance(result.exception, SystemExit)) in ((1, True), (2, True))
    assert "TIDEGATE_OPS_PORT" in result.stderr or "HTTP does not carry" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["publish", "--help"], ["publish", "r", "x"], ["explain", "n-1"], ["healthcheck"]]
)
def test_the_clients_load_no_server_and_no_settings(arguments: list[str]) -> None:
    """What takes most of a second to import is not imported by a command that asks a running gateway."""
    heavy = ("pydantic", "structlog", "starlette", "uvicorn", "opentelemetry", "prometheus_client", "gateway.settings")
    program = (
        "import sys\nfrom gateway.cli import main\n"
        f"try: main({[*arguments, *([] if '--help' in arguments else ['--ops-url', 'http://127.0.0.1:9'])]!r})\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=clean, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_healthcheck_of_nobody_is_one_sentence() -> None:
    """No answer is exit code 1."""
    result = run("healthcheck", "--ops-url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.stderr.startswith("tidegate: no answer from http://127.0.0.1:9: ")


@pytest.mark.parametrize(
    ("arguments", "stdin", "body", "content_type"),
    [
        (["hällo"], None, "hällo".encode(), "text/plain; charset=utf-8"),
        ([], b"from a pipe\n", b"from a pipe\n", "text/plain; charset=utf-8"),
        (["-"], b"\xff\x00", b"\xff\x00", "application/octet-stream"),
        (["{}", "--type", "application/json"], None, b"{}", "application/json"),
        ([""], None, b"", "text/plain; charset=utf-8"),
    ],
)
def test_publish_sends_the_text_or_standard_input(
    arguments: list[str], stdin: bytes | None, body: bytes, content_type: str
) -> None:
    """The payload arrives as it was given, with a fitting type and the key; the answer is printed as JSON."""
    with Ops(200, b'{"id": "1", "recipients_local": 2}') as ops:
        result = run("publish", "lobby", *arguments, "--ops-url", ops.url, env={"TIDEGATE_API_KEY": "k"}, stdin=stdin)
    assert json.loads(result.stdout) == {"id": "1", "recipients_local": 2}
    ((_, path, headers, sent),) = ops.seen
    assert (path, sent) == ("/api/rooms/lobby/messages", body)
    assert (headers["content-type"], headers["authorization"]) == (content_type, "Bearer k")


def test_publish_at_a_terminal_says_that_it_reads() -> None:
    """Otherwise it looks as if it hung; what is written there is published."""
    ours, theirs = pty.openpty()
    os.write(ours, b"typed\n\x04")
    with Ops(200, b"{}") as ops, os.fdopen(ours), os.fdopen(theirs) as terminal:
        command = [sys.executable, "-m", "gateway", "publish", "lobby", "--ops-url", ops.url]
        done = subprocess.run(command, stdin=terminal, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "tidegate: reading from standard input; Ctrl-D ends it\n"
    assert ops.seen[0][3] == b"typed\n"


def test_publish_that_is_refused_exits_1() -> None:
    """The API's own words are shown."""
    with Ops(403, b'{"title": "Forbidden", "detail": "set TIDEGATE_API_KEY"}') as ops:
        result = run("publish", "lobby", "x", "--ops-url", ops.url)
    assert (result.exit_code, result.stderr) == (1, "tidegate: not published: 403 set TIDEGATE_API_KEY\n")


EXPLAINED = {"answer": ["It was written.", "Room a\x1b[2Jb"], "connections": [{}], "rooms": []}


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        (["n-1"], "connection=n-1"),
        (["--user", "org/ann", "--room", "chat:1"], "user=org%2Fann&room=chat%3A1"),
        (["--room", "r", "--message", "n-2"], "room=r&message=n-2"),
        (["--message", "n-2"], "message=n-2"),
    ],
)
def test_explain_asks_and_prints_sentences_that_cannot_steer_the_terminal(arguments: list[str], query: str) -> None:
    """A sentence a line, asked for with the key; a user or a room may be called anything."""
    with Ops(200, json.dumps(EXPLAINED).encode()) as ops:
        result = run("explain", *arguments, "--ops-url", ops.url, env={"TIDEGATE_API_KEY": "k"})
    assert (result.exit_code, result.stdout) == (0, "It was written.\nRoom a\\x1b[2Jb\n")
    ((method, path, headers, _),) = ops.seen
    assert (method, path) == ("GET", f"/api/explain?{query}")
    assert (headers["accept"], headers["authorization"]) == ("application/json", "Bearer k")


def test_explain_as_json() -> None:
    """What the API answers, for programs."""
    with Ops(200, json.dumps(EXPLAINED).encode()) as ops:
        result = run("explain", "n-1", "--json", "--ops-url", ops.url)
    assert (result.exit_code, json.loads(result.stdout)) == (0, EXPLAINED)
    assert ops.seen[0][2]["accept"] == "application/json"


def test_explain_wants_to_know_about_whom() -> None:
    """About nothing is a wrong command line, and nobody is asked."""
    result = run("explain", "--ops-url", "http://127.0.0.1:9")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--room or --message" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_explain_of_what_nobody_remembers_exits_1(arguments: list[str]) -> None:
    """The answer says so; so does the exit code."""
    with Ops(200, b'{"answer": ["Never seen."], "connections": [], "rooms": []}') as ops:
        result = run("explain", "n-1", *arguments, "--ops-url", ops.url)
    assert (result.exit_code, "Never seen." in result.stdout) == (1, True)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"answer": []}'])
def test_explain_by_something_else_is_one_sentence(body: bytes) -> None:
    """What answers is no Tidegate, or another one."""
    with Ops(200, body) as ops:
        result = run("explain", "n-1", "--ops-url", ops.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is this the ops address of a Tidegate" in result.stderr


@pytest.mark.parametrize(("status", "words"), [(401, "401 .* TIDEGATE_API_KEY"), (404, "404 Nothing is remembered")])
def test_explain_that_is_refused_exits_1(status: int, words: str) -> None:
    """The API's own words are shown, with what helps."""
    with Ops(status, b'{"title": "No", "detail": "Nothing is remembered"}') as ops:
        result = run("explain", "n-1", "--ops-url", ops.url)
    assert result.exit_code == 1
    assert re.match(f"tidegate: no explanation: {words}", result.stderr)


@pytest.fixture
def room() -> Any:
    """A WebSocket server that sends three messages, one of which tries to clear the screen, and closes normally."""
    import threading

    def handler(connection: ServerConnection) -> None:
        for message in ("plain", "a\x1b[2Jb\nc", bytes(range(40))):
            connection.send(message)

    with serve(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def test_listen_prints_one_line_per_message_that_cannot_steer_the_terminal(room: str) -> None:
    """Text with control characters written out, binary as a short dump; the final ending is exit code 1."""
    result = run("listen", "lobby", "--url", room)
    assert result.stdout.splitlines() == [
        "plain",
        "a\\x1b[2Jb\\x0ac",
        "[binary, 40 bytes] " + bytes(range(32)).hex(" ") + " …",
    ]
    assert result.stderr.splitlines() == [f"tidegate: connected to {room}/ws/lobby", "tidegate: closed by the server: 1000 normal"]
    assert result.exit_code == 1


def test_listen_as_json_stops_after_count(room: str) -> None:
    """One object per message, nothing lost of it; --count ends with exit code 0."""
    result = run("listen", "lobby", "--url", room, "--json", "--count", "2")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [{"text": "plain"}, {"text": "a\x1b[2Jb\nc"}]
    assert result.exit_code == 0


def test_listen_finds_the_listener_by_the_settings(room: str) -> None:
    """Without --url the settings say where the public listener is."""
    env = {"TIDEGATE_HOST": "0.0.0.0", "TIDEGATE_PORT": room.rpartition(":")[2]}
    assert run("listen", "lobby", "--count", "1", env=env).stdout == "plain\n"
