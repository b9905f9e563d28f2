"""The LIST rows: buckets of 10^4 keys and more, a service each, pages of 1,000 by wrk."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from harness.server import binary

from .bench import Bench
from .clients import Connection, LoadFailed, Request
from .rounds import Contestant, Row
from .servers import Quickwater, Unavailable

FOLDER_KEYS = 1000
PAGE = 1000
STARTS = 2048
FILL_SECONDS_MAX = 1800.0
COMPARE_SECONDS_MAX = 600.0
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
TOP = "train/"


def key(number: int) -> str:
    """The keys in order, as the filler names them."""
    return f"{TOP}shard-{number // FOLDER_KEYS:06}/sample-{number:010}.jpg"


def list_rows(bench: Bench) -> list[Row]:
    """A service for every size of bucket, so that its memory is that of the size."""
    anywhere, in_order, folders, notes = [], [], [], []
    for count in bench.options.list_keys:
        bucket = f"keys-{count}"
        ours, note = _served(bench, bucket, count)
        notes.append(note)
        kinds = (anywhere, _anywhere), (in_order, _in_order), (folders, _folders)
        for contestants, pages in kinds:
            requests = pages(bucket, count)
            size = _checked(ours, requests[0], pages is _folders, count)
            one: Contestant = bench.by_wrk(ours.endpoint, requests, 1, size)
            contestants.append(Contestant(bucket, one.run, one.command))
    return [
        Row("list", "LIST 1,000 keys from anywhere, 1 client", anywhere, notes),
        Row("list-walk", "LIST 1,000 keys, page after page, 1 client", in_order),
        Row("list-folders", "LIST up to 1,000 common prefixes of 1,000 keys each, 1 client", folders),
    ]


def _served(bench: Bench, bucket: str, count: int) -> tuple[Quickwater, str]:
    """A service of its own whose bucket has that many keys, compared with the UFS."""
    home = bench.options.keep or bench.home
    filled_by = home / f"{bucket}.filled-by"
    kept = filled_by.exists() and filled_by.read_text() == _program()
    if not kept:
        for old in (home / bucket, home / f"{bucket}-files"):
            shutil.rmtree(old, ignore_errors=True)
        filled_by.unlink(missing_ok=True)
    files = home / f"{bucket}-files"
    (files / "writes").mkdir(parents=True, exist_ok=True)
    ours = Quickwater(home, files, "1GiB", bucket)
    bench.stack.callback(ours.close)
    metadata = ours.server.dir / "metadata"
    began = time.monotonic()
    if not kept:
        with Connection(ours.endpoint.port) as connection:
            connection.exchange(Request("PUT", f"/{bucket}"))
        ours.restart(lambda: _fill(metadata, bucket, count))
        filled_by.write_text(_program())
    filled = time.monotonic()
    _compare(ours, bucket)
    took = time.monotonic() - filled
    size = sum(file.stat().st_size for file in metadata.rglob("*") if file.is_file())
    how = "kept from a run before" if kept else f"filled in {filled - began:.0f} s"
    return ours, f"{count:,} keys: {how}, {size / 1e6:,.0f} MB of metadata, looked through by the first listing in {took:.1f} s"


def _program() -> str:
    """Which program filled a bucket: another one may keep its metadata in another way."""
    return f"{binary()} {binary().stat().st_mtime_ns}"


def filler() -> Path:
    """The program that fills a bucket: an example of the control plane, beside the service."""
    return binary().parent / "examples" / "fill_bucket"


def _fill(metadata: Path, bucket: str, count: int) -> None:
    if not filler().exists():
        raise Unavailable(
            f"{filler()} is not built: cargo build --release -p quickwater-controlplane --example fill_bucket"
        )
    # Both cores: nothing is measured meanwhile.
    words = ["taskset", "-c", f"0-{(os.cpu_count() or 1) - 1}", str(filler()), str(metadata), bucket, str(count)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=FILL_SECONDS_MAX)
    if done.returncode != 0:
        raise LoadFailed(f"{filler().name}: {done.stderr}")


def _compare(ours: Quickwater, bucket: str) -> None:
    """Lists until the comparison with the UFS is done: after it the metadata alone answers."""
    end = time.monotonic() + COMPARE_SECONDS_MAX
    while time.monotonic() < end:
        try:
            with Connection(ours.endpoint.port) as connection:
                connection.fetch(Request("GET", f"/{bucket}", [("list-type", "2")]))
            return
        except LoadFailed as failed:
            if " 503 " not in str(failed):
                raise
    raise LoadFailed(f"{bucket}: no listing within {COMPARE_SECONDS_MAX:.0f} s")


def _checked(ours: Quickwater, request: Request, folders: bool, count: int) -> int:
    """The size of an answer that holds as many entries as it must."""
    with Connection(ours.endpoint.port) as connection:
        page = connection.fetch(request)
    tag, wanted = ("CommonPrefixes", min(PAGE, count // FOLDER_KEYS)) if folders else ("Contents", PAGE)
    found = len(ElementTree.fromstring(page).findall(f"{NAMESPACE}{tag}"))
    if found != wanted:
        raise LoadFailed(f"{request.path}: {found} of {wanted} {tag}")
    return len(page)


def _page(bucket: str, *more: tuple[str, str]) -> Request:
    query = [("list-type", "2"), ("max-keys", str(PAGE)), *more]
    return Request("GET", f"/{bucket}", [(name, urllib.parse.quote(value, safe="")) for name, value in query])


def _anywhere(bucket: str, count: int) -> list[Request]:
    """Full pages that begin anywhere, the same places every time."""
    chance = random.Random(count)
    starts = [chance.randrange(0, max(1, count - PAGE)) for _ in range(STARTS)]
    return [_page(bucket, ("start-after", key(start))) for start in starts]


def _in_order(bucket: str, count: int) -> list[Request]:
    """Pages from the beginning, each where the one before ended."""
    later = [_page(bucket, ("start-after", key(start - 1))) for start in range(PAGE, count, PAGE)[: STARTS - 1]]
    return [_page(bucket), *later]


def _folders(bucket: str, count: int) -> list[Request]:
    """Common prefixes, behind each of which are keys to jump over."""
    full = range(PAGE, count // FOLDER_KEYS - PAGE + 1, PAGE)
    starts = [f"{TOP}shard-{start - 1:06}/" for start in full]
    prefix = (("prefix", TOP), ("delimiter", "/"))
    return [_page(bucket, *prefix), *(_page(bucket, *prefix, ("start-after", start)) for start in starts)]
