"""Fixtures of the tests of WRITE_THROUGH over a store that fails."""

from __future__ import annotations

from typing import Iterator

import pytest

from conftest import ServeFactory
from harness.failing import fenced
from harness.server import Server
from harness.under import Place
from ufssim.client import Sim


@pytest.fixture(scope="module")
def front(serve_long: ServeFactory, store: Sim) -> Server:
    return serve_long("front", **fenced(store))


@pytest.fixture
def place(front: Server, store: Sim) -> Iterator[Place]:
    """A bucket of its own; no rules, an empty journal."""
    store.reset()
    made = Place(front, store)
    yield made
    store.reset()
