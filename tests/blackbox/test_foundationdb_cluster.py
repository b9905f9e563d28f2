"""Some tests of several workers again, over FoundationDB with faults on.

`QUICKWATER_METADATA=foundationdb:faults` does it to all tests of clusters; this is
short enough for every run.
"""

from __future__ import annotations

import urllib.request
from typing import Iterator

import pytest

from blackbox.test_cluster_relay import (  # noqa: F401
    bucket,
    s3,
    test_a_read_after_a_write_sees_it,
    test_batches_of_deletes,
    test_buckets,
    test_copies_across_workers,
    test_listings,
    test_multipart,
    test_ranges_and_conditions,
)
from harness import metadata
from harness.anywhere import three
from harness.cluster import Cluster

pytestmark = pytest.mark.skipif(
    not metadata.built(metadata.SERVER) or not metadata.library(),
    reason=f"not built: {metadata.SERVER} and libfdb_c.so",
)
SEED = 29


def failures(cluster: Cluster) -> float:
    """Attempts of the control plane that FoundationDB failed."""
    where = f"http://{cluster.control.run['metrics']}/metrics"
    with urllib.request.urlopen(where, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    name = "quickwater_metadata_failures_total"
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers and a control plane with its rows in FoundationDB."""
    service = metadata.Cluster(tmp_path_factory.mktemp("service"))
    kept = service.flags(), {"FDB_TEST_FAULTS": metadata.plan(SEED)}
    try:
        with three(tmp_path_factory.mktemp("faulty"), "60s", kept=kept) as made:
            yield made
            assert failures(made) > 10, "faults there were"
    finally:
        service.close()
