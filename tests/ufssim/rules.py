"""Which request meets which fault. Decides; does nothing itself.

Rules are tried in the order they were made; the first that matches and has not
been used up is taken. So two rules, the first for `times=2`, are a script: the
first two requests meet one fault, the following ones the other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from .message import Request

ACTIONS = frozenset(
    {
        "pass",  # nothing happens; a rule before others that lets some requests through
        "reset",  # the connection is reset when the head was read; not applied
        "black_hole",  # read to its end, never answered; not applied
        "status",  # answered with `status` and `code`; applied only if `applied`
        "error_in_200",  # 200 with an error document; applied only if `applied`
        "wrong_etag",  # applied, the answer names another ETag
        "damage",  # one bit of the body flips: stored so (PUT), or on its way out (GET)
        "truncate",  # the answer ends after `cut_after` bytes of its body
        "slow",  # `bytes_per_second` both ways
        "lose_reply",  # applied, then the connection is reset
        "late",  # no answer (reset, or silence with `silent`), applied `delay_s` later
        "latency",  # `delay_s` before anything happens
    }
)


@dataclass
class Rule:
    """A matcher, a count and a fault. Empty matchers match everything."""

    action: str
    method: str = ""
    operation: str = ""  # glob; several are separated by |
    bucket: str = ""  # glob
    key: str = ""  # glob; * matches / too
    skip: int = 0  # matching requests that pass before the first is taken
    times: int | None = None  # requests taken; None = all
    per_key: bool = False  # skip and times count per key
    chance: float = 1.0  # of a matching request to be taken
    seed: int = 0  # of the chance
    # What happens.
    status: int = 500
    code: str = "InternalError"
    at_head: bool = False  # `status` is sent before the body is read
    applied: bool = False
    delay_s: float | None = 0.0  # None: when released (`late` only)
    jitter_s: float = 0.0  # added to the delay, at most
    silent: bool = False
    bytes_per_second: int = 10
    cut_after: int = 0
    etag: str = "00000000000000000000000000000000"
    retry_after_s: int | None = None
    # Kept while it lives.
    name: str = ""
    taken: int = 0
    _matched: dict[str, int] = field(default_factory=dict, repr=False)
    _random: random.Random = field(default_factory=random.Random, repr=False)

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no such action: {self.action}")
        if self.delay_s is None and self.action != "late":
            raise ValueError("only `late` can wait to be released")
        self._random = random.Random(self.seed)
        self.name = self.name or self.action

    @classmethod
    def parse(cls, plain: dict[str, Any]) -> "Rule":
        """From JSON; an unknown field is an error."""
        known = {f.name for f in fields(cls) if not f.name.startswith("_")} - {"taken"}
        unknown = set(plain) - known
        if unknown:
            raise ValueError(f"no such fields: {sorted(unknown)}")
        return cls(**plain)

    def take(self, request: Request) -> bool:
        """Whether this request meets the fault; counts it."""
        if not self._matches(request):
            return False
        counter = f"{request.bucket}/{request.key}" if self.per_key else ""
        number = self._matched.get(counter, 0)
        if number < self.skip:
            self._matched[counter] = number + 1
            return False
        if self.times is not None and number >= self.skip + self.times:
            return False
        if self.chance < 1.0 and self._random.random() >= self.chance:
            return False
        self._matched[counter] = number + 1
        self.taken += 1
        return True

    def delay(self) -> float:
        """Seconds to wait this time."""
        return (self.delay_s or 0.0) + self._random.random() * self.jitter_s

    def _matches(self, request: Request) -> bool:
        if self.method and self.method != request.method:
            return False
        if self.operation and not any(
            fnmatchcase(request.operation, one) for one in self.operation.split("|")
        ):
            return False
        if self.bucket and not fnmatchcase(request.bucket, self.bucket):
            return False
        return not self.key or fnmatchcase(request.key, self.key)


class Rules:
    """All rules in force."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def take(self, request: Request) -> Rule | None:
        """The fault a request meets."""
        for rule in self.rules:
            if rule.take(request):
                return None if rule.action == "pass" else rule
        return None
