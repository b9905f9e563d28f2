"""Power cuts under load: a file system shutdown drops all that was not flushed.

    python -m faults.powercut --cycles 20 --fs ext4 --fs xfs
    python -m faults.powercut --program target-no-flush/debug/quickwater --expect-loss

The store, the metadata and the UFS lie on one loop-mounted file system. With
`--expect-loss` the program is a build without flushes and the run fails unless
losses are found: the negative control.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from harness.freeze import freeze
from harness.loopfs import LoopFs, missing
from harness.payload import MIB
from harness.server import Server, StartFailed

from .check import Files
from .cycles import FLAGS, Crash, Outcome, Plan, home_of, run
from .load import Load
from .write_back import WriteBack

IMAGE_BYTES = 640 * MIB
UNMOUNT_ATTEMPTS = 50


class PowerCut(Crash):
    """Shuts the file system down, then kills what is left."""

    def __init__(self, disk: LoopFs) -> None:
        self.disk = disk
        self.cuts = 0

    def strike(self, server: Server, load: Load) -> None:
        load.faulty.set()
        # A real cut ends the program at the same moment. Stopped first, because
        # ext4 lets an fdatasync that is running report success while it shuts
        # down: an ack that no power cut would have let out.
        freeze(server.pid)
        time.sleep(0.05)
        self.disk.cut_power()
        self.cuts += 1
        server.kill()

    def blamed(self, failure: StartFailed) -> Outcome:
        """A start that failed; without a cut before it, no cut is to blame."""
        if not self.cuts:
            raise failure
        return Outcome(wrong=[f"the service does not start after a cut: {failure}"])

    def recover(self) -> None:
        for attempt in range(UNMOUNT_ATTEMPTS):
            try:
                self.disk.remount()
                return
            except RuntimeError:
                if attempt == UNMOUNT_ATTEMPTS - 1:
                    raise
                time.sleep(0.1)  # the kernel still closes files of the killed process


def powercut(home: Path, kind: str, plan: Plan, program: Path | None = None) -> Outcome:
    """Runs the cycles on an image of their own."""
    disk = LoopFs(home / "disk", kind, IMAGE_BYTES)
    ufs = disk.mount_point / "ufs"
    ufs.mkdir()
    flags = {**FLAGS, "ufs": f"file://{ufs}"}
    server = Server(
        home / "node", flags=flags, program=program, directory=disk.mount_point / "data"
    )
    crash = PowerCut(disk)
    try:
        return run(server, Files(ufs), crash, plan)
    except StartFailed as failure:
        return crash.blamed(failure)
    finally:
        server.close()
        disk.close()


def powercut_write_back(home: Path, kind: str, plan: Plan, program: Path | None = None) -> Outcome:
    """The same under WRITE_BACK: the store is elsewhere, and comes and goes."""
    disk = LoopFs(home / "disk", kind, IMAGE_BYTES)
    try:
        with WriteBack(home / "ufssim", plan.seed) as back:
            server = Server(
                home / "node", program=program, directory=disk.mount_point / "data",
                **back.options(FLAGS),
            )
            crash = PowerCut(disk)
            try:
                return back.run(server, back.crash(crash, server), plan)
            except StartFailed as failure:
                return crash.blamed(failure)
            finally:
                server.close()
    finally:
        disk.close()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=20, help="cuts per file system")
    parser.add_argument("--seconds", type=float, default=2.0, help="longest load before a cut")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--fs", action="append", choices=["ext4", "xfs"])
    parser.add_argument("--program", type=Path, help="binary, else the release build")
    parser.add_argument("--expect-loss", action="store_true", help="the negative control")
    parser.add_argument("--write-back", action="store_true", help="under WRITE_BACK")
    options = parser.parse_args()
    cut = powercut_write_back if options.write_back else powercut
    failed = False
    for kind in options.fs or ["ext4", "xfs"]:
        if reason := missing(kind):
            print(f"{kind}: cannot run here: {reason}")
            return 2
        plan = Plan(options.cycles, options.seconds, options.writers, options.seed)
        with home_of("powercut") as home:
            outcome = cut(home, kind, plan, options.program)
            if outcome.wrong and not options.expect_loss:
                (home / "keep").touch()
        print(f"{kind}: {outcome.line()}")
        for message in outcome.wrong:
            print("LOST" if options.expect_loss else "WRONG", message)
        failed |= bool(outcome.wrong) != options.expect_loss
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
