"""The rows of the table of targets: who takes part in each, under which load."""

from __future__ import annotations

from typing import Callable

from harness.payload import payload

from . import floors
from .bench import Bench
from .clients import Request, read_after_write
from .listing import list_rows
from .memory import index_row
from .rounds import Contestant, Load, Row
from .servers import COLD_FILES, HOT_FILES, LARGE, PART, SMALL, WRITES, large_gets, small_gets

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


def puts(size: int, keys: int) -> list[Request]:
    """Uploads over some keys."""
    body = payload(size, "put")
    return [Request("PUT", f"/{WRITES}/p{size}-{number}", body=body) for number in range(keys)]


MERGED = (
    "flush-serial is one flush per PUT; flush-merged is 64 writers with an fdatasync each, "
    "whose flushes the kernel merges while one is under way"
)


def put_small(bench: Bench) -> list[Row]:
    """PUT 10 KiB, durable: 64 clients and one."""
    ours, seconds, file = bench.quickwater, bench.options.seconds, bench.flush_file
    requests = puts(SMALL, PUT_KEYS)
    note = f"policy {ours.policy}"
    each = " ".join(floors.fio_flush_command(file, seconds))
    return [
        Row("put-small-64", "PUT 10 KiB durable, 64 clients", [
            bench.puts(ours.endpoint, requests, 64),
            Contestant("flush-serial", lambda: floors.bare_flush(file, seconds), "lab/floors.py bare_flush"),
            Contestant("flush-merged", lambda: floors.fio_flush_rate(file, seconds), each),
        ], [note, MERGED]),
        Row("put-small-1", "PUT 10 KiB durable, 1 client", [
            bench.puts(ours.endpoint, requests, 1),
            Contestant("flush-bare", lambda: floors.bare_flush(file, seconds), "lab/floors.py bare_flush"),
        ], [note]),
    ]  # fmt: skip


def put_large(bench: Bench) -> list[Row]:
    """PUT 10 MiB, 8 streams."""
    ours = bench.quickwater
    contestants = [bench.by_streams(ours.endpoint, _parts(bench), PART_STREAMS)]
    return [Row("put-large", "PUT 10 MiB, 8 streams, ETag = MD5", contestants, [f"policy {ours.policy}"])]


def _parts(bench: Bench) -> list[Request]:
    times = max(1, round(bench.options.seconds))
    return puts(PART, PART_KEYS) * times


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
    everyone = [(ours, False), *((peer, peer.keys is not None) for peer in bench.peers)]
    large, parts = large_gets(bench.options.large_files), _parts(bench)
    small_puts = puts(SMALL, PUT_KEYS)
    rows = [
        Row("peers-get-small", "GET 10 KiB, 64 connections",
            [bench.by_wrk(e, hot, 64, SMALL, signed=s) for e, s in everyone]),
        Row("peers-put-small", "PUT 10 KiB, 64 connections",
            [bench.by_wrk(e, small_puts, 64, SMALL, signed=s) for e, s in everyone]),
        Row("peers-get-large", "GET 64 MiB, 2 streams",
            [bench.by_streams(e, large, 2, signed=s) for e, s in everyone]),
        Row("peers-put-large", "PUT 10 MiB, 8 streams",
            [bench.by_streams(e, parts, PART_STREAMS, signed=s) for e, s in everyone]),
    ]  # fmt: skip
    for row in rows:
        row.notes.append("peers that ask for signatures get signed requests, ours anonymous ones")
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
    "list": list_rows,
    "peers": against_peers,
    "index": index_row,
}
