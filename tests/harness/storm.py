"""Several clients at once, each with keys of its own, whatever their writes end with."""

from __future__ import annotations

import threading
import time

from .payload import KIB, payload
from .under import Ended, Place


class Writer(threading.Thread):
    """One client with keys of its own: writes, deletes, reads what it may see."""

    def __init__(self, place: Place, number: int, until: float) -> None:
        super().__init__(daemon=True)
        self.place, self.number, self.until = place, number, until
        self.ends: list[Ended] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            turn = 0
            while time.monotonic() < self.until:
                self.step(turn)
                turn += 1
        except BaseException as error:  # raised by `storm`
            self.error = error

    def step(self, turn: int) -> None:
        key = f"w{self.number}/k{turn % 4}"
        if turn % 7 == 6:
            self.ends.append(self.place.delete(key))
        elif turn % 9 == 8:
            try:
                parts = [payload(4 * KIB, (self.number, turn)), b"end"]
                self.ends.append(self.place.multipart(key, parts))
            except AssertionError:
                pass  # a part was refused: no Complete, nothing changed
        else:
            size = (100, 10 * KIB, 1100 * KIB)[turn % 3]
            self.ends.append(self.place.put(key, payload(size, (self.number, turn))))
        self.place.read(key)


def storm(place: Place, seconds: float, writers: int = 4) -> list[Ended]:
    """Writers at once; what their writes ended with."""
    until = time.monotonic() + seconds
    threads = [Writer(place, number, until) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
        assert not thread.is_alive(), "a request without a deadline"
        if thread.error is not None:
            raise thread.error
    return [ended for thread in threads for ended in thread.ends]
