"""The live console: the process' own figures, once a second for whoever watches, and the page that shows them.

``figures`` says what there is, ``sampling`` reads it, ``statistics`` makes figures of two samples, ``feed`` shares them among
watchers, ``page`` serves ``GET /console``. The addresses under ``/api`` belong to ``gateway.api``.
"""

from .feed import Feed, TooManyWatchers, Watcher
from .figures import Snapshot
from .page import console_routes
from .sampling import Sources
from .statistics import Statistics

__all__ = ["Feed", "Snapshot", "Sources", "Statistics", "TooManyWatchers", "Watcher", "console_routes"]
