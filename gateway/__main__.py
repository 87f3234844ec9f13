"""Where ``tidegate`` and ``python -m gateway`` begin."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

__all__ = ["run"]


def run() -> None:
    """Run the command.

    Process 1 of a container does not get a signal that nothing handles. Until the runner takes SIGTERM over to drain there is
    nobody to drain, so it ends the process, and this is said before anything is imported that takes time.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _leave)
    from .cli import main

    main(prog_name="tidegate")


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    run()
