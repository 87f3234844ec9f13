"""Tokens, right and forged, and an app behind authentication; for the tests of ``auth.py`` and of its key sets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from middleware.asgi import Receive, Scope, Send
from middleware.auth import AuthMiddleware
from middleware.layer import Layer, Link

from .asgi_helpers import Server, echo, run, text, websocket_scope

SECRET = "a secret that is long enough for HS256"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
ISSUER = "https://issuer.example"


def pem_of(key: Any) -> str:
    """The public half as PEM text."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def claims(**more: Any) -> dict[str, Any]:
    """What an ordinary token says; ``None`` leaves a claim out."""
    usual = {"sub": "ana", "exp": int(time.time()) + 3600}
    return {name: value for name, value in {**usual, **more}.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **more: Any) -> str:
    """A signed token."""
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=headers)


def segment(value: Any) -> str:
    """A part of a token, encoded by hand."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: dict[str, Any], secret: bytes | None, **more: Any) -> str:
    """A token as an attacker writes it: any header, HMAC with any bytes, or no signature."""
    signed = f"{segment(header)}.{segment(claims(**more))}"
    signature = b"" if secret is None else hmac.digest(secret, signed.encode(), hashlib.sha256)
    return f"{signed}.{segment(signature)}"


def bearer(value: str) -> Scope:
    """A handshake with an Authorization header."""
    return websocket_scope(headers=[(b"authorization", f"Bearer {value}".encode())])


class Watched:
    """An app that remembers its scope and echoes; the layers around it report into ``observed``."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.observed: list[tuple[str, float]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await echo(scope, receive, send)

    @property
    def user(self) -> Any:
        return self.scopes[-1]["user"]

    def behind(self, **options: Any) -> Layer:
        """This app behind authentication, watched from outside."""
        observed = self.observed

        class Measure(Layer):
            async def open(self, link: Link) -> None:
                link.subscribe(lambda name, value: observed.append((name, value)))

        return Measure(AuthMiddleware(self, **({"secret": SECRET} if not options.keys() & WAYS else {}), **options))


WAYS = {"secret", "public_key", "jwks_url", "verify"}


async def connect(scope: Scope, **options: Any) -> tuple[Server, Watched]:
    """Connect, say hello and leave."""
    app = Watched()
    return await run(app.behind(**options), scope, text("hello")), app


def forged_raw(payload: bytes) -> str:
    """A properly signed token with a payload that is not what it should be."""
    signed = f"{segment({'alg': 'HS256', 'typ': 'JWT'})}.{segment(payload)}"
    return f"{signed}.{segment(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"
