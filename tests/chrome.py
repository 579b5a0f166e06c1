"""A headless Chromium that is spoken to while it runs: real time, real mouse, every request seen, WebGL in software.

The visits of :mod:`tests.browser` run on a clock that jumps ahead of the frames, which is of no use where the frames
are what is tested. This one speaks the DevTools protocol through a pipe; nothing but Chromium is needed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import selectors
import subprocess
import time
from pathlib import Path
from typing import Any

from tests import browser

_FLAGS = ["--headless", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking"]
_FLAGS += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"]
_FLAGS += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
# The frames of other origins in the page's own process, so that one session sees and reaches them all.
_FLAGS += ["--disable-features=IsolateSandboxedIframes", "--disable-site-isolation-trials"]


class Chrome:
    """One page. ``console`` holds what it said, ``requests`` all addresses it asked for."""

    def __init__(self, profile: Path) -> None:
        """Start a browser with a profile of its own."""
        found = browser.find()
        assert found is not None
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        # Chromium reads from 3 and writes to 4. Numbers from 10 on cannot be overwritten by these two.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
        command = [found, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", *command],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (theirs_in, theirs_out, *high):
            os.close(fd)
        self._in, self._out, self._buffer, self._count = ours_in, ours_out, b"", 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._in, selectors.EVENT_READ)
        self._session: str | None = None
        self.console: list[str] = []
        self.requests: list[str] = []
        page = next(it for it in self.call("Target.getTargets")["targetInfos"] if it["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, timeout: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda it: it.get("id") == self._count, timeout, method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, page: Path, width: int = 1000, height: int = 700, before: str = "", touch: bool = False) -> None:
        """Open a file and wait until it is loaded. ``before`` is JavaScript that runs ahead of the page's own."""
        self.console, self.requests = [], []
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        script = self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=page.as_uri())
        self._until(lambda it: it.get("method") == "Page.loadEventFired", 60, "load")
        self.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])

    def run(self, body: str, **more: Any) -> Any:
        """The value that ``body``, the body of an async function, returns in the page."""
        answer = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {body} }})()",
            awaitPromise=True,
            returnByValue=True,
            **more,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Until a JavaScript expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"return !!({condition})"):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}"
            time.sleep(0.03)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A real event: ``Moved``, ``Pressed``, ``Released``, ``Wheel``."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """Move there, press, release."""
        self.mouse("Moved", x, y)
        for kind in ("Pressed", "Released"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Save what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        self._session = None
        try:
            self.call("Browser.close", timeout=10)
            self._process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._selector.close()
        os.close(self._in)
        os.close(self._out)

    def _until(self, wanted: Any, timeout: float, what: str) -> dict[str, Any]:
        end = time.monotonic() + timeout
        while True:
            while b"\0" in self._buffer:
                text, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(text)
                self._note(message)
                if wanted(message):
                    return message
            assert self._selector.select(max(0.0, end - time.monotonic())), f"{what}: no answer within {timeout} s"
            read = os.read(self._in, 1 << 20)
            assert read, f"{what}: the browser has gone"
            self._buffer += read

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(" ".join(str(it.get("value", it.get("description"))) for it in parameters["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
