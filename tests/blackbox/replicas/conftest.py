"""Clusters of the tests of copies."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from harness.cluster import Cluster
from harness.replicas import NODES


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One whose leases do not end by themselves, however busy the machine is."""
    made = Cluster(tmp_path / "cluster", "60s", NODES)
    yield made
    made.close()


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Cluster]:
    """One with a lease of three seconds: who is lost is known to be soon."""
    made = Cluster(tmp_path / "short", "3s", NODES)
    yield made
    made.close()
