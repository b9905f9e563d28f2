"""Clients that read and write a few keys through any worker, and write down what they saw."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable

from .linear import GONE, History
from .payload import payload
from .raw import BROKEN, Query, Reply, Request, head_bytes, read_reply, sign
from .target import Target

# Of these a body has one; small ones more often.
SIZES = [60, 900, 900, 4_000, 4_000, 70_000, 300_000]
# A client that heard nothing for so long goes away.
PATIENCE_SECONDS = 4.0
PAUSE_SECONDS = 0.01
# What a client may be told, whatever the network does: it was done, there is nothing, come
# again: also if nobody knows what became of a write.
HONEST = {
    "GET": {200, 404, 503}, "HEAD": {200, 404, 503}, "PUT": {200, 503}, "DELETE": {204, 503},
    "CREATE": {200, 503}, "PART": {200, 503}, "COMPLETE": {200, 503},
    # Of a Complete of unknown outcome nothing may be left to be completed.
    "COMPLETE-AGAIN": {200, 404, 503},
}
# What the steps of a multipart upload are sent as.
SENT_AS = {"CREATE": "POST", "PART": "PUT", "COMPLETE": "POST", "COMPLETE-AGAIN": "POST"}
# All parts but the last: more than the least that the store simulator completes.
PART_BYTES = 2_000
PARTS_MAX = 3
NO_ANSWER = 0


@dataclass(frozen=True)
class Answer:
    """A request at a worker and its end, times in seconds of the monotonic clock."""

    worker: str
    method: str
    key: str
    begun: float
    ended: float
    status: int
    code: str = ""

    @property
    def done(self) -> bool:
        """It said something of the key."""
        return self.status in (200, 204, 404)

    def __str__(self) -> str:
        return f"[{self.begun:.3f} {self.ended:.3f}] {self.method} {self.key} at {self.worker}: {self.status} {self.code}"


class Crowd:
    """Threads that are clients. `targets` gives the address of a worker now."""

    def __init__(
        self, enter: Callable[[], None], targets: Callable[[str], Target], bucket: str, keys: list[str],
        seed: str,
    ) -> None:
        self.enter, self.targets, self.bucket, self.keys, self.seed = enter, targets, bucket, keys, seed
        self.history = History()
        self.answers: list[Answer] = []
        # Wrong beyond any order of operations: spliced or foreign bytes.
        self.garbled: list[str] = []
        self._etags: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    # -- single requests -----------------------------------------------------

    def put(self, worker: str, key: str) -> Answer:
        """Writes a value nobody wrote before."""
        number = next(self._numbers)
        value = f"{self.seed}.{number}"
        body = self.body(value)
        self._etags[hashlib.md5(body).hexdigest()] = value
        return self._write(worker, "PUT", key, value, body)

    def delete(self, worker: str, key: str) -> Answer:
        """Deletes."""
        return self._write(worker, "DELETE", key, GONE, b"")

    def multipart(self, workers: list[str], key: str) -> Answer:
        """Writes a value by an upload of parts, each step at the next worker: Complete is the
        write. One without an answer is sent once more, and is the same write."""
        turn = itertools.cycle(workers)
        number = next(self._numbers)
        value = f"{self.seed}.{number}"
        body = self.body(value)
        answer, reply = self._send(next(turn), "CREATE", key, b"", [("uploads", "")])
        if reply is None or answer.status != 200:
            return answer
        upload = ("uploadId", reply.text("UploadId"))
        digests = []
        for at, piece in enumerate(pieces(body), 1):
            digests.append(hashlib.md5(piece))
            query = [("partNumber", str(at)), upload]
            answer, _ = self._send(next(turn), "PART", key, piece, query)
            if answer.status != 200:
                return answer
        whole = hashlib.md5(b"".join(digest.digest() for digest in digests)).hexdigest()
        self._etags[f"{whole}-{len(digests)}"] = value
        listed = "".join(
            f"<Part><PartNumber>{at}</PartNumber><ETag>&quot;{digest.hexdigest()}&quot;</ETag></Part>"
            for at, digest in enumerate(digests, 1)
        )
        manifest = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        operation = self.history.write(key, value, f"of {len(digests)} parts")
        answer, _ = self._send(next(turn), "COMPLETE", key, manifest, [upload])
        if 400 <= answer.status < 500:
            self.history.refuse(key, operation)
        elif answer.status != 200:
            answer, _ = self._send(next(turn), "COMPLETE-AGAIN", key, manifest, [upload])
        if answer.status == 200:
            self.history.ack(operation)
        return answer

    def _write(self, worker: str, method: str, key: str, value: str, body: bytes) -> Answer:
        operation = self.history.write(key, value, f"at {worker}")
        answer, _ = self._send(worker, method, key, body)
        if answer.status in (200, 204):
            self.history.ack(operation)
        elif 400 <= answer.status < 500:
            self.history.refuse(key, operation)
        return answer

    def read(self, worker: str, key: str, method: str = "GET") -> Answer:
        """GET or HEAD."""
        begun = time.monotonic()
        answer, reply = self._send(worker, method, key, b"")
        if reply is not None and answer.status in (200, 404):
            value = GONE if answer.status == 404 else self._value(reply, method, answer)
            self.history.read(key, value, begun, f"at {worker}")
        return answer

    def _value(self, reply: Reply, method: str, answer: Answer) -> str:
        value = self.value_of(reply.headers.get("etag", ""))
        if method == "GET" and reply.body != self.body(value):
            self.garbled.append(f"{answer}: etag of {value}, bytes {reply.body[:60]!r}")
        return value

    def value_of(self, etag: str) -> str:
        """The value an ETag is of."""
        etag = etag.strip('"')
        return self._etags.get(etag, f"etag {etag}")

    def body(self, value: str) -> bytes:
        """The bytes of a value."""
        size = SIZES[int(hashlib.md5(value.encode()).hexdigest()[:8], 16) % len(SIZES)]
        return value.encode() + b"\n" + payload(size, value)

    def _send(
        self, worker: str, method: str, key: str, body: bytes, query: Query | None = None
    ) -> tuple[Answer, Reply | None]:
        target, begun = self.targets(worker), time.monotonic()
        sent_as = SENT_AS.get(method, method)
        request = Request(sent_as, f"/{self.bucket}/{key}", query=query or [], body=body)
        reply = None
        try:
            with socket.create_connection(target.address, PATIENCE_SECONDS) as connection:
                connection.sendall(head_bytes(request, sign(target, request)) + body)
                reply = read_reply(connection, sent_as)
        except BROKEN:
            pass  # nobody knows
        ended = time.monotonic()
        status, code = (reply.status, reply.code) if reply else (NO_ANSWER, "")
        if status == 200 and code:
            # A long Complete is answered before it is known how it ends.
            status = 503
        answer = Answer(worker, method, key, begun, ended, status, code)
        self.answers.append(answer)
        return answer, reply

    # -- load ----------------------------------------------------------------

    def start(self, workers: list[str], clients: int) -> None:
        """Requests of all kinds at these workers until `stop`."""
        self._stopping.clear()
        for number in range(clients):
            chance = random.Random(f"{self.seed}/{number}/{len(self.answers)}")
            thread = threading.Thread(target=self._run, args=(chance, workers), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, chance: random.Random, workers: list[str]) -> None:
        try:
            self.enter()
            while not self._stopping.is_set():
                worker, key, kind = chance.choice(workers), chance.choice(self.keys), chance.random()
                if kind < 0.4:
                    self.read(worker, key)
                elif kind < 0.5:
                    self.read(worker, key, "HEAD")
                elif kind < 0.83:
                    self.put(worker, key)
                elif kind < 0.9:
                    self.multipart(chance.sample(workers, len(workers)), key)
                else:
                    self.delete(worker, key)
                time.sleep(PAUSE_SECONDS)
        except BaseException as error:  # told by `stop`
            self._errors.append(error)

    def warm(self, wait: Callable[[Callable[[], bool]], None], workers: list[str], count: int) -> None:
        """Waits until each of these workers said so much."""
        for worker in workers:
            wait(lambda: sum(a.done for a in self.since(0, worker=worker)) >= count)

    def stop(self) -> None:
        """Ends the load; all that was asked is over when this returns."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(20 * PATIENCE_SECONDS)
            assert not thread.is_alive(), "a client does not end"
        self._threads = []
        if self._errors:
            raise self._errors[0]

    # -- afterwards ----------------------------------------------------------

    def since(self, begun: float, **what: Any) -> list[Answer]:
        """Answers to what began then or later, with these fields."""
        return [
            answer for answer in list(self.answers)
            if answer.begun >= begun and all(getattr(answer, k) == v for k, v in what.items())
        ]

    def wrong(self) -> str:
        """What clients were told and may not have been; empty: nothing."""
        odd = [str(a) for a in self.answers if a.status not in {NO_ANSWER, *HONEST[a.method]}]
        found = self.history.wrong()
        keys = [why.split(": ", 1)[0] for why in found]
        told = [f"\nall of {key}:\n{self.history.told(key)}" for key in keys[:1]]
        return "\n".join([*self.garbled[:5], *odd[:5], *found[:5], *told])

    def summary(self) -> str:
        """Answers by worker and status."""
        counts = Counter((answer.worker, answer.status) for answer in self.answers)
        return ", ".join(f"{worker} {status or '-'}: {n}" for (worker, status), n in sorted(counts.items()))


def pieces(body: bytes) -> list[bytes]:
    """The parts that a body is uploaded in."""
    whole = range(0, max(len(body) - PART_BYTES, 1), PART_BYTES)[:PARTS_MAX]
    return [body[at: at + PART_BYTES if at != whole[-1] else None] for at in whole]
