"""kill -9 at random moments under mixed load; nothing acked may be lost.

    python -m faults.kill9 --cycles 50
    python -m faults.kill9 --cycles 200 --write-back
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.server import Server

from .check import Files
from .cycles import FLAGS, Crash, Outcome, Plan, home_of, run
from .write_back import WriteBack


def kill9(home: Path, plan: Plan, program: Path | None = None) -> Outcome:
    """Runs the cycles on a directory of their own."""
    server = Server(home / "node", flags=FLAGS, program=program)
    try:
        return run(server, Files(server.ufs), Crash(), plan)
    finally:
        server.close()


def kill9_write_back(home: Path, plan: Plan, program: Path | None = None) -> Outcome:
    """The same under WRITE_BACK, over a store that comes and goes; services are
    also killed while they recover and while they persist."""
    with WriteBack(home / "ufssim", plan.seed) as back:
        server = Server(home / "node", program=program, **back.options(FLAGS))
        try:
            return back.run(server, back.crash(Crash(), server), plan)
        finally:
            server.close()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=2.0, help="longest load before a kill")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--program", type=Path, help="binary, else the release build")
    parser.add_argument("--write-back", action="store_true", help="under WRITE_BACK")
    options = parser.parse_args()
    plan = Plan(options.cycles, options.seconds, options.writers, options.seed)
    with home_of("kill9") as home:
        kill = kill9_write_back if options.write_back else kill9
        outcome = kill(home, plan, options.program)
        if outcome.wrong:
            (home / "keep").touch()
    print(outcome.line())
    for message in outcome.wrong:
        print("WRONG", message)
    return 1 if outcome.wrong or outcome.acks == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
