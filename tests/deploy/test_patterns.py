"""No pattern in either package can be made to think: its work grows with the text, not with the text's square.

Every compiled pattern that a module keeps is found by walking the modules. For each repetition in it, texts are made that get
the engine into that repetition, keep it there for 64 KiB, and then fail.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import re._constants as ops  # type: ignore[import-not-found]  # no stub: it is the engine's own
import re._parser as parser  # type: ignore[import-not-found]
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest

import gateway
import middleware

LONG, SHORT = 64 * 1024, 8 * 1024
SLOWEST_GROWTH = 3 * LONG / SHORT
"""Linear work grows as the text does, give or take a factor for the caches; the square of it would grow 64-fold."""
NEGLIGIBLE_SECONDS = 0.005


class Kept(NamedTuple):
    """A pattern that a module keeps, and the methods that the module calls on it."""

    pattern: re.Pattern[Any]
    methods: frozenset[str]


def kept_patterns() -> dict[str, Kept]:
    """Every compiled pattern at the top of a module or in a tuple, list or dict there, by module and name."""
    found: dict[str, Kept] = {}
    for package in (gateway, middleware):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            module = importlib.import_module(info.name)
            source = inspect.getsource(module)
            for name, value in vars(module).items():
                called = re.findall(rf"\b{name}\.(match|fullmatch|search|sub|findall|split)\b", source)
                methods = frozenset(called or ("search", "sub"))
                for index, pattern in enumerate(patterns_in(value)):
                    found[f"{info.name}.{name}{f'[{index}]' if index else ''}"] = Kept(pattern, methods)
    return found


def patterns_in(value: Any) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from patterns_in(item)
    elif isinstance(value, dict):
        yield from patterns_in(list(value.values()))


PATTERNS = kept_patterns()


def sample(nodes: Iterable[Any]) -> str:
    """A short text that the parsed nodes match, as far as can be told without trying."""
    return "".join(_sample_one(op, argument) for op, argument in nodes)


def _sample_one(op: Any, argument: Any) -> str:
    if op is ops.LITERAL:
        return chr(argument)
    if op is ops.NOT_LITERAL:
        return "b" if argument == ord("a") else "a"
    if op is ops.ANY:
        return "a"
    if op is ops.IN:
        return _sample_of_set(argument)
    if op in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
        least, _, body = argument
        return sample(body) * int(least)
    if op is ops.SUBPATTERN:
        return sample(argument[-1])
    if op is ops.BRANCH:
        return sample(argument[1][0])
    if op is ops.ATOMIC_GROUP:
        return sample(argument)
    return ""  # anchors, looks around


def _sample_of_set(members: list[Any]) -> str:
    negated = members[0][0] is ops.NEGATE
    accepted = [chr(code) for code in range(33, 127) if _in_set(chr(code), members) is not negated]
    return accepted[0] if accepted else " "


def _in_set(letter: str, members: list[Any]) -> bool:
    classes: dict[Any, Callable[[str], bool]] = {
        ops.CATEGORY_DIGIT: str.isdigit,
        ops.CATEGORY_WORD: lambda one: one.isalnum() or one == "_",
        ops.CATEGORY_SPACE: str.isspace,
    }
    for op, argument in members:
        if op is ops.LITERAL and ord(letter) == argument:
            return True
        if op is ops.RANGE and argument[0] <= ord(letter) <= argument[1]:
            return True
        if op is ops.CATEGORY and classes.get(argument, lambda one: True)(letter):  # type: ignore[no-untyped-call]
            return True
    return False


def repetitions(nodes: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """For every repetition in the pattern: a text that leads to it, and one that it repeats."""
    for op, argument in nodes:
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
            _, most, body = argument
            if most > 1:
                yield before, sample(body) or "a"
            yield from repetitions(body, before)
        elif op is ops.SUBPATTERN:
            yield from repetitions(argument[-1], before)
        elif op is ops.ATOMIC_GROUP:
            yield from repetitions(argument, before)
        elif op is ops.BRANCH:
            for branch in argument[1]:
                yield from repetitions(branch, before)
        before += _sample_one(op, argument)


def attacks(pattern: re.Pattern[Any], size: int) -> Iterator[str]:
    """Texts of ``size`` characters that keep the pattern busy, each with an end that it does not want."""
    source = pattern.pattern.decode("latin-1") if isinstance(pattern.pattern, bytes) else pattern.pattern
    parsed: Any = parser.parse(source, pattern.flags & ~re.UNICODE)
    whole = sample(parsed)
    bodies = list(repetitions(parsed)) or [("", whole or "a")]
    for before, body in bodies:
        for end in ("", "\x00", "!", "\n", "é"):
            yield (before + body * (size // len(body)))[:size] + end
        yield ((before + body * 3) * (size // (len(before) + 3 * len(body))))[:size] + "\x00"
    if whole:
        yield (whole * (size // len(whole)))[:size] + "\x00"
        yield (whole[:-1] * (size // max(1, len(whole) - 1)))[:size] if len(whole) > 1 else "a" * size
    for letter in 'a0-.=:/@ \t,;{[\\"%':
        yield letter * size


def cpu_seconds(kept: Kept, text: str) -> float:
    """The least of three tries, of everything that is done with the pattern."""
    pattern, methods = kept
    subject: Any = text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text
    replacement: Any = b"" if isinstance(pattern.pattern, bytes) else ""
    tries = []
    for _ in range(3):
        started = time.process_time()
        for method in methods:
            if method == "sub":
                pattern.sub(replacement, subject)
            else:
                getattr(pattern, method)(subject)
        tries.append(time.process_time() - started)
        if tries[-1] < NEGLIGIBLE_SECONDS:
            break
    return min(tries)


def test_the_patterns_are_found() -> None:
    """The walk sees the modules it is meant for."""
    assert len(PATTERNS) > 15
    assert {name.split(".")[0] for name in PATTERNS} == {"gateway", "middleware"}


@pytest.mark.parametrize("name", PATTERNS)
def test_work_grows_no_faster_than_the_text(name: str) -> None:
    """Eight times the text, about eight times the work, for the worst texts that the pattern itself suggests."""
    kept = PATTERNS[name]
    for long, short in zip(attacks(kept.pattern, LONG), attacks(kept.pattern, SHORT), strict=True):
        spent = cpu_seconds(kept, long)
        if spent > NEGLIGIBLE_SECONDS:
            assert spent < SLOWEST_GROWTH * max(cpu_seconds(kept, short), NEGLIGIBLE_SECONDS / 8), long[:80]


@pytest.mark.parametrize(
    ("source", "size"), [(r"(a+)+$", 16), (r"(?:\w+\s?)*!", 16), (r"[a-z]*,[a-z]*;", 4096), (r"\s+$", 4096), (r"a.*b.*c$", 1024)]
)
def test_a_bad_pattern_would_be_noticed(source: str, size: int) -> None:
    """The attacks find what is known to be slow: four times the text is far more than four times the work."""
    kept = Kept(re.compile(source), frozenset({"search"}))
    worst = max(cpu_seconds(kept, text) for text in attacks(kept.pattern, size))
    smaller = max(cpu_seconds(kept, text) for text in attacks(kept.pattern, size // 4))
    assert worst > 7 * smaller
