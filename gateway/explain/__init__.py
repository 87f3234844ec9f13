"""Why did this client not get that message? What is remembered (``records``), judged (``verdicts``) and said (``explanation``)."""

from .explanation import LISTENER, Explainer
from .records import Records

__all__ = ["LISTENER", "Explainer", "Records"]
