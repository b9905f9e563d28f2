"""The cache: warm after a restart, correct under eviction, never damaged bytes."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from typing import Any

from conftest import ServeFactory
from harness.payload import KIB, MIB, payload
from harness.raw import Request, send
from harness.server import Server

UFS_READ = "quickwater_ufs_read_bytes_total"
SMALL_STORE = {"capacity": str(64 * MIB), "segment-size": str(4 * MIB)}


def cache_of(server: Server, path: str) -> tuple[str, bytes]:
    """What the cache header says, and the body."""
    reply = send(server.target(), Request("GET", path))
    assert reply.status == 200, reply.brief()
    return reply.headers["x-quickwater-cache"], reply.body


def test_first_read_misses_then_hits(serve: ServeFactory) -> None:
    cold = serve(start=False)
    (cold.ufs / "data").mkdir()
    data = payload(5 * MIB + 1)
    (cold.ufs / "data" / "k").write_bytes(data)
    server = cold.start()
    before = server.metric(UFS_READ)
    assert cache_of(server, "/data/k") == ("miss", data)
    assert server.metric(UFS_READ) - before == len(data)
    for _ in range(3):
        assert cache_of(server, "/data/k") == ("hit", data)
    assert server.metric(UFS_READ) - before == len(data)


def test_range_read_fetches_only_what_it_needs(serve: ServeFactory) -> None:
    cold = serve(start=False)
    (cold.ufs / "data").mkdir()
    data = payload(64 * MIB)
    (cold.ufs / "data" / "k").write_bytes(data)
    server = cold.start()
    request = Request("GET", "/data/k", headers=[("Range", "bytes=30000000-30000099")])
    before = server.metric(UFS_READ)
    reply = send(server.target(), request)
    assert (reply.status, reply.body) == (206, data[30_000_000:30_000_100])
    assert server.metric(UFS_READ) - before <= 8 * MIB
    assert send(server.target(), request).headers["x-quickwater-cache"] == "hit"
    assert send(server.target(), Request("GET", "/data/k")).body == data


def test_single_flight(serve: ServeFactory) -> None:
    """Many readers of a cold object fetch it from the UFS once."""
    cold = serve(start=False)
    (cold.ufs / "data").mkdir()
    data = payload(8 * MIB)
    (cold.ufs / "data" / "k").write_bytes(data)
    server = cold.start()
    before = server.metric(UFS_READ)
    bodies: list[bytes] = []

    def read() -> None:
        bodies.append(server.target().client().get_object(Bucket="data", Key="k")["Body"].read())

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies == [data] * 16
    assert server.metric(UFS_READ) - before <= 2 * len(data)


def _fill(client: Any, count: int = 40) -> dict[str, bytes]:
    client.create_bucket(Bucket="warm")
    bodies = {f"k{i:02}": payload(i * 37 * KIB + i, i) for i in range(count)}
    for key, body in bodies.items():
        client.put_object(Bucket="warm", Key=key, Body=body)
    return bodies


def test_restart_keeps_the_cache_warm(serve: ServeFactory) -> None:
    server = serve()
    bodies = _fill(server.target().client())
    for key in bodies:
        cache_of(server, f"/warm/{key}")
    server.restart()
    before = server.metric(UFS_READ)
    for key, body in bodies.items():
        assert cache_of(server, f"/warm/{key}") == ("hit", body), key
    assert server.metric(UFS_READ) == before


def test_restart_after_kill_keeps_most_of_it(serve: ServeFactory) -> None:
    server = serve()
    bodies = _fill(server.target().client())
    server.kill()
    server.start()
    for key, body in bodies.items():
        assert cache_of(server, f"/warm/{key}")[1] == body


def test_eviction(serve: ServeFactory) -> None:
    """Four times more data than the cache holds: every byte right, space bounded."""
    server = serve(flags=SMALL_STORE)
    client = server.target().client()
    client.create_bucket(Bucket="much")
    bodies = {f"k{i:03}": payload(2 * MIB + i, i) for i in range(128)}
    for key, body in bodies.items():
        client.put_object(Bucket="much", Key=key, Body=body)
    states = set()
    for key, body in bodies.items():
        state, got = cache_of(server, f"/much/{key}")
        assert got == body
        states.add(state)
    assert "miss" in states or "partial" in states
    store = sum(f.stat().st_blocks * 512 for f in (server.dir / "store").rglob("*") if f.is_file())
    assert store <= 64 * MIB * 1.1


# -- damage -------------------------------------------------------------------


def segments(server: Server) -> list[Path]:
    """Files of the store that hold data."""
    return [
        path
        for path in sorted((server.dir / "store").rglob("seg-*"))
        if path.is_file() and path.stat().st_size >= MIB
    ]


def positions(path: Path, needle: bytes) -> list[int]:
    """Where some bytes lie in a file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        found, start = [], view.find(needle)
        while start >= 0:
            found.append(start)
            start = view.find(needle, start + 1)
        return found


def flip_bytes(server: Server, data: bytes, offsets: list[int]) -> int:
    """Changes the cached copy of `data` at some offsets; how many bytes changed."""
    changed = 0
    for offset in offsets:
        needle = data[offset : offset + 64]
        for path in segments(server):
            for position in positions(path, needle):
                with path.open("r+b") as file:
                    file.seek(position)
                    byte = file.read(1)[0]
                    file.seek(position)
                    file.write(bytes([byte ^ 0x40]))
                changed += 1
    return changed


DAMAGED = [("small", 10 * KIB), ("medium", 300 * KIB), ("large", 3 * MIB + 999)]


def _damage(server: Server, bodies: dict[str, bytes]) -> None:
    for body in bodies.values():
        assert flip_bytes(server, body, [0, len(body) // 2, len(body) - 64]) >= 3


def _put_all(server: Server) -> dict[str, bytes]:
    client = server.target().client()
    client.create_bucket(Bucket="damage")
    bodies = {name: payload(size, name) for name, size in DAMAGED}
    for name, body in bodies.items():
        client.put_object(Bucket="damage", Key=name, Body=body)
    return bodies


def _check_all(server: Server, bodies: dict[str, bytes]) -> None:
    damaged_before = server.metric(UFS_READ)
    for name, body in bodies.items():
        for _ in range(3):
            assert cache_of(server, f"/damage/{name}")[1] == body
        assert cache_of(server, f"/damage/{name}")[0] == "hit", "fetched again and kept"
    assert server.metric(UFS_READ) > damaged_before, "damaged copies were not noticed"


def test_damage_while_stopped_is_never_served(serve: ServeFactory) -> None:
    server = serve()
    bodies = _put_all(server)
    assert server.stop() == 0
    _damage(server, bodies)
    server.start()
    _check_all(server, bodies)


def test_damage_while_running_is_never_served(serve: ServeFactory) -> None:
    """A RAM tier may answer from memory; bytes are right all the same."""
    server = serve()
    bodies = _put_all(server)
    _damage(server, bodies)
    for name, body in bodies.items():
        for start in (0, len(body) // 2, len(body) - 100):
            request = Request("GET", f"/damage/{name}", headers=[("Range", f"bytes={start}-{start + 99}")])
            assert send(server.target(), request).body == body[start : start + 100]
        assert cache_of(server, f"/damage/{name}")[1] == body


def test_lost_segment_files(serve: ServeFactory) -> None:
    """The whole cache gone or cut: everything is read from the UFS again."""
    server = serve()
    bodies = _put_all(server)
    assert server.stop() == 0
    for number, path in enumerate(segments(server)):
        if number % 2:
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
    server.start()
    for name, body in bodies.items():
        assert cache_of(server, f"/damage/{name}")[1] == body
