"""Copies of parts of uploads: they outlive their owners, move with their key, and go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.cluster import SLOTS, Cluster
from harness.replicas import NODES, Upload, came_back, client, durability_of, persisted, read, whole_again

FOUR = [*NODES, "n4"]


def owner_of_parts(cluster: Cluster, nodes: list[str]) -> str:
    """The one worker that knows of copies elsewhere: it owns the only key there is."""
    held = "quickwater_copies_elsewhere_objects"

    def one() -> str | None:
        # Whoever was the owner before a lapse of its lease knows of them for a moment more.
        found = [node for node in nodes if cluster.metric(node, held) > 0]
        return found[0] if len(found) == 1 else None

    return str(cluster.wait_for(one))


def lose_owner(cluster: Cluster, nodes: list[str]) -> list[str]:
    """Loses the owner of the only key, and its disk; who is left, once they own all."""
    owner = owner_of_parts(cluster, nodes)
    cluster.lose(owner)
    left = [node for node in nodes if node != owner]
    cluster.wait_slots(lambda slots: sum(slots.get(node, 0) for node in left) == SLOTS)
    return left


@pytest.mark.parametrize("mode", ["WRITE_BACK", "TRANSIENT"])
def test_an_upload_survives_the_loss_of_its_owners(short: Cluster, mode: str) -> None:
    for node in NODES:
        client(short, node)
    short.settle(NODES)
    client(short, "n1").create_bucket(Bucket="abc")
    short.policy_of_all("WRITE_BACK", 2)
    persisted(short)
    short.policy_of_all(mode, 2)
    one = client(short, "n1")
    for asked in one.list_objects_v2(Bucket="abc").get("Contents", []):
        one.delete_object(Bucket="abc", Key=asked["Key"])
    place, away = short.home / "ufs" / "abc", short.home / "away"
    short.wait_for(lambda: short.sum("quickwater_copies_kept_objects") == 0)
    place.rename(away)
    upload = Upload(short, "n1", "big")
    for number in (1, 2):
        upload.put(number, 5 << 20)
    whole_again(short, 2)
    left = lose_owner(short, NODES)
    upload.use(left[0])
    upload.put(3, 5 << 20)
    whole_again(short, 3)
    assert durability_of(upload.complete()) == "local-2"
    whole_again(short, 3)
    (lost,) = set(NODES) - set(left)
    short.wait_for(lambda: came_back(short, lost))
    short.settle(NODES)
    left = lose_owner(short, NODES)
    whole_again(short, 3)
    for node in left:
        assert short.wait_for(lambda n=node: read(client(short, n), "big")) == upload.body
    if mode == "WRITE_BACK":
        away.rename(place)
        persisted(short)
        assert (place / "big").read_bytes() == upload.body
    else:
        client(short, left[0]).delete_object(Bucket="abc", Key="big")
    short.wait_for(lambda: short.sum("quickwater_copies_kept_objects") == 0)
    short.wait_for(lambda: short.sum("quickwater_copies_elsewhere_objects") == 0)


def without_ufs(cluster: Cluster, nodes: list[str] = NODES) -> tuple[Path, Path]:
    """Takes the UFS of a new bucket away, whose objects have two copies; where that was, and
    where it is."""
    for node in nodes:
        client(cluster, node)
    cluster.settle(nodes)
    client(cluster, "n1").create_bucket(Bucket="abc")
    cluster.policy_of_all("WRITE_BACK", 2)
    persisted(cluster)
    place, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    cluster.wait_for(lambda: cluster.sum("quickwater_copies_kept_objects") == 0)
    place.rename(away)
    return place, away


def test_an_upload_moves_to_another_owner_with_its_copies(cluster: Cluster) -> None:
    place, away = without_ufs(cluster)
    upload = Upload(cluster, "n1", "big")
    upload.put(1, 5 << 20)
    upload.put(2, 5 << 20)
    owner = owner_of_parts(cluster, NODES)
    left = [node for node in NODES if node != owner]
    # What others have copies of does not keep its slot.
    cluster.cli("node", "drain", owner)
    cluster.wait_slots(lambda slots: sum(slots.get(node, 0) for node in left) == SLOTS)
    upload.use(left[0])
    upload.put(3, 70_000)
    assert durability_of(upload.complete()) == "local-2"
    # Its copies go once those of the others are made.
    kept = "quickwater_copies_kept_objects"
    cluster.wait_for(lambda: cluster.metric(owner, kept) == 0)
    whole_again(cluster, 3)
    cluster.lose(owner)
    for node in left:
        assert cluster.wait_for(lambda n=node: read(client(cluster, n), "big")) == upload.body
    away.rename(place)
    persisted(cluster)
    assert (place / "big").read_bytes() == upload.body


def test_an_owner_that_restarts_knows_who_has_copies_of_parts(cluster: Cluster) -> None:
    place, away = without_ufs(cluster)
    upload = Upload(cluster, "n1", "big")
    upload.put(1, 5 << 20)
    upload.put(2, 5 << 20)
    whole_again(cluster, 2)
    owner = owner_of_parts(cluster, NODES)
    cluster.worker(owner).kill()
    cluster.wait_for(lambda: came_back(cluster, owner))
    assert owner_of_parts(cluster, NODES) == owner
    whole_again(cluster, 2)
    # Whoever has a copy is lost, and the owner after that.
    kept = "quickwater_copies_kept_objects"
    others = [node for node in NODES if node != owner]
    holder = next(node for node in others if cluster.metric(node, kept) > 0)
    for lost in (holder, owner):
        cluster.lose(lost)
        cluster.cli("node", "remove", lost)
        if lost == holder:
            whole_again(cluster, 2)
    (left,) = set(others) - {holder}
    cluster.wait_for(lambda: came_back(cluster, holder))
    upload.use(left)
    assert durability_of(upload.complete()) == "local-2"
    assert cluster.wait_for(lambda: read(client(cluster, left), "big")) == upload.body
    away.rename(place)
    persisted(cluster)
    assert (place / "big").read_bytes() == upload.body


def test_copies_of_parts_go_with_them(cluster: Cluster) -> None:
    one = client(cluster, "n1")
    client(cluster, "n2")
    cluster.settle(["n1", "n2"])
    one.create_bucket(Bucket="abc")
    cluster.policy_of_all("WRITE_BACK", 2)
    persisted(cluster)
    place, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    cluster.wait_for(lambda: cluster.sum("quickwater_copies_kept_objects") == 0)
    place.rename(away)
    kept = lambda: cluster.sum("quickwater_copies_kept_objects")  # noqa: E731
    upload = Upload(cluster, "n1", "gone")
    upload.put(1, 100_000)
    upload.put(1, 90_000)
    upload.put(2, 1 << 20)
    cluster.wait_for(lambda: kept() == 2, kept)
    one.abort_multipart_upload(**upload.named)
    cluster.wait_for(lambda: kept() == 0, kept)
    upload = Upload(cluster, "n2", "stays")
    upload.put(1, 5 << 20)
    upload.put(2, 3_000)
    upload.put(7, 10)
    del upload.bodies[7], upload.etags[7]
    upload.complete()
    cluster.wait_for(lambda: kept() == 2, kept)
    assert read(one, "stays") == upload.body
    away.rename(place)
    persisted(cluster)
    assert (place / "stays").read_bytes() == upload.body
    cluster.wait_for(lambda: kept() == 0, kept)
    # A part that was acked when the policy asked for one copy.
    cluster.policy_of_all("WRITE_BACK", 1)
    upload = Upload(cluster, "n2", "raised")
    upload.put(1, 5 << 20)
    cluster.policy_of_all("WRITE_BACK", 2)
    upload.put(2, 3_000)
    assert durability_of(upload.complete()) == "local-2"
    persisted(cluster)
    assert (place / "raised").read_bytes() == upload.body


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Cluster]:
    """Two may be lost, and two are left to keep copies. No lease ends by itself."""
    made = Cluster(tmp_path / "four", "60s", FOUR)
    yield made
    made.close()


def error_of(call: Any) -> tuple[int, str]:
    """Status and code of what is refused."""
    with pytest.raises(ClientError) as refused:
        call()
    answer = refused.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_a_complete_says_that_a_part_is_lost(four: Cluster) -> None:
    place, away = without_ufs(four, FOUR)
    # One key, so they have the same owner, and whoever else is asked to keep their parts.
    again, ended = (Upload(four, "n1", "big") for _ in range(2))
    for upload in (again, ended):
        upload.put(1, 5 << 20)
    owner = owner_of_parts(four, FOUR)
    kept = "quickwater_copies_kept_objects"
    (other,) = four.wait_for(lambda: [node for node in FOUR if four.metric(node, kept) == 2])
    left = [node for node in FOUR if node not in (owner, other)]
    four.lose(owner)
    four.lose(other)
    # The owner's slots are others' as soon as it is removed, while the one who has the copies
    # may still come back: nothing is lost so far.
    four.wait_for(lambda: four.cli("node", "remove", owner).returncode == 0)
    once = client(four, left[0])

    def complete(upload: Upload, parts: list[int]) -> tuple[int, str]:
        named = [{"PartNumber": number, "ETag": upload.etags[number]} for number in parts]
        whole = {"Parts": named}
        return error_of(lambda: once.complete_multipart_upload(**upload.named, MultipartUpload=whole))

    assert complete(again, [1]) == (503, "SlowDown")
    four.wait_for(lambda: four.cli("node", "remove", other).returncode == 0)
    four.wait_slots(lambda slots: sum(slots.get(node, 0) for node in left) == SLOTS)
    for upload in (again, ended):
        upload.use(left[0])
        upload.put(2, 70_000)
        lost = (410, "ObjectLost")
        # Until the next owner knows who is removed it is told to come back.
        four.wait_for(lambda u=upload: complete(u, [1, 2]) == lost)
    # 4xx: nothing changed.
    listed = once.list_parts(**again.named)["Parts"]
    assert [(part["PartNumber"], part["ETag"]) for part in listed] == sorted(again.etags.items())
    once.abort_multipart_upload(**ended.named)
    assert error_of(lambda: once.list_parts(**ended.named)) == (404, "NoSuchUpload")
    again.put(1, (5 << 20) + 1)
    assert durability_of(again.complete()) == "local-2"
    whole_again(four, 2)
    for node in left:
        assert four.wait_for(lambda n=node: read(client(four, n), "big")) == again.body
    away.rename(place)
    persisted(four)
    assert (place / "big").read_bytes() == again.body
    for metric in (kept, "quickwater_copies_elsewhere_objects"):
        four.wait_for(lambda m=metric: four.sum(m) == 0)
