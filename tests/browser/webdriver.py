"""A browser at the other end of WebDriver (W3C), with the standard library only.

chromedriver speaks JSON over HTTP on the loopback; this file is the part of that protocol that run.py needs. Chromium
runs headless with a profile of its own that is thrown away.
"""

import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def programs():
    """Paths of Chromium and its driver, or what is missing."""
    chromium = next((path for path in map(shutil.which, CHROMIUM) if path), None)
    driver = shutil.which("chromedriver")
    missing = [name for name, path in (("chromium", chromium), ("chromedriver", driver)) if path is None]
    return chromium, driver, missing


class Browser:
    """One headless Chromium; use it in a `with` statement."""

    def __init__(self, chromium, driver):
        self.profile = tempfile.TemporaryDirectory(prefix="shearling-browser-", ignore_cleanup_errors=True)
        self.driver = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = f"http://127.0.0.1:{self._port()}"
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={self.profile.name}", "--window-size=1280,900"]}
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.session = f"/session/{session['sessionId']}"

    def _port(self):
        for line in self.driver.stdout:
            found = re.search(r"started successfully on port (\d+)", line)
            if found:
                return int(found.group(1))
        raise RuntimeError("chromedriver did not start")

    def _send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def _do(self, path, body=None):
        return self._send("POST", self.session + path, body or {})

    def open(self, url):
        self._do("/url", {"url": url})

    def run(self, script, *arguments):
        """The value that a function body returns."""
        return self._do("/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        return self._do("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self._do(f"/element/{self.find(selector)}/click")

    def keys(self, selector, text):
        """Types into an element, which gets the focus."""
        self._do(f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, key):
        """One key to whatever has the focus."""
        strokes = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._do("/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def hover(self, selector, right=0, down=0):
        """Moves the pointer to the middle of an element, or so many pixels from it."""
        origin = {ELEMENT: self.find(selector)}
        move = {"type": "pointerMove", "duration": 50, "x": right, "y": down, "origin": origin}
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        self._do("/actions", {"actions": [pointer]})

    def command(self, name, **parameters):
        """A command of the DevTools protocol."""
        return self._do("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def log(self, kind):
        return self._do("/se/log", {"type": kind})

    def screen(self, width, dark=False):
        """A screen of that width, in light or dark."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._send("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait()
            self.profile.cleanup()
