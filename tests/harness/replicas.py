"""Clients of a cluster that keeps copies (`writeReplicas`), and how many there are."""

from __future__ import annotations

from typing import Any, Callable

from botocore.exceptions import ClientError

from .cluster import Cluster
from .payload import payload
from .server import StartFailed

NODES = ["n1", "n2", "n3"]


def client(cluster: Cluster, node: str) -> Any:
    """One that does not try again by itself."""
    return cluster.worker(node).target().client(retries={"max_attempts": 0})


def durability_of(answer: Any) -> str:
    """What a PUT says of where its bytes are."""
    return str(answer["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-durability"])


def put(s3: Any, key: str, body: bytes) -> str | None:
    """Where the bytes of a PUT are; none: it was told to come back, or nobody knows."""
    try:
        return durability_of(s3.put_object(Bucket="abc", Key=key, Body=body))
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
        return None


def read(s3: Any, key: str) -> bytes | None:
    """An object; none: not now."""
    try:
        return bytes(s3.get_object(Bucket="abc", Key=key)["Body"].read())
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, (key, error)
        return None


def persisted(cluster: Cluster) -> None:
    """Waits until the UFS has everything."""
    done = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "2m")
    assert done.returncode == 0, f"{done}\n{cluster.logs()}"


class Upload:
    """A multipart upload under way, whose calls are repeated for as long as they are told to
    come back."""

    def __init__(self, cluster: Cluster, node: str, key: str) -> None:
        self.cluster = cluster
        self.key = key
        self.bodies: dict[int, bytes] = {}
        self.etags: dict[int, str] = {}
        self.use(node)
        made = self.repeat(lambda: self.s3.create_multipart_upload(Bucket="abc", Key=key))
        self.named = {"Bucket": "abc", "Key": key, "UploadId": made["UploadId"]}

    def use(self, node: str) -> None:
        """From now on it goes on at this worker."""
        self.s3 = client(self.cluster, node)

    def repeat(self, call: Callable[[], Any]) -> Any:
        """Its answer in the end."""

        def once() -> Any:
            try:
                return call()
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
                return None

        return self.cluster.wait_for(once, f"{self.key} is told to come back for ever")

    def put(self, number: int, size: int) -> None:
        """Sends a part."""
        body = payload(size, f"{self.key}-{number}")
        call = lambda: self.s3.upload_part(**self.named, PartNumber=number, Body=body)  # noqa: E731
        self.etags[number] = self.repeat(call)["ETag"]
        self.bodies[number] = body

    def complete(self) -> Any:
        """Makes an object of its parts; the answer."""
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in sorted(self.etags.items())]
        whole = {"Parts": parts}
        call = lambda: self.s3.complete_multipart_upload(**self.named, MultipartUpload=whole)  # noqa: E731
        return self.repeat(call)

    @property
    def body(self) -> bytes:
        """What the object has to be."""
        return b"".join(body for _, body in sorted(self.bodies.items()))


def whole_again(cluster: Cluster, bodies: int) -> None:
    """Waits until so many bodies have all their copies."""
    held, kept = "quickwater_copies_elsewhere_objects", "quickwater_copies_kept_objects"
    missing = "quickwater_copies_missing_objects"

    def settled() -> bool:
        return cluster.sum(missing) == 0 and cluster.sum(held) == cluster.sum(kept) == bodies

    cluster.wait_for(settled, lambda: {name: cluster.sum(name) for name in (held, kept, missing)})


def came_back(cluster: Cluster, node: str) -> bool:
    """Starts a worker that was lost; false: its name is still taken by the lease it had."""
    try:
        return cluster.worker(node).alive()
    except StartFailed as error:
        assert "may still run" in str(error), error
        return False
