"""What a machine lacks is seen: a skipped test on a laptop, a failed one where everything has to be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from .needs import free_port, missing, need

Skipped, Failed = pytest.skip.Exception, pytest.fail.Exception


@pytest.fixture(params=[("true", Failed), ("false", Skipped), ("", Skipped), (None, Skipped)], ids=lambda param: f"CI={param[0]}")
def ending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    """How a test ends that misses something, for what ``CI`` says."""
    value, exception = request.param
    monkeypatch.delenv("CI", raising=False)
    if value is not None:
        monkeypatch.setenv("CI", value)
    ended: type[BaseException] = exception
    return ended


def test_what_is_missing_is_never_passed_over(ending: type[BaseException]) -> None:
    """With the reason."""
    with pytest.raises(ending, match="no node here"):
        missing("no node here")


def test_a_program_that_is_not_there_is_missing(ending: type[BaseException]) -> None:
    """The first name is said, and how one gets it."""
    with pytest.raises(ending, match="no tidegate-nothing: apt-get install nothing"):
        need("tidegate-nothing", "tidegate-nothing-2", how="apt-get install nothing")


def test_any_of_the_names_of_a_program_will_do() -> None:
    """The first that there is."""
    assert Path(need("tidegate-nothing", "python3", "sh")).name == "python3"


def test_nobody_is_given_a_port_twice() -> None:
    """As long as this process lives."""
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == len(ports)
