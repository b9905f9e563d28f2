"""A file system in a file: small disks, and the power cut.

The shutdown ioctl (XFS_IOC_GOINGDOWN, the same number on ext4) with NOLOGFLUSH
drops everything that was not flushed, as a power cut does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

from .payload import MIB

SHUTDOWN_IOCTL = 0x8004587D
NO_LOG_FLUSH = 2
# Where the kernel shows file systems that are mounted in any namespace.
KEPT = {"ext4": Path("/proc/fs/ext4"), "xfs": Path("/sys/fs/xfs")}
GONE_SECONDS = 60.0
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


def missing(kind: str) -> str:
    """Why loop file systems cannot be made here; empty = they can."""
    if os.geteuid() != 0:
        return "needs root for loop mounts"
    for program in (MAKE[kind][0], "losetup", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    return ""


class LoopFs:
    """An image file with a file system, mounted."""

    def __init__(self, home: Path, kind: str, size_bytes: int = 320 * MIB) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        self.image = home / f"{kind}.img"
        self.home = home
        self.mount_point = home / kind
        self.mount_point.mkdir()
        self.device = ""
        self.mounted = False
        self.shared = False
        with self.image.open("wb") as image:
            image.truncate(size_bytes)
        try:
            # Tests that run beside have mount namespaces of their own, with all mounts in
            # them: a file system that is cut is gone only when it is unmounted there, too.
            # Below a shared mount it is, in those that follow ours.
            _run("mount", "--bind", str(home), str(home))
            self.shared = True
            _run("mount", "--make-shared", str(home))
            _run(*MAKE[kind], str(self.image))
            self.device = _run("losetup", "--find", "--show", str(self.image)).strip()
            self.mount()
        except BaseException:
            self.close()
            raise

    def mount(self) -> None:
        """Mounts; the kernel replays the journal after a cut."""
        _run("mount", "-t", self.kind, self.device, str(self.mount_point))
        self.mounted = True

    def cut_power(self) -> None:
        """Drops all that is not flushed; everything on it fails with EIO from here on."""
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN_IOCTL, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Unmounts; nobody may use it any more."""
        _run("umount", str(self.mount_point))
        self.mounted = False

    def remount(self) -> None:
        """Unmount and mount again: what a reboot finds."""
        self.unmount()
        self._wait_until_gone()
        self.mount()

    def _wait_until_gone(self) -> None:
        """A namespace that does not follow ours ends with its test; mounted before, it would be
        the file system that was cut."""
        kept = KEPT[self.kind] / Path(self.device).name
        end = time.monotonic() + GONE_SECONDS
        while kept.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.device} is still mounted: see /proc/*/mountinfo")
            time.sleep(0.02)

    def free_bytes(self) -> int:
        """Space left for files."""
        stat = os.statvfs(self.mount_point)
        return stat.f_bavail * stat.f_frsize

    def close(self) -> None:
        """Gives everything back whatever happened."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.mount_point)], check=False)
            self.mounted = False
        if self.device:
            subprocess.run(["losetup", "-d", self.device], check=False)
            self.device = ""
        self.image.unlink(missing_ok=True)
        if self.shared:
            subprocess.run(["umount", "-l", str(self.home)], check=False)
            self.shared = False


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode} {done.stderr}")
    return done.stdout
