"""The Autobahn cases outside groups 12 and 13, which take minutes (``python -m tests.conformance.run`` runs them all)."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from tests.conformance.run import failures, results_of

SAMPLE_OF_COMPRESSION = ["12.1.1", "12.1.5", "12.2.3", "13.1.1", "13.2.3", "13.3.2", "13.4.5", "13.5.1", "13.6.2", "13.7.4"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
async def test_no_case_fails(deflate: bool) -> None:
    """Strictly: nothing is FAILED, and nothing is only NON-STRICT either."""
    results = await results_of(deflate=deflate, exclude=["12.*", "13.*"])
    assert failures(results) == []
    assert Counter(result.behavior.value for result in results) == {"OK": 298, "INFORMATIONAL": 3}


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the runner's cases leave files open
async def test_compression_is_understood() -> None:
    """A few of the compression cases, each with its negotiated parameters."""
    results = await results_of(deflate=True, include=SAMPLE_OF_COMPRESSION)
    assert failures(results) == []
    assert Counter(result.behavior.value for result in results) == {"OK": len(SAMPLE_OF_COMPRESSION)}
    gc.collect()
