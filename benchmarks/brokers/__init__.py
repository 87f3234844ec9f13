"""Two nodes on one engine: what a message costs, and how long it takes, from the first node to clients of the second."""

from .drivers import OverEngine, broker_drivers
from .engines import Engine
from .turn import BrokerTurn

__all__ = ["BrokerTurn", "Engine", "OverEngine", "broker_drivers"]
