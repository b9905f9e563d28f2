"""The rows of the table of targets: who takes part in each, under which load."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Callable

from harness.payload import payload

from . import floors
from .bench import Bench
from .clients import Request, once_each, read_after_write
from .listing import list_rows
from .memory import index_row
from .rounds import Contestant, Load, Row, under_load
from .servers import (COLD_FILES, HOT_FILES, KEPT, LARGE, PART, SMALL, WRITES, Endpoint, Quickwater,
                      large_gets, small_gets)  # fmt: skip

CONNECTIONS = 64
PUT_KEYS, PART_KEYS, PART_STREAMS = 2048, 16, 8
# Reads in flight: 4 for a lone stream, 2 each for many (design, data plane 4).
DEPTHS = {1: 4, 8: 16}


def get_small_ram(bench: Bench) -> list[Row]:
    """GET 10 KiB from memory, anonymous."""
    return [Row("get-small-ram", "GET 10 KiB, hit in RAM, 64 connections", [
        bench.gets(bench.nginx, HOT_FILES, CONNECTIONS),
        bench.gets(bench.quickwater.endpoint, HOT_FILES, CONNECTIONS),
    ])]  # fmt: skip


def get_small_signed(bench: Bench) -> list[Row]:
    """GET 10 KiB from memory, every request's signature verified."""
    return [Row("get-small-signed", "GET 10 KiB, hit in RAM, 64 connections, SigV4 verified", [
        bench.gets(bench.nginx, HOT_FILES, CONNECTIONS),
        bench.gets(bench.quickwater.endpoint, HOT_FILES, CONNECTIONS, signed=True),
    ])]  # fmt: skip


def get_small_nvme(bench: Bench) -> list[Row]:
    """GET 10 KiB from NVMe beside nginx from its page cache."""
    return [Row("get-small-nvme", "GET 10 KiB from NVMe, 64 connections", [
        bench.gets(bench.nginx, COLD_FILES, CONNECTIONS),
        bench.gets(bench.quickwater_from_disk, COLD_FILES, CONNECTIONS),
    ])]  # fmt: skip


def get_large(bench: Bench) -> list[Row]:
    """GET 64 MiB from NVMe, page cache dropped."""
    files = bench.options.large_files
    size, large = files * LARGE, large_gets(files)
    rows = []
    for streams, depth in DEPTHS.items():
        fio = floors.fio_read_command(bench.read_file, size, depth)
        contestants = [
            bench.by_streams(bench.quickwater.endpoint, large, streams, cold=True),
            bench.by_streams(bench.nginx, large, streams, cold=True),
            bench.by_streams(bench.nginx_directio, large, streams, cold=True),
            Contestant("fio", lambda depth=depth: floors.fio_read(bench.read_file, size, depth), " ".join(fio)),
            Contestant("loopback", lambda streams=streams: floors.loopback(streams, size), "lab/floors.py loopback"),
        ]
        title = f"GET 64 MiB from NVMe, page cache dropped, {streams} stream{'s' if streams > 1 else ''}"
        rows.append(Row(f"get-large-{streams}", title, contestants))
    return rows


def puts(size: int, keys: int, bucket: str = WRITES) -> list[Request]:
    """Uploads over some keys."""
    body = payload(size, "put")
    return [Request("PUT", f"/{bucket}/p{size}-{number}", body=body) for number in range(keys)]


MERGED = (
    "flush-serial is one flush per PUT; flush-merged is 64 writers with an fdatasync each, "
    "whose flushes the kernel merges while one is under way"
)


ACKS = (
    "quickwater-ack is policy TRANSIENT: the same data, commit and flush before the ack, and no "
    "persister; quickwater is WRITE_BACK while the persister writes to a POSIX UFS on the same "
    "CPU. Both are judged; the difference is the persister's"
)


def put_small(bench: Bench) -> list[Row]:
    """PUT 10 KiB, durable: 64 clients, 16 and one; and until the UFS has them."""
    ours, seconds, file = bench.quickwater, bench.options.seconds, bench.flush_file
    requests, kept = puts(SMALL, PUT_KEYS), puts(SMALL, PUT_KEYS, KEPT)
    note = f"policy {ours.policy}"
    each = " ".join(floors.fio_flush_command(file, seconds))
    return [
        Row("put-small-64", "PUT 10 KiB durable, 64 clients", [
            bench.puts(ours.endpoint, requests, 64),
            settled(bench, bench.puts(ours.acks, kept, 64, KEPT)),
            Contestant("flush-serial", lambda: floors.bare_flush(file, seconds), "lab/floors.py bare_flush"),
            Contestant("flush-merged", lambda: floors.fio_flush_rate(file, seconds), each),
        ], [note, ACKS, MERGED]),
        *(Row(f"put-small-{clients}", f"PUT 10 KiB durable, {clients} client{'s' if clients > 1 else ''}", [
            bench.puts(ours.endpoint, requests, clients),
            settled(bench, bench.puts(ours.acks, kept, clients, KEPT)),
            Contestant("flush-bare", lambda: floors.bare_flush(file, seconds), "lab/floors.py bare_flush"),
        ], [note, ACKS]) for clients in (16, 1)),
        Row("persist-small", "10 KiB objects until the UFS has them, 64 clients", [
            persisted(bench, ours, ours.endpoint, requests, 64),
            persisted(bench, bench.quickwater_to_tmpfs, bench.quickwater_to_tmpfs.endpoint, requests, 64),
            persisted(bench, ours, ours.acks, kept, 64),
        ], [note, PERSISTED]),
    ]  # fmt: skip


PERSISTED = (
    "each object once, counted until the UFS has all; quickwater-ack only writes them: the "
    "difference in CPU is what persisting one costs; the UFS of quickwater-tmpfs is a tmpfs, "
    "that of the others the disk under the cache"
)


def settled(bench: Bench, contestant: Contestant) -> Contestant:
    """Not while what was written before is still on its way to the UFS."""
    contestant.prepare = bench.quickwater.settle
    return contestant


def persisted(
    bench: Bench, ours: Quickwater, endpoint: Endpoint, requests: list[Request], streams: int
) -> Contestant:
    """A server under PUTs until the UFS has them all."""

    def work() -> Load:
        began = time.perf_counter()
        load = once_each(endpoint.port, requests, streams, keys=None)
        ours.settle()
        load.seconds = time.perf_counter() - began
        return load

    words = f"{len(requests)} x PUT {requests[0].path} ..., {streams} connections; async-persist wait"
    run = lambda: under_load(endpoint, work)  # noqa: E731
    return settled(bench, Contestant(endpoint.name, run, f"{endpoint.command}\n{words}"))


def put_large(bench: Bench) -> list[Row]:
    """PUT 10 MiB, 8 streams."""
    ours = bench.quickwater
    contestants = [
        bench.by_streams(ours.endpoint, _parts(bench), PART_STREAMS),
        settled(bench, bench.by_streams(ours.acks, _parts(bench, KEPT), PART_STREAMS)),
    ]
    notes = [f"policy {ours.policy}", ACKS]
    return [Row("put-large", "PUT 10 MiB, 8 streams, ETag = MD5", contestants, notes)]


def _parts(bench: Bench, bucket: str = WRITES) -> list[Request]:
    times = max(1, round(bench.options.seconds))
    return puts(PART, PART_KEYS, bucket) * times


def get_after_write(bench: Bench) -> list[Row]:
    """GET of a key just written beside a GET of an old one, one connection."""
    ours = bench.quickwater
    kept: list[Load] = []

    def both() -> None:
        if not kept:
            endpoint, seconds = ours.endpoint, bench.options.seconds
            kept.extend(read_after_write(endpoint.port, WRITES, seconds, SMALL, None))

    def take(which: int) -> Callable[[], Load]:
        def run() -> Load:
            load, kept[which] = kept[which], None  # type: ignore[call-overload]
            if kept == [None, None]:
                kept.clear()
            return load

        return run

    how = "PUT new key, GET it, GET an old key, ... on one connection (lab/clients.py read_after_write)"
    return [Row("get-after-write", "GET 10 KiB just written", [
        Contestant("quickwater", take(0), how, both),
        Contestant("quickwater-settled", take(1), how, both),
    ], [f"policy {ours.policy}"])]  # fmt: skip


def against_peers(bench: Bench) -> list[Row]:
    """The four kinds of work beside other S3 servers; their files in the page cache, their PUTs not flushed."""
    ours, hot = bench.quickwater.endpoint, small_gets(HOT_FILES)
    signed, acks = replace(ours, name="quickwater-signed"), bench.quickwater.acks
    everyone = [(ours, False), (signed, True), *((peer, peer.keys is not None) for peer in bench.peers)]
    large, parts = large_gets(bench.options.large_files), _parts(bench)
    small_puts = puts(SMALL, PUT_KEYS)
    rows = [
        Row("peers-get-small", "GET 10 KiB, 64 connections",
            [bench.by_wrk(e, hot, 64, SMALL, signed=s) for e, s in everyone]),
        Row("peers-put-small", "PUT 10 KiB, 64 connections",
            [settled(bench, bench.by_wrk(acks, puts(SMALL, PUT_KEYS, KEPT), 64, SMALL)),
             *(bench.by_wrk(e, small_puts, 64, SMALL, signed=s) for e, s in everyone)]),
        Row("peers-get-large", "GET 64 MiB, 2 streams",
            [bench.by_streams(e, large, 2, signed=s) for e, s in everyone]),
        Row("peers-put-large", "PUT 10 MiB, 8 streams",
            [settled(bench, bench.by_streams(acks, _parts(bench, KEPT), PART_STREAMS)),
             *(bench.by_streams(e, parts, PART_STREAMS, signed=s) for e, s in everyone)]),
    ]  # fmt: skip
    for row in rows[1::2]:
        row.notes.append("quickwater includes the copy to the UFS (WRITE_BACK), which a peer does not make; "
                         "quickwater-ack is as durable and goes nowhere else (TRANSIENT)")  # fmt: skip
    for row in rows:
        row.notes.append("s3s-fs is asked anonymously, as quickwater is; the others want signatures, as quickwater-signed does")
    return rows


def over_tls(bench: Bench) -> list[Row]:
    """GET hits over HTTPS, from memory and from NVMe; no target."""
    rows = []
    for name, size, title in (("get-small-tls", SMALL, "GET 10 KiB over HTTPS, hit in RAM, 64 connections"),
                              ("get-large-tls", LARGE, "GET 64 MiB over HTTPS, 2 streams")):  # fmt: skip
        contestants, agreed = bench.over_tls(size)
        notes = [agreed, "quickwater-plain is the same process over HTTP", "nginx reads from its page cache"]
        rows.append(Row(name, title, contestants, notes))
    return rows


# In the order they run; names are what `--rows` takes.
ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "get-small-ram": get_small_ram,
    "get-small-signed": get_small_signed,
    "get-small-nvme": get_small_nvme,
    "get-large": get_large,
    "put-small": put_small,
    "put-large": put_large,
    "get-after-write": get_after_write,
    "tls": over_tls,
    "list": list_rows,
    "peers": against_peers,
    "index": index_row,
}
