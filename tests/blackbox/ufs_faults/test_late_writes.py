"""Writes that were given up, which the store may still apply: what follows them waits until it
no longer can (C7)."""

from __future__ import annotations

import threading
import time

import pytest

from conftest import ServeFactory
from harness import metadata
from harness.failing import UNKNOWN, fenced
from harness.under import FENCE_SECONDS, Ended, Place, over
from ufssim.client import Sim


def give_up(place: Place, key: str, body: bytes) -> None:
    """A PUT that the store holds until `release`, and that is given up."""
    place.sim.rule("late", delay_s=None, operation="PutObject", times=1)
    assert place.put(key, body).status in UNKNOWN
    place.sim.clear_rules()


def change(place: Place, key: str, later: str) -> Ended:
    return place.put(key, b"newest") if later == "overwrite" else place.delete(key)


@pytest.mark.parametrize("later", ["overwrite", "delete"])
def test_a_late_write_does_not_revert_what_followed(place: Place, later: str) -> None:
    """What follows waits until the store can no longer apply what was given up."""
    place.put("k", b"old")
    give_up(place, "k", b"given up")
    released: list[int] = []
    timer = threading.Timer(FENCE_SECONDS / 3, lambda: released.append(place.sim.release()))
    timer.start()
    begun = time.monotonic()
    assert change(place, "k", later).acked
    assert time.monotonic() - begun > FENCE_SECONDS / 2
    timer.join()
    assert released == [1]
    place.settled()


def test_what_was_given_up_may_be_sent_again_at_once(place: Place) -> None:
    """A client's own retry does not wait; what it replaces nobody can revert."""
    place.put("k", b"old")
    give_up(place, "k", b"the same")
    begun = time.monotonic()
    assert place.put("k", b"the same").acked
    assert time.monotonic() - begun < FENCE_SECONDS / 2
    assert place.sim.release() == 1
    assert place.put("k", b"newest").acked
    place.settled()


def test_a_write_seen_in_the_store_is_not_waited_for(place: Place) -> None:
    assert place.put("k", b"old").acked
    place.sim.script("lose_reply", operation="PutObject")
    assert place.put("k", b"applied").status in UNKNOWN
    begun = time.monotonic()
    assert place.put("k", b"newest").acked
    assert time.monotonic() - begun < FENCE_SECONDS / 2
    place.settled()


def test_a_long_fence_is_told_at_once(serve: ServeFactory, store: Sim) -> None:
    store.reset()
    place = Place(serve("long-fence", **over(store)), store)
    assert place.put("k", b"old").acked
    give_up(place, "k", b"given up")
    for later in ("overwrite", "delete"):
        begun = time.monotonic()
        ended = change(place, "k", later)
        assert (ended.status, ended.code) == (503, "SlowDown"), ended
        assert time.monotonic() - begun < 1.0
        # What is left of `write_cache.fence`, 15 minutes.
        left = int({k.lower(): v for k, v in ended.headers.items()}["retry-after"])
        assert 800 < left <= 901
    assert place.read("k").body == b"old"
    assert "SETTLING" in place.server.cli("async-persist", "list").stdout
    assert place.put("other", b"x").acked
    assert place.sim.release() == 1
    # Applied, and seen to be.
    assert place.delete("k").acked
    place.settled()


def test_a_long_fence_after_a_kill_says_how_long(serve: ServeFactory, store: Sim) -> None:
    """A new process does not know what was sent: the same write has to wait as well."""
    store.reset()
    place = Place(serve("long-fence-killed", **over(store)), store)
    assert place.put("k", b"old").acked
    give_up(place, "k", b"given up")
    place.server.kill()
    place.server.start()
    for body in (b"given up", b"another"):
        ended = place.send("PUT", "k", body)
        assert (ended.status, ended.code) == (503, "SlowDown"), ended
        left = int({k.lower(): v for k, v in ended.headers.items()}["retry-after"])
        assert 800 < left <= 901
        assert f"taken in {left} seconds" in ended.body.decode()
    assert place.sim.release() == 1


@pytest.mark.parametrize("when", ["waiting", "given up"])
@pytest.mark.parametrize("later", ["overwrite", "delete"])
def test_a_late_write_of_a_killed_process(
    serve: ServeFactory, store: Sim, when: str, later: str
) -> None:
    """kill -9: nobody knows the request any more, but for the row written before it."""
    store.reset()
    options = fenced(store)
    # What was given up may be late for as long as the next start takes, and longer.
    fence = FENCE_SECONDS + metadata.claim_seconds()
    options["flags"] |= {"write-cache-fence": f"{fence:g}s"}
    place = Place(serve("killed-late", **options), store)
    assert place.put("k", b"old").acked
    if when == "waiting":
        place.sim.rule("late", delay_s=None, operation="PutObject", times=1)
        lost = threading.Thread(target=place.put, args=("k", b"given up"), daemon=True)
        lost.start()
        end = time.monotonic() + 10
        while not place.sim.state()["pending"]:
            assert time.monotonic() < end, "the request did not reach the store"
            time.sleep(0.02)
        place.server.kill()
        lost.join(10)
        place.sim.clear_rules()
    else:
        give_up(place, "k", b"given up")
        place.server.kill()
    place.server.start()
    timer = threading.Timer(FENCE_SECONDS / 3, place.sim.release)
    timer.start()
    assert change(place, "k", later).acked
    timer.join()
    place.settled()
