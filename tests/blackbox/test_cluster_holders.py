"""What one live worker alone has, of keys that others own: it is read, and gets to the UFS."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.cluster import SLOTS, Cluster, settled
from harness.payload import KIB, payload

from .test_cluster_edges import made

NODES = ["n1", "n2", "n3"]
FLAGS = {
    "write-cache-fence": "3s",
    "write-cache-persist-retry-max": "1s",
    "s3-min-part-size": "1KiB",
}
PLAIN = 40
UPLOADS = 30


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three workers with a lease of three seconds."""
    with settled(tmp_path / "holders", "3s", NODES, flags=FLAGS) as cluster:
        yield cluster


def upload(cluster: Cluster, s3: Any, key: str, body: bytes) -> None:
    """Two parts, completed; begun anew when its owner goes meanwhile."""

    def whole() -> None:
        named = {"Bucket": "abc", "Key": key}
        named["UploadId"] = s3.create_multipart_upload(**named)["UploadId"]
        half, parts = len(body) // 2, []
        for number, part in enumerate((body[:half], body[half:]), 1):
            sent = s3.upload_part(**named, PartNumber=number, Body=part)
            parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})

    made(cluster, whole)


def wrong(cluster: Cluster, acked: dict[str, bytes]) -> list[str]:
    """Keys that some worker does not give as they were acked."""
    texts = []
    for node in NODES:
        s3 = cluster.worker(node).target().client(retries={"max_attempts": 0})
        for key, body in acked.items():
            try:
                got = made(cluster, lambda: s3.get_object(Bucket="abc", Key=key)["Body"].read())
            except ClientError as error:
                texts.append(f"{node} {key}: {error}")
                continue
            if got != body:
                texts.append(f"{node} {key}: {len(got)} bytes")
    return texts


def test_what_only_another_worker_has_is_read_and_persisted(cluster: Cluster) -> None:
    """It was acked by who owned the keys while their worker was away."""
    s3 = cluster.worker("n3").target().client(retries={"max_attempts": 0})
    made(cluster, lambda: s3.create_bucket(Bucket="abc"))
    cluster.policy_of_all("WRITE_BACK")
    waited = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "60s")
    assert waited.returncode == 0, waited
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    ufs.rename(away)
    cluster.worker("n1").kill()
    cluster.wait_slots(lambda slots: slots["n1"] == 0 and sum(slots.values()) == SLOTS)
    acked: dict[str, bytes] = {}
    for number in range(PLAIN):
        key, body = f"plain{number}", payload(20 * KIB, number)
        made(cluster, lambda: s3.put_object(Bucket="abc", Key=key, Body=body))
        acked[key] = body
    for number in range(UPLOADS):
        key, body = f"upload{number}", payload(30 * KIB, number)
        upload(cluster, s3, key, body)
        acked[key] = body
    # n1 has the slots that are its by placement before n2 comes back with their bytes.
    cluster.worker("n2").kill()
    cluster.worker("n1")
    cluster.wait_slots(lambda slots: slots["n2"] == 0 and sum(slots.values()) == SLOTS)
    cluster.wait_for(lambda: cluster.slots()["n1"] > 0)
    cluster.worker("n2")
    cluster.settle(["n1", "n2", "n3"])
    assert wrong(cluster, acked) == []
    away.rename(ufs)
    waited = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "90s")
    assert waited.returncode == 0, f"{waited}\n{cluster.logs()}"
    assert wrong(cluster, acked) == []
    stored = {path.name: path.read_bytes() for path in ufs.iterdir() if path.name in acked}
    assert stored == acked
    drained = cluster.cli("node", "drain", "n2", "--evacuate", "--timeout", "90s")
    assert drained.returncode == 0, f"{drained}\n{cluster.logs()}"
    assert wrong(cluster, acked) == []
