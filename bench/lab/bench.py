"""Everything a run needs, started when a row first asks for it and ended together."""

from __future__ import annotations

import json
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.certificates import Pair, make_pair

from . import floors, own, peers
from .clients import Load, Request, once_each, wrk
from .machine import MIB, can_drop_page_cache, drop_page_cache
from .rounds import Contestant, together, under_load
from .servers import (BUCKET, COLD_FILES, DIRECTIO, HOT_FILES, LARGE, LARGES, SMALL, WRITES, Endpoint, Quickwater,
                      Unavailable, large_gets, make_files, nginx, small_gets)  # fmt: skip

# The flag of `serve` that sizes the RAM tier of small objects.
RAM_TIER = "ram-tier"
# 64 MiB objects that the HTTPS rows read over and over.
TLS_LARGE_FILES = 4
TLS_CONNECTIONS, TLS_STREAMS = 64, 2


@dataclass
class Options:
    """What was asked for."""

    rounds: int
    seconds: float
    large_files: int
    list_keys: list[int]
    capacity: str
    client: str
    # Passes over the large files in a round: one is too few ticks of CPU time.
    large_passes: int = 1
    # Where filled buckets are kept for the next run.
    keep: Path | None = None
    # Peers that are not asked for.
    without: frozenset[str] = frozenset()


@dataclass
class Bench:
    """Servers, files and clients of one run."""

    home: Path
    options: Options
    stack: ExitStack = field(default_factory=ExitStack)
    prepared: set[int] = field(default_factory=set)
    # Peers that could not be started, and why.
    missing: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *reason: object) -> None:
        self.stack.close()

    # -- what is measured -----------------------------------------------------

    @cached_property
    def files(self) -> Path:
        """The folder all servers serve."""
        folder = self.home / "files"
        make_files(folder, self.options.large_files)
        return folder

    @cached_property
    def quickwater(self) -> Quickwater:
        """Ours, everything warm."""
        ours = self.keep(Quickwater(self.home, self.files, self.options.capacity))
        ours.warm(small_gets(COLD_FILES) + large_gets(self.options.large_files))
        return ours

    @cached_property
    def quickwater_from_disk(self) -> Endpoint:
        """Ours without a RAM tier; the same process where this build has none."""
        if not self._has_ram_tier():
            ours = self.quickwater.endpoint
            return Endpoint("quickwater-nvme", ours.port, ours.pid, ours.command, ours.keys)
        ours = self.keep(Quickwater(self.home, self.files, "1GiB", "quickwater-nvme", **{RAM_TIER: "0"}))
        ours.warm(small_gets(COLD_FILES))
        return ours.endpoint

    @cached_property
    def quickwater_to_tmpfs(self) -> Quickwater:
        """Ours in front of a UFS that costs next to nothing."""
        shared = Path("/dev/shm")
        if not shared.is_dir():
            raise Unavailable("no tmpfs at /dev/shm")
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="targets-", dir=shared)))
        make_files(folder, 0)
        return self.keep(Quickwater(self.home, folder, "1GiB", "quickwater-tmpfs"))

    def _has_ram_tier(self) -> bool:
        program = str(self.quickwater.server.program)
        text = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, check=True).stdout
        return f"--{RAM_TIER} " in text

    @cached_property
    def nginx(self) -> Endpoint:
        """Sendfile from the page cache."""
        return self.keep(nginx(self.home, self.files)).endpoint

    @cached_property
    def nginx_directio(self) -> Endpoint:
        """Reads past the page cache."""
        return self.keep(nginx(self.home, self.files, "nginx-directio", DIRECTIO)).endpoint

    @cached_property
    def pair(self) -> Pair:
        """The certificate of all that speak HTTPS."""
        return make_pair(self.home / "tls")

    @cached_property
    def quickwater_tls(self) -> Quickwater:
        """Ours with HTTPS beside HTTP, the objects of both rows in it."""
        flags = {"s3-tls-certificate": str(self.pair.certificate), "s3-tls-key": str(self.pair.key),
                 "s3-tls-listen": "127.0.0.1:0"}  # fmt: skip
        ours = self.keep(Quickwater(self.home, self.files, "1GiB", "quickwater-tls", **flags))
        own.prepare(self.files, ours.endpoint, HOT_FILES)
        own.prepare(self.files, ours.endpoint, TLS_LARGE_FILES, LARGES, LARGE)
        return ours

    @cached_property
    def nginx_tls(self) -> Endpoint:
        """The same certificate and cipher."""
        return self.keep(nginx(self.home, self.files, "nginx-tls", pair=self.pair)).endpoint

    def over_tls(self, size: int) -> tuple[list[Contestant], str]:
        """nginx and ours over HTTPS, and ours without, under GETs of hits; what was agreed on."""
        ours, plain = self.quickwater_tls, self.quickwater_tls.endpoint
        both = [self.nginx_tls, ours.secure(self.pair.certificate)]
        if len(agreed := {one.agreed() for one in both}) != 1:
            raise Unavailable(f"not the same cipher: {agreed}")
        work = (BUCKET, HOT_FILES, TLS_CONNECTIONS) if size == SMALL else (LARGES, TLS_LARGE_FILES, TLS_STREAMS)
        bucket, objects, connections = work
        plain = Endpoint("quickwater-plain", plain.port, plain.pid, plain.command, plain.keys)
        contestants = [
            own.loaded(one, "get-hit", objects, connections, self.options.seconds,
                       bucket=bucket, size=size, more=("--no-prepare",))
            for one in (*both, plain)
        ]  # fmt: skip
        return contestants, agreed.pop()

    @cached_property
    def read_file(self) -> Path:
        """What fio reads: as much as the large files have."""
        return floors.prewritten(self.home / "fio-read", self.options.large_files * 64 * MIB)

    @cached_property
    def flush_file(self) -> Path:
        """What the flush floors write to."""
        return floors.prewritten(self.home / "fio-flush", 256 * MIB)

    @cached_property
    def peers(self) -> list[Endpoint]:
        """Other S3 servers, with the same objects in them."""
        found, self.missing = peers.start_all(
            self.home, self.stack, small_gets(HOT_FILES), large_gets(self.options.large_files), self.options.without
        )
        if not found:
            raise Unavailable("no peer is installed: bench/targets --install-peers")
        return found

    def keep(self, started):  # noqa: ANN001, ANN202 - whatever has `close`
        """Ends with the run."""
        self.stack.callback(started.close)
        return started

    # -- how it is loaded -----------------------------------------------------

    def gets(self, endpoint: Endpoint, files: int, connections: int, *, signed: bool = False) -> Contestant:
        """A server under GETs of the first of the small files."""
        if self.options.client == "wrk":
            return self.by_wrk(endpoint, small_gets(files), connections, SMALL, signed=signed)
        self._own_files()
        more = ("--no-prepare",)
        return own.loaded(
            endpoint, "get-hit", files, connections, self.options.seconds, signed=signed, more=more
        )

    def puts(
        self, endpoint: Endpoint, requests: list[Request], connections: int, bucket: str = WRITES
    ) -> Contestant:
        """A server under PUTs, over and over the same keys."""
        if self.options.client == "wrk":
            return self.by_wrk(endpoint, requests, connections, SMALL)
        more = ("--no-prepare", "--get-share", "0")
        return own.loaded(
            endpoint, "mixed", len(requests), connections, self.options.seconds, bucket=bucket, more=more
        )

    def _own_files(self) -> None:
        """The objects of our own client, as files every server serves; in our caches too."""
        for ours in (self.quickwater.endpoint, self.quickwater_from_disk):
            if ours.port not in self.prepared:
                own.prepare(self.files, ours, COLD_FILES)
                self.prepared.add(ours.port)

    def by_wrk(
        self, endpoint: Endpoint, requests: list[Request], connections: int, size: int, *, signed: bool = False
    ) -> Contestant:
        """A server under small requests, by wrk."""
        keys = endpoint.keys if signed else None
        seconds = self.options.seconds

        def run() -> Load:
            load = lambda: wrk(endpoint.port, requests, connections, seconds, keys=keys, size=size)  # noqa: E731
            return under_load(endpoint, load)

        first, last = requests[0], requests[-1]
        words = (
            f"wrk -t1 -c{connections} -d{seconds:.0f}s -s SCRIPT http://127.0.0.1:{endpoint.port}"
            f"  # {'signed' if signed else 'anonymous'} {first.method} {first.path} .. {last.path} in turn"
        )
        return Contestant(endpoint.name, run, f"{endpoint.command}\n{words}")

    def by_streams(
        self, endpoint: Endpoint, requests: list[Request], streams: int, *, signed: bool = False, cold: bool = False,
        passes: int = 1,
    ) -> Contestant:  # fmt: skip
        """A server under large bodies, each request once in every pass."""
        keys = endpoint.keys if signed else None

        def run() -> Load:
            loads = []
            for _ in range(passes):
                if cold:
                    self.cold()
                loads.append(under_load(endpoint, lambda: once_each(endpoint.port, requests, streams, keys=keys)))
            return together(loads)

        before = "sync; echo 1 >/proc/sys/vm/drop_caches\n" if cold else ""
        words = (f"{passes} times: {before}{len(requests)} x {requests[0].method} {requests[0].path} ..., "
                 f"{streams} connections (lab/clients.py once_each)")  # fmt: skip
        return Contestant(endpoint.name, run, f"{endpoint.command}\n{words}")

    def cold(self) -> None:
        """Drops the page cache."""
        if not can_drop_page_cache():
            raise Unavailable("dropping the page cache needs root")
        drop_page_cache()

    def facts(self) -> dict[str, object]:
        """Of the servers that ran, for the report."""
        seen = {}
        for name in ("quickwater", "nginx", "nginx_directio", "quickwater_tls", "nginx_tls"):
            if name in self.__dict__:
                endpoint = getattr(self, name)
                endpoint = getattr(endpoint, "endpoint", endpoint)
                seen[endpoint.name] = {"command": endpoint.command, "notes": endpoint.notes}
        return json.loads(json.dumps(seen).replace(str(self.home), "HOME"))
