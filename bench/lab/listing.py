"""The LIST rows: buckets of 10^4 keys and more, a page of 1,000 from the middle of them."""

from __future__ import annotations

import random
import sys
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from .bench import Bench
from .clients import Connection, LoadFailed, Request
from .rounds import Contestant, Row

FOLDER_KEYS = 1000
PAGE = 1000
STARTS = 64
IMPORT_SECONDS_MAX = 3600.0
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def key(number: int) -> str:
    """The keys in order."""
    return f"f{number // FOLDER_KEYS:06}/k{number % FOLDER_KEYS:03}"


def list_rows(bench: Bench) -> list[Row]:
    """A contestant for every size of bucket. Filled by importing a directory of empty files."""
    contestants, notes = [], []
    port = bench.quickwater.endpoint.port
    for count in bench.options.list_keys:
        bucket = f"keys-{count}"
        with Connection(port) as connection:
            connection.exchange(Request("PUT", f"/{bucket}"))
        took = _fill(bench.files / bucket, count)
        imported = _import(port, bucket, count)
        notes.append(f"{count:,} keys: files made in {took:.0f} s, imported by the first listing in {imported:.0f} s")
        requests = _pages(bucket, count)
        with Connection(port) as connection:
            _, size = connection.exchange(requests[0])
        one: Contestant = bench.by_wrk(bench.quickwater.endpoint, requests, 1, size)
        contestants.append(Contestant(bucket, one.run, one.command))
    return [Row("list", "LIST 1,000 keys, 1 client", contestants, notes)]


def _fill(root: Path, count: int) -> float:
    start = time.monotonic()
    for number in range(count):
        path = root / key(number)
        if number % FOLDER_KEYS == 0:
            path.parent.mkdir(parents=True)
        path.touch()
    return time.monotonic() - start


def _import(port: int, bucket: str, count: int) -> float:
    """Lists the bucket from end to end once: what the service knows afterwards is all of it."""
    start, seen, token = time.monotonic(), 0, None
    with Connection(port) as connection:
        while True:
            query = [("list-type", "2"), ("max-keys", str(PAGE))]
            if token:
                query.append(("continuation-token", urllib.parse.quote(token, safe="")))
            page = connection.fetch(Request("GET", f"/{bucket}", query))
            root = ElementTree.fromstring(page)
            seen += len(root.findall(f"{NAMESPACE}Contents"))
            token = root.findtext(f"{NAMESPACE}NextContinuationToken")
            if time.monotonic() - start > IMPORT_SECONDS_MAX:
                raise LoadFailed(f"{bucket}: {seen:,} of {count:,} keys after {IMPORT_SECONDS_MAX:.0f} s")
            if not token:
                break
            if seen % 100_000 == 0 and sys.stderr.isatty():
                print(f"\r\x1b[K  {bucket}: {seen:,} keys", end="", file=sys.stderr, flush=True)
    if seen != count:
        raise LoadFailed(f"{bucket}: listed {seen:,} keys of {count:,}")
    return time.monotonic() - start


def _pages(bucket: str, count: int) -> list[Request]:
    """Full pages that begin anywhere, the same places every time."""
    chance = random.Random(count)
    starts = [key(chance.randrange(0, max(1, count - PAGE))) for _ in range(STARTS)]
    return [
        Request("GET", f"/{bucket}", [("list-type", "2"), ("max-keys", str(PAGE)),
                                      ("start-after", urllib.parse.quote(start, safe=""))])
        for start in starts
    ]  # fmt: skip
