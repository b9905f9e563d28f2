"""Fixtures of the simulator's own tests."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from .client import Sim

BUCKET = "b"


@pytest.fixture(scope="session")
def shared_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    made = Sim(tmp_path_factory.mktemp("ufssim"), "--min-part-bytes", "1024")
    yield made
    made.close()


@pytest.fixture
def sim(shared_sim: Sim) -> Iterator[Sim]:
    """A simulator without rules, with one empty bucket."""
    shared_sim.reset()
    shared_sim.create_bucket(BUCKET)
    yield shared_sim
    shared_sim.state()  # fails when the simulator itself did


@pytest.fixture
def client(sim: Sim) -> Any:
    """boto3 with its defaults, no retries, short deadlines."""
    return sim.target().client(read_timeout=3, connect_timeout=3)
