"""Reads and listings over a store that fails or is away: the whole of it or an honest failure,
never a wrong byte, and what is cached all the same."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import ServeFactory
from harness.failing import SIZES, lift, timed
from harness.payload import KIB, MIB, payload
from harness.under import SCALED, STORE_BUCKET, TTL_SECONDS, Ended, Place, over
from ufssim.client import Sim

BROKEN_READS: dict[str, tuple[str, dict[str, Any]]] = {
    "reset": ("reset", {}),
    "500": ("status", {}),
    "503": ("status", {"status": 503, "code": "SlowDown"}),
    "truncated-at-once": ("truncate", {"cut_after": 0}),
    "truncated": ("truncate", {"cut_after": 7 * KIB}),
    "wrong-etag": ("wrong_etag", {}),
    "error-in-200": ("error_in_200", {}),
    "black-hole": ("black_hole", {}),
    "10-bytes-a-second": ("slow", {"bytes_per_second": 10}),
}
QUICK_READS = ("reset", "500", "503", "truncated-at-once", "truncated", "wrong-etag", "error-in-200")


def read_cases() -> list[Any]:
    return [pytest.param(n, marks=[] if n in QUICK_READS else [pytest.mark.slow]) for n in BROKEN_READS]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", read_cases())
def test_read(place: Place, name: str, size: str) -> None:
    """Somebody else's object, not cached: the whole of it or an honest failure."""
    data = payload(SIZES[size], "cold")
    action, more = BROKEN_READS[name]
    place.sim.seed(STORE_BUCKET, f"{place.prefix}k", data)
    place.history.acked("k", data)
    place.sim.rule(action, operation="GetObject", **more)
    for _ in range(2):
        ended = timed(place.read, "k")
        assert ended.status in (0, 200, 500, 503), ended.status
    place.sim.rule(action, operation="HeadObject", **more)
    place.sim.seed(STORE_BUCKET, f"{place.prefix}unseen", data)
    assert timed(place.send, "GET", "unseen").status in (0, 500, 503)
    lift(place.sim)
    for key in ("k", "unseen"):
        assert place.send("GET", key).body == data
        assert place.send("GET", key, headers=[("Range", "bytes=100-199")]).body == data[100:200]


@pytest.mark.parametrize("size", ["small"])
def test_a_store_that_damages_what_it_gives(place: Place, size: str) -> None:
    """Objects of one chunk: never a wrong byte, and none is kept."""
    data = payload(SIZES[size], "cold")
    place.sim.seed(STORE_BUCKET, f"{place.prefix}k", data)
    place.sim.rule("damage", operation="GetObject", times=2)
    for _ in range(3):
        ended = timed(place.send, "GET", "k")
        assert ended.status in (0, 500, 503) or ended.body == data
    assert place.send("GET", "k").body == data


def names(ended: Ended) -> list[str]:
    """Keys and common prefixes of a listing, in order."""
    assert ended.status == 200, ended
    found = re.findall(rb"<(?:Key|CommonPrefixes><Prefix)>([^<]*)<", ended.body)
    return sorted(name.decode() for name in found)


def listing(place: Place, prefix: str = "", **more: Any) -> Ended:
    query = [("list-type", "2"), ("delimiter", "/"), ("prefix", prefix)]
    return timed(lambda: place.send("GET", "", query=query, **more))


@pytest.mark.parametrize("mode", ["refuse", "black_hole"])
def test_listings_while_the_store_is_away(place: Place, mode: str) -> None:
    """What was listed before is listed, with our own changes; the rest is not known."""
    for key in ("a", "d/b", "e/c", "x"):
        assert place.put(key, b"1").acked
    assert names(listing(place)) == ["a", "d/", "e/", "x"]
    assert names(listing(place, "d/")) == ["d/b"]
    assert place.put("n", b"2").acked
    assert place.delete("x").acked
    stale = "quickwater_cache_stale_answers_total"
    before = place.server.metric(stale)
    place.sim.down(mode)
    time.sleep(2 * TTL_SECONDS)
    assert names(listing(place)) == ["a", "d/", "e/", "n"]
    assert names(listing(place, "d/")) == ["d/b"]
    assert place.server.metric(stale) == before + 2
    assert listing(place, "e/").status == 503, "nobody has looked there"
    assert listing(place, headers=[("Cache-Control", "no-cache")]).status == 503
    place.sim.up()
    place.sim.seed(STORE_BUCKET, place.prefix + "y", b"3")
    time.sleep(1.0 + TTL_SECONDS)
    assert names(listing(place)) == ["a", "d/", "e/", "n", "y"]
    assert names(listing(place, "e/")) == ["e/c"]


def test_a_listing_without_cache(serve: ServeFactory, store: Sim) -> None:
    store.reset()
    options = over(store)
    options["flags"] |= {"metadata-ttl": "1h"}
    place = Place(serve("hour", **options), store)
    assert place.put("a", b"1").acked
    assert names(listing(place)) == ["a"]
    store.seed(STORE_BUCKET, place.prefix + "b", b"2")
    assert names(listing(place)) == ["a"]
    assert names(listing(place, headers=[("Cache-Control", "no-cache")])) == ["a", "b"]


def test_listing_over_a_store_that_fails(place: Place) -> None:
    """All keys or an error; never a part of them told as all."""
    keys = [f"d/k{n:04}" for n in range(1500)]
    for key in keys[::100]:
        assert place.put(key, b"x").acked
    time.sleep(TTL_SECONDS)
    place.sim.seed_many(STORE_BUCKET, [place.prefix + key for key in keys])
    place.sim.rule("reset", operation="ListObjectsV2", chance=0.4, seed=1)
    place.sim.rule("truncate", operation="ListObjectsV2", chance=0.3, seed=2, cut_after=2000)
    found: list[str] = []
    token: list[tuple[str, str]] = []
    for _ in range(60):
        # Not timed: the first page takes a thousand keys in, a commit each, and how long that
        # takes is the metadata's and the machine's. A listing that hangs ends as 0.
        ended = place.send("GET", "", query=[("list-type", "2"), *token])
        assert ended.status in (200, 500, 503), ended.status
        if ended.status != 200:
            continue
        found += [part.split(b"<")[0].decode() for part in ended.body.split(b"<Key>")[1:]]
        following = ended.body.partition(b"<NextContinuationToken>")[2].partition(b"<")[0].decode()
        if not following:
            break
        token = [("continuation-token", following)]
    assert found == keys


def test_no_cache_leaves_no_byte_on_the_disk(serve: ServeFactory, store: Sim) -> None:
    store.reset()
    # Flags of write-back change nothing here; that they are taken is seen.
    options = over(store)
    options["flags"] |= SCALED
    place = Place(serve("passed-by", **options), store)
    place.policy("NO_CACHE")
    mark = b"find me on the disk " * 8
    data = mark + payload(2 * MIB, "no cache") + mark
    assert place.put("k", data).acked
    assert place.stored_body("k") == data, "acked when the store had it"
    place.sim.seed(STORE_BUCKET, f"{place.prefix}cold", data)
    for key in ("k", "cold"):
        assert place.send("GET", key).body == data
    assert place.server.stop() == 0
    assert not [p for p in place.server.dir.rglob("*") if p.is_file() and _holds(p, mark)]


def _holds(path: Path, mark: bytes) -> bool:
    return mark in path.read_bytes()


def test_a_store_away_serves_what_is_cached(place: Place) -> None:
    data = payload(100 * KIB, "cached")
    assert place.put("k", data).acked
    assert place.read("k").body == data
    place.sim.down("refuse")
    time.sleep(TTL_SECONDS)
    assert timed(place.read, "k").body == data
    assert timed(place.put, "k", b"new").status == 503
    assert timed(place.read, "k").body == data
    place.sim.up()
    place.settled()
