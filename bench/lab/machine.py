"""What the kernel tells: CPU time, memory, caches, and which machine this is."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

SERVER_CORE, CLIENT_CORE = 0, 1
TICKS = os.sysconf("SC_CLK_TCK")
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def cpu_seconds(pid: int) -> float:
    """User and system time of a process: all threads, io_uring's workers and ended ones too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def busy_seconds() -> float:
    """Time all cores were not idle so far: every process, interrupts and the kernel's own threads."""
    fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle, iowait, steal = fields[3], fields[4], fields[7]
    return (sum(fields) - idle - iowait - steal) / TICKS


def family(pid: int) -> list[int]:
    """A process and its children; its threads may come and go meanwhile."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def load_average() -> float:
    """Of the last minute: how many wanted a core."""
    return os.getloadavg()[0]


def reset_peak_rss(pid: int) -> None:
    """Lets VmHWM begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss_bytes(pid: int) -> int:
    """VmHWM: the most resident memory since the reset."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB
    raise RuntimeError(f"process {pid} has no VmHWM")


def drop_page_cache() -> None:
    """Empties the page cache; needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")


def can_drop_page_cache() -> bool:
    """Whether we may."""
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)


def on_server_core(words: list[str]) -> list[str]:
    """The command, pinned to the servers' core."""
    return ["taskset", "-c", str(SERVER_CORE), *words]


def on_client_core(words: list[str]) -> list[str]:
    """The command, pinned to the clients' core."""
    return ["taskset", "-c", str(CLIENT_CORE), *words]


def facts(folder: Path) -> dict[str, object]:
    """The machine, for the report; no name of it."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )  # fmt: skip
    system = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "-T", str(folder)], capture_output=True, text=True, check=False
    ).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "host": "", "kernel": platform.release(), "cpu": cpu, "cpus": os.cpu_count(),
        "memory_bytes": memory, "client_cpus": [CLIENT_CORE], "file_system": system or "unknown",
    }  # fmt: skip
