"""Some tests of requests and of WRITE_BACK again, over FoundationDB with faults on.

What `QUICKWATER_METADATA=foundationdb:faults` does to the whole suite, short enough
for every run: writers that race, uploads, listings, a store that is away.
"""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from blackbox.test_conditionals import (  # noqa: F401
    test_compare_and_swap_counter,
    test_delete_if_match,
    test_put_if_absent_has_one_winner,
)
from blackbox.test_listings import test_listing_follows_every_write  # noqa: F401
from blackbox.test_multipart import (  # noqa: F401
    test_abort_and_complete_have_one_winner,
    test_complete_twice_gives_the_same_tag,
    test_life,
)
from blackbox.write_back.conftest import place  # noqa: F401
from blackbox.write_back.test_acks import (  # noqa: F401
    test_all_kinds_of_writes_with_the_store_down,
    test_intermediate_versions_may_be_skipped_never_reordered,
    test_transient_never_reaches_the_store,
)
from conftest import ServeFactory
from harness import metadata
from harness.server import Server
from harness.target import Target, empty_bucket, fresh_name
from harness.under import scaled
from ufssim.client import Sim

pytestmark = [
    pytest.mark.usefixtures("write_back"),
    pytest.mark.skipif(
        not metadata.built(metadata.SERVER) or not metadata.library(),
        reason=f"not built: {metadata.SERVER} and libfdb_c.so",
    ),
]
SEED = 23


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, serve_long: ServeFactory, store: Sim
) -> Iterator[Server]:
    cluster = metadata.Cluster(tmp_path_factory.mktemp("cluster"))
    options = scaled(store)
    options["flags"] |= cluster.flags()
    options["env"] |= {"FDB_TEST_FAULTS": metadata.plan(SEED)}
    made = serve_long("faulty", **options)
    yield made
    assert made.metric("quickwater_metadata_failures_total") > 10, "faults there were"
    assert made.stop() == 0
    cluster.close()


@pytest.fixture(scope="module")
def target(front: Server) -> Target:
    return front.target()


@pytest.fixture(scope="module")
def s3(target: Target) -> Any:
    return target.client()


@pytest.fixture
def bucket(s3: Any) -> Iterator[str]:
    name = fresh_name()
    s3.create_bucket(Bucket=name)
    yield name
    empty_bucket(s3, name)
