"""What requests cost in FoundationDB: the table of docs/operations/foundationdb.md.

Counted at the C API, of a whole service over the store simulator. A number that
changes here is changed there, too.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from conftest import ServeFactory
from harness import metadata
from harness.calls import Attempt, Cost, Trace, cost
from harness.target import fresh_name
from harness.under import Place, scaled
from ufssim.client import Sim

pytestmark = [
    pytest.mark.usefixtures("write_back"),
    pytest.mark.skipif(
        not metadata.built(metadata.SERVER) or not metadata.library(),
        reason=f"not built: {metadata.SERVER} and libfdb_c.so",
    ),
]

OBJECT_TABLE, PENDING_TABLE = b"\x10", b"\x50"
WAIT_SECONDS = 60.0
# Of an object that is not in memory.
LOOK_UP = Cost(transactions=1, versions=1, gets=1)


class Counted:
    """Places on one service that leaves a trace."""

    def __init__(self, home: Path, serve_long: ServeFactory, store: Sim) -> None:
        self.cluster = metadata.Cluster(home)
        self.trace = Trace(home / "trace")
        self.store = store
        options = scaled(store, metadata_ttl="1h")
        options["flags"] |= self.cluster.flags("p/")
        options["env"] |= self.trace.environment()
        self.server = serve_long("counted", **options)

    def place(self, mode: str) -> tuple[Place, str]:
        """A bucket under a policy, and a key nobody else has: what goes on behind an
        earlier test has others."""
        made = Place(self.server, self.store)
        made.policy(mode, **({"writeReplicas": 1} if mode in ("WRITE_BACK", "TRANSIENT") else {}))
        return made, fresh_name("key")

    def cost(self, word: str, call: Callable[[], object]) -> Cost:
        """Of all that names the word until the call has returned."""
        self.trace.skip()
        call()
        return cost(self.trace.of(word))


@pytest.fixture(scope="module")
def counted(
    tmp_path_factory: pytest.TempPathFactory, serve_long: ServeFactory, store: Sim
) -> Iterator[Counted]:
    made = Counted(tmp_path_factory.mktemp("counted"), serve_long, store)
    yield made
    assert made.server.stop() == 0
    made.cluster.close()


@pytest.mark.parametrize("mode", ["WRITE_THROUGH", "WRITE_BACK", "TRANSIENT"])
def test_what_is_in_memory_costs_nothing(counted: Counted, mode: str) -> None:
    """GET and HEAD of leased metadata: no call at all, however often."""
    place, key = counted.place(mode)
    assert place.put(key, b"body").acked
    if mode != "TRANSIENT":
        place.wait_persisted()
    assert place.read(key).status == 200
    absent = f"no-{key}"
    assert counted.cost(absent, lambda: place.send("GET", absent)) == LOOK_UP

    def read() -> None:
        for _ in range(20):
            assert place.send("GET", key).status == 200
            assert place.send("HEAD", key).status == 200
            assert place.send("GET", absent).status == 404

    assert counted.cost(key, read) == Cost()


def test_a_write_through_put_notes_its_request_first(counted: Counted) -> None:
    """A store may apply it after this process has ended: the note outlives it."""
    place, key = counted.place("WRITE_THROUGH")
    both = Cost(transactions=2, commits=2, versions=2, gets=7)
    for body in (b"first", b"second"):
        assert counted.cost(key, lambda: place.put(key, body)) == both
    assert counted.cost(key, lambda: place.delete(key)) == both


@pytest.mark.parametrize("mode", ["WRITE_BACK", "TRANSIENT"])
def test_an_ack_is_one_commit(counted: Counted, mode: str) -> None:
    place, key = counted.place(mode)
    # What is persisted meanwhile would be counted, too.
    counted.store.down("refuse")
    for change in (
        lambda: place.put(key, b"first"),
        lambda: place.put(key, b"second"),
        lambda: place.delete(key),
    ):
        counted.trace.skip()
        assert change().acked
        acked = [attempt for attempt in counted.trace.of(key) if _commits(attempt)]
        assert cost(acked) == Cost(transactions=1, commits=1, versions=1, gets=4)
    counted.store.up()
    if mode == "WRITE_BACK":
        place.finish()


def test_an_object_is_persisted_in_one_commit(counted: Counted) -> None:
    place, key = counted.place("WRITE_BACK")
    counted.trace.skip()
    assert place.put(key, b"body").acked
    place.wait_persisted()
    # Ack, look at the object, end of what was pending.
    done = counted.trace.of(key)
    commits = [attempt for attempt in done if _commits(attempt)]
    assert cost(commits) == Cost(transactions=2, commits=2, versions=2, gets=8)
    assert cost(done) == Cost(transactions=3, commits=2, versions=3, gets=9)
    # Nothing of it is left but the object.
    rows = _rows(done)
    assert rows.keys() == {OBJECT_TABLE}, rows


@pytest.mark.parametrize(
    ("delimiter", "pages"), [pytest.param("", 1, id="all"), pytest.param("/", 2, id="folded")]
)
def test_a_list_is_one_transaction(counted: Counted, delimiter: str, pages: int) -> None:
    place, stem = counted.place("TRANSIENT")
    for number in range(40):
        assert place.put(f"{stem}-{number:02}/x", b"z").acked
    query = [("list-type", "2"), ("prefix", f"{stem}-"), ("delimiter", delimiter)]
    end = time.monotonic() + WAIT_SECONDS
    while True:
        # The first of a TTL compares with the store, which goes on behind it.
        found = counted.cost(stem, lambda: place.send("GET", "", query=query))
        assert found.commits == found.gets == 0
        if found == Cost(transactions=1, versions=1, pages=pages):
            return
        assert time.monotonic() < end, found


def test_uploads(counted: Counted) -> None:
    place, key = counted.place("TRANSIENT")
    made: list[tuple[str, bytes]] = []
    parts = [b"a" * 2000, b"b"]
    begun = counted.cost(key, lambda: made.append(place.begin_upload(key, parts)))
    # Begin and two parts; a part looks for its upload before it is taken.
    assert begun == Cost(transactions=7, commits=3, versions=7, gets=15)
    ended = counted.cost(key, lambda: place.complete(key, *made[0], b"".join(parts)))
    assert ended == Cost(transactions=7, commits=1, versions=7, gets=11, pages=4)


def test_bytes_of_an_object(counted: Counted) -> None:
    """What stays of an object that its store has: the sizing of the manual."""
    place, _ = counted.place("WRITE_THROUGH")
    key = "train/shard-000001/sample-000000000001.t"
    counted.trace.skip()
    assert place.put(key, b"x" * 1000).acked
    rows = _rows(counted.trace.of(key))
    assert rows.keys() == {OBJECT_TABLE}, rows
    assert 150 <= rows[OBJECT_TABLE] < 260, rows


def _commits(attempt: Attempt) -> bool:
    return any(name == "commit" for name, _, _ in attempt.calls)


def _rows(attempts: list[Attempt]) -> dict[bytes, int]:
    """Bytes of the rows that name a key and are left, by table."""
    rows: dict[bytes, int] = {}
    for attempt in attempts:
        for name, key, size in attempt.calls:
            if name in ("set", "stamp") and key not in rows:
                rows[key] = 0
            if name in ("set", "stamp"):
                rows[key] = len(key) + size
            elif name == "clear":
                rows.pop(key, None)
    tables: dict[bytes, int] = {}
    for key, size in rows.items():
        table = key[len(b"p/") :][:1]
        if table in (OBJECT_TABLE, PENDING_TABLE):
            tables[table] = tables.get(table, 0) + size
    return tables
