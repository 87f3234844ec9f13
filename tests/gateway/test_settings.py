"""``gateway.settings`` and its sources: what is accepted, what wins, what is refused and in which words."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from gateway.errors import TidegateError
from gateway.settings import Problem, Settings, SettingsError, check_exposure, is_loopback
from gateway.settings.environment import field_paths, unknown_variables
from gateway.settings.sources import load_settings
from gateway.settings.table import table
from gateway.settings.text import MASK, field_of, mask, settings_table_markdown, type_text, value_of

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-" * 6


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in [name for name in os.environ if name.upper().startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


def problems(arguments: dict[str, Any] | None = None, config: Path | None = None) -> list[Problem]:
    """What ``load_settings`` complains about."""
    with pytest.raises(SettingsError) as caught:
        load_settings(arguments, config)
    return list(caught.value.problems)


def problem(**fields: Any) -> Problem:
    """The one thing ``load_settings`` complains about, given these fields (``a__b`` stands for ``a.b``)."""
    (only,) = problems({name.replace("__", "."): value for name, value in fields.items()})
    return only


# ── defaults, documentation ──────────────────────────────────────────────────────────────────────────────────────────


def test_defaults_are_those_of_the_design() -> None:
    """The numbers that users rely on without setting anything."""
    settings = Settings()
    assert (settings.host, settings.port, settings.ops_host, settings.ops_port) == ("127.0.0.1", 8000, "127.0.0.1", 9000)
    assert settings.broker == "memory://"
    assert (settings.connection_limit.total, settings.connection_limit.per_client) == (10_000, 100)
    assert (settings.rate_limit.messages_per_second, settings.rate_limit.burst, settings.rate_limit.exceeded) == (50, 100, "delay")
    assert (settings.message.max_bytes, settings.message.allow, settings.message.inbound_messages) == (1 << 20, "any", 64)
    assert (settings.outbox.max_bytes, settings.outbox.policy, settings.outbox.max_delay_ms) == (1 << 20, "close", 0)
    assert (settings.compression.zstd, settings.compression.deflate) == (True, False)
    assert (settings.keepalive.interval_seconds, settings.keepalive.timeout_seconds) == (20, 20)
    assert (settings.auth.mode, settings.auth.query_token) == ("none", False)
    assert (settings.drain.period_seconds, settings.drain.abort_after_seconds) == (20, 5)


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 0), (False, 5)])
def test_nobody_waits_for_a_load_balancer_at_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool, seconds: float) -> None:
    """The drain's delay is 5 s, or none when started from a terminal."""
    stdin = io.StringIO()
    monkeypatch.setattr(stdin, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert Settings().drain.delay_seconds == seconds


def test_settings_cannot_be_changed() -> None:
    """Settings are frozen, on every level."""
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1
    with pytest.raises(ValidationError):
        settings.rate_limit.burst = 1


@pytest.mark.parametrize("path", list(field_paths(Settings)))
def test_every_setting_is_documented_and_reachable(path: str) -> None:
    """Each has a meaning that ends like a sentence, says what it takes, and its default can be shown."""
    description = field_of(path).description or ""
    assert description.endswith(".")
    assert "  " not in description
    assert type_text(path)
    assert mask(path, value_of(Settings(), path)) is not None


def test_the_table_of_the_docs_is_the_generated_one() -> None:
    """docs/configuration.md holds exactly what ``tidegate config --schema`` prints."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    table = text.partition("<!-- settings -->\n")[2].partition("<!-- /settings -->")[0]
    assert table == settings_table_markdown()


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value comes from the strongest source that has it, within a group too, and says where from."""
    file = tmp_path / "gateway.toml"
    file.write_text("port = 1\nops_port = 2\n[rate_limit]\nburst = 3\nmessages_per_second = 4\n[message]\nmax_bytes = 5\n")
    monkeypatch.setenv("TIDEGATE_OPS_PORT", "20")
    monkeypatch.setenv("TIDEGATE_RATE_LIMIT__BURST", "30")
    loaded = load_settings({"rate_limit.burst": "300"}, file)
    settings, origins = loaded.settings, loaded.origins
    assert (settings.port, origins["port"]) == (1, f"file {file}")
    assert (settings.ops_port, origins["ops_port"]) == (20, "environment")
    assert (settings.rate_limit.burst, origins["rate_limit.burst"]) == (300, "command line")
    assert (settings.rate_limit.messages_per_second, origins["rate_limit.messages_per_second"]) == (4, f"file {file}")
    assert (settings.message.max_bytes, origins["message.inbound_messages"]) == (5, "default")
    assert list(origins) == list(field_paths(Settings))


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIDEGATE_CONFIG names the TOML file; it is no unknown variable."""
    file = tmp_path / "gateway.toml"
    file.write_text('namespaces = ["chat", "game"]\n')
    monkeypatch.setenv("TIDEGATE_CONFIG", str(file))
    loaded = load_settings()
    assert loaded.settings.namespaces == ("chat", "game")
    assert loaded.warnings == ()


def test_lists_are_comma_separated_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Blanks around the commas and empty parts do not count."""
    dictionary = tmp_path / "d.zdict"
    dictionary.touch()
    monkeypatch.setenv("TIDEGATE_ALLOWED_ORIGINS", "https://a.example.org, https://*.example.org:8443,")
    monkeypatch.setenv("TIDEGATE_TRUSTED_PROXIES", "10.0.0.0/8,::1")
    monkeypatch.setenv("TIDEGATE_COMPRESSION__DICTIONARIES", str(dictionary))
    settings = load_settings().settings
    assert settings.allowed_origins == ("https://a.example.org", "https://*.example.org:8443")
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")
    assert settings.compression.dictionaries == (dictionary,)


def test_off_and_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """``off`` switches a bound off; an empty variable counts as not set."""
    monkeypatch.setenv("TIDEGATE_CONNECTION_LIMIT__TOTAL", "off")
    monkeypatch.setenv("TIDEGATE_CONNECTION_LIMIT__PER_CLIENT", "")
    monkeypatch.setenv("TIDEGATE_API_KEY", "")
    settings = load_settings().settings
    assert settings.connection_limit.total is None
    assert settings.connection_limit.per_client == 100
    assert settings.api_key is None


def test_words_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    """INFO and info are the same level."""
    monkeypatch.setenv("TIDEGATE_LOG_LEVEL", "DEBUG")
    assert load_settings().settings.log_level == "debug"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TIDEGATE_PROT", "TIDEGATE_PORT"),
        ("tidegate_ops_prot", "TIDEGATE_OPS_PORT"),
        ("TIDEGATE_AUTH_MODE", "TIDEGATE_AUTH__MODE"),
        ("TIDEGATE_RATELIMIT__BURST", "TIDEGATE_RATE_LIMIT__BURST"),
        ("TIDEGATE_RATE_LIMIT__BRUST", "TIDEGATE_RATE_LIMIT__BURST"),
        ("TIDEGATE_APIKEY", "TIDEGATE_API_KEY"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_name_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    """The default is not taken in silence; what it was set to may be a secret and is not shown. Empty is not set."""
    monkeypatch.setenv(name, "81")
    assert problems() == [Problem(name, "", "there is no such setting", f"did you mean {meant}?")]
    assert [row.name for row in problems({"port": "x"})] == ["--port", name]
    monkeypatch.setenv(name, "")
    assert load_settings().warnings == ()


def test_other_unknown_variables_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools of others may use our prefix; a name that is a little like a setting's is told with it."""
    for name in ("HOSTNAME", "IMAGE_TAG", "ZZZ"):
        monkeypatch.setenv(f"TIDEGATE_{name}", "5")
    loaded = load_settings()
    assert loaded.settings == Settings(drain=loaded.settings.drain)
    assert loaded.warnings == (
        "TIDEGATE_HOSTNAME is not a setting and was ignored; did you mean TIDEGATE_HOST?",
        "TIDEGATE_IMAGE_TAG is not a setting and was ignored",
        "TIDEGATE_ZZZ is not a setting and was ignored",
    )


def test_service_links_of_kubernetes_are_not_taken_for_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named tidegate, or tidegate-ops, puts TIDEGATE_PORT=tcp://… into every pod: one warning, no failure."""
    for service in ("TIDEGATE", "TIDEGATE_OPS"):
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.7:80")
        monkeypatch.setenv(f"{service}_PORT_80_TCP", "tcp://10.0.0.7:80")
        monkeypatch.setenv(f"{service}_PORT_80_TCP_PORT", "80")
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.7")
        monkeypatch.setenv(f"{service}_SERVICE_PORT_HTTP", "80")
    loaded = load_settings()
    assert (loaded.settings.port, loaded.settings.ops_port) == (8000, 9000)
    assert len(loaded.warnings) == 1
    assert "enableServiceLinks" in loaded.warnings[0]


def test_bare_settings_ignore_unknown_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Settings()`` as a library reads the environment and trips over nothing in it; unknown arguments are an error."""
    monkeypatch.setenv("TIDEGATE_MESSAGE__MAX_BYTES", "9")
    monkeypatch.setenv("TIDEGATE_MESSAGE__MAX_BITES", "9")
    assert Settings().message.max_bytes == 9
    with pytest.raises(ValidationError):
        Settings(prot=1)


@given(name=st.text(max_size=30), value=st.text(max_size=30))
def test_no_variable_name_breaks_the_warning(name: str, value: str) -> None:
    """Whatever stands in the environment, looking for unknown variables gives sentences and no error."""
    unknown = unknown_variables(Settings, {f"TIDEGATE_{name}": value})
    assert all(isinstance(sentence, str) for sentence in [*unknown.warnings, *unknown.misspelt])


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_problem_is_told_at_once_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows name the setting as it was written (option, variable, key of the file), what was given, and how to fix it."""
    file = tmp_path / "gateway.toml"
    file.write_text('prot = 1\nrate_limit = 4\n[message]\nmax_byte = 4\nallow = "images"\n')
    monkeypatch.setenv("TIDEGATE_OPS_PORT", "ninety")
    monkeypatch.setenv("TIDEGATE_KEEPALIVE__IDLE_SECONDS", "nan")
    rows = {row.name: row for row in problems({"port": "99999", "outbox.policy": "wait"}, file)}
    assert rows["--port"].given == "99999"
    assert rows["--set outbox.policy"].fix.startswith("close / drop / latest")
    assert rows["TIDEGATE_OPS_PORT"].fix == "whole number from 0 to 65535 (default: 9000)"
    assert "finite" in rows["TIDEGATE_KEEPALIVE__IDLE_SECONDS"].problem
    assert rows[f"prot in {file}"].fix == "did you mean port?"
    assert rows[f"message.max_byte in {file}"].fix == "did you mean message.max_bytes?"
    assert rows[f"message.allow in {file}"].given == "images"
    assert rows[f"rate_limit in {file}"].problem == "this is a group of settings"
    assert len(rows) == 8
    text = str(SettingsError(list(rows.values())))
    assert len(text.splitlines()) == 10
    assert text.splitlines()[0].split("  ")[0] == "setting"


def test_a_table_that_is_wider_than_the_terminal_is_one_block_per_problem() -> None:
    """No line is broken by the terminal, and none but the given value is left out when it is empty."""
    head, row = (
        ("setting", "given", "what is wrong", "how to fix it"),
        ("TIDEGATE_PORT", "", "it is " + "very " * 12 + "wrong", "fix it"),
    )
    assert table(head, [row], None).splitlines()[2].startswith("TIDEGATE_PORT  ")
    assert table(head, [row], 79) == (
        "TIDEGATE_PORT\n"
        "  what is wrong  it is very very very very very very very very very very very\n"
        "                 very wrong\n"
        "  how to fix it  fix it"
    )
    assert table(head, [row, row], 79).count("\n\n") == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"auth__secret": "short"}, "openssl rand -hex 32"),
        ({"auth__mode": "jwt"}, "openssl rand -hex 32"),
        ({"broker": "redis"}, "redis://127.0.0.1:6379"),
        ({"workers": "4"}, "TIDEGATE_BROKER=redis://127.0.0.1:6379"),
    ],
)
def test_what_to_do_can_be_done_as_it_stands(fields: dict[str, str], words: str) -> None:
    """A command that makes the secret, an address that an engine has."""
    assert words in problem(**fields).fix


def test_what_contradicts_is_named_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option when it was typed, else the variable."""
    assert problem(workers="4").name == "--workers"
    monkeypatch.setenv("TIDEGATE_WORKERS", "4")
    assert problem().name == "TIDEGATE_WORKERS"


def test_a_settings_error_is_one_of_ours_and_a_value_error() -> None:
    """It can be caught as either."""
    assert issubclass(SettingsError, TidegateError)
    assert issubclass(SettingsError, ValueError)


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", "\ufeff\x00", "a" * (1 << 20) + "=1"])
def test_a_broken_file_is_one_row(tmp_path: Path, text: str) -> None:
    """What is not TOML, or not sensibly small, is refused with the file's name."""
    file = tmp_path / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    (row,) = problems(config=file)
    assert row.name == "configuration file"
    assert row.given == str(file)


def test_a_file_that_is_not_text_is_one_row(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are refused."""
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"\xff\xfe")
    assert [row.name for row in problems(config=file)] == ["configuration file"]


def test_a_missing_file_is_one_row(tmp_path: Path) -> None:
    """A file that was asked for must be there."""
    (row,) = problems(config=tmp_path / "no.toml")
    assert row.problem == "No such file or directory"


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "memory",
        "redis://h",
        "rediss://u:p@h:1/2",
        "redis+cluster://a,b:7000",
        "nats://a:1,b:2",
        "nats://[::1]:4222",
        "tls://h",
    ],
)
def test_broker_urls_that_are_understood(url: str) -> None:
    """Every scheme of the design; ``memory`` alone is short for ``memory://``."""
    assert Settings(broker=url).broker.startswith(url)


@pytest.mark.parametrize(
    "url",
    ["", "kafka://h", "redis", "redis://", "nats://:4222", "redis://h:port", "redis://h:99999", "redis://[::1", "nats://a,,b"],
)
def test_broker_urls_that_are_not(url: str) -> None:
    """An unknown scheme, no host, a port that is none."""
    with pytest.raises(ValidationError):
        Settings(broker=url)


def test_secrets_are_never_shown() -> None:
    """Neither in repr, nor as effective values, nor in errors."""
    settings = Settings(api_key=SECRET, broker=f"redis://me:{SECRET}@h", auth={"mode": "jwt", "secret": SECRET})
    assert isinstance(settings.api_key, SecretStr)
    shown = repr(settings) + str([mask(path, value_of(settings, path)) for path in field_paths(Settings)])
    assert SECRET not in shown
    assert mask("broker", settings.broker) == f"redis://{MASK}@h"
    rows = problems({"auth.secret": "hunter2", "broker": "redsi://me:hunter2@h", "api_key": 5})
    assert "hunter2" not in str(SettingsError(rows))
    assert [row.given for row in rows if row.name == "--set auth.secret"] == [MASK]
    with pytest.raises(ValidationError) as caught:
        Settings(auth={"mode": "jwt", "secret": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"trusted_proxies": "10.0.0.1,proxy.local"}, "'proxy.local' is not an IP address or network"),
        ({"allowed_origins": "example.org"}, "not an origin"),
        ({"allowed_origins": "https://example.org/path"}, "not an origin"),
        ({"namespaces": "chat,a b"}, "'a b' is not a namespace"),
        ({"namespaces": ",".join(f"n{n}" for n in range(101))}, "more than 100"),
        ({"host": "no host"}, "match pattern"),
        ({"auth__jwks_url": "ftp://x"}, "match pattern"),
        ({"auth__public_key": "/does/not/exist"}, "neither PEM text nor a file"),
        ({"auth__public_key": "-----BEGIN PRIVATE KEY-----"}, "not a public key"),
        ({"compression__dictionaries": "/does/not/exist"}, "there is no file"),
        ({"message__max_bytes": "0"}, "greater than or equal to 1"),
        ({"telemetry__message_ratio": "1.5"}, "less than or equal to 1"),
        ({"compression__zstd": "perhaps"}, "valid boolean"),
    ],
)
def test_wrong_values_are_refused_with_a_reason(fields: dict[str, str], words: str) -> None:
    """Each wrong value is one row that says what is wrong with it."""
    assert words in problem(**fields).problem


# ── what only holds together ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"port": 9000}, "TIDEGATE_OPS_PORT", "the public listener has this port"),
        ({"host": "0.0.0.0", "ops_host": "10.0.0.1", "port": 1, "ops_port": 1}, "--ops-port", "the public listener has this port"),
        ({"auth__mode": "jwt"}, "--set auth.mode", "no key"),
        ({"auth__mode": "jwt", "auth__secret": SECRET, "auth__jwks_url": "https://i/k"}, "--set auth.mode", "several keys"),
        ({"auth__secret": SECRET}, "TIDEGATE_AUTH__MODE", "no token would be asked for"),
        (
            {"keepalive__interval_seconds": 5, "keepalive__timeout_seconds": 6},
            "--set keepalive.timeout_seconds",
            "next ping is due",
        ),
        ({"connection_limit__total": "off", "connection_limit__waiting": 5}, "--set connection_limit.waiting", "nobody ever waits"),
        ({"drain__delay_seconds": 3600, "drain__period_seconds": 3600}, "--set drain.period_seconds", "more than an hour"),
    ],
)
def test_fields_that_contradict_each_other(fields: dict[str, Any], name: str, words: str) -> None:
    """Each contradiction is one row under what to change."""
    row = problem(**fields)
    assert row.name == name
    assert words in row.problem


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 0, "ops_port": 0},
        {"host": "10.0.0.1", "ops_host": "127.0.0.1", "port": 1, "ops_port": 1},
        {"auth.mode": "jwt", "auth.secret": SECRET},
        {"auth.mode": "none", "auth.secret": SECRET},
        {"keepalive.interval_seconds": 5},
        {"keepalive.interval_seconds": "off"},
    ],
)
def test_fields_that_agree(fields: dict[str, Any]) -> None:
    """What looks close to a contradiction and is none; a short ping interval alone shortens the timeout."""
    settings = load_settings(fields).settings
    interval = settings.keepalive.interval_seconds
    assert interval is None or settings.keepalive.timeout_seconds <= interval


def test_the_drain_adds_up() -> None:
    """``total_seconds`` is what an orchestrator's grace period has to exceed."""
    settings = Settings(drain={"delay_seconds": 1, "period_seconds": 2, "abort_after_seconds": 4})
    assert settings.drain.total_seconds == 7


# ── exposure ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example.org"])
def test_listening_for_others_needs_a_decision_about_who_may_connect(host: str) -> None:
    """An address that others can reach is refused while auth.mode was left alone, and the row says all three ways out."""
    with pytest.raises(SettingsError) as caught:
        check_exposure(Settings(host=host))
    (row,) = caught.value.problems
    assert row.name == "TIDEGATE_AUTH__MODE"
    assert all(words in row.fix for words in ("=jwt", "=none", "TIDEGATE_HOST=127.0.0.1"))


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "auth.mode": "none"},
        {"host": "0.0.0.0", "auth.mode": "jwt", "auth.secret": SECRET},
        {"ops_host": "0.0.0.0", "api_key": SECRET},
        {"ops_host": "0.0.0.0"},
    ],
)
def test_what_may_listen(fields: dict[str, Any]) -> None:
    """Loopback needs nothing; elsewhere ``none`` must have been said; without an API key the API is off."""
    check_exposure(load_settings(fields).settings)


def test_a_short_api_key_is_refused_where_others_can_try_it() -> None:
    """A key that can be guessed is fine on loopback only, and is not shown."""
    check_exposure(Settings(api_key="changeme"))
    with pytest.raises(SettingsError) as caught:
        check_exposure(Settings(api_key="changeme", ops_host="0.0.0.0"))
    assert "changeme" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.8.8.8", True), ("[::1]", True), ("LOCALHOST", True), ("localhost.evil", False), ("", False)]
)
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    """Addresses of this machine only; no name but localhost."""
    assert is_loopback(host) is loopback


def test_a_wrong_group_in_the_file_is_named_with_its_file(tmp_path: Path) -> None:
    """The row says where the misspelt group stands and which group was meant."""
    (tmp_path / "g.toml").write_text("[rate_limt]\nburst = 3\n")
    with pytest.raises(SettingsError) as wrong:
        load_settings(config=tmp_path / "g.toml")
    (row,) = wrong.value.problems
    assert row.name == f"rate_limt in {tmp_path / 'g.toml'}"
    assert "rate_limit" in row.fix


def test_what_was_set_on_the_command_line_is_named_as_it_was_written() -> None:
    """An option of its own by its name, everything else by --set; a word for a number is said so."""
    with pytest.raises(SettingsError) as wrong:
        load_settings({"foo": "1", "port": "abc"})
    rows = {row.name: row for row in wrong.value.problems}
    assert rows["--port"].problem == "it should be a whole number"
    assert "--set foo" in rows
