"""Why did this client not get that message? What is remembered (``records``), judged (``verdicts``) and said (``explanation``)."""

from .explanation import Explainer
from .records import Records

__all__ = ["Explainer", "Records"]
