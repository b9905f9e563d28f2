"""Connections that are handed over while clients end them, packets get lost and workers die:
a client sees the right bytes or a broken connection, and nothing is left behind."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from conftest import EXTERNAL
from harness import bpf
from harness.loss import Loss
from harness.payload import payload
from harness.segment import CLIENT, THREE, Segment, made

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip", "ss"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
LONG = os.environ.get("QUICKWATER_HANDOFF") == "all"
BUCKET = "faulty"
DEADLINE_SECONDS = 120
ABORTS = 300 if LONG else 20
ROUNDS = 15
LOSSY_GETS = 100
LOSS = 0.05
# Of one round trip: of a client's packets only acknowledgements get lost, not requests.
WINDOW_GETS, WINDOW_BYTES, ACKNOWLEDGEMENT_BYTES = 2_000, 12_000, 100
KEYS = [f"k{at}" for at in range(16)]
BODIES = {key: payload((1 << 20) + 300_000 * at, seed=at) for at, key in enumerate(KEYS)}
# Minutes, most of them waits of clients for answers that do not come.
long = pytest.mark.skipif(not LONG, reason="takes minutes: QUICKWATER_HANDOFF=all runs it")
# What a kernel says when something of it is broken.
COMPLAINTS = ("BUG:", "WARNING:", "Oops", "refcount", "Call Trace")


def urls(cluster: Segment) -> dict[str, str]:
    """Signed GETs."""
    signer = cluster.target().client(signature_version="s3v4")

    def url(key: str) -> str:
        where = {"Bucket": BUCKET, "Key": key}
        return str(signer.generate_presigned_url("get_object", Params=where))

    return {key: url(key) for key in KEYS}


def given(cluster: Segment) -> int:
    """Connections that were handed over so far, by workers that run."""
    running = [node for node in cluster.members if cluster.workers[node].alive()]
    return sum(cluster.outcomes(node, "given") for node in running)


class KernelLog:
    """What the kernel says from now on; nobody knows where it cannot be read."""

    def __init__(self) -> None:
        try:
            self._log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._log = -1
            return
        os.lseek(self._log, 0, os.SEEK_END)

    def complaints(self) -> list[str]:
        """Ends a test as skipped, which must have judged all else, if nobody knows."""
        if self._log < 0:
            pytest.skip("all but the kernel's log was judged: /dev/kmsg cannot be read")
        found = []
        while True:
            try:
                line = os.read(self._log, 8192).decode(errors="replace")
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # It says more than it keeps.
            if any(word in line for word in COMPLAINTS):
                found.append(line)
        os.close(self._log)
        return found


def test_clients_that_end_anywhere_leave_no_socket_and_no_entry(tmp_path: Path) -> None:
    kernel = KernelLog()
    cluster = made(tmp_path, (BUCKET, BODIES), members=THREE)
    rand = random.Random(2)
    try:
        with cluster.at(CLIENT):
            links = urls(cluster)

        def abort() -> None:
            """One to three whole answers, then a part of one; half of them by RST."""
            keys = rand.choices(KEYS, k=rand.randint(2, 4))
            netloc = urlsplit(links[keys[0]]).netloc
            with cluster.at(CLIENT):
                client = http.client.HTTPConnection(netloc, timeout=60)
                client.connect()
                for key in keys[:-1]:
                    client.request("GET", links[key].split(netloc, 1)[1])
                    try:
                        got = client.getresponse().read()
                    except (http.client.HTTPException, OSError):
                        # An end, too: a worker had to wait for another one too long.
                        client.close()
                        return
                    assert got == BODIES[key], key
                client.request("GET", links[keys[-1]].split(netloc, 1)[1])
                sock = client.sock
                want = rand.choice([0, 0, 1, rand.randrange(1 << 20)])
                if want == 0:
                    time.sleep(rand.random() * 0.01)
                while want > 0:
                    want -= len(sock.recv(min(want, 65536)) or b" " * want)
                if rand.random() < 0.5:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                sock.close()

        cluster.wait_for(lambda: abort() is None and given(cluster) > 0)
        before = given(cluster)
        for _ in range(ABORTS):
            abort()
        cluster.wait_for(lambda: abort() is None and given(cluster) > before)
        cluster.wait_left()
        for node in THREE:
            entries = lambda: cluster.metric(node, "quickwater_ebpf_forward_entries")  # noqa: E731
            cluster.wait_for(lambda: entries() == 0)
        print(f"{ABORTS} aborts, {given(cluster) - before} hand-overs among them")
        assert kernel.complaints() == []
    finally:
        cluster.close()


class Load:
    """Clients that get objects and try again what failed."""

    def __init__(self, cluster: Segment, clients: int) -> None:
        self.cluster = cluster
        self.right = self.failed = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._get, args=(seed,)) for seed in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _get(self, seed: int) -> None:
        rand = random.Random(seed)
        with self.cluster.at(CLIENT):
            s3 = self.cluster.target().client(
                retries={"max_attempts": 0}, connect_timeout=2, read_timeout=10
            )
            while not self._stop.is_set():
                key = rand.choice(KEYS)
                try:
                    body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                except (BotoCoreError, ClientError, OSError):
                    with self._lock:
                        self.failed += 1
                    self._stop.wait(0.02)
                    continue
                with self._lock:
                    self.right += 1
                    if body != BODIES[key]:
                        self.wrong.append(f"{key}: {len(body)} of {len(BODIES[key])} bytes")
            s3.close()

    def goes_on(self, gets: int = 10) -> None:
        """So many more are answered."""
        wanted = self.right + gets
        self.cluster.wait_for(lambda: self.right >= wanted)
        assert self.wrong == []

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@long
def test_a_worker_that_dies_or_stands_still_breaks_connections_at_worst(tmp_path: Path) -> None:
    cluster = made(tmp_path, (BUCKET, BODIES), members=THREE)
    rand = random.Random(3)
    load = Load(cluster, 4)
    try:
        for _ in range(ROUNDS):
            for node in ["n1", "n2"]:
                for how in [signal.SIGKILL, signal.SIGSTOP]:
                    before = given(cluster)
                    cluster.wait_for(lambda: given(cluster) > before + 2)
                    # In the middle of whatever they do.
                    time.sleep(rand.random() * 0.03)
                    server = cluster.workers[node]
                    if how == signal.SIGKILL:
                        server.kill()
                        with cluster.at(node):
                            server.start()
                    else:
                        os.kill(server.pid, how)
                        # Shorter and longer than others wait for an answer.
                        time.sleep(rand.choice([0.1, 1.5]))
                        os.kill(server.pid, signal.SIGCONT)
                    load.goes_on()
        load.end()
        assert load.wrong == []
        cluster.wait_left()
        print(f"{load.right} right, {load.failed} failed and tried again")
    finally:
        load.end()
        cluster.close()


def moves_on(cluster: Segment) -> None:
    """Connections go elsewhere from the first worker."""
    before = cluster.outcomes("n1", "given")
    cluster.wait_for(lambda: cluster.outcomes("n1", "given") > before + 2)


def test_a_client_that_comes_back_while_its_worker_starts_is_handed_over(tmp_path: Path) -> None:
    """It connects as soon as it can, before the worker has its store and its program."""
    cluster = made(tmp_path, (BUCKET, BODIES))
    try:
        elsewhere = [key for key in KEYS if cluster.owner(BUCKET, key) == "n2"]
        cluster.go_to("n1")
        with cluster.at(CLIENT):
            links = urls(cluster)
        netloc = urlsplit(links[KEYS[0]]).netloc

        client = http.client.HTTPConnection(netloc, timeout=60)

        def get() -> None:
            client.request("GET", links[elsewhere[0]].split(netloc, 1)[1])
            assert client.getresponse().read() == BODIES[elsewhere[0]]

        def comes() -> None:
            with cluster.at(CLIENT):
                end = time.monotonic() + DEADLINE_SECONDS
                while True:
                    try:
                        return get()
                    except ConnectionError:
                        # Also by a listener of the process before, which the kernel had still.
                        assert time.monotonic() < end
                        client.close()
                        time.sleep(0.001)

        def moves() -> bool:
            get()
            return cluster.outcomes("n1", "given") > 0

        cluster.workers["n1"].kill()
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(comes)
            with cluster.at("n1"):
                cluster.workers["n1"].start()
            coming.result(DEADLINE_SECONDS)
        cluster.wait_for(moves)
        client.close()
    finally:
        cluster.close()


@pytest.mark.parametrize("node", ["n1", "n2"], ids=["entry", "owner"])
def test_a_program_that_is_taken_away_breaks_connections_at_worst(
    tmp_path: Path, node: str
) -> None:
    """Off its device, by somebody else: it is back within seconds, at the latest with the worker's
    next process."""
    cluster = made(tmp_path, (BUCKET, BODIES), members=THREE)
    load = Load(cluster, 4)
    try:
        moves_on(cluster)
        (pin,) = (cluster.home / "pins" / node).glob("quickwater/handoff-*/link-*")
        bpf.detach(pin)
        load.goes_on(50)
        cluster.workers[node].kill()
        with cluster.at(node):
            cluster.workers[node].start()
        load.end()
        assert load.wrong == []
        print(f"{load.right} right, {load.failed} failed and tried again")
        # Connections that came while it was not there stay at the entry.
        load = Load(cluster, 4)
        moves_on(cluster)
        load.goes_on()
    finally:
        load.end()
        cluster.close()


def silences(links: dict[str, str], keys: list[str]) -> list[float]:
    """Gets these by one connection; the longest silence in each answer, sorted, seconds."""
    netloc = urlsplit(links[keys[0]]).netloc
    client = http.client.HTTPConnection(netloc, timeout=60)
    found = []
    for key in keys:
        last, longest = time.monotonic(), 0.0
        client.request("GET", links[key].split(netloc, 1)[1])
        answer, got = client.getresponse(), b""
        while len(got) < len(BODIES[key]):
            got += answer.read1(1 << 20)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        assert answer.read() == b"" and got == BODIES[key], key
        found.append(longest)
    client.close()
    return sorted(found)


@long
def test_packets_that_get_lost_cost_time_and_no_bytes(tmp_path: Path) -> None:
    cluster = made(tmp_path, (BUCKET, BODIES), members=THREE)
    rand = random.Random(4)
    try:
        own = [key for key in KEYS if cluster.owner(BUCKET, key) == "n1"]
        assert own
        cluster.go_to("n1")
        for node in THREE:
            # Else 64 KiB at a time are lost.
            with cluster.at(node):
                subprocess.run(["ip", "link", "set", "e0", "gso_max_segs", "1"], check=True)
        with cluster.at(CLIENT):
            links = urls(cluster)

        def measured(keys: list[str], share: float) -> list[float]:
            with cluster.at(CLIENT):
                loss = Loss("e0", share) if share else None
                try:
                    return silences(links, rand.choices(keys, k=LOSSY_GETS))
                finally:
                    if loss:
                        loss.close()

        # Until all take connections of this entry.
        cluster.wait_for(lambda: bool(measured(KEYS, 0)) and given(cluster) > 6)
        before = given(cluster)
        moved = measured(KEYS, LOSS)
        handed = given(cluster) - before
        stayed = measured(own, LOSS)
        for name, found in [("handed over", moved), ("at the entry", stayed)]:
            told = {share: f"{1000 * found[int(share * len(found))]:.0f} ms" for share in (0.5, 0.9, 0.99)}
            print(f"{name}: longest silence of each GET {told}")
        print(f"{handed} hand-overs in {LOSSY_GETS} GETs")
        assert handed > 0
    finally:
        cluster.close()


@long
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_packets_that_get_lost_in_the_window_cost_what_they_cost_anywhere(
    tmp_path: Path, known: bool
) -> None:
    """Every answer is one flight, the first of a connection that has just moved, to a client that
    the kernels know the way to from connections before, or do not."""
    body = payload(WINDOW_BYTES, seed=1)
    cluster = made(tmp_path, (BUCKET, dict.fromkeys(KEYS, body)), least="4KiB")
    try:
        for node in ["n1", "n2"]:
            with cluster.at(node):
                # Else 64 KiB at a time are lost.
                subprocess.run(["ip", "link", "set", "e0", "gso_max_segs", "1"], check=True)
                Path("/proc/sys/net/ipv4/tcp_no_metrics_save").write_text("0" if known else "1")
        with cluster.at(CLIENT):
            links = urls(cluster)
        keys = {node: [key for key in KEYS if cluster.owner(BUCKET, key) == node] for node in ["n1", "n2"]}

        def waits(to: str, wanted: list[str], share: float) -> list[float]:
            """Gets these by one connection; how long each took, seconds."""
            cluster.go_to(to)
            netloc = urlsplit(links[KEYS[0]]).netloc
            found = []
            with cluster.at(CLIENT):
                client = http.client.HTTPConnection(netloc, timeout=60)
                loss = Loss("e0", share, ACKNOWLEDGEMENT_BYTES) if share else None
                try:
                    for key in wanted:
                        begun = time.monotonic()
                        client.request("GET", links[key].split(netloc, 1)[1])
                        assert client.getresponse().read() == body
                        found.append(time.monotonic() - begun)
                finally:
                    if loss:
                        loss.close()
                    client.close()
            return found

        turns = [keys[node][0] for node in ["n2", "n1"]] * (WINDOW_GETS // 2)
        # Until both take connections of this entry.
        cluster.wait_for(lambda: bool(waits("n1", turns[:20], 0)) and cluster.outcomes("n1", "taken") > 0)
        before = given(cluster)
        moved = waits("n1", turns, LOSS)
        assert given(cluster) - before >= WINDOW_GETS // 2
        found = {"to the owner": moved[::2], "back": moved[1::2]}
        for name, node in [("at the entry", "n1"), ("at the owner", "n2")]:
            found[name] = waits(node, keys[node][:1] * (WINDOW_GETS // 2), LOSS)
        for name, times in found.items():
            times.sort()
            told = [f"{1000 * times[int(share * len(times))]:.1f}" for share in (0.5, 0.9, 0.99)]
            late = [sum(took > most for took in times) for most in (0.3, 0.9)]
            print(f"{name}: p50, p90, p99 {told} ms, most {1000 * times[-1]:.0f}; "
                  f"{late} of {len(times)} above 300 and 900 ms")
        # A first timeout of a second would be here.
        for name in ["to the owner", "back"]:
            assert found[name][int(0.99 * len(found[name]))] < 0.9, name
    finally:
        cluster.close()
