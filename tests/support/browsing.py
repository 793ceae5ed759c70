"""What tests ask of a page in Chromium; `browser` is the command that starts it (see the fixture)."""

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import matplotlib.image
from websockets.sync.client import ClientConnection, connect

PATIENCE = 60.0
"""Seconds to wait for what a page shall show, on a busy machine."""


def run(command: list[str], page: Path) -> str:
    """What the browser prints of the page."""
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120).stdout


def brightness(browser: list[str], page: Path, folder: Path) -> dict[str, float]:
    """Mean brightness, 0 to 1, of the page for somebody who likes it dark, and light."""
    found = {}
    for theme, setting in (("dark", 0), ("light", 1)):
        picture = folder / f"{theme}.png"
        run([*browser, f"--blink-settings=preferredColorScheme={setting}", f"--screenshot={picture}"], page)
        found[theme] = float(matplotlib.image.imread(picture)[..., :3].mean())
    return found


class Tab:
    """A page that is clicked on, typed into and looked at, over Chromium's DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = count(1)
        self.requests: list[str] = []
        """Every address that was asked for."""
        self.errors: list[str] = []
        """What scripts raised and the console called an error."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Go there, and wait until it is there."""
        self._call("Page.navigate", url=address)
        self.wait_for(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Until the expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition} never was true: {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """What is to be read there."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def hover(self, selector: str) -> tuple[float, float]:
        """Move the mouse to the middle of what is there, which must be visible; returns where that is."""
        found = f"const found = document.querySelector({json.dumps(selector)}); found.scrollIntoView({{ block: 'center' }});"
        middle = "const box = found.getClientRects()[0]; return box && [box.x + box.width / 2, box.y + box.height / 2];"
        place = self.evaluate(f"(() => {{ {found} {middle} }})()")
        assert place, f"{selector} is not visible"
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
        return place[0], place[1]

    def click(self, selector: str) -> None:
        """With the mouse."""
        x, y = self.hover(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Type instead of what stands there."""
        self.click(selector)
        self.evaluate("document.activeElement.select()")
        self._call("Input.insertText", text=text)

    def look_as(self, width: int, dark: bool) -> None:
        """From now on the window is so wide, and the reader likes it dark or not."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        liked = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=liked)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return dict(message["result"])
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str, said: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(said["exceptionDetails"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"])


@contextmanager
def tab(browser: list[str], folder: Path) -> Iterator[Tab]:
    """A page of a Chromium that reaches nothing but this machine's own address; `folder` is for its files."""
    kept = [option for option in browser if not option.startswith(("--virtual-time-budget", "--host-resolver-rules"))]
    own = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    with subprocess.Popen([*kept, *own, "about:blank"], stderr=subprocess.DEVNULL) as process:
        try:
            port, deadline = folder / "DevToolsActivePort", time.monotonic() + PATIENCE
            while not (port.exists() and len(port.read_text().splitlines()) == 2):
                assert time.monotonic() < deadline, "Chromium does not start"
                time.sleep(0.05)
            pages = httpx.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json", trust_env=False).json()
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            with connect(address, max_size=None, proxy=None) as connection:
                yield Tab(connection)
        finally:
            process.terminate()
