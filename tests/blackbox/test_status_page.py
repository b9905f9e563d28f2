"""The status page, in a real browser."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Iterator

import pytest

from conftest import ServeFactory
from harness.apart import one_process
from harness import browser as chromium
from harness.browser import Browser
from harness.server import Server
from harness.under import scaled
from ufssim.client import Sim

# Object keys are clients' data: markup in them must stay text, and what turns text around or
# cannot be seen must be shown.
MARKUP = "a/<img src=x onerror=\"document.title='broken in'\">'&amp;<script>document.title='x'</script>"
# Two spaces are two, and the length is no burden.
LONG = "  " + "long/" * 100 + "end"
EVIL = MARKUP + "\u202egpj\n.exe" + LONG
SHOWN = MARKUP + "\\u{202e}gpj\\u{a}.exe" + LONG


def text(browser: Browser, selector: str) -> str:
    """What is to be read there."""
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def log_in(browser: Browser, server: Server, token: str = "") -> None:
    """Types the token and sends it."""
    known = (server.admin_dir / "admin-token").read_text().strip()
    browser.run(
        f"document.getElementById('token').value = {json.dumps(token or known)};"
        "document.querySelector('#login button').click()"
    )


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser with an empty page."""
    made = Browser(tmp_path / "browser")
    yield made
    made.close()


@pytest.mark.parametrize("strict", [False, True])
def test_where_a_browser_is_wanted_a_missing_one_is_no_skip(
    strict: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(chromium, "STRICT", strict)
    outcome = pytest.fail.Exception if strict else pytest.skip.Exception
    with pytest.raises(outcome, match="no browser is installed: any of chromium"):
        Browser(tmp_path / "browser")
    assert not (tmp_path / "browser").exists()


def page(server: Server) -> str:
    """Its address."""
    return f"http://{server.run['admin']}/status"


@one_process("the page's process serves S3 and is the only worker")
def test_what_the_page_shows_is_what_is(
    serve: ServeFactory, store: Sim, browser: Browser, tmp_path: Path
) -> None:
    server = serve(**scaled(store))
    s3 = server.target().client()
    s3.create_bucket(Bucket="abc")
    rules = server.home / "rules.json"
    rules.write_text(
        json.dumps(
            {
                "apiVersion": "v1.0",
                "defaultRule": {"policyMode": "WRITE_THROUGH"},
                "pathRules": [{"path": "/abc/a/**", "policyMode": "WRITE_BACK"}],
            }
        )
    )
    server.cli("pathconfig", "apply", str(rules))
    store.down("refuse")
    try:
        s3.put_object(Bucket="abc", Key=EVIL, Body=b"x" * 4096)
        browser.go(page(server))
        assert browser.run("document.getElementById('page').hidden")
        log_in(browser, server, "wrong-token-of-some-length")
        browser.wait("document.getElementById('refusal').textContent")
        # What no header can hold is refused here, in words.
        log_in(browser, server, "t\u00f6ken-\u65e5\u672c-of-some-length-at-least")
        browser.wait("document.getElementById('refusal').textContent.includes('visible ASCII')")
        assert browser.run("sessionStorage.length") == 0
        log_in(browser, server)
        browser.wait("document.querySelector('#persist td')")
        # Failing by now or soon: the page looks again and again.
        browser.wait("document.querySelector('#persist .bad')?.textContent")
        shown = text(browser, "#persist td")
        assert shown == f"/abc/{SHOWN}", shown
        assert browser.run("document.querySelector('#persist td').clientHeight") < 120
        assert "1 change (4.0 KiB)" in text(browser, "#persist-totals")
        assert text(browser, "#nodes td") == "local"
        assert "4.0 KiB dirty of" in text(browser, "#nodes")
        assert "abc" in text(browser, "#mounts")
        # The store is away, and the page has asked it.
        browser.wait("document.querySelector('#mounts .bad')?.textContent")
        browser.wait("document.getElementById('summary').textContent.includes(', 1 mount in trouble')")
        assert "WRITE_BACK" in text(browser, "#document")
        # What a person has selected stays so when the page looks again.
        browser.run(
            "document.querySelector('#persist td').kept = true;"
            "getSelection().selectAllChildren(document.querySelector('#persist td'))"
        )
        for _ in range(2):
            seen = json.dumps(text(browser, "#summary"))
            browser.wait(f"document.getElementById('summary').textContent !== {seen}")
        assert browser.run("document.querySelector('#persist td').kept === true")
        assert browser.run("getSelection().toString()") == f"/abc/{SHOWN}"
        # Two looks make a rate.
        browser.wait("document.querySelector('#traffic path.sent')?.getAttribute('d')")

        browser.run(
            f"document.getElementById('path').value = {json.dumps('/abc/' + EVIL)};"
            "document.querySelector('#tester button').click()"
        )
        browser.wait("document.getElementById('tested').textContent")
        tested = text(browser, "#tested")
        assert tested == "WRITE_BACK, 1 copy, by rule /abc/a/** of version 1", tested

        assert browser.run("document.title") == "Quickwater"
        assert browser.run("document.querySelectorAll('main img, main script').length") == 0
        pictures = Path(os.environ.get("QUICKWATER_PICTURES", str(tmp_path)))
        for scheme in ("light", "dark"):
            feature = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.call("Emulation.setEmulatedMedia", features=feature)
            assert browser.picture(pictures / f"status-{scheme}.png").stat().st_size > 10_000
        grounds = "getComputedStyle(document.body).backgroundColor"
        assert browser.run(grounds) == "rgb(17, 23, 28)"
    finally:
        store.up()
    server.cli("async-persist", "retry", "--path", "/abc")
    browser.wait("document.querySelector('#persist .quiet')")
    browser.wait("document.querySelector('#mounts td') && !document.querySelector('#mounts .bad').textContent")

    browser.run("document.getElementById('forget').click()")
    assert browser.run("sessionStorage.length") == 0
    assert browser.run("document.getElementById('page').hidden")


def test_every_control_has_a_name(serve: ServeFactory, browser: Browser) -> None:
    server = serve()
    browser.go(page(server))
    log_in(browser, server)
    # Of a cluster: not before its worker has registered.
    browser.wait("document.querySelector('#nodes td')")
    browser.call("Accessibility.enable")
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, list[Any]] = {}
    for node in tree:
        if not node.get("ignored"):
            role = node.get("role", {}).get("value", "")
            named.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    # Older browsers say img.
    named.setdefault("image", []).extend(named.pop("img", []))
    for role in ("button", "textbox", "image", "region"):
        assert named.get(role), role
        assert all(named[role]), (role, named[role])
    assert len(named["heading"]) >= 7
    assert named["columnheader"]


def test_many_workers_are_drawn_and_silent_ones_told_of(
    serve: ServeFactory, browser: Browser
) -> None:
    server = serve()
    browser.go(page(server))
    browser.wait("typeof showPersist === 'function'")
    # More values than a function takes, by more than any browser's limit.
    steps = "Array(120).fill(1)"
    workers = f"Array(4096).fill({{traffic: {{sent_bytes: {steps}, received_bytes: {steps}}}}})"
    assert browser.run(f"trafficColumn({workers}, {{worker_steps: 120}}).length") == 1
    for changes, silent, shown in [
        (0, [], "Nothing: all is where it belongs."),
        (0, ["n2"], "None that is known of."),
        (3, ["n2"], "Their workers have not named any."),
    ]:
        totals = {"puts": changes, "deletes": 0, "bytes": 0, "running": 0, "failing": 0}
        totals |= {"oldest_ms": 0, "transient_objects": 0, "transient_bytes": 0, "unheard": silent}
        queue = json.dumps({"totals": totals, "all": True, "oldest": []})
        browser.run(f"showPersist({queue}, [])")
        assert shown in str(browser.run("document.getElementById('persist').textContent"))
