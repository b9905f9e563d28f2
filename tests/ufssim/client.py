"""The simulator as a test sees it: a process to start, rules to make, a journal to read."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from harness.target import Target

from .journal import DECIDING, MUTATING, Applied, Seen

START_SECONDS = 30.0
CALL_SECONDS = 60.0
TESTS = Path(__file__).resolve().parents[1]


class Sim:
    """One simulator in a process of its own. It outlives what it serves."""

    def __init__(self, home: Path, *options: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log_path = home / "ufssim.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ufssim", *options],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=TESTS,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"the simulator did not start\n{self.log_path.read_text()}")
        ports = json.loads(line)
        self.host, self.port = str(ports["host"]), int(ports["port"])
        self.control_port = int(ports["control"])

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def target(self) -> Target:
        """Its S3 endpoint. Any key pair will do."""
        return Target(f"http://{self.host}:{self.port}", "ufssimaccesskeyid", "ufssim-secret-key")

    # -- faults -------------------------------------------------------------

    def rule(self, action: str, **values: Any) -> None:
        """One more rule, after those there are (fields: `rules.Rule`)."""
        self._call("POST", "/rules", [{"action": action, **values}])

    def script(self, *actions: str | dict[str, Any], **matcher: Any) -> None:
        """The nth matching request meets the nth action; those after them none."""
        for action in actions:
            fields = {"action": action} if isinstance(action, str) else action
            self.rule(**{"times": 1, **matcher, **fields})

    def clear_rules(self) -> None:
        """No rules any more; what is late or held stays so."""
        self._call("POST", "/rules/clear")

    def down(self, mode: str = "refuse") -> None:
        """Away (`refuse` or `black_hole`) until `up`."""
        self._call("POST", "/down", {"mode": mode})

    def up(self) -> None:
        """There again; ends a schedule."""
        self._call("POST", "/up")

    def schedule(self, *steps: tuple[float, float], mode: str = "refuse", repeat: bool = False) -> None:
        """Outages by the clock: seconds up, seconds down; then up, or again."""
        self._call("POST", "/schedule", {"mode": mode, "steps": list(steps), "repeat": repeat})

    def flap(self, up_s: float, down_s: float, mode: str = "refuse") -> None:
        """Up and down until `up`."""
        self.schedule((up_s, down_s), mode=mode, repeat=True)

    def release(self) -> int:
        """Applies all requests that `late` holds (`delay_s=None`); how many."""
        return int(self._call("POST", "/release"))

    def reset(self) -> None:
        """No rules, no objects, no journal; buckets stay."""
        self._call("POST", "/reset")

    def wait_idle(self, seconds: float = 60.0) -> None:
        """Until nothing is late any more."""
        end = time.monotonic() + seconds
        while self.state()["pending"]:
            assert time.monotonic() < end, f"still late: {self.state()}"
            time.sleep(0.02)

    # -- looking ----------------------------------------------------------------

    def journal(self, prefix: str = "", since: int = 0) -> list[Applied]:
        """Everything applied below a prefix, in order."""
        lines = [Applied(**line) for line in self._call("GET", "/journal", since=since)]
        return [line for line in lines if line.key.startswith(prefix)]

    def changes(self, key: str) -> list[Applied]:
        """What decided the content of one key, in order."""
        return [a for a in self.journal() if a.key == key and a.operation in DECIDING]

    def requests(self, prefix: str = "", since: int = 0) -> list[Seen]:
        """Every request below a prefix."""
        lines = [Seen(**line) for line in self._call("GET", "/requests", since=since)]
        return [line for line in lines if line.key.startswith(prefix)]

    def mutating_requests(self, prefix: str = "") -> list[Seen]:
        """Requests that would change something, applied or not.

        DeleteObjects names its keys in its body: what it removed below the
        prefix is found in the journal.
        """
        journal = {a.request for a in self.journal(prefix)}
        return [
            r for r in self.requests()
            if r.operation in MUTATING and (r.key.startswith(prefix) and r.key or r.number in journal)
        ]

    def state(self) -> dict[str, Any]:
        """Ports, counts, what is pending."""
        state: dict[str, Any] = self._call("GET", "/state")
        assert state["failures"] == [], state["failures"]
        return state

    def objects(self, bucket: str, prefix: str = "") -> dict[str, dict[str, Any]]:
        """Keys (without the prefix) with etag, size, sha256 and headers."""
        found = self._call("GET", "/objects", bucket=bucket)
        return {k[len(prefix) :]: v for k, v in found.items() if k.startswith(prefix)}

    def body(self, bucket: str, key: str) -> bytes:
        """The bytes of an object, whatever the rules say."""
        return self._raw("GET", "/body", b"", bucket=bucket, key=key)

    def seed(self, bucket: str, key: str, body: bytes) -> None:
        """Somebody else writes an object."""
        self._raw("PUT", "/body", body, bucket=bucket, key=key)

    def seed_many(self, bucket: str, keys: list[str], body: str = "x") -> None:
        """Somebody else writes the same text under many keys."""
        self._call("POST", "/seed", {"bucket": bucket, "keys": keys, "body": body})

    def create_bucket(self, name: str) -> None:
        """Makes a bucket, whatever the rules say."""
        self._call("POST", "/bucket", {"name": name})

    def _call(self, method: str, path: str, values: Any = None, **query: Any) -> Any:
        body = b"" if values is None else json.dumps(values).encode()
        return json.loads(self._raw(method, path, body, **query))

    def _raw(self, method: str, path: str, body: bytes, **query: Any) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=CALL_SECONDS)
        try:
            connection.request(method, f"{path}?{urlencode(query)}", body)
            reply = connection.getresponse()
            answer = reply.read()
            if reply.status != 200:
                raise ValueError(f"{method} {path}: {reply.status} {answer.decode(errors='replace')}")
            return answer
        finally:
            connection.close()
