"""Applications on boto3 with its standard retries: each writes its own keys and reads
everybody's, and a request that fails in the end is a failure."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from .linear import GONE, History
from .payload import payload
from .target import Target

KEYS_EACH = 3
SIZES = [100, 5_000, 200_000]
PART_BYTES = 2_000
BATCH = 8


class Applications:
    """Threads with a client each. One writer a key: a write that is retried is done twice,
    which only nobody else's write in between makes the same as once."""

    def __init__(self, enter: Callable[[], None], target: Target, bucket: str, places: list[str]) -> None:
        self.enter, self.target, self.bucket, self.places = enter, target, bucket, places
        self.history = History()
        self.failed: list[str] = []
        self.retries = 0
        self.done = 0
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """So many, until `stop`."""
        keys = [[f"{self.places[n % len(self.places)]}/a{n}-{k}" for k in range(KEYS_EACH)] for n in range(count)]
        for number in range(count):
            others = [key for own in keys for key in own]
            words = (number, keys[number], others)
            thread = threading.Thread(target=self._run, args=words, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, seconds: float) -> None:
        """Ends them; all that was asked is over when this returns."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "an application does not end"

    def _run(self, number: int, own: list[str], others: list[str]) -> None:
        self.enter()
        s3 = self.target.client(retries={"mode": "standard"}, read_timeout=60)
        turn = 0
        while not self._stopping.is_set():
            turn += 1
            key, other = own[turn % len(own)], others[turn * 7 % len(others)]
            value = f"{number}.{turn}"
            body = value.encode() + b"\n" + payload(SIZES[turn % len(SIZES)], value)
            kind = turn % BATCH
            if kind == 5:
                self._write(key, value, lambda: self._multipart(s3, key, body))
            elif kind == 7:
                self._write(key, GONE, lambda: self._ask(s3.delete_object, Key=key))
            else:
                self._write(key, value, lambda: self._ask(s3.put_object, Key=key, Body=body))
            self._read(s3, key)
            self._read(s3, other)
            if kind == 3:
                self._try("list", lambda: self._ask(s3.list_objects_v2, Prefix=key.split("/")[0] + "/"))

    def _write(self, key: str, value: str, work: Callable[[], Any]) -> None:
        operation = self.history.write(key, value)
        if self._try(f"write of {key}", work):
            self.history.ack(operation)

    def _read(self, s3: Any, key: str) -> None:
        begun = time.monotonic()
        found: list[str] = []

        def work() -> None:
            try:
                answer = self._ask(s3.get_object, Key=key)
            except s3.exceptions.NoSuchKey:
                found.append(GONE)
                return
            body = answer["Body"].read()
            value = body.partition(b"\n")[0].decode()
            turn = int(value.split(".")[1])
            assert body == value.encode() + b"\n" + payload(SIZES[turn % len(SIZES)], value), body[:60]
            found.append(value)

        if self._try(f"read of {key}", work):
            self.history.read(key, found[0], begun)

    def _multipart(self, s3: Any, key: str, body: bytes) -> None:
        upload = self._ask(s3.create_multipart_upload, Key=key)["UploadId"]
        parts = []
        pieces = [body[:PART_BYTES], body[PART_BYTES:]] if len(body) > PART_BYTES else [body]
        for number, piece in enumerate(pieces, 1):
            part = {"Key": key, "UploadId": upload, "PartNumber": number, "Body": piece}
            parts.append({"PartNumber": number, "ETag": self._ask(s3.upload_part, **part)["ETag"]})
        manifest = {"Parts": parts}
        self._ask(s3.complete_multipart_upload, Key=key, UploadId=upload, MultipartUpload=manifest)

    def _ask(self, call: Callable[..., Any], **words: Any) -> Any:
        answer = call(Bucket=self.bucket, **words)
        self.retries += answer["ResponseMetadata"]["RetryAttempts"]
        return answer

    def _try(self, what: str, work: Callable[[], Any]) -> bool:
        begun = time.monotonic()
        try:
            work()
        except Exception as error:  # every one is a request that failed
            self.failed.append(f"[{begun:.3f} {time.monotonic():.3f}] {what}: {error!r}")
            return False
        self.done += 1
        return True
