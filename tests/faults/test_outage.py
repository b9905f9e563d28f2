"""A day without the store, scaled; at length: `python -m faults.outage`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import EXTERNAL
from harness.under import need_write_back

from .outage import WRITERS, outage

DAY_SECONDS = float(os.environ.get("QW_DAY_SECONDS", "240"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a service of its own"),
]


def test_a_day_without_the_store(tmp_path: Path) -> None:
    """C6, C7: the store ends with what was acked last, byte for byte; its journal shows
    nothing older after something newer and no delete undone."""
    need_write_back()
    told = outage(tmp_path, DAY_SECONDS)
    assert told.wrong == []
    assert told.acks_while_down > 10 * DAY_SECONDS, told.line()
    # Only what was under way when the service was stopped or killed.
    assert told.failed_while_down <= 4 * WRITERS, told.line()
