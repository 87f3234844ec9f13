"""What the description says of operations, for those who hold requests to it: their query parameters and their answers.

A parameter that an operation does not have is a mistake that would go unnoticed, as ``?limt=2`` would give a page of 100, so it is
refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from .problems import Problem

__all__ = ["OTHER", "answers_of", "check_parameters", "parameters_of"]

Json = dict[str, Any]

OTHER = "other"
"""The operation of a request that is for none."""
LONGEST_SHOWN = 64


def _operations(document: Json) -> Iterator[tuple[Json, list[Json]]]:
    """Every operation of an OpenAPI description, and its parameters, those of its path too."""
    for path in document["paths"].values():
        for method, operation in path.items():
            if method != "parameters":
                yield operation, [*path.get("parameters", ()), *operation.get("parameters", ())]


def parameters_of(document: Json) -> dict[str, frozenset[str]]:
    """The names of the query parameters of each operation, by its ``operationId``."""
    shared = document["components"]["parameters"]
    found = {}
    for operation, parameters in _operations(document):
        resolved = [shared[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in parameters]
        found[operation["operationId"]] = frozenset(one["name"] for one in resolved if one["in"] == "query")
    return found


def answers_of(document: Json) -> set[tuple[str, str]]:
    """Every operation with each status that it may answer with, and those of requests that are for no operation."""
    answers = {(operation["operationId"], status) for operation, _ in _operations(document) for status in operation["responses"]}
    # The key is asked for before the operation is found, and so is a method that an address does not take.
    before = {"401", "403", "405"}
    return {answer for answer in answers if answer[1] not in before} | {(OTHER, status) for status in (*before, "404")}


def check_parameters(given: Iterable[str], known: frozenset[str]) -> None:
    """Raise ``Problem`` 400 for a query parameter that is not ``known``, or comes twice."""
    for name, count in Counter(given).items():
        shown = name[:LONGEST_SHOWN]
        if name not in known:
            raise _unknown(shown, known)
        if count > 1:
            raise Problem(400, f"The parameter {shown} comes {count} times; say it once.", more={"parameter": shown})


def _unknown(shown: str, known: frozenset[str]) -> Problem:
    nearest = next(iter(get_close_matches(shown.lower(), sorted(known), 1)), None)
    guess = f" Is {nearest} meant?" if nearest else ""
    those = f"Those there are: {', '.join(sorted(known))}." if known else "It takes none."
    more = {"parameter": shown, **({"nearest": nearest} if nearest else {})}
    return Problem(400, f"This address has no parameter {shown!r}.{guess} {those}", more=more)
