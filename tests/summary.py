"""Adds up what one run of ./test left behind; prints one line.

Each gate (format, clippy, builds) counts as one test. Test runners count by
their own reports, so a runner that died before its report counts as one failure.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

NEXTEST = re.compile(r"^\s*Summary \[.*?\] +(?:\d+/)?\d+ tests? run: (.*)$", re.MULTILINE)
NEXTEST_COUNT = re.compile(r"(\d+) (passed|failed|skipped|timed out|exec failed)")
SKIPPED = re.compile(r"SKIPPED: (.*)")
CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)


@dataclass
class Count:
    """Tests by how they ended."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: "Count") -> None:
        """Sums up."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    @property
    def total(self) -> int:
        """All of them."""
        return self.passed + self.failed + self.skipped

    def line(self) -> str:
        """The summary."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def skips(report: Path) -> list[str]:
    """Tests that ended early and said why; the runner takes them for passed."""
    if not report.exists():
        return []
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return [
        f"{case.get('name')}: {match.group(1)}"
        for case in cases
        if (match := SKIPPED.search("".join(case.itertext())))
    ]


def of_nextest(log: str, report: Path) -> Count:
    """From the line nextest ends with and from its report."""
    count = Count()
    for summary in NEXTEST.findall(log):
        # "3 passed (1 slow), 1 failed, 2 skipped"
        for number, word in NEXTEST_COUNT.findall(re.sub(r"\(.*?\)", "", summary)):
            name = word if word in ("passed", "skipped") else "failed"
            setattr(count, name, getattr(count, name) + int(number))
    for reason in skips(report):
        print(f"SKIPPED {reason}")
        count.passed -= 1
        count.skipped += 1
    return count


def of_cargo(log: str) -> Count:
    """From the line each test binary ends with."""
    count = Count()
    for passed, failed, ignored in CARGO.findall(log):
        count.add(Count(int(passed), int(failed), int(ignored)))
    for reason in SKIPPED.findall(log):
        print(f"SKIPPED {reason}")
        count.add(Count(-1, 0, 1))
    return count


def of_pytest(report: Path) -> Count:
    """From a JUnit report."""
    if not report.exists():
        return Count()
    count = Count()
    root = ElementTree.parse(report).getroot()
    # By their reasons: at the end of a run nobody looks for them in its middle.
    reasons = Counter(skip.get("message", "") for skip in root.iter("skipped"))
    for reason, tests in sorted(reasons.items()):
        print(f"SKIPPED {tests} of {report.stem}: {reason}")
    for suite in root.iter("testsuite"):
        number = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
        failed = number["failures"] + number["errors"]
        passed = max(0, number["tests"] - failed - number["skipped"])
        count.add(Count(passed, failed, number["skipped"]))
    return count


def of_step(gate: Path) -> Count:
    """One step of the run: its tests, or itself as one test."""
    passed = gate.read_text().strip() == "passed"
    log = gate.with_suffix(".log")
    text = log.read_text(errors="replace") if log.exists() else ""
    report = gate.with_suffix(".xml")
    if gate.stem == "nextest":
        count = of_nextest(text, report)
    elif gate.stem == "cargo-test":
        count = of_cargo(text)
    else:
        count = of_pytest(report)
    if not passed and count.failed == 0:
        count.failed += 1
    elif passed and count.total == 0:
        count.passed += 1
    return count


def main() -> int:
    """The command: summary.py DIRECTORY."""
    total = Count()
    print()
    for gate in sorted(Path(sys.argv[1]).glob("*.gate")):
        count = of_step(gate)
        print(f"{gate.stem:>16}: {count.line()}")
        total.add(count)
    print()
    print(total.line(), flush=True)
    return 1 if total.failed or total.passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
