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
from .relayed import relay_rows
from .rounds import Contestant, Load, Row, together, under_load
from .servers import (COLD_FILES, HOT_FILES, KEPT, LARGE, PART, SMALL, WRITES, Quickwater, Unavailable,
                      large_gets, small_gets)  # fmt: skip

CONNECTIONS = 64
PUT_KEYS, PART_KEYS, PART_STREAMS = 2048, 16, 8
# What ours needs more of, so that a tick of CPU time is below 1 %.
ACK_PASSES, HOT_PASSES = 3, 5
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
    size, large, passes = files * LARGE, large_gets(files), bench.options.large_passes
    # Directio takes several times the CPU and the time: ticks enough in fewer passes.
    servers = ((bench.quickwater.endpoint, passes), (bench.nginx, passes), (bench.nginx_directio, -(-passes // 3)))
    rows = []
    for streams, depth in DEPTHS.items():
        fio = floors.fio_read_command(bench.read_file, size, depth)
        contestants = [
            *(bench.by_streams(one, large, streams, cold=True, passes=passes) for one, passes in servers),
            Contestant("fio", lambda depth=depth: floors.fio_read(bench.read_file, size, depth), " ".join(fio)),
            Contestant("loopback", lambda streams=streams: floors.loopback(streams, size), "lab/floors.py loopback"),
        ]
        title = f"GET 64 MiB from NVMe, page cache dropped, {streams} stream{'s' if streams > 1 else ''}"
        rows.append(Row(f"get-large-{streams}", title, contestants))
    return rows


def puts(size: int, keys: int, bucket: str = WRITES, name: str = "p") -> list[Request]:
    """Uploads over some keys."""
    body = payload(size, "put")
    return [Request("PUT", f"/{bucket}/{name}{size}-{number}", body=body) for number in range(keys)]


MERGED = (
    "flush-serial is one flush per PUT; flush-merged is 64 writers with an fdatasync each, "
    "whose flushes the kernel merges while one is under way"
)


ACKS = (
    "quickwater-ack is policy TRANSIENT: data, commit and flush before the ack, as under WRITE_BACK, and "
    "nothing after it. quickwater-write-back is the ack while the persister works on the same core; a key is "
    "overwritten many times, so versions coalesce: no rate that could last, and its CPU is not shown, for the "
    "window has not all of it (persist-small has). The next contestant starts when the UFS has everything"
)
COPIED = (
    "quickwater-with-copy: WRITE_BACK, new keys, CPU and time until the UFS has every one of them, by what was "
    "put; quickwater-ack is durable and goes nowhere else (TRANSIENT): the PUT that the target speaks of"
)


def put_small(bench: Bench) -> list[Row]:
    """PUT 10 KiB, durable: 64 clients, 16 and one; and until the UFS has them."""
    ours, seconds, file = bench.quickwater, bench.options.seconds, bench.flush_file
    requests, kept = puts(SMALL, PUT_KEYS), puts(SMALL, PUT_KEYS, KEPT)
    each = " ".join(floors.fio_flush_command(file, seconds))
    serial = lambda: floors.bare_flush(file, seconds)  # noqa: E731
    once = puts(SMALL, _copied(bench, COPIED_SMALL), KEPT)
    return [
        Row("put-small-64", "PUT 10 KiB durable, 64 clients", [
            beside_persister(bench, bench.puts(ours.write_back, requests, 64)),
            bench.puts(ours.acks, kept, 64, KEPT),
            Contestant("flush-serial", serial, "lab/floors.py bare_flush"),
            Contestant("flush-merged", lambda: floors.fio_flush_rate(file, seconds), each),
        ], [ACKS, MERGED]),
        *(Row(f"put-small-{clients}", f"PUT 10 KiB durable, {clients} client{'s' if clients > 1 else ''}", [
            beside_persister(bench, bench.puts(ours.write_back, requests, clients)),
            bench.puts(ours.acks, kept, clients, KEPT),
            Contestant("flush-bare", serial, "lab/floors.py bare_flush"),
        ], [ACKS]) for clients in (16, 1)),
        Row("persist-small", "10 KiB objects until the UFS has them, 64 clients", [
            with_copy(ours, COPY, SMALL, _copied(bench, COPIED_SMALL), 64),
            with_copy(bench.quickwater_to_tmpfs, "quickwater-tmpfs", SMALL, _copied(bench, COPIED_SMALL), 64),
            bench.by_streams(ours.acks, once, 64),
        ], [COPIED, PERSISTED]),
    ]  # fmt: skip


PERSISTED = (
    "each object once; the difference in CPU to quickwater-ack is what persisting one costs; the UFS of "
    "quickwater-tmpfs is a tmpfs, that of quickwater-with-copy the disk under the cache"
)
COPY = "quickwater-with-copy"
# Objects that are put and copied in a round; the large ones in waves that the dirty space holds.
COPIED_SMALL, COPIED_LARGE, WAVES_LARGE = 6000, 48, 2


def _copied(bench: Bench, count: int) -> int:
    """Fewer in a short run."""
    return max(PART_STREAMS, round(count * min(1.0, bench.options.seconds / 3)))


def beside_persister(bench: Bench, contestant: Contestant) -> Contestant:
    """Acks of WRITE_BACK; what is copied later is waited for, outside the window."""
    if bench.quickwater.policy != "WRITE_BACK":
        raise Unavailable("this build has no WRITE_BACK")
    contestant.after, contestant.cost_is_elsewhere = bench.quickwater.settle, True
    return contestant


def with_copy(
    ours: Quickwater, name: str, size: int, count: int, streams: int, *, waves: int = 1, signed: bool = False
) -> Contestant:
    """A server under PUTs of new keys until the UFS has them all; they are deleted afterwards."""
    endpoint = replace(ours.endpoint, name=name)
    keys, written = endpoint.keys if signed else None, []

    def wave() -> Load:
        serial = f"c{time.monotonic_ns()}"
        requests = puts(size, count, WRITES, serial)
        written.extend(request.path for request in requests)
        began = time.perf_counter()
        load = once_each(endpoint.port, requests, streams, keys=keys)
        ours.settle()
        load.seconds = time.perf_counter() - began
        return load

    def remove() -> None:
        once_each(endpoint.port, [Request("DELETE", path) for path in written], streams, keys=None)
        written.clear()
        ours.settle()

    words = f"{waves} x {count} x PUT /{WRITES}/NEW of {size} B, {streams} connections; async-persist wait"
    run = lambda: under_load(endpoint, lambda: together([wave() for _ in range(waves)]))  # noqa: E731
    return Contestant(name, run, f"{endpoint.command}\n{words}", after=remove)


def put_large(bench: Bench) -> list[Row]:
    """PUT 10 MiB, 8 streams."""
    ours = bench.quickwater
    contestants = [
        with_copy(ours, COPY, PART, _copied(bench, COPIED_LARGE), PART_STREAMS, waves=WAVES_LARGE),
        bench.by_streams(ours.acks, _parts(bench, KEPT), PART_STREAMS, passes=ACK_PASSES),
    ]
    return [Row("put-large", "PUT 10 MiB, 8 streams, ETag = MD5", contestants, [COPIED])]


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
            endpoint.reset_peak()
            kept.extend(read_after_write(endpoint.port, WRITES, seconds, SMALL, None))
            for load in kept:  # its memory counts, its CPU time is shown nowhere: PUTs are in it
                load.cpu_seconds, load.peak_rss_bytes = 0.0, endpoint.peak_rss_bytes()

    def take(which: int) -> Callable[[], Load]:
        def run() -> Load:
            load, kept[which] = kept[which], None  # type: ignore[call-overload]
            if kept == [None, None]:
                kept.clear()
            return load

        return run

    how = "PUT new key, GET it, GET an old key, ... on one connection (lab/clients.py read_after_write)"
    return [Row("get-after-write", "GET 10 KiB just written", [
        Contestant(name, take(which), how, both, ours.settle, cost_is_elsewhere=True)
        for which, name in enumerate(("quickwater", "quickwater-settled"))
    ], [f"policy {ours.policy}, the persister beside"])]  # fmt: skip


def against_peers(bench: Bench) -> list[Row]:
    """The four kinds of work beside other S3 servers; their files in the page cache, their PUTs not flushed."""
    ours, hot = bench.quickwater, small_gets(HOT_FILES)
    plain, signed = ours.endpoint, replace(ours.endpoint, name="quickwater-signed")
    acks, signed_acks = ours.acks, replace(ours.acks, name="quickwater-ack-signed")
    peers = [(peer, peer.keys is not None) for peer in bench.peers]
    gets = [(plain, False), (signed, True)]
    kept = [(acks, False), (signed_acks, True)]
    large, small_puts, small_kept = large_gets(bench.options.large_files), puts(SMALL, PUT_KEYS), puts(SMALL, PUT_KEYS, KEPT)
    parts, parts_kept = _parts(bench), _parts(bench, KEPT)
    small, parted = _copied(bench, COPIED_SMALL), _copied(bench, COPIED_LARGE)
    rows = [
        Row("peers-get-small", "GET 10 KiB, 64 connections",
            [bench.by_wrk(e, hot, 64, SMALL, signed=s) for e, s in (*gets, *peers)]),
        Row("peers-put-small", "PUT 10 KiB, 64 connections",
            [with_copy(ours, COPY, SMALL, small, 64, signed=True),
             *(bench.by_wrk(e, small_kept, 64, SMALL, signed=s) for e, s in kept),
             *(bench.by_wrk(e, small_puts, 64, SMALL, signed=s) for e, s in peers)]),
        Row("peers-get-large", "GET 64 MiB, 2 streams",
            [*(bench.by_streams(e, large, 2, signed=s, passes=HOT_PASSES) for e, s in gets),
             *(bench.by_streams(e, large, 2, signed=s) for e, s in peers)]),
        Row("peers-put-large", "PUT 10 MiB, 8 streams",
            [with_copy(ours, COPY, PART, parted, PART_STREAMS, waves=WAVES_LARGE, signed=True),
             *(bench.by_streams(e, parts_kept, PART_STREAMS, signed=s, passes=ACK_PASSES) for e, s in kept),
             *(bench.by_streams(e, parts, PART_STREAMS, signed=s) for e, s in peers)]),
    ]  # fmt: skip
    for row in rows[1::2]:
        row.notes.append(COPIED)
    for row in rows:
        row.notes.append("ours is judged signed, beside the best peer whether that is signed or not: s3s-fs is asked "
                         "anonymously, the others want signatures. Peers store equal bodies: Garage keeps one copy of them")  # fmt: skip
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
    "relay": relay_rows,
    "list": list_rows,
    "peers": against_peers,
    "index": index_row,
}

# Seconds that a row takes in a whole run (5 rounds of 3 s), for the estimate: set up and rounds.
EXPECTED_SECONDS = {
    "get-small-ram": 55, "get-small-signed": 45, "get-small-nvme": 65, "get-large": 260, "put-small": 340,
    "put-large": 70, "get-after-write": 25, "tls": 140, "relay": 200, "list": 230, "peers": 380, "index": 30,
}  # fmt: skip
