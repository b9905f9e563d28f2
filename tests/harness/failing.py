"""A service over a store that fails, and how soon and how its clients may be answered then."""

from __future__ import annotations

import time
from typing import Any, Callable

from ufssim.client import Sim

from .payload import KIB, MIB
from .under import FENCE_SECONDS, Ended, over

# Connect, request and the look afterwards, each with its own limit.
ANSWER_SECONDS = 15.0
SIZES = {"small": 10 * KIB, "large": 3 * MIB}
UNAVAILABLE, UNKNOWN = {503}, {500, 503}


def fenced(sim: Sim) -> dict[str, Any]:
    """A store that has given up on a request within seconds, not minutes."""
    options = over(sim)
    options["flags"] |= {"write-cache-fence": f"{FENCE_SECONDS:g}s"}
    return options


def timed(call: Callable[..., Ended], *arguments: Any) -> Ended:
    begun = time.monotonic()
    ended = call(*arguments)
    assert time.monotonic() - begun < ANSWER_SECONDS
    return ended


def lift(sim: Sim) -> None:
    sim.clear_rules()
    sim.up()
