"""A headless Chromium, driven by the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import pytest

STRICT = os.environ.get("QUICKWATER_BROWSER_STRICT") == "1"
PROGRAMS = ("chromium", "chromium-headless-shell", "chromium-browser")
# Far longer than anything takes: a machine may be busy.
PATIENCE_SECONDS = 120.0


def program() -> str:
    """The browser's path. Skips where there is none; with QUICKWATER_BROWSER_STRICT=1 fails."""
    found = [path for path in map(shutil.which, PROGRAMS) if path]
    if found:
        return found[0]
    reason = f"no browser is installed: any of {', '.join(PROGRAMS)}"
    if STRICT:
        pytest.fail(f"{reason}, and QUICKWATER_BROWSER_STRICT=1 wants one")
    pytest.skip(reason)


class Browser:
    """One browser with one page."""

    def __init__(self, home: Path) -> None:
        path = program()
        home.mkdir(parents=True)
        # Its socket's path must be short, which pytest's directories are not.
        self.temporary = tempfile.mkdtemp(prefix="qw-browser-")
        self.log = home / "chromium.log"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--no-first-run", "--no-proxy-server", "--remote-debugging-port=0"]
        # It asks nobody but the page under test.
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        flags += ["--window-size=1280,1400", f"--user-data-dir={home / 'profile'}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [path, *flags, "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": self.temporary},
                start_new_session=True,
            )
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._session: Any = None
        self._socket: Any = None
        try:
            self._loop.run_until_complete(self._connect(self._page(home / "profile")))
        except BaseException:
            self.close()
            raise
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")

    async def _connect(self, url: str) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(url, max_msg_size=64 << 20)

    async def _exchange(self, text: str, number: int) -> dict[str, Any]:
        await self._socket.send_str(text)
        while True:
            message = json.loads(await self._socket.receive_str())
            if message.get("id") == number:
                return dict(message)

    def _page(self, profile: Path) -> str:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            try:
                port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
                url = f"http://127.0.0.1:{port}/json/list"
                with urllib.request.urlopen(url, timeout=10) as reply:
                    pages = [p for p in json.loads(reply.read()) if p["type"] == "page"]
                return str(pages[0]["webSocketDebuggerUrl"])
            except (OSError, IndexError, ValueError):
                time.sleep(0.1)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One call of the protocol; events that come in between are kept out of the way."""
        number = next(self._numbers)
        text = json.dumps({"id": number, "method": method, "params": params})
        answer = asyncio.wait_for(self._exchange(text, number), PATIENCE_SECONDS)
        message = self._loop.run_until_complete(answer)
        assert "error" not in message, message
        return dict(message["result"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, script: str) -> None:
        """Waits until an expression is true, as JavaScript has it."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"{script}\n{self.run('document.body.innerText')}"
            time.sleep(0.1)

    def go(self, url: str) -> None:
        """Opens an address and waits until it is loaded."""
        self.call("Page.navigate", url=url)
        there = f"location.href.startsWith({json.dumps(url)})"
        self.wait(f"{there} && document.readyState == 'complete'")

    def picture(self, path: Path) -> Path:
        """A screenshot of the whole page, PNG."""
        done = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(done["data"]))
        return path

    def close(self) -> None:
        """Ends it."""
        if self._session is not None:
            self._loop.run_until_complete(self._session.close())
        self._loop.close()
        # With the processes it started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)
        shutil.rmtree(self.temporary, ignore_errors=True)
