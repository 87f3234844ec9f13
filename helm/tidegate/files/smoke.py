"""What `helm test` runs, in a pod of the gateway's own image: every probe, and a message to itself, through the Services.

Environment: ``PUBLIC`` and ``OPS`` (host:port), ``AUTH_MODE`` (``none`` or ``jwt``), ``TOKEN`` (optional, for ``jwt``), ``KIND`` of
the message (``text`` or ``binary``), and ``PATIENCE_SECONDS``, how long a release that was just installed may take to answer.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
import uuid
from collections.abc import Callable

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

PUBLIC, OPS = os.environ["PUBLIC"], os.environ["OPS"]
AUTH_MODE, TOKEN = os.environ["AUTH_MODE"], os.environ.get("TOKEN", "")
KIND = os.environ.get("KIND", "text")
PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "60"))


def answers(address: str, path: str, status: int, text: str = "") -> None:
    """GET gives this status, and a body in which ``text`` stands."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    finally:
        connection.close()
    if response.status != status or text not in body:
        raise RuntimeError(f"http://{address}{path}: {response.status} instead of {status}: {body[:300]!r}")


def speaks() -> None:
    """A message through a room of its own comes back; a stranger is asked for a token."""
    room, text = f"helm-test-{uuid.uuid4().hex}", f"high water {uuid.uuid4().hex}"
    message = text.encode() if KIND == "binary" else text
    url = f"ws://{PUBLIC}/ws/{room}?echo=1"
    headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
    try:
        with connect(url, additional_headers=headers, proxy=None, open_timeout=5, close_timeout=5) as socket:
            socket.send(message)
            if (heard := socket.recv(timeout=5)) != message:
                raise RuntimeError(f"{url}: {heard!r} came back instead of {message!r}")
    except InvalidStatus as refused:
        if AUTH_MODE == "jwt" and not TOKEN and refused.response.status_code == 401:
            return
        raise RuntimeError(f"{url}: {refused.response.status_code}: {refused.response.body!r}") from None
    if AUTH_MODE == "jwt" and not TOKEN:
        raise RuntimeError(f"{url}: let in without a token, although settings.auth.mode is jwt")


CHECKS: dict[str, Callable[[], None]] = {
    "the ops port says that it has started": lambda: answers(OPS, "/startupz", 200),
    "the ops port says that it is alive": lambda: answers(OPS, "/healthz", 200),
    "the ops port says that it is ready": lambda: answers(OPS, "/readyz", 200),
    "the ops port has metrics": lambda: answers(OPS, "/metrics", 200, "tidegate_build_info"),
    "the public port says that it is ready": lambda: answers(PUBLIC, "/readyz", 200),
    "the public port has no metrics": lambda: answers(PUBLIC, "/metrics", 404),
    "a stranger is refused" if AUTH_MODE == "jwt" and not TOKEN else "a message comes back over a WebSocket": speaks,
}


def main() -> int:
    """Ask until everything is well or patience ends; one line per check."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for name, check in CHECKS.items():
        while True:
            try:
                check()
            except (OSError, RuntimeError, http.client.HTTPException, WebSocketException) as error:
                if time.monotonic() >= deadline:
                    print(f"FAILED  {name}: {error}", flush=True)
                    return 1
                time.sleep(min(1.0, PATIENCE_SECONDS))
            else:
                print(f"ok      {name}", flush=True)
                break
    return 0


sys.exit(main())
