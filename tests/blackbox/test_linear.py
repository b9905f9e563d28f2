"""The judge of histories (`harness.linear`): what it must refuse, and what it must not."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from harness import linear
from harness.linear import GONE, History, Operation, Undecided, judge

SEEDS = 300
LONG = 400


def put(value: str, begun: float, ended: float) -> Operation:
    return Operation(True, value, begun, ended, sure=True)


def maybe(value: str, begun: float) -> Operation:
    return Operation(True, value, begun)


def get(value: str, begun: float, ended: float) -> Operation:
    return Operation(False, value, begun, ended, sure=True)


REFUSED = {
    "stale after an ack": [put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)],
    "lost": [put("a", 0, 1), get(GONE, 2, 3)],
    "resurrected": [put("a", 0, 1), put(GONE, 2, 3), get("a", 4, 5)],
    "foreign": [put("a", 0, 1), get("x", 2, 3)],
    "from the future": [get("a", 0, 1), put("a", 2, 3)],
    "back again after new was seen": [
        put("a", 0, 1), maybe("b", 2), get("b", 3, 4), get("a", 5, 6),
    ],
    "back again while the write is under way": [
        put("a", 0, 1), put("b", 2, 9), get("b", 3, 4), get("a", 5, 6),
    ],
    "twice from one delete of unknown outcome": [
        put("a", 0, 1), maybe(GONE, 2), get(GONE, 3, 4), put("b", 5, 6), get(GONE, 7, 8),
    ],
    "two readers, two orders": [
        put("a", 0, 9), put("b", 0, 9), get("a", 1, 2), get("b", 3, 4), get("a", 5, 6),
    ],
    "nothing there any more": [put("a", 0, 1), get("a", 2, 3), get(GONE, 4, 5)],
}
ALLOWED = {
    "in order": [put("a", 0, 1), get("a", 2, 3), put("b", 4, 5), get("b", 6, 7)],
    "nothing yet": [get(GONE, 0, 1), put("a", 2, 3)],
    "either while a write is under way": [
        put("a", 0, 1), put("b", 2, 9), get("a", 3, 4), get("b", 5, 6), get("b", 7, 8),
    ],
    "unknown, never seen": [put("a", 0, 1), maybe("b", 2), get("a", 3, 4), get("a", 90, 91)],
    "unknown, seen much later": [
        put("a", 0, 1), maybe("b", 2), get("a", 3, 4), put("c", 5, 6), get("c", 7, 8), get("b", 90, 91),
    ],
    "two unknown deletes, seen twice": [
        put("a", 0, 1), maybe(GONE, 2), maybe(GONE, 2.5), get(GONE, 3, 4),
        put("b", 5, 6), get(GONE, 7, 8),
    ],
    "the last of two at once": [put("a", 0, 9), put("b", 0, 9), get("a", 10, 11)],
    "touching is at once": [put("a", 0, 1), put("b", 1, 2), get("a", 2, 3)],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_have_happened_is_refused(name: str) -> None:
    assert judge(REFUSED[name])


@pytest.mark.parametrize("name", ALLOWED)
def test_what_can_have_happened_is_not(name: str) -> None:
    assert judge(ALLOWED[name]) == ""


def by_force(operations: list[Operation]) -> bool:
    """Tries every choice of unknown writes in every order."""
    unsure = [o for o in operations if o.write and not o.sure]
    for count in range(len(unsure) + 1):
        for left_out in itertools.combinations(range(len(unsure)), count):
            out = {id(unsure[at]) for at in left_out}
            chosen = [o for o in operations if id(o) not in out]
            if any(explains(order) for order in itertools.permutations(chosen)):
                return True
    return False


def explains(order: tuple[Operation, ...]) -> bool:
    value, latest = GONE, -math.inf
    for operation in order:
        if operation.ended < latest:
            return False
        latest = max(latest, operation.begun)
        if operation.write:
            value = operation.value
        elif operation.value != value:
            return False
    return True


def test_small_histories_are_judged_as_by_force() -> None:
    verdicts = {True: 0, False: 0}
    for seed in range(SEEDS):
        chance = random.Random(f"small {seed}")
        operations, values = [], [GONE]
        for number in range(chance.randint(2, 6)):
            begun = chance.randint(0, 12)
            ended = begun + chance.randint(0, 6)
            kind = chance.random()
            if kind < 0.5:
                operations.append(get(chance.choice(values), begun, ended))
                continue
            value = GONE if kind > 0.85 else f"v{number}"
            values.append(value)
            sure = chance.random() < 0.6
            operations.append(put(value, begun, ended) if sure else maybe(value, begun))
        right = by_force(operations)
        verdicts[right] += 1
        assert (judge(operations) == "") == right, (seed, [str(o) for o in operations])
    assert min(verdicts.values()) > SEEDS // 10, verdicts


def register(seed: str, count: int, clients: int) -> list[Operation]:
    """A history of a register that works: clients at once, answers lost, writes late."""
    chance = random.Random(seed)
    # Moments by what happens in them; late writes of clients that gave up are in it, too.
    operations: list[tuple[float, Operation]] = []
    for client in range(clients):
        now = 0.0
        for number in range(count // clients):
            begun = now + chance.random()
            now = begun + chance.random() * 3
            effect = chance.uniform(begun, now)
            if chance.random() < 0.5:
                operations.append((effect, get("?", begun, now)))
                continue
            value = GONE if chance.random() < 0.2 else f"{client}.{number}"
            if chance.random() < 0.8:
                operations.append((effect, put(value, begun, now)))
            else:
                late = effect + chance.choice([0, 1, 30, math.inf])
                operations.append((late, maybe(value, begun)))
    value = GONE
    for moment, operation in sorted(operations, key=lambda pair: pair[0]):
        if operation.write and moment < math.inf:
            value = operation.value
        elif not operation.write:
            operation.value = value
    return [operation for _, operation in operations]


@pytest.mark.parametrize("seed", range(10))
def test_long_histories_of_a_register_pass_and_one_stale_read_is_found(seed: int) -> None:
    operations = register(f"long {seed}", LONG, 6)
    assert judge(operations) == ""
    # Seen, overwritten, and the overwrite seen: after that it must not come back.
    end = max(o.ended for o in operations if o.ended < math.inf)
    shown = sorted((o for o in operations if not o.write and o.value), key=lambda o: o.ended)
    last = put("last", end + 1, end + 2)
    stale = get(shown[len(shown) // 2].value, end + 3, end + 4)
    assert judge([*operations, last]) == ""
    assert "none of" in judge([*operations, last, stale])


def test_a_value_written_twice_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="written twice"):
        judge([put("a", 0, 1), put("a", 2, 3)])


def test_a_search_without_end_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "STATES_MAX", 50)
    together = [put(f"v{number}", 0, 9) for number in range(12)]
    with pytest.raises(Undecided):
        judge([*together, get(GONE, 10, 11)])


def test_a_history_is_kept_by_key() -> None:
    history = History()
    first = history.write("k", "a")
    history.ack(first)
    refused = history.write("k", "b")
    history.refuse("k", refused)
    history.read("k", "a", first.ended)
    history.read("other", GONE, first.ended)
    assert history.wrong() == []
    again = history.write("k", "c")
    history.ack(again)
    history.read("k", "a", again.ended + 0.001)
    # The read began after the ack of what it does not show.
    (why,) = history.wrong()
    assert why.startswith("k: ") and "read a" in why
