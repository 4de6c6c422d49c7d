"""A page, opened by a real browser without a window: how it looks, what it says, what it asks the network for."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-default-apps", "--no-default-browser-check"),
]
_ITS_OWN = re.compile(r"[/.](google\.com|update\.googleapis\.com|gvt1\.com)[:/]")
"""What the browser asks for itself, whatever it shows: its updates, the time, who is signed in."""


@dataclass(frozen=True)
class Seen:
    """A picture of the page as PNG, its elements as HTML, what it told the console, and what it asked the network."""

    picture: bytes
    elements: str
    console: list[str]
    requests: list[str]


def look_at(page: Path, folder: Path, milliseconds: int = 2000, fragment: str = "") -> Seen:
    """Open a page for so much of the browser's own time; skip the test where there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on the path: none of {', '.join(BROWSERS)}")
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        """Every request for anything that is no file comes here; no method is known, so each becomes an error."""

        def send_error(self, *_: object) -> None:
            if not _ITS_OWN.search(f"/{self.path}"):
                asked.append(self.path)
            super().send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        picture = folder / "page.png"
        command = [browser, *_QUIET, f"--user-data-dir={folder / 'profile'}", "--window-size=980,1600"]
        command += [f"--proxy-server=127.0.0.1:{server.server_port}", "--proxy-bypass-list=<-loopback>"]
        command += [f"--virtual-time-budget={milliseconds}", "--enable-logging=stderr", "--v=0"]
        ends = (f"--screenshot={picture}", "--dump-dom")
        done = [
            subprocess.run(
                [*command, end, f"{page.as_uri()}#{fragment}"], capture_output=True, text=True, timeout=120, check=True
            )
            for end in ends
        ]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    console = re.findall(r"CONSOLE[^\]]*\] (.*)", done[0].stderr)
    return Seen(picture.read_bytes(), done[1].stdout, console, asked)
