"""Checks JSON Web Tokens (RFC 7519) for ``auth.py``: which key, which algorithm, which claims.

1. What kind of key it is decides the algorithm, never the token (RFC 8725 §3.1): a shared secret checks HS only, a public key
   only what its type can (RSA: RS and PS; an elliptic curve: its one ES; Ed25519 and Ed448: EdDSA).
2. A token can only choose among the keys that the operator configured. Its ``jku``, ``x5u``, ``jwk`` and ``x5c`` are not looked at.
3. No claim is believed before the signature is right. One that is wrong may refuse the token earlier, which spares a look-up.
4. Whatever the token's text, ``check`` returns claims or raises ``TokenError``.

Imported by ``auth.py`` only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

__all__ = ["FixedKey", "JwtChecker", "Key", "KeySource", "TokenError", "public_key_from_pem", "usable_key"]

MAX_TOKEN_BYTES = 8192
SHORTEST_RSA_BITS = 2048
HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A key is at least as long as the hash (RFC 7518 §3.2)."""
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
EC_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
PUBLIC_ALGORITHMS = frozenset({*RSA_ALGORITHMS, *EC_ALGORITHMS.values(), "EdDSA"})

_BROKEN = (jwt.PyJWTError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, UnsupportedAlgorithm)
"""What PyJWT, ``json`` and ``cryptography`` raise on hostile text."""

_WRONG: dict[type[Exception], str] = {
    jwt.InvalidSignatureError: "the signature is wrong",
    jwt.InvalidAudienceError: "the audience is wrong",
    jwt.InvalidIssuerError: "the issuer is wrong",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.MissingRequiredClaimError: "a claim is missing that it must have: exp, or the aud or iss that is asked for",
    jwt.InvalidAlgorithmError: "the algorithm is not allowed",
    jwt.exceptions.InvalidSubjectError: "the claim sub is not a text",
}


class TokenError(Exception):
    """The token does not count. ``why`` is ``"expired"``, ``"invalid"`` or ``"unavailable"`` (the keys are, not the token).

    ``detail`` is for operators' logs: what is wrong in particular, and nothing of the token's text.
    """

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(detail or why)
        self.why = why
        self.detail = detail


class Key(NamedTuple):
    """Key material and the only algorithms it may be used with."""

    material: Any
    algorithms: tuple[str, ...]


class KeySource(Protocol):
    """Where keys come from: one fixed key, or a published set."""

    algorithms: Collection[str]
    """Every algorithm that any of the keys could have."""

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key at hand with this id that can do ``algorithm``."""

    async def refresh(self) -> None:
        """Look for keys that are not at hand, if there is anywhere to look. Raises ``TokenError("unavailable")``."""

    def used(self) -> None:
        """A key has just checked a token successfully."""


class FixedKey:
    """One key for every token, whatever ``kid`` it names."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self.algorithms: Collection[str] = key.algorithms

    @classmethod
    def shared_secret(cls, secret: str | bytes) -> FixedKey:
        """The key of an HMAC. Raises ``ValueError`` when it is too short, or a PEM text."""
        raw = secret.encode() if isinstance(secret, str) else secret
        if b"-----BEGIN " in raw:
            raise ValueError("secret is a PEM text; a public key goes into public_key")
        algorithms = tuple(name for name, length in HMAC_BYTES.items() if len(raw) >= length)
        if not algorithms:
            raise ValueError(f"secret has {len(raw)} bytes; HS256 needs at least {HMAC_BYTES['HS256']} (RFC 7518 §3.2)")
        return cls(Key(raw, algorithms))

    @classmethod
    def public_key(cls, pem: str | bytes) -> FixedKey:
        """The key in a PEM text. Raises ``ValueError`` when there is none that can check a token."""
        return cls(usable_key(public_key_from_pem(pem)))

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        return self._key

    async def refresh(self) -> None:
        """There is nowhere to look."""

    def used(self) -> None:
        """Nothing to keep fresh."""


class JwtChecker:
    """Turns the text of a token into its claims.

    ``audience`` and ``issuer`` are what ``aud`` must contain and ``iss`` must be; a token that names an audience while none
    is expected is refused. ``leeway_seconds`` is for clocks that differ.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        audience: str | Sequence[str] | None,
        issuer: str | Sequence[str] | None,
        leeway_seconds: float,
        require_exp: bool,
    ) -> None:
        self.keys = keys
        self._claims: dict[str, Any] = {
            "audience": audience,
            "issuer": issuer,
            "leeway": leeway_seconds,
        }
        self._options = {"require": ["exp"] if require_exp else []}  # aud and iss are, once they are expected

    async def check(self, token: str) -> dict[str, Any]:
        """The claims of a token that is signed by a known key and valid now.

        Raises:
            TokenError: it is not, or the keys could not be had.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError("invalid", "the token is too long")
        kid, algorithm = self._header(token)
        key = self.keys.find(kid, algorithm)
        if key is None:
            self._decode(token, None)  # a token that is wrong anyway is not worth a request
            await self.keys.refresh()
            key = self.keys.find(kid, algorithm)
        if key is None:
            raise TokenError("invalid", "the key is not known")
        claims = self._decode(token, key)
        self.keys.used()
        return claims

    def _header(self, token: str) -> tuple[str | None, str]:
        """``kid`` and ``alg``; refuses what no key could have signed and extensions that must be understood (RFC 7515 §4.1.11)."""
        try:
            header = jwt.get_unverified_header(token)
        except _BROKEN as error:
            raise TokenError("invalid", "the token cannot be read") from error
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self.keys.algorithms or "crit" in header:
            raise TokenError("invalid", "the algorithm is not allowed")
        if kid is not None and not isinstance(kid, str):
            raise TokenError("invalid", "the key id is not a text")
        return kid, algorithm

    def _decode(self, token: str, key: Key | None) -> dict[str, Any]:
        """The claims once they are right; without a key only that they would be."""
        try:
            if key is None:
                checks = {f"verify_{name}": True for name in ("exp", "nbf", "iat", "aud", "iss", "sub")}
                unverified = {**self._options, **checks, "verify_signature": False}
                return dict(jwt.decode(token, options=unverified, **self._claims))  # type: ignore[arg-type]  # a TypedDict there
            options = self._options
            return dict(jwt.decode(token, key.material, list(key.algorithms), options, **self._claims))  # type: ignore[arg-type]
        except jwt.ExpiredSignatureError as error:
            raise TokenError("expired") from error
        except _BROKEN as error:
            raise TokenError("invalid", _wrong(error)) from error


def _wrong(error: Exception) -> str:
    """What is wrong, in words of ours: a library's own may repeat the token."""
    return next((words for kind, words in _WRONG.items() if isinstance(error, kind)), "the token or a claim cannot be read")


def usable_key(material: Any, algorithm: str | None = None) -> Key:
    """The key with the algorithms of its type, or only ``algorithm`` where its publisher names one.

    Raises:
        ValueError: no algorithm of RFC 7518 or RFC 8037 fits, or the key is too short.
    """
    if isinstance(material, RSAPublicKey):
        if material.key_size < SHORTEST_RSA_BITS:
            raise ValueError(f"the RSA key has {material.key_size} bits; at least {SHORTEST_RSA_BITS} are needed (RFC 7518 §3.3)")
        algorithms: tuple[str, ...] = RSA_ALGORITHMS
    elif isinstance(material, EllipticCurvePublicKey) and material.curve.name in EC_ALGORITHMS:
        algorithms = (EC_ALGORITHMS[material.curve.name],)
    elif isinstance(material, Ed25519PublicKey | Ed448PublicKey):
        algorithms = ("EdDSA",)
    else:
        raise ValueError(f"{type(material).__name__} cannot check a token: RSA, P-256, P-384, P-521, Ed25519 and Ed448 can")
    if algorithm is not None and algorithm not in algorithms:
        raise ValueError(f"{algorithm} does not go with this type of key")
    return Key(material, algorithms if algorithm is None else (algorithm,))


def public_key_from_pem(pem: str | bytes) -> Any:
    """The public key in a PEM text, which may also be a certificate. Raises ``ValueError``."""
    raw = pem.encode() if isinstance(pem, str) else pem
    if b"PRIVATE KEY-----" in raw:
        raise ValueError("public_key is a private key; whoever only checks tokens must not have one")
    try:
        if b"-----BEGIN CERTIFICATE-----" in raw:
            return x509.load_pem_x509_certificate(raw).public_key()
        return load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("public_key is not a PEM text with a public key or a certificate") from error
