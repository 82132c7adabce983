# SPDX-License-Identifier: GPL-3.0-or-later
"""As much of the WebDriver protocol as the tests of the page need: Debian's chromium through its chromedriver."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import Any


class Browser:
    """Headless Chromium. Use it as a context manager."""

    def __init__(self) -> None:
        driver = shutil.which("chromedriver")
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if driver is None or chromium is None:
            raise FileNotFoundError("chromium and chromedriver are needed: make test-browser installs Debian's")
        self._process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            self._url = f"http://127.0.0.1:{self._port()}"
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {
                "browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
                "goog:chromeOptions": {"binary": chromium, "args": [
                    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
                    "--force-color-profile=srgb", "--disable-background-networking"]}}}})
        except OSError:
            self._end()
            raise
        self._url += f"/session/{answer['sessionId']}"

    def _port(self) -> str:
        for line in self._process.stdout or ():
            match = re.search(r"successfully on port (\d+)", line)
            if match:
                return match[1]
        raise OSError("chromedriver did not start")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("DELETE", "", None)
        finally:
            self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout:
            self._process.stdout.close()

    def _call(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(self._url + path, None if body is None else json.dumps(body).encode(),
                                         {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:         # what the script did wrong is in the body
            raise OSError(json.load(error)["value"]["message"]) from error

    def open(self, address: str) -> None:
        self._call("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page; `return` gives its value."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, seconds: float = 20.0) -> Any:
        """Wait in the page until an expression is true; its value. Raises TimeoutError when it does not come."""
        self._call("POST", "/timeouts", {"script": int(seconds * 1000) + 5000})
        value = self._call("POST", "/execute/async", {"script": f"""
            const done = arguments[0], end = performance.now() + {seconds * 1000};
            (function look() {{ let value; try {{ value = {script}; }} catch (error) {{ value = null; }}
              if (value || performance.now() > end) done(value); else setTimeout(look, 20); }})();""", "args": []})
        if not value:
            raise TimeoutError(f"after {seconds:g} s still not: {script}")
        return value

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screen(self, width: int, height: int, dark: bool = False, mobile: bool = False, scale: float = 1.0) -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)
        self.cdp("Emulation.setEmulatedMedia",
                 features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def picture(self, path: str, whole: bool = False) -> None:
        """Save what is on the screen, or the whole page."""
        answer = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(answer["data"]))

    def console(self) -> list[str]:
        """Messages of the console since it was last asked, errors of loading included."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._call("POST", "/se/log", {"type": "browser"})]
