"""Fixtures of the tests of WRITE_BACK over a store that fails.

Hours are made seconds (`harness.under.SCALED`). Skipped, with the reason, by a
build that cannot write back; `QW_WRITE_BACK=required` forbids that.
"""

from __future__ import annotations

from typing import Callable, Iterator

import pytest

from conftest import ServeFactory
from harness.server import Server
from harness.under import Place, scaled
from ufssim.client import Sim


@pytest.fixture(scope="module")
def front(store: Sim, serve_long: ServeFactory) -> Server:
    return serve_long("back", **scaled(store))


@pytest.fixture
def place(front: Server, store: Sim) -> Iterator[Place]:
    """A bucket of its own under WRITE_BACK; no rules, an empty journal."""
    store.reset()
    made = Place(front, store)
    made.policy("WRITE_BACK", writeReplicas=1)
    yield made
    # What is pending must not meet the next test's rules.
    store.clear_rules()
    store.up()
    made.wait_persisted()
    store.reset()


@pytest.fixture
def own(store: Sim, serve: ServeFactory) -> Iterator[Callable[..., Place]]:
    """Makes a bucket under WRITE_BACK on a service of its own."""
    store.reset()

    def make(**flags: str) -> Place:
        made = Place(serve("own", **scaled(store, **flags)), store)
        made.policy("WRITE_BACK", writeReplicas=1)
        return made

    yield make
    store.reset()
