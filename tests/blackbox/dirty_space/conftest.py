"""Fixtures of the tests of dirty space."""

from __future__ import annotations

from typing import Any, Callable, Iterator

import pytest

from conftest import ServeFactory
from harness.dirty_space import MEMORY, TIGHT_CAPACITY, TIGHT_RATIO
from harness.payload import MIB
from harness.under import SCALED, Place, over
from ufssim.client import Sim


@pytest.fixture
def tight(store: Sim, serve: ServeFactory) -> Iterator[Callable[..., Place]]:
    """Makes a bucket under a policy on a service with 16 MiB of dirty space."""
    store.reset()

    def make(mode: str, **properties: Any) -> Place:
        options = over(store)
        options["flags"] |= {
            **SCALED,
            "capacity": str(TIGHT_CAPACITY),
            "segment-size": str(4 * MIB),
            "memory": str(MEMORY),
            "write-cache-dirty-ratio": str(TIGHT_RATIO),
        }
        made = Place(serve("tight", **options), store)
        made.policy(mode, writeReplicas=1, **properties)
        return made

    yield make
    store.reset()
