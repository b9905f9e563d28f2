"""The side port: rules, outages, the journal and the contents, as JSON over HTTP.

    curl -X POST localhost:PORT/rules -d '[{"action": "status", "status": 503}]'
    curl localhost:PORT/journal
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .errors import S3Error
from .journal import to_json
from .rules import Rule
from .server import Simulator
from .store import Bucket, Cause, Condition, Object, read_body

BODY_BYTES_MAX = 1 << 30
DEADLINE_SECONDS = 60.0


class Control:
    """Answers one request per connection; always there, whatever the S3 port does."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def listen(self, port: int = 0) -> int:
        """Starts; the port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        return int(server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                status, answer = await self._exchange(reader)
                writer.write(
                    f"HTTP/1.1 {status} -\r\nContent-Length: {len(answer)}\r\n"
                    "Connection: close\r\n\r\n".encode() + answer
                )
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client left; it will notice
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        names = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
        length = int(names.get("content-length", "0"))
        if length > BODY_BYTES_MAX:
            return 413, b"too large"
        body = await reader.readexactly(length)
        url = urlsplit(target)
        try:
            answer = await self._answer(method, url.path, dict(parse_qsl(url.query)), body)
        except (ValueError, TypeError, KeyError, S3Error) as error:
            return 400, f"{type(error).__name__}: {error}".encode()
        return 200, answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    async def _answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Any:
        simulator, since = self.simulator, int(query.get("since", "0"))
        match method, path:
            case "GET", "/journal":
                return to_json(simulator.journal.applied, since)
            case "GET", "/requests":
                return to_json(simulator.journal.requests, since)
            case "GET", "/state":
                return self._state()
            case "GET", "/objects":
                return self._objects(query["bucket"])
            case "GET", "/body":
                return simulator.store.object(query["bucket"], query["key"]).body
            case "PUT", "/body":
                return self._seed(query["bucket"], [query["key"]], body)
            case "POST", _:
                return await self._change(path, json.loads(body or b"{}"))
        raise ValueError(f"no such call: {method} {path}")

    async def _change(self, path: str, values: Any) -> Any:
        simulator = self.simulator
        match path:
            case "/rules":
                simulator.rules.rules += [Rule.parse(one) for one in values]
            case "/rules/clear":
                simulator.rules.rules.clear()
            case "/release":
                return simulator.release()
            case "/up":
                simulator.stop_weather()
                await simulator.up()
            case "/down":
                simulator.stop_weather()
                await simulator.down(values["mode"])
            case "/schedule":
                simulator.schedule(values["mode"], values["steps"], values["repeat"])
            case "/reset":
                await simulator.reset()
            case "/seed":
                return self._seed(values["bucket"], values["keys"], values["body"].encode())
            case "/bucket":
                simulator.store.buckets.setdefault(values["name"], Bucket(time.time()))
            case _:
                raise ValueError(f"no such call: POST {path}")
        return {}

    def _state(self) -> dict[str, Any]:
        simulator = self.simulator
        return {
            "port": simulator.port,
            "pending": simulator.pending,
            "held": len(simulator.held),
            "failures": simulator.failures,
            "applied": len(simulator.journal.applied),
            "requests": len(simulator.journal.requests),
            "uploads": [[u.bucket, u.key, u.id] for u in simulator.store.uploads.values()],
            "rules": [{"name": r.name, "taken": r.taken} for r in simulator.rules.rules],
        }

    def _objects(self, bucket: str) -> dict[str, dict[str, Any]]:
        place = self.simulator.store.bucket(bucket)
        return {
            key: {
                "etag": found.etag,
                "size": len(found.body),
                "sha256": found.sha256,
                "headers": found.headers,
            }
            for key, found in place.objects.items()
        }

    def _seed(self, bucket: str, keys: list[str], body: bytes) -> dict[str, str]:
        """Somebody else writes to the store: in the journal as request 0."""
        new = read_body({}, body)
        for key in keys:
            found = Object(body, new.etag, new.sha256, new.checksums, {}, time.time())
            self.simulator.store.put("PutObject", bucket, key, found, Condition(), Cause())
        return {"etag": new.etag}

