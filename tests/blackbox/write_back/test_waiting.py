"""Answers that wait for the store (`x-quickwater-wait-persisted`), and `async-persist wait`:
nothing else than the store ends the wait well."""

from __future__ import annotations

import json
import threading
import time
from typing import Callable

import pytest

from harness.payload import KIB, payload
from harness.under import UNSETTLED, Ended, Place, wait_for

pytestmark = pytest.mark.usefixtures("write_back")


def test_waiting_for_persistence(place: Place) -> None:
    wait = [("x-quickwater-wait-persisted", "20")]
    assert place.put("k", b"waited", headers=wait).acked
    assert place.stored_body("k") == b"waited"
    assert place.persist_state("k") == "PERSISTED"
    place.sim.down("refuse")
    begun = time.monotonic()
    ended = place.put("k", b"in vain", headers=[("x-quickwater-wait-persisted", "1")])
    assert 0.9 < time.monotonic() - begun < 5
    assert ended.status == 503 and "does not have it yet" in ended.body.decode(), ended
    assert place.persist_state("k") in UNSETTLED
    place.finish()


@pytest.mark.parametrize("newer", ["put", "delete"])
def test_waiting_is_not_ended_by_what_the_store_does_not_have(place: Place, newer: str) -> None:
    """A newer change replaces the one that is waited for: neither is in the store."""
    place.sim.down("refuse")
    ends: list[Ended] = []
    wait = [("x-quickwater-wait-persisted", "3")]
    waiting = threading.Thread(target=lambda: ends.append(place.put("k", b"waits", headers=wait)))
    waiting.start()
    wait_for(lambda: place.send("GET", "k").status == 200)
    assert (place.put("k", b"newer") if newer == "put" else place.delete("k")).acked
    waiting.join(30)
    assert [end.status for end in ends] == [503], ends
    assert place.stored() == {}
    place.sim.up()
    assert place.put("k", b"there", headers=[("x-quickwater-wait-persisted", "20")]).acked
    assert place.stored_body("k") == b"there"
    place.finish()


@pytest.mark.parametrize("newer", ["put", "delete"])
@pytest.mark.parametrize("under", ["away", "there"])
def test_waiting_is_not_ended_by_what_never_gets_there(
    own: Callable[..., Place], newer: str, under: str
) -> None:
    """What is waited for is replaced under TRANSIENT: the store never has it."""
    place = own()
    if under == "away":
        place.sim.down("refuse")
    else:
        place.sim.rule("status", operation="PutObject", status=503, code="SlowDown")
    ends: list[Ended] = []
    wait = [("x-quickwater-wait-persisted", "8")]
    waiting = threading.Thread(target=lambda: ends.append(place.put("k", b"v1", headers=wait)))
    waiting.start()
    wait_for(lambda: place.send("GET", "k").status == 200)
    place.policy("TRANSIENT", writeReplicas=1)
    assert (place.put("k", b"v2") if newer == "put" else place.delete("k")).acked
    waiting.join(30)
    assert [end.status for end in ends] == [503], ends
    text = ends[0].body.decode()
    assert "x-quickwater-durability" not in ends[0].headers
    # With the store away nobody knows yet that a delete finds nothing there.
    if (newer, under) == ("delete", "away"):
        assert "does not have it yet" in text, text
    else:
        assert "does not go there any more" in text, text
    assert place.stored() == {}
    if newer == "put":
        asked = ["async-persist", "wait", "--path", f"/{place.bucket}/k", "--timeout", "1s"]
        done = place.server.cli(*asked, check=False)
        assert done.returncode == 1 and "TRANSIENT" in done.stdout, done
        found = json.loads(place.server.cli(*asked, "--output", "json", check=False).stdout)
        assert found["persisted"] is False, found


def test_a_repeated_complete_promises_what_the_first_did(own: Callable[..., Place]) -> None:
    """Clients send it again after a 503: its 200 may not come sooner."""
    place = own()
    place.sim.down("refuse")
    upload_id, manifest = place.begin_upload("k", [payload(2 * KIB, 3), b"end"])

    def complete(seconds: int) -> Ended:
        wait = [("x-quickwater-wait-persisted", str(seconds))]
        query = [("uploadId", upload_id)]
        return place.send("POST", "k", manifest, query=query, headers=wait)

    for _ in range(3):
        ended = complete(1)
        assert ended.status == 503 and "does not have it yet" in ended.body.decode(), ended
        assert place.persist_state("k") in ("NOT_PERSISTED", "PERSISTING")
    again = place.send("POST", "k", manifest, query=[("uploadId", upload_id)])
    assert again.status == 200 and again.headers["x-quickwater-durability"] == "local-1", again
    assert b"ChecksumCRC64NVME" in again.body, again
    place.sim.up()
    ended = complete(20)
    assert ended.status == 200 and ended.headers["x-quickwater-durability"] == "ufs", ended
    assert place.stored_body("k") == payload(2 * KIB, 3) + b"end"
    assert place.delete("k").acked
    assert complete(1).status == 503


def test_a_repeated_complete_of_what_never_gets_there(own: Callable[..., Place]) -> None:
    place = own()
    place.policy("TRANSIENT", writeReplicas=1)
    upload_id, manifest = place.begin_upload("k", [payload(2 * KIB, 3), b"end"])
    query = [("uploadId", upload_id)]
    wait = [("x-quickwater-wait-persisted", "1")]
    assert place.send("POST", "k", manifest, query=query).status == 200
    again = place.send("POST", "k", manifest, query=query, headers=wait)
    assert again.status == 400 and b"TRANSIENT" in again.body, again


def test_waiting_for_a_folder_of_transient_objects(own: Callable[..., Place]) -> None:
    place = own()
    place.policy("TRANSIENT", writeReplicas=1)
    for key in ("d/a", "d/b"):
        assert place.send("PUT", key, b"scratch").status == 200
    asked = ["async-persist", "wait", "--path", f"/{place.bucket}/d", "--timeout", "1s"]
    done = place.server.cli(*asked, check=False)
    assert done.returncode == 1 and "TRANSIENT" in done.stdout, done
    place.policy("WRITE_BACK", writeReplicas=1)
    assert place.put("d/c", b"c").acked
    place.wait_persisted()
    done = place.server.cli(*asked, check=False)
    assert done.returncode == 0 and "never there: 2 objects" in done.stdout, done


def test_waiting_is_ended_by_a_newer_version_in_the_store(place: Place) -> None:
    place.sim.down("refuse")
    ends: list[Ended] = []
    wait = [("x-quickwater-wait-persisted", "20")]
    waiting = threading.Thread(target=lambda: ends.append(place.put("k", b"waits", headers=wait)))
    waiting.start()
    wait_for(lambda: place.send("GET", "k").status == 200)
    assert place.put("k", b"newer").acked
    place.sim.up()
    waiting.join(30)
    assert ends[0].status == 200 and ends[0].headers["x-quickwater-durability"] == "ufs", ends
    assert place.stored_body("k") == b"newer"
    place.finish()
