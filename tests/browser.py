"""A real, headless Chromium for the tests of pages, spoken to over two pipes.

The DevTools protocol is JSON between null bytes: commands go to the browser's file descriptor 3,
answers and events come from 4. It needs nothing but the browser, and no port. Everything has a time
limit, and the browser dies with the `with` block.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 60.0
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
)
MOVE = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD_CLOEXEC, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Moves two pipes to 3 and 4, whatever numbers they have, and becomes the browser."""
LOCAL = ("data:", "blob:", "about:")


class BrowserError(RuntimeError):
    """The browser refused a command, threw in a script, or did not answer in time."""


def found() -> str | None:
    """The first Chromium on the PATH, none where there is none."""
    return next((place for place in map(shutil.which, NAMES) if place), None)


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser with a profile of its own, which is killed and forgotten at the end."""
    program = found()
    if program is None:
        raise BrowserError(f"none of {', '.join(NAMES)} is on the PATH")
    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            yield browser
        finally:
            browser.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module's tests; skips where there is no Chromium."""
    if found() is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the PATH")
    with launched() as started:
        yield started


class Browser:
    """A process and its two pipes."""

    def __init__(self, program: str, profile: str) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        moved = [sys.executable, "-c", MOVE, str(commands), str(answers)]
        self._process = subprocess.Popen(
            [*moved, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._last = 0
        self._events: dict[str, deque[dict[str, Any]]] = {}

    def kill(self) -> None:
        """Ends the browser and all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT_S)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """Sends one command and waits for its result; raises BrowserError where it has none."""
        self._last += 1
        number = self._last
        command = {"id": number, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        self._send(json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            message = self._next(deadline, method)
            if message.get("id") == number:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error']['message']}")
                return message.get("result", {})

    def pump(self, seconds: float) -> None:
        """Takes in events for some time."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(BrowserError):
            while time.monotonic() < deadline:
                self._next(deadline, "events")

    def events(self, session: str) -> deque[dict[str, Any]]:
        """The events of a page that nobody has taken yet, oldest first."""
        return self._events.setdefault(session, deque())

    def page(self, width: int = 1280, height: int = 800) -> Page:
        """A new page of this size in pixels."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, target, width, height)

    def _send(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._commands, data) :]
        except BrokenPipeError as error:
            raise BrowserError("the browser ended") from error

    def _next(self, deadline: float, waiting: str) -> dict[str, Any]:
        """The next message; an event is also put by for its page."""
        while b"\0" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                raise BrowserError(f"no answer in time: {waiting}")
            more = os.read(self._answers, 1 << 16)
            if not more:
                raise BrowserError(f"the browser ended: {waiting}")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message and "sessionId" in message:
            self.events(message["sessionId"]).append(message)
        return message


class Page:
    """One page of a browser.

    `console` has every error and warning that the page told, exceptions and refusals of the
    Content-Security-Policy included; `requests` every address asked for but the file's own.
    """

    def __init__(
        self, browser: Browser, session: str, target: str, width: int, height: int
    ) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self._url = "about:blank"
        self._console: list[str] = []
        self._requests: list[str] = []
        self._loaded = False
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol for this page."""
        return self._browser.call(method, self._session, **params)

    def resize(self, width: int, height: int) -> None:
        """Makes the window this large, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """What the user's system prefers: light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def open(self, path: Path) -> Page:
        """Opens a file and waits until it is loaded."""
        self._url = path.resolve().as_uri()
        self._loaded = False
        answer = self.call("Page.navigate", url=self._url)
        if answer.get("errorText"):
            raise BrowserError(f"{path}: {answer['errorText']}")
        deadline = time.monotonic() + TIMEOUT_S
        while not self._loaded:
            if time.monotonic() > deadline:
                raise BrowserError(f"{path} did not load in time")
            self._browser.pump(0.05)
            self._take_events()
        return self

    def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise; what it throws is raised."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            allowUnsafeEvalBlockedByCSP=False,
        )
        if "exceptionDetails" in answer:
            raise BrowserError(_told(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Waits until an expression is true, and returns it."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := self.evaluate(script)):
            if time.monotonic() > deadline:
                raise BrowserError(f"never true: {script}")
            self._browser.pump(0.05)
        return value

    def settle(self) -> None:
        """Waits until what was begun is painted."""
        frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.evaluate(f"{frame}.then(() => true)")

    def click(self, css: str, *, nth: int = 0) -> None:
        """Presses the mouse in the middle of the nth element that matches."""
        place = self.evaluate(
            f"(() => {{ const one = document.querySelectorAll({json.dumps(css)})[{nth}];"
            "if (!one) return null; one.scrollIntoView({block: 'center', inline: 'center'});"
            "const box = one.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        if place is None:
            raise BrowserError(f"there is no {css} number {nth}")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                clickCount=1,
                button="none" if kind == "mouseMoved" else "left",
            )
        self.settle()

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.call("Input.insertText", text=text)
        self.settle()

    def press(self, key: str) -> None:
        """Presses one key by its name: Enter, Tab, ArrowDown, a."""
        codes = {"Enter": (13, "\r"), "Tab": (9, "\t"), "Escape": (27, ""), " ": (32, " ")}
        code, text = codes.get(key, (0, key if len(key) == 1 else ""))
        arrows = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        code = arrows.get(key, code)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                **{"type": kind, "key": key, "windowsVirtualKeyCode": code, **more},
            )
        self.settle()

    def clear(self, css: str) -> None:
        """Empties a field and leaves the focus in it."""
        self.evaluate(
            f"(() => {{ const field = document.querySelector({json.dumps(css)}); field.focus();"
            "field.value = ''; field.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def text(self, css: str) -> str | None:
        """What the first element that matches shows, none where there is none."""
        found: str | None = self.evaluate(f"document.querySelector({json.dumps(css)})?.innerText")
        return found

    def screenshot(
        self, path: Path, width: int = 1280, height: int = 800, *, full: bool = False
    ) -> Path:
        """Writes a PNG of the window at this size, or of the whole page."""
        self.resize(width, height)
        self.settle()
        self._browser.pump(0.3)
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    @property
    def console(self) -> list[str]:
        """What the page complained of so far."""
        self._browser.pump(0.05)
        self._take_events()
        return self._console

    @property
    def requests(self) -> list[str]:
        """What the page asked for so far, itself and what it carries left out."""
        self._browser.pump(0.05)
        self._take_events()
        return self._requests

    def close(self) -> None:
        """Closes the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def _take_events(self) -> None:
        events = self._browser.events(self._session)
        while events:
            event = events.popleft()
            self._take(event["method"], event["params"])

    def _take(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self._console.append(_told(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            said = [str(arg.get("value", arg.get("description"))) for arg in params["args"]]
            self._console.append(" ".join(said))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self._console.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url.partition("#")[0] != self._url and not url.startswith(LOCAL):
                self._requests.append(url)


def _told(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
