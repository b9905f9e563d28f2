"""Three workers, and a client that asks any of them."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path
from typing import Any, Iterator

from .cluster import Cluster, settled
from .target import Target

NODES = ["n1", "n2", "n3"]


class Anywhere:
    """A client that asks a random worker each time."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.random = random.Random(seed)
        self.targets = [cluster.worker(node).target() for node in NODES]
        self.clients = [target.client() for target in self.targets]

    def target(self) -> Target:
        """Any worker."""
        return self.random.choice(self.targets)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.random.choice(self.clients), name)


def series(cluster: Cluster, name: str, wanted: str = "") -> float:
    """Sum of the series of a metric that match, over all workers."""
    total = 0.0
    for node in NODES:
        for line in cluster.worker(node).metrics_text().splitlines():
            if line.startswith(name + "{") and re.search(wanted, line):
                total += float(line.rsplit(" ", 1)[1])
    return total


def answers(cluster: Cluster, code: str) -> float:
    """How many requests were answered so."""
    return series(cluster, "quickwater_s3_requests_total", f'code="{code}"')


def relays(cluster: Cluster, task: str = "relay") -> float:
    """Calls of one kind between workers."""
    return series(cluster, "quickwater_peer_served_total", f'task="{task}"')


@contextlib.contextmanager
def three(home: Path, lease: str, **options: Any) -> Iterator[Cluster]:
    """Three workers that have settled who owns what, and redirect nobody. Who stops one
    takes `settled`."""
    with settled(home, lease, NODES, **options) as made:
        yield made
        assert answers(made, "3(?!04)") == 0, "a redirect"
