"""The pod of ``helm test`` does what it says: its script is run as rendered, against a real gateway started as rendered."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import jwt
import pytest

from ...integration.gateway_process import GatewayProcess, running
from .helm import CASES, case, rendered
from .objects import container, one

SECRET = "a-shared-secret-of-enough-bytes-for-hs256"


def script(made: list[dict[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """Command and plain environment of the test's container."""
    (only,) = one(made, "Pod")["spec"]["containers"]
    return only["command"], {entry["name"]: entry["value"] for entry in only["env"] if "value" in entry}


def settings(made: list[dict[str, Any]]) -> dict[str, str]:
    """The rendered settings, without what a test on one machine has to choose itself."""
    ours = {"TIDEGATE_HOST", "TIDEGATE_OPS_HOST", "TIDEGATE_PORT", "TIDEGATE_OPS_PORT"}
    data: dict[str, str] = one(made, "ConfigMap", "tidegate")["data"]
    return {name.removeprefix("TIDEGATE_"): value for name, value in data.items() if name not in ours}


async def smoke(gateway: GatewayProcess, made: list[dict[str, Any]], **environment: str) -> tuple[int, str]:
    """Run the script; only the addresses are this machine's."""
    command, given = script(made)
    addresses = {"PUBLIC": gateway.public, "OPS": gateway.ops, "PATIENCE_SECONDS": "0"}
    process = await asyncio.create_subprocess_exec(
        *command, env={"PATH": os.environ["PATH"], **given, **addresses, **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    process._transport.close()  # type: ignore[attr-defined]  # else its pipes are closed at the loop's end, with a warning
    return process.returncode or 0, said.decode()


@pytest.fixture(autouse=True)
def python_of_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python`` is what runs the tests, as in the image it is what runs the gateway."""
    import sys
    from pathlib import Path

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


async def test_the_release_of_the_defaults_passes() -> None:
    """Seven checks: probes on both ports, metrics only on one, and a message that comes back."""
    made = list(case("default"))
    async with running(**settings(made)) as gateway:
        code, said = await smoke(gateway, made)
    assert code == 0, said
    assert [line[:8].strip() for line in said.splitlines()] == ["ok"] * 7
    assert "a message comes back over a WebSocket" in said


async def test_with_tokens_a_stranger_is_refused_and_a_guest_is_let_in() -> None:
    """Without a token of its own the test is content with 401; with one it speaks."""
    made = rendered({"settings.auth.mode": "jwt", "settings.auth.audience": "chat", "secrets.authSecret.name": "tidegate"})
    claims = {"sub": "ann", "aud": "chat", "exp": 4102444800}
    async with running(AUTH__SECRET=SECRET, **settings(made)) as gateway:
        code, said = await smoke(gateway, made)
        assert (code, "a stranger is refused" in said) == (0, True), said
        code, said = await smoke(gateway, made, TOKEN=jwt.encode(claims, SECRET, "HS256"))
        assert (code, "a message comes back over a WebSocket" in said) == (0, True), said
        code, said = await smoke(gateway, made, TOKEN="nonsense")
        assert (code, "401" in said) == (1, True), said


async def test_a_gateway_that_lets_strangers_in_fails_the_test_of_one_that_should_not() -> None:
    """The test can fail."""
    made = rendered({"settings.auth.mode": "jwt", "secrets.authSecret.name": "tidegate"})
    async with running(AUTH__MODE="none") as gateway:
        code, said = await smoke(gateway, made)
    assert code == 1
    assert "FAILED  a stranger is refused" in said


async def test_a_gateway_that_takes_only_bytes_is_sent_bytes() -> None:
    """The message is of a kind that the settings let in."""
    made = rendered({"settings.message.allow": "binary"})
    async with running(**settings(made)) as gateway:
        code, said = await smoke(gateway, made)
    assert (code, "a message comes back over a WebSocket" in said) == (0, True), said


async def test_a_socket_that_is_closed_is_a_failure_with_a_reason() -> None:
    """Not a traceback, here of a gateway that takes no message of that length."""
    made = rendered({"settings.message.max_bytes": 1})
    async with running(**settings(made)) as gateway:
        code, said = await smoke(gateway, made)
    assert code == 1
    assert "FAILED  a message comes back over a WebSocket: " in said
    assert "1009" in said
    assert "Traceback" not in said


async def test_nobody_there_is_a_failure_with_a_reason() -> None:
    """Not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    code, said = await smoke(GatewayProcess(None), list(case("default")), PUBLIC=address, OPS=address)  # type: ignore[arg-type]
    assert code == 1
    assert said.startswith("FAILED  the ops port says that it has started: ")
    assert "Traceback" not in said


def test_the_pod_asks_the_services_of_the_release() -> None:
    """Their names and ports; the token from the Secret that was named; nothing that the kubelet would expand."""
    made = rendered({"service.port": 8443, "tests.token": {"name": "guest", "key": "jwt"}}, CASES["ha-nats"])
    command, given = script(made)
    assert given == {"PUBLIC": "tide-tidegate:8443", "OPS": "tide-tidegate-ops:9000", "AUTH_MODE": "jwt"}
    assert command[:2] == ["python", "-c"]
    assert "$(" not in command[2]
    entries = one(made, "Pod")["spec"]["containers"][0]["env"]
    assert entries[-1] == {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "guest", "key": "jwt"}}}


def test_the_pod_is_a_test_and_can_be_left_out() -> None:
    """A hook of ``helm test``, of the gateway's own image, that ends by itself."""
    pod = one(case("default"), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["activeDeadlineSeconds"] > 60
    assert pod["spec"]["containers"][0]["image"] == container(list(case("default")))["image"]
    assert [document["kind"] for document in case("monitoring-service")].count("Pod") == 0
