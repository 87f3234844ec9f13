"""``GET /console``: the page and its parts, as they are in ``assets``, and what a browser may do with them.

The page is the same for everybody and holds no figure, so it needs no key; what it shows it asks the API for. It runs only
scripts of its own, takes nothing from anywhere else, stands in no frame, and cannot make markup out of a text (Trusted Types).
"""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

__all__ = ["ASSETS", "HEADERS", "console_routes"]

PAGE = "console.html"
ASSETS = {
    PAGE: "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "figures.js": "text/javascript; charset=utf-8",
    "stream.js": "text/javascript; charset=utf-8",
    "tools.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def console_routes() -> list[BaseRoute]:
    """``/console`` and, below it, what the page consists of. Read once; a name that is not in ``ASSETS`` does not exist."""
    folder = files(__package__) / "assets"
    parts = {name: (folder / name).read_bytes() for name in ASSETS}

    def route(address: str, name: str) -> Route:
        async def asset(request: Request) -> Response:
            return Response(parts[name], headers=HEADERS, media_type=ASSETS[name])

        return Route(address, asset, name=name)

    return [route("/console", PAGE), *(route(f"/console/{name}", name) for name in ASSETS if name != PAGE)]
