"""Mixed load by several threads, every ack written to the journal."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from harness.payload import KIB, MIB
from harness.target import Target

from .journal import Journal, Seen, Value

SIZES = [0, 1, 100, 10 * KIB, 10 * KIB, 10 * KIB, 70 * KIB, 300 * KIB, MIB + 17, 3 * MIB]
KEYS_PER_WRITER = 30
PART_BYTES = MIB
# Abandoned parts hold dirty space until they are swept, and a load may run for long.
UPLOADS_LEFT_OPEN_MAX = 12
NO_ANSWER = (BotoCoreError, HTTPClientError, OSError)


class WrongBytes(AssertionError):
    """The running service showed something it may not show."""


@dataclass
class OpenUpload:
    """A multipart upload with an acked first part, left open over the crash."""

    key: str
    upload_id: str
    etag: str
    data: bytes


class Writer(threading.Thread):
    """One client with keys of its own."""

    def __init__(self, load: "Load", number: int, seed: str) -> None:
        super().__init__(name=f"writer{number}", daemon=True)
        self.load = load
        self.number = number
        self.random = random.Random(f"{seed}/{number}")
        self.s3 = load.target.client(
            read_timeout=30, response_checksum_validation="when_required"
        )
        self.error: BaseException | None = None

    def run(self) -> None:
        """Until told to stop or the service is gone."""
        try:
            while not self.load.stopping.is_set():
                self.try_step()
        except NO_ANSWER:
            return  # the service is dead, as planned
        except BaseException as error:  # reported by Load.stop
            self.error = error

    def try_step(self) -> None:
        """With a rough UFS a 5xx is an answer like others, and so is a body that was cut
        because it stalled; writes journal it."""
        try:
            self.step()
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            stalled = error.response["Error"].get("Code") == "RequestTimeout"
            if not self.load.rough or (status < 500 and not stalled):
                raise

    def key(self) -> str:
        """One of ours; plain and nested names."""
        number = self.random.randrange(KEYS_PER_WRITER)
        return f"w{self.number}/d{number % 3}/k{number:02}"

    def step(self) -> None:
        """One operation."""
        choice = self.random.random()
        if choice < 0.50:
            self.put()
        elif choice < 0.60:
            self.delete()
        elif choice < 0.68:
            self.multipart()
        elif choice < 0.74:
            self.copy()
        else:
            self.read()

    def write(self, key: str, seen: Seen, call: Any) -> None:
        """Runs a write and writes down how it ended."""
        journal = self.load.journal
        journal.begin(key, seen)
        try:
            call()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                journal.refused(key, seen)
                raise
            journal.lost_answer(error)
            if self.load.faulty.is_set():
                raise ConnectionError("answered 5xx while the disk is gone") from error
        except NO_ANSWER as error:
            journal.lost_answer(error)
            raise
        else:
            journal.ack(key, seen)

    def put(self) -> None:
        """PUT of a new value."""
        key = self.key()
        value = self.load.journal.value(key, self.random.choice(SIZES))
        where = {"Bucket": self.load.bucket, "Key": key, "Metadata": value.metadata()}
        body = value.data()
        self.write(key, value, lambda: self.s3.put_object(Body=body, **where))

    def delete(self) -> None:
        """DELETE."""
        key = self.key()
        self.write(key, None, lambda: self.s3.delete_object(Bucket=self.load.bucket, Key=key))

    def multipart(self) -> None:
        """A value in parts; now and then left open with its first part acked."""
        key = self.key()
        value = self.load.journal.value(key, 2 * PART_BYTES + self.random.randrange(MIB))
        data = value.data()
        where = {"Bucket": self.load.bucket, "Key": key}
        made = self.s3.create_multipart_upload(Metadata=value.metadata(), **where)
        where["UploadId"] = made["UploadId"]
        pieces = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)]
        parts = []
        for number, piece in enumerate(pieces, 1):
            reply = self.s3.upload_part(PartNumber=number, Body=piece, **where)
            parts.append({"PartNumber": number, "ETag": reply["ETag"]})
            if number == 1 and self.random.random() < 0.2:
                one = OpenUpload(key, where["UploadId"], reply["ETag"], piece)
                if not self.load.leave_open(one):
                    self.s3.abort_multipart_upload(**where)
                return
        self.write(
            key,
            value,
            lambda: self.s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where),
        )

    def copy(self) -> None:
        """A copy of one of our objects under a key of the same writer."""
        source, key = self.key(), f"w{self.number}/copies/{self.random.randrange(5)}"
        past = self.load.journal.current(source)
        if len(past) != 1 or past[0] is None:
            return
        value = past[0]
        place = {"Bucket": self.load.bucket, "Key": source}
        self.write(
            key,
            value,
            lambda: self.s3.copy_object(Bucket=self.load.bucket, Key=key, CopySource=place),
        )

    def read(self) -> None:
        """A read of our own key: exactly what was acked (C2)."""
        key = self.key()
        allowed = self.load.journal.current(key)
        found = fetch(self.s3, self.load.bucket, key)
        if match(found, allowed) is Mismatch:
            raise WrongBytes(f"{key}: read {describe(found)}, allowed {allowed}")


class Load:
    """Writers against one bucket."""

    def __init__(
        self, target: Target, bucket: str, journal: Journal, writers: int, seed: str,
        rough: bool = False,
    ) -> None:
        self.target = target
        self.bucket = bucket
        self.journal = journal
        self.rough = rough
        self.stopping = threading.Event()
        self.faulty = threading.Event()
        self.uploads: list[OpenUpload] = []
        self._lock = threading.Lock()
        self.writers = [Writer(self, number, seed) for number in range(writers)]

    def start(self) -> None:
        """Starts all writers."""
        for writer in self.writers:
            writer.start()

    def stop(self) -> None:
        """Waits for all writers; raises what went wrong in one of them."""
        self.stopping.set()
        for writer in self.writers:
            writer.join(60)
            assert not writer.is_alive(), f"{writer.name} hangs: an operation has no deadline"
        for writer in self.writers:
            if writer.error is not None:
                raise writer.error

    def leave_open(self, upload: OpenUpload) -> bool:
        """Keeps an upload for after the crash; `False`: there are enough of them."""
        with self._lock:
            room = len(self.uploads) < UPLOADS_LEFT_OPEN_MAX
            if room:
                self.uploads.append(upload)
            return room


class Mismatch:
    """Neither the acked value nor a possible one."""


def fetch(s3: Any, bucket: str, key: str) -> bytes | None:
    """The object's bytes, or None for 404."""
    try:
        reply = s3.get_object(Bucket=bucket, Key=key)
        return bytes(reply["Body"].read())
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise


def match(found: bytes | None, allowed: list[Seen]) -> Seen | type[Mismatch]:
    """Which allowed value was found."""
    for seen in allowed:
        if (seen is None and found is None) or (
            isinstance(seen, Value) and found is not None and seen.data() == found
        ):
            return seen
    return Mismatch


def describe(found: bytes | None) -> str:
    """For messages."""
    return "nothing (404)" if found is None else f"{len(found)} bytes {found[:40]!r}"
