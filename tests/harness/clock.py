"""A wall clock that jumps: a small library, preloaded, that adds to what a process is
told of `CLOCK_REALTIME`. Clocks that only run forward stay the machine's."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Seconds to add, in a file whoever turns the clock writes to. */
static volatile int64_t *shift;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("CLOCK_SHIFT_FILE");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) abort();
    void *at = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) abort();
    shift = at;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *shift;
    return failed;
}
"""


def missing() -> str:
    """Why there is no such clock here; empty: there can be."""
    return "" if shutil.which("cc") else "not installed: cc"


class Clock:
    """One that processes with its `environment` go by."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._shift = home / "shift"
        self._library = home / "clock.so"
        self.shift(0)
        source = home / "clock.c"
        source.write_text(SOURCE)
        words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source)]
        subprocess.run(words, check=True, capture_output=True, timeout=120)

    def environment(self) -> dict[str, str]:
        """What a process needs to go by it."""
        return {"LD_PRELOAD": str(self._library), "CLOCK_SHIFT_FILE": str(self._shift)}

    def shift(self, seconds: int) -> None:
        """So far ahead of the machine's clock from now on; behind, if negative."""
        with self._shift.open("r+b" if self._shift.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))
