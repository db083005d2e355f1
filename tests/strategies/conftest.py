"""Strategies of Flower's collect garbage once for every reply: with all of torch in memory that is a second a round."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def nothing_old_is_collected() -> Iterator[None]:
    """What is there before the tests is not looked at again by the collector."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
