"""Fixtures of the tests of jobs."""

from __future__ import annotations

from typing import Callable, Iterator

import pytest

from conftest import ServeFactory
from harness.jobs import wait_nothing_pending
from harness.server import Server
from harness.under import Place, scaled
from ufssim.client import Sim


@pytest.fixture(scope="module")
def front(store: Sim, serve_long: ServeFactory) -> Server:
    return serve_long("jobs", **scaled(store))


@pytest.fixture
def place(front: Server, store: Sim) -> Iterator[Place]:
    """A bucket of its own under the default policy; no rules, an empty journal."""
    store.reset()
    yield Place(front, store)
    store.clear_rules()
    store.up()
    wait_nothing_pending(front)
    store.reset()


@pytest.fixture
def own(store: Sim, serve: ServeFactory) -> Iterator[Callable[..., Place]]:
    """Makes a bucket on a service of its own."""
    store.reset()
    yield lambda **flags: Place(serve("own", **scaled(store, **flags)), store)
    store.clear_rules()
    store.up()
    store.reset()
