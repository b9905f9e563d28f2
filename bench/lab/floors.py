"""What disk and kernel allow, without any server: the floors beside our figures."""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

from .machine import CLIENT_CORE, MIB, SERVER_CORE, on_server_core
from .rounds import Load

RECORD = 12 << 10  # a 10 KiB object and its head, in whole 4 KiB pages
REGION = 64 * MIB
WRITERS = 64
FIO_SECONDS = 120


def prewritten(path: Path, size: int) -> Path:
    """A file whose blocks have all been written and flushed."""
    if not path.exists() or path.stat().st_size != size:
        block = os.urandom(MIB)
        with path.open("wb") as file:
            for _ in range(size // MIB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return path


def fio_read_command(path: Path, size: int, depth: int) -> list[str]:
    """Sequential O_DIRECT reads of 1 MiB through io_uring."""
    return on_server_core(
        ["fio", "--name=read", f"--filename={path}", "--rw=read", "--direct=1", "--bs=1M",
         "--ioengine=io_uring", f"--iodepth={depth}", f"--size={size}", "--output-format=json"]
    )  # fmt: skip


def fio_read(path: Path, size: int, depth: int) -> Load:
    """One pass over the file."""
    job = _fio(fio_read_command(path, size, depth))
    read = job["read"]
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3
    return Load(read["total_ios"], read["io_bytes"], read["runtime"] / 1e3, cpu_seconds=cpu)


def fio_flush_command(path: Path, seconds: float) -> list[str]:
    """64 writers, each with a region and an fdatasync of its own after every record."""
    return on_server_core(
        ["fio", "--name=flush", f"--filename={path}", "--rw=write", "--direct=1",
         f"--bs={RECORD}", "--ioengine=psync", "--fdatasync=1", "--overwrite=1", "--thread",
         f"--numjobs={WRITERS}", f"--size={path.stat().st_size // WRITERS // RECORD * RECORD}",
         f"--offset_increment={path.stat().st_size // WRITERS}", "--time_based",
         f"--runtime={max(1, round(seconds))}", "--group_reporting", "--output-format=json"]
    )  # fmt: skip


def fio_flush_rate(path: Path, seconds: float) -> Load:
    """Records a second when each of 64 writers flushes its own."""
    job = _fio(fio_flush_command(path, seconds))
    write = job["write"]
    return Load(write["total_ios"], write["io_bytes"], write["runtime"] / 1e3)


def _fio(words: list[str]) -> dict:
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=FIO_SECONDS)
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    if job["error"]:
        raise RuntimeError(f"fio: error {job['error']}")
    return job


def bare_flush(path: Path, seconds: float) -> Load:
    """One writer: O_DIRECT write of a record in place, then fdatasync; latency in microseconds."""
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    buffer = mmap.mmap(-1, RECORD)  # page aligned, as O_DIRECT wants
    buffer.write(os.urandom(RECORD))
    file = os.open(path, os.O_WRONLY | os.O_DIRECT)
    moments: list[float] = []
    try:
        start = time.perf_counter()
        while (before := time.perf_counter()) - start < seconds:
            os.pwrite(file, buffer, len(moments) * RECORD % (REGION // RECORD * RECORD))
            os.fdatasync(file)
            moments.append((time.perf_counter() - before) * 1e6)
        took = time.perf_counter() - start
    finally:
        os.close(file)
        os.sched_setaffinity(0, here)
    return Load(len(moments), len(moments) * RECORD, took, [(one, 1) for one in moments])


def loopback(streams: int, size: int) -> Load:
    """GB/s and the sender's CPU of TCP on 127.0.0.1 from one hot 1 MiB buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        child = os.fork()
        if child == 0:  # the receiver, on the clients' core
            code = 1
            try:
                os.sched_setaffinity(0, {CLIENT_CORE})
                _receive_all(port, streams)
                code = 0
            finally:
                os._exit(code)
        listener.settimeout(30)
        accepted = [listener.accept()[0] for _ in range(streams)]
    figure = _send_all(accepted, size // streams)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError("loopback: the receiver failed")
    return figure


def _send_all(sockets: list[socket.socket], size: int) -> Load:
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    buffer = bytes(MIB)

    def send(one: socket.socket) -> None:
        with one:
            for _ in range(size // MIB):
                one.sendall(buffer)

    start, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=send, args=(one,)) for one in sockets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    os.sched_setaffinity(0, here)
    sent = size // MIB * len(sockets)
    return Load(sent, sent * MIB, took, cpu_seconds=cpu)


def _receive_all(port: int, streams: int) -> None:
    def receive() -> None:
        with socket.create_connection(("127.0.0.1", port), 30) as one:
            sink = bytearray(4 * MIB)
            while one.recv_into(sink, len(sink), socket.MSG_TRUNC):
                pass

    threads = [threading.Thread(target=receive) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
