"""The judge itself: every kind of wrong is seen, nothing right is called wrong."""

from __future__ import annotations

import time

from .journal import Applied
from .verify import ACKED, GONE, REFUSED, UNKNOWN, History, content_of, verify

V1, V2, V3 = b"one", b"two", b"three"


def history(*ends: tuple[bytes | None, str]) -> History:
    made = History()
    for body, outcome in ends:
        made.end(made.begin("k", body), outcome)
    return made


def journal(*bodies: bytes | None) -> list[Applied]:
    return [
        Applied(
            number, time.monotonic(), "DeleteObject" if body is None else "PutObject", "b", "p/k",
            size=len(body or b""), sha256=content_of(body), request=number,
        )
        for number, body in enumerate(bodies, 1)
    ]


def judge(made: History, *bodies: bytes | None) -> list[str]:
    final = {} if not bodies or bodies[-1] is None else {"k": {"sha256": content_of(bodies[-1])}}
    return verify(made, journal(*bodies), final, prefix="p/")


WRITTEN = [(V1, ACKED), (V2, ACKED), (V3, ACKED)]


def test_in_order_skipped_and_repeated() -> None:
    assert judge(history(*WRITTEN), V1, V2, V3) == []
    assert judge(history(*WRITTEN), V3) == []
    assert judge(history(*WRITTEN), V1, V1, V3, V3) == []


def test_older_after_newer() -> None:
    wrong = judge(history(*WRITTEN), V2, V1, V3)
    assert wrong == ["k: journal line 2: 3 bytes : write 0 came after write 1"]


def test_wrong_end() -> None:
    assert judge(history(*WRITTEN), V1, V2) == ["k: the store ends with write 1 of 3, allowed: write 2 of 3"]
    assert "nothing" in judge(history(*WRITTEN))[0]


def test_resurrected_delete() -> None:
    made = history((V1, ACKED), (None, ACKED))
    assert judge(made, V1, None) == []
    assert judge(made, None) == []
    wrong = judge(made, V1, None, V1)
    assert len(wrong) == 2 and "came after" in wrong[0] and "ends with write 0" in wrong[1]


def test_delete_after_the_overwrite_that_followed_it() -> None:
    made = history((V1, ACKED), (None, ACKED), (V2, ACKED))
    assert judge(made, V1, V2) == []
    assert len(judge(made, V2, None, V2)) == 1


def test_unknown_outcomes_may_or_may_not_be() -> None:
    made = history((V1, ACKED), (V2, UNKNOWN))
    assert judge(made, V1) == []
    assert judge(made, V1, V2) == []
    assert judge(history((V1, UNKNOWN))) == []
    assert len(judge(history((V1, UNKNOWN), (V2, ACKED)), V2, V1)) == 2


def test_refused_and_foreign_writes() -> None:
    made = history((V1, ACKED), (V2, REFUSED))
    assert "refused write was applied" in judge(made, V1, V2)[0]
    assert "nobody asked" in judge(made, V1, V3)[0]
    assert judge(made, V1) == []


def test_applied_before_it_was_asked_for() -> None:
    early = journal(V1)
    made = history((V1, ACKED))
    final = {"k": {"sha256": content_of(V1)}}
    assert "nobody asked" in verify(made, early, final, prefix="p/")[0]


def test_acked_too_early() -> None:
    made = history((V1, ACKED))
    late = journal(V1)
    final = {"k": {"sha256": content_of(V1)}}
    assert verify(made, late, final, prefix="p/") == []
    wrong = verify(made, late, final, prefix="p/", through=True)
    assert wrong == ["k: write 0 was acked while the store had nothing"]


def test_an_ack_of_a_repeat_needs_no_second_change() -> None:
    made = History()
    first = made.begin("k", V1)
    applied = journal(V1)
    made.end(first, UNKNOWN)
    made.acked("k", V1)
    final = {"k": {"sha256": content_of(V1)}}
    assert verify(made, applied, final, prefix="p/", through=True) == []


def test_allowed() -> None:
    assert history().allowed("k") == {GONE}
    assert history((V1, REFUSED)).allowed("k") == {GONE}
    assert history((V1, UNKNOWN)).allowed("k") == {GONE, content_of(V1)}
    assert history((V1, ACKED), (V2, UNKNOWN)).allowed("k") == {content_of(V1), content_of(V2)}
    assert history((V1, UNKNOWN), (V2, ACKED)).allowed("k") == {content_of(V2)}
