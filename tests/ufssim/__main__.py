"""Runs the simulator: python -m ufssim [--host ADDRESS] [--port N] [--control-port N]

Prints one JSON line with both ports when it answers. Ends with its parent, or
at SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import signal

from .control import Control
from .server import LOOPBACK, Simulator
from .store import PART_BYTES_MIN

PR_SET_PDEATHSIG = 1
COLLECT_EVERY = 100_000


async def run(options: argparse.Namespace) -> None:
    """Until told to stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    simulator = Simulator(options.min_part_bytes, options.host)
    loop.set_exception_handler(simulator.note_failure)
    await simulator.listen(options.port)
    control = await Control(simulator).listen(options.control_port)
    ports = {"host": options.host, "port": simulator.port, "control": control}
    print(json.dumps(ports), flush=True)
    await stop.wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--min-part-bytes", type=int, default=PART_BYTES_MIN)
    options = parser.parse_args()
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it ended before we could say that we end with it
    gc.set_threshold(COLLECT_EVERY)  # the journal is all live objects: scans cost, find nothing
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
