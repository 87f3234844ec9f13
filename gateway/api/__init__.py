"""The HTTP API of the ops listener: ``routes`` puts together ``publishing`` and ``inspecting``; ``openapi`` describes them."""

from .idempotency import IdempotencyTable
from .routes import api_answers, api_routes

__all__ = ["IdempotencyTable", "api_answers", "api_routes"]
