"""Health: states and answers (``health``), named checks (``checks``), the loop's lag, and a check that sockets work."""

from .checks import Check, CheckResult
from .health import Health, HealthState, HealthStatistics, Report, health_routes
from .loop_lag import LoopLag, LoopLagStatistics
from .self_check import SelfCheckFailed, WebSocketSelfCheck

__all__ = [
    "Check", "CheckResult", "Health", "HealthState", "HealthStatistics", "LoopLag", "LoopLagStatistics", "Report",
    "SelfCheckFailed", "WebSocketSelfCheck", "health_routes",
]  # fmt: skip
