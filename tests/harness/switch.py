"""The switch of a `netns.Network`: carries IP packets between hosts, as badly as told.

python -m harness.switch NAME=ADDRESS=DESCRIPTOR... takes TUN devices it inherits.
Each line of its input is the list of all rules in force from then on, each line of its
output what it did so far. Ends with its input, or with its parent.
"""

from __future__ import annotations

import ctypes
import heapq
import json
import os
import random
import select
import signal
import struct
import sys
import time
from dataclasses import dataclass, fields
from ipaddress import IPv4Address

PR_SET_PDEATHSIG = 1
PACKET_BYTES_MAX = 65_536
# Packets read of a host before the others have their turn.
TURN = 64
# What a host that is slow to take leaves behind is lost, as on a real wire.
DELAYED_MAX = 20_000
TCP = 6
FIN, SYN, RST, ACK = 1, 2, 4, 16


@dataclass(frozen=True)
class Rule:
    """What happens to packets from `source` to `target`; `*` is every host."""

    source: str
    target: str
    loss: float = 0.0
    delay_s: float = 0.0
    reset: bool = False


@dataclass
class Count:
    """Packets from one host to another."""

    passed: int = 0
    lost: int = 0
    delayed: int = 0
    reset: int = 0


class Switch:
    """All hosts, by address and by descriptor of their device."""

    def __init__(self, hosts: list[tuple[str, str, int]], seed: str) -> None:
        self.names = {descriptor: name for name, _, descriptor in hosts}
        self.ways = {IPv4Address(at).packed: (name, descriptor) for name, at, descriptor in hosts}
        self.rules: dict[tuple[str, str], Rule] = {}
        self.counts: dict[tuple[str, str], Count] = {}
        self.random = random.Random(seed)
        self.delayed: list[tuple[float, int, int, bytes]] = []
        self.number = 0

    def obey(self, rules: list[Rule]) -> None:
        """These rules and no others. What is delayed already comes when it was to come."""
        names = self.names.values()
        self.rules = {
            (source, target): rule
            for rule in rules
            for source in names
            for target in names
            if source != target and rule.source in (source, "*") and rule.target in (target, "*")
        }

    def carry(self, source: str, packet: bytes) -> None:
        """One packet of a host. What is for nobody (multicast, IPv6) is lost."""
        way = self.ways.get(packet[16:20]) if packet[0] >> 4 == 4 else None
        if way is None:
            return
        target, descriptor = way
        count = self.counts.setdefault((source, target), Count())
        rule = self.rules.get((source, target))
        if rule is None:
            count.passed += 1
            put(descriptor, packet)
        elif rule.reset and (answers := resets(packet)):
            count.reset += 1
            for answer in answers:
                put(self.ways[answer[16:20]][1], answer)
        elif rule.loss and self.random.random() < rule.loss:
            count.lost += 1
        elif rule.delay_s and len(self.delayed) < DELAYED_MAX:
            count.delayed += 1
            self.number += 1
            due = time.monotonic() + rule.delay_s
            heapq.heappush(self.delayed, (due, self.number, descriptor, packet))
        else:
            count.passed += 1
            put(descriptor, packet)

    def deliver(self) -> float | None:
        """Hands out what is due; seconds until there is more, `None`: there is nothing."""
        while self.delayed:
            left = self.delayed[0][0] - time.monotonic()
            if left > 0:
                return left
            _, _, descriptor, packet = heapq.heappop(self.delayed)
            put(descriptor, packet)
        return None

    def told(self) -> str:
        """The counts, for who tells the rules."""
        return json.dumps([[*pair, vars(count)] for pair, count in sorted(self.counts.items())])

    def run(self) -> None:
        """Until nobody tells it anything any more."""
        poll = select.epoll()
        for descriptor in self.names:
            os.set_blocking(descriptor, False)
            poll.register(descriptor, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll(self.deliver()):
                if descriptor == 0:
                    line = sys.stdin.buffer.readline()
                    if not line:
                        return
                    self.obey([Rule(**values) for values in json.loads(line)])
                    print(self.told(), flush=True)
                    continue
                for _ in range(TURN):
                    try:
                        packet = os.read(descriptor, PACKET_BYTES_MAX)
                    except BlockingIOError:
                        break
                    self.carry(self.names[descriptor], packet)


def put(descriptor: int, packet: bytes) -> None:
    """To a host, if it has room."""
    try:
        os.write(descriptor, packet)
    except OSError:
        pass  # its queue is full, or it is going down: lost


def resets(packet: bytes) -> list[bytes]:
    """What ends the TCP connection of a packet at both of its ends; nothing for a packet
    that is no TCP or ends one itself."""
    begin = (packet[0] & 15) * 4
    if packet[9] != TCP or len(packet) < begin + 20:
        return []
    source, target = packet[12:16], packet[16:20]
    ports, acknowledged = packet[begin : begin + 4], packet[begin + 8 : begin + 12]
    sequence, flags = struct.unpack_from("!I", packet, begin + 4)[0], packet[begin + 13]
    if flags & RST:
        return []
    length = len(packet) - begin - (packet[begin + 12] >> 4) * 4
    after = (sequence + length + bool(flags & SYN) + bool(flags & FIN)) % (1 << 32)
    back = ports[2:] + ports[:2]
    if flags & ACK:
        to_source = tcp(target, source, back + acknowledged + bytes(4), RST)
    else:
        to_source = tcp(target, source, back + bytes(4) + struct.pack("!I", after), RST | ACK)
    if flags & SYN:
        return [to_source]  # the other side knows of no connection yet
    return [to_source, tcp(source, target, packet[begin : begin + 12], flags & ACK | RST)]


def tcp(source: bytes, target: bytes, start: bytes, flags: int) -> bytes:
    """A packet without data; `start` is ports, sequence and acknowledged sequence."""
    head = start + struct.pack("!BBHHH", 5 << 4, flags, 0, 0, 0)
    summed = checksum(source + target + struct.pack("!BBH", 0, TCP, len(head)) + head)
    head = head[:16] + struct.pack("!H", summed) + head[18:]
    outer = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(head), 0, 0, 64, TCP, 0) + source + target
    return outer[:10] + struct.pack("!H", checksum(outer)) + outer[12:] + head


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def as_line(rules: list[Rule]) -> str:
    """Rules as the switch reads them."""
    names = [field.name for field in fields(Rule)]
    return json.dumps([{name: getattr(rule, name) for name in names} for rule in rules]) + "\n"


def main() -> None:
    """The command."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it ended before we could say that we end with it
    seed, *words = sys.argv[1:]
    hosts = [word.split("=") for word in words]
    Switch([(name, at, int(descriptor)) for name, at, descriptor in hosts], seed).run()


if __name__ == "__main__":
    main()
