"""Hosts of a network as network namespaces, and a switch between them that loses, delays
and resets per pair and direction.

A host is a namespace without a name and a TUN device in it: both are gone with the last
process that has them open, so nothing is left behind even by a run that is killed. The
kernel needs no `netem` and no firewall; the switch (`switch.py`) sees every packet.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator

from .switch import Count, Rule, as_line

CLONE_NEWNET = 0x4000_0000
TUNSETIFF = 0x4004_54CA
IFF_TUN_NO_PI = 0x1001
DEVICE = "host"
MTU = 16_000
ANSWER_SECONDS = 60.0
TESTS = Path(__file__).resolve().parents[1]
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Why there are no such hosts here; empty: there can be."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "no TUN devices here (/dev/net/tun)"
    try:
        os.close(_namespace())
    except OSError as error:
        return f"no network namespaces here: {error}"
    try:
        Network({"a": "10.9.0.1"}).close()
    except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
        return f"no hosts can be made here: {error}"
    return ""


class Network:
    """Hosts by name, each with one address. All of it goes with `close`."""

    def __init__(self, hosts: dict[str, str], seed: str = "0") -> None:
        self.addresses = hosts
        self.namespaces: dict[str, int] = {}
        self._lock = threading.Lock()
        self._switch: subprocess.Popen[str] | None = None
        devices: dict[str, int] = {}
        try:
            for name, address in hosts.items():
                self.namespaces[name] = _namespace()
                with self.inside(name):
                    devices[name] = _device(address)
            words = [f"{name}={hosts[name]}={device}" for name, device in devices.items()]
            self._switch = subprocess.Popen(
                [sys.executable, "-m", "harness.switch", seed, *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS,
                pass_fds=list(devices.values()),
            )
            self.rule()
        except BaseException:
            self.close()
            raise
        finally:
            for device in devices.values():
                os.close(device)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and what it starts, is at a host."""
        with inside_of(self.namespaces[name]):
            yield

    def enter(self, name: str) -> None:
        """This thread is at a host from now on."""
        _set(self.namespaces[name])

    def rule(self, *rules: Rule) -> dict[tuple[str, str], Count]:
        """These rules and no others are in force when this returns; what became of the
        packets so far, by source and target."""
        with self._lock:
            switch = self._switch
            assert switch is not None and switch.stdin is not None and switch.stdout is not None
            switch.stdin.write(as_line(list(rules)))
            switch.stdin.flush()
            ready, _, _ = select.select([switch.stdout], [], [], ANSWER_SECONDS)
            line = switch.stdout.readline() if ready else ""
        if not line:
            raise RuntimeError(f"the switch does not answer: {switch.poll()}")
        return {(source, target): Count(**count) for source, target, count in json.loads(line)}

    def close(self) -> None:
        """Ends the switch. A namespace ends with the last process in it."""
        switch, self._switch = self._switch, None
        if switch is not None:
            switch.kill()
            switch.wait()
            for pipe in (switch.stdin, switch.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
        for namespace in self.namespaces.values():
            os.close(namespace)
        self.namespaces = {}


@contextlib.contextmanager
def inside_of(namespace: int) -> Iterator[None]:
    """This thread, and what it starts, is in a namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set(namespace)
        yield
    finally:
        _set(before)
        os.close(before)


def between(one: str, other: str, **what: float | bool) -> list[Rule]:
    """The same for both directions."""
    return [Rule(one, other, **what), Rule(other, one, **what)]  # type: ignore[arg-type]


def _namespace() -> int:
    """A new network namespace with its loopback up. Made by a thread, which has it alone."""
    made: list[int | OSError] = []

    def make() -> None:
        try:
            if _libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True)
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise OSError("the loopback of a namespace cannot be set up")
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _set(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _device(address: str) -> int:
    """A TUN device in this thread's namespace, with an address."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN_NO_PI))
        for words in (
            ["link", "set", DEVICE, "mtu", str(MTU), "txqueuelen", "10000", "up"],
            ["address", "add", f"{address}/24", "dev", DEVICE],
        ):
            subprocess.run(["ip", *words], check=True, capture_output=True)
    except BaseException:
        os.close(device)
        raise
    return device
