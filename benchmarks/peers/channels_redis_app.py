"""Django Channels over channels_redis, served by Daphne: what a member says goes to the others in its room.

``CHANNEL_LAYER`` is the layer's class; ``RedisChannelLayer`` (lists and sorted sets) drops what is above its capacity, so it
is given much.
"""

from __future__ import annotations

import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

backend = os.environ["CHANNEL_LAYER"]
options: dict[str, Any] = {"capacity": 100_000} if backend.endswith(".RedisChannelLayer") else {}
host = {"address": os.environ["REDIS_URL"], "socket_timeout": None}  # else listening ends after five quiet seconds
settings.configure(
    SECRET_KEY="benchmark",
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={"default": {"BACKEND": backend, "CONFIG": {"hosts": [host], **options}}},
)
django.setup()


class Relay(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(self.room, {"type": "room.message", "text": text_data, "sender": self.channel_name})

    async def room_message(self, event: dict[str, Any]) -> None:
        if event["sender"] != self.channel_name:
            await self.send(text_data=event["text"])


assert get_channel_layer() is not None, "the layer is configured above"
app = ProtocolTypeRouter({"websocket": URLRouter([path("ws/<str:room>", Relay.as_asgi())])})
