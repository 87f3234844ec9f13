"""Settings: the models, where values come from (``environment``, ``sources``), and how they are shown (``text``)."""

from .environment import env_name
from .models import Problem, Settings, SettingsError, check_exposure, is_loopback
from .sources import Loaded, load_settings

__all__ = ["Loaded", "Problem", "Settings", "SettingsError", "check_exposure", "env_name", "is_loopback", "load_settings"]
