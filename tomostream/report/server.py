# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves the page of one session, and accepts marks, acknowledgements, exclusions and STOP from those who have the token.

On the machine itself anybody can read the page; from elsewhere it needs the reading key, which is derived from the token and does
not reveal it. Nothing is changed without the token in a header, which pages of other sites cannot set: a foreign form or link
changes nothing, whatever cookies the browser holds. Only the files of the page are served, and those files of the project that
the page of a series lists.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import ipaddress
import json
import mimetypes
import os
import socket
from collections.abc import Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import msgspec

from tomostream.report.actions import REQUESTS, Refused, Session
from tomostream.report.folders import read_data

#: Maximum of bytes in the body of a request.
MAX_BODY = 1 << 18
#: Seconds after which a silent connection is closed.
SILENCE_SECONDS = 30.0
HEADER, COOKIE = "X-Tomostream-Token", "tomostream-reader"
#: Names under which a browser reaches a server of its own machine.
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
#: Headers of every response: no other site may frame it, read it, or learn its address.
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'",
}


class PageServer(http.server.ThreadingHTTPServer):
    """Serves the page of a session until `shutdown()`.

    Parameters
    ----------
    session : the project and the folder of its page.
    token : required for changes; at least 16 characters.
    host : address to bind to; a loopback address can be read without a key.
    port : 0 takes any free one.

    Raises
    ------
    OSError : the address cannot be used.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, session: Session, token: str, host: str = "127.0.0.1", port: int = 0) -> None:
        if len(token) < 16:
            raise ValueError("a token with fewer than 16 characters can be guessed")
        self.session, self.token = session, token
        self.local = is_local(host)
        self.key = hmac.new(token.encode(), b"reader", hashlib.sha256).hexdigest()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), PageHandler)

    def address(self, name: str) -> str:
        """Return the address to open in a browser, for a machine that knows us by this name; it contains the token."""
        host = f"[{name}]" if ":" in name else name
        reading = "" if self.local else f"?key={self.key}"
        return f"http://{host}:{self.server_address[1]}/{reading}#token={self.token}"


class PageHandler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: PageServer
    timeout = SILENCE_SECONDS
    server_version, sys_version = "tomostream", ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._read(True)

    def do_HEAD(self) -> None:
        self._read(False)

    def do_POST(self) -> None:
        self.close_connection = True  # an unread body must not be taken for the next request
        where = urlsplit(self.path).path
        if not self._host_is_ours() or not self._origin_is_ours():
            return self._report(HTTPStatus.FORBIDDEN, error="this request comes from another site")
        if not self._has_token(self.headers.get(HEADER, "")):
            return self._report(HTTPStatus.FORBIDDEN, error="the token is missing: open the address that tomostream page printed")
        kind = REQUESTS.get(where.removeprefix("/api/")) if where.startswith("/api/") else None
        if kind is None:
            return self._report(HTTPStatus.NOT_FOUND, error="there is no such request")
        if self.headers.get_content_type() != "application/json":
            return self._report(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, error="a request must be JSON")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return self._report(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error=f"a request may have at most {MAX_BODY} bytes")
        try:
            request = msgspec.json.decode(self.rfile.read(int(length)), type=kind)
            return self._report(HTTPStatus.OK, text=self.server.session.act(request))
        except (msgspec.DecodeError, RecursionError) as error:
            return self._report(HTTPStatus.BAD_REQUEST, error=f"the request is invalid: {error}")
        except Refused as error:
            return self._report(HTTPStatus.CONFLICT, error=str(error))
        except OSError as error:
            return self._report(HTTPStatus.INSUFFICIENT_STORAGE, error=f"it cannot be written: {error.strerror or error}")

    # ------------------------------------------------------------------ who asks
    def _has_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.server.token.encode())

    def _host_is_ours(self) -> bool:
        """Tell whether the request was made to a name of ours, not to that of another site that points to this machine."""
        if not self.server.local:
            return True  # the key is required anyway
        try:
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname in LOCAL_NAMES
        except ValueError:
            return False

    def _origin_is_ours(self) -> bool:
        origin = self.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc == self.headers.get("Host")

    def _may_read(self, query: Mapping[str, list[str]]) -> bool:
        if self.server.local or self._has_token(self.headers.get(HEADER, "")):
            return True
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given = cookie.value if cookie else query.get("key", [""])[0]
        return hmac.compare_digest(given.encode(), self.server.key.encode())

    # ------------------------------------------------------------------ what is read
    def _read(self, body: bool) -> None:
        parts = urlsplit(self.path)
        try:
            where, query = unquote(parts.path, errors="strict"), parse_qs(parts.query)
        except ValueError:
            return self._report(HTTPStatus.BAD_REQUEST, error="the address is not text")
        if not self._host_is_ours():
            return self._report(HTTPStatus.FORBIDDEN, error="this request comes from another site")
        if not self._may_read(query):
            return self._report(HTTPStatus.FORBIDDEN, error="the key is missing: open the address that tomostream page printed")
        if "key" in query:  # remove it from the address, so that it is not in the history or on screenshots
            return self._redirect(parts.path)
        if where == "/api/hello":
            known = self._has_token(self.headers.get(HEADER, ""))
            return self._report(HTTPStatus.OK if known else HTTPStatus.FORBIDDEN, text="welcome" if known else "",
                                error="" if known else "the token is missing")
        path, name = self._file(where)
        if path is None:
            return self._report(HTTPStatus.NOT_FOUND, error="there is no such file in this page")
        return self._send(path, name, body)

    def _redirect(self, path: str) -> None:
        self.send_response(HTTPStatus.FOUND)
        self.send_header("Location", path if path.startswith("/") and not path.startswith("//") else "/")
        self.send_header("Set-Cookie", f"{COOKIE}={self.server.key}; HttpOnly; SameSite=Strict; Path=/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, where: str) -> tuple[str | None, str]:
        """Return the file for an address (None if there is none), and the name to save it under ("": show it)."""
        parts = [part for part in where.split("/") if part]
        if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            return None, ""
        if parts[:1] == ["download"]:
            return self._download(parts[1:])
        return inside(self.server.session.out, os.path.join(*parts) if parts else "index.html"), ""

    def _download(self, parts: list[str]) -> tuple[str | None, str]:
        """Return a file of the project by its position in the list of a series: `download/SERIES/2`."""
        if len(parts) != 2 or not parts[1].isdecimal() or len(parts[1]) > 4:
            return None, ""
        listed = listed_files(os.path.join(self.server.session.out, "series", parts[0]))
        if int(parts[1]) >= len(listed):
            return None, ""
        name = listed[int(parts[1])]        # one elsewhere is absolute, and not inside
        return inside(self.server.session.project, name), os.path.basename(name)

    # ------------------------------------------------------------------ answers
    def _send(self, path: str, name: str, body: bool) -> None:
        try:
            file = open(path, "rb")
        except OSError:
            return self._report(HTTPStatus.NOT_FOUND, error="there is no such file in this page")
        with file:
            kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
            self.send_response(HTTPStatus.OK)
            is_text = kind.startswith("text/") or kind.endswith(("javascript", "json"))
            self.send_header("Content-Type", kind + ("; charset=utf-8" if is_text else ""))
            length = os.fstat(file.fileno()).st_size
            self.send_header("Content-Length", str(length))
            if name:
                self.send_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(name, safe='')}")
            self.end_headers()
            if body:
                while length > 0 and (part := file.read(min(length, 1 << 20))):    # a growing file is cut at the announced length
                    self.wfile.write(part)
                    length -= len(part)

    def _report(self, status: HTTPStatus, text: str = "", error: str = "") -> None:
        body = json.dumps({"error": error} if error else {"text": text}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in SAFE_HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *_: Any) -> None:
        """Log nothing, because an address may contain the key."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client is gone


def is_local(host: str) -> bool:
    """Tell whether an address can be reached only from the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def inside(folder: str, name: str) -> str | None:
    """Return the regular file `name` below `folder`, after following links; None if it is elsewhere, or there is none."""
    root, path = os.path.realpath(folder), os.path.realpath(os.path.join(folder, name))
    return path if path.startswith(root + os.sep) and os.path.isfile(path) else None


def listed_files(folder: str) -> list[str]:
    """Return the files listed in the data of a series, relative to the project; those elsewhere are absolute."""
    try:
        return [str(each["path"]) for each in read_data(folder)[1]["files"]]
    except (KeyError, TypeError):
        return []
