"""Requests that the store applies long after they were given up: they revert nothing (C7)."""

from __future__ import annotations

import time
from typing import Callable

import pytest

from harness.payload import KIB, MIB, payload
from harness.storm import storm
from harness.under import FENCE_SECONDS, Ended, Place, completes, wait_for
from ufssim.journal import DECIDING

pytestmark = pytest.mark.usefixtures("write_back")


def test_a_late_complete_of_the_same_object_reverts_nothing(place: Place) -> None:
    """The store shows already what the request without an answer is to make."""
    parts = [payload(64 * KIB, 1), b"end"]
    assert place.multipart("multi", parts).acked
    place.wait_persisted()
    before = completes(place)
    place.sim.rule(
        "late", operation="CompleteMultipartUpload", times=1, delay_s=FENCE_SECONDS * 0.6
    )
    assert place.multipart("multi", parts).acked
    wait_for(lambda: completes(place) > before)
    time.sleep(0.3)
    assert place.put("multi", b"newer").acked
    time.sleep(FENCE_SECONDS)
    place.finish()
    assert place.stored_body("multi") == b"newer"


FOLLOWED: dict[str, Callable[[Place], Ended]] = {
    "overwrite": lambda place: place.put("k", b"newest"),
    "delete": lambda place: place.delete("k"),
    "multipart": lambda place: place.multipart("k", [payload(2 * KIB, 9), b"end"]),
}


@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
@pytest.mark.parametrize("later", FOLLOWED)
@pytest.mark.parametrize("operation", ["PutObject", "DeleteObject"])
def test_late_requests_revert_nothing(place: Place, operation: str, later: str, silent: bool) -> None:
    """The store applies a request long after its connection died, but before the fence."""
    if operation == "DeleteObject":
        assert place.put("k", b"there").acked
        place.wait_persisted()
    place.sim.rule("late", operation=operation, delay_s=FENCE_SECONDS * 0.7, silent=silent, times=1)
    first = place.put("k", b"late") if operation == "PutObject" else place.delete("k")
    assert first.acked
    wait_for(lambda: place.sim.state()["pending"] == 1)
    assert FOLLOWED[later](place).acked
    place.sim.wait_idle()
    place.finish()
    journal = [a for a in place.sim.journal(f"{place.prefix}k") if a.operation in DECIDING]
    assert any(a.late for a in journal), "the late request came before the fence was over"


@pytest.mark.parametrize("later", FOLLOWED)
def test_a_late_complete_reverts_nothing(place: Place, later: str) -> None:
    place.sim.rule("late", operation="CompleteMultipartUpload", delay_s=FENCE_SECONDS * 0.7, times=1)
    parts = [payload(6 * MIB, 1), payload(6 * MIB, 2)]
    assert place.multipart("k", parts).acked
    wait_for(lambda: place.sim.state()["pending"] == 1)
    assert FOLLOWED[later](place).acked
    place.finish()


@pytest.mark.slow
def test_late_requests_from_before_a_crash(own: Callable[..., Place]) -> None:
    """The fence outlives the process: it is in the metadata."""
    place = own()
    place.sim.rule("late", operation="PutObject", delay_s=FENCE_SECONDS * 0.8, silent=True, times=1)
    assert place.put("k", b"late").acked
    wait_for(lambda: place.sim.state()["pending"] == 1)
    assert place.put("k", b"newer").acked
    place.server.kill()
    place.server.start()
    assert place.read("k").body == b"newer"
    assert place.delete("k").acked
    place.finish()


@pytest.mark.slow
def test_late_requests_at_random(place: Place) -> None:
    for seed, operation in enumerate(["PutObject", "DeleteObject", "CompleteMultipartUpload"]):
        place.sim.rule("late", operation=operation, chance=0.15, seed=seed, delay_s=0.2,
                       jitter_s=FENCE_SECONDS * 0.7, silent=seed % 2 == 0)
    ends = storm(place, 12.0)
    assert all(e.acked for e in ends), {e.status for e in ends}
    place.finish()
