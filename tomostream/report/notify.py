# SPDX-License-Identifier: GPL-3.0-or-later
"""Alarms by e-mail (SMTP) and by webhook (JSON over HTTP), from a thread of their own.

A mail server that is dead, slow or refuses never disturbs anything: sending has a time-out, nobody waits for it, what does
not fit into the queue is dropped, and what went wrong is said in `trouble`.
"""

from __future__ import annotations

import configparser
import json
import os
import queue
import smtplib
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import EmailMessage
from http.client import HTTPException

from tomostream.report.alarms import KINDS, Event

#: Seconds that a server may take, messages that may wait, and how often one is tried.
TIME_OUT, MOST_WAITING, TRIES = 10.0, 100, 2
#: Scipion's variables, see `Destinations.from_environment`.
EMAIL, SENDER, SERVER, WEBHOOK = ("TOMOSTREAM_ALARM_EMAIL", "TOMOSTREAM_ALARM_SENDER", "TOMOSTREAM_SMTP_SERVER",
                                  "TOMOSTREAM_WEBHOOK")
HOME, LOCAL = "SCIPION_HOME", "SCIPION_LOCAL_CONFIG"
USER, PASSWORD = "TOMOSTREAM_SMTP_USER", "TOMOSTREAM_SMTP_PASSWORD"
VARIABLES = {
    EMAIL: "Who gets the alarms of a running session by e-mail: addresses separated by commas. Empty: nobody.",
    SENDER: "Sender of these e-mails (tomostream@localhost).",
    SERVER: "Mail server that takes them, HOST or HOST:PORT (localhost:25; 465 speaks TLS).",
    USER: "User name at the mail server, if it wants one.",
    PASSWORD: "Password at the mail server, if it wants one.",
    WEBHOOK: "Address (http or https) that gets every alarm as JSON, e.g. of a chat service. Empty: none."}


@dataclass(frozen=True)
class Destinations:
    """Where alarms go. `server` is HOST or HOST:PORT (25; 465 speaks TLS from the start, others where it is offered)."""

    email: tuple[str, ...] = ()
    sender: str = "tomostream@localhost"
    server: str = "localhost"
    user: str = ""
    password: str = ""
    webhook: str = ""

    @classmethod
    def configured(cls) -> Destinations:
        """From the variables as Scipion sees them: those of the environment, else those of its scipion.conf.

        Raises
        ------
        ValueError : as `from_environment`.
        """
        return cls.from_environment({**scipion_variables(os.environ), **os.environ})

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Destinations:
        """From Scipion's variables. An address list is separated by commas or blanks.

        Raises
        ------
        ValueError : a webhook that is no http address, a port that is no number, an address without @.
        """
        email = tuple(environment.get(EMAIL, "").replace(",", " ").split())
        for address in email:
            if "@" not in address:
                raise ValueError(f"{EMAIL}: '{address}' is no e-mail address")
        server = environment.get(SERVER, "") or cls.server
        if ":" in server and not server.rpartition(":")[2].isdigit():
            raise ValueError(f"{SERVER}: write HOST or HOST:PORT, not '{server}'")
        webhook = environment.get(WEBHOOK, "")
        if webhook and urllib.parse.urlparse(webhook).scheme not in ("http", "https"):
            raise ValueError(f"{WEBHOOK}: '{webhook}' must begin with http:// or https://")
        return cls(email, environment.get(SENDER, "") or cls.sender, server, environment.get(USER, ""),
                   environment.get(PASSWORD, ""), webhook)

    def __bool__(self) -> bool:
        return bool(self.email or self.webhook)


def scipion_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Our variables in Scipion's configuration: `config/scipion.conf` of its home, and above it the user's own.

    A process that Scipion starts has them in its environment; one that is started from a terminal has not.
    """
    files = [os.path.join(environment[HOME], "config", "scipion.conf")] if environment.get(HOME) else []
    files.append(os.path.expanduser(environment.get(LOCAL, "") or os.path.join("~", ".config", "scipion", "scipion.conf")))
    found: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser(strict=False, default_section="")
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue        # Scipion itself says what is wrong with its file
        found |= {name: value.strip() for section in parser.sections() for name, value in parser.items(section)
                  if name in VARIABLES and value is not None}
    return found


class Notifier:
    """Sends events in the background. `trouble` holds the last thing that went wrong, "" when all went well."""

    def __init__(self, destinations: Destinations, session: str, time_out: float = TIME_OUT) -> None:
        self.destinations = destinations
        self.session = session
        self.time_out = time_out
        self.trouble = ""
        self.sent = 0
        self._queue: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None

    def send(self, event: Event) -> None:
        """Hand over one event; returns at once."""
        if not self.destinations:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tomostream-alarms", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.trouble = f"more than {MOST_WAITING} alarms wait to be sent; '{event.text}' is not sent"

    def close(self, wait: float = TIME_OUT) -> None:
        """End the thread after what waits was sent, or after `wait` seconds: what is left then is lost."""
        if self._thread is None:
            return
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(wait)

    def _work(self) -> None:
        while True:
            event = self._queue.get()
            if event is None:
                return
            problems = []
            if self.destinations.email:
                problems.append(self._try(self._mail, event, f"the mail server {self.destinations.server}"))
            if self.destinations.webhook:
                host = urllib.parse.urlparse(self.destinations.webhook).hostname
                problems.append(self._try(self._post, event, f"the webhook at {host}"))
            self.trouble = "; ".join(problem for problem in problems if problem)

    def _try(self, send: Callable[[Event], None], event: Event, where: str) -> str:
        problem = ""
        for _ in range(TRIES):
            try:
                send(event)
            except (OSError, smtplib.SMTPException, urllib.error.URLError, HTTPException, ValueError) as error:
                problem = f"{where} did not take the alarm '{event.text}': {error}"
            else:
                self.sent += 1
                return ""
        return problem

    # ------------------------------------------------------------------ two ways
    def _mail(self, event: Event) -> None:
        message = as_mail(event, self.session, self.destinations)
        host, colon, port = self.destinations.server.rpartition(":")
        host, number = (host, int(port)) if colon else (self.destinations.server, 25)
        kind = smtplib.SMTP_SSL if number == 465 else smtplib.SMTP
        with kind(host, number, timeout=self.time_out) as server:
            server.ehlo()
            if number != 465 and server.has_extn("starttls"):
                server.starttls()
            if self.destinations.user:
                server.login(self.destinations.user, self.destinations.password)
            server.send_message(message)

    def _post(self, event: Event) -> None:
        request = urllib.request.Request(
            self.destinations.webhook, json.dumps(as_json(event, self.session)).encode(),
            {"Content-Type": "application/json", "User-Agent": "tomostream"})
        with urllib.request.urlopen(request, timeout=self.time_out) as answer:
            answer.read(1000)


def title(event: Event) -> str:
    """One line: what is the matter."""
    return KINDS.get(event.kind, event.kind) + ("" if event.raised else ": over")


def as_json(event: Event, session: str) -> dict[str, object]:
    """What a webhook gets. `text` alone is what chat services show."""
    return {"session": session, "kind": event.kind, "state": "raised" if event.raised else "over",
            "time": utc(event.time), "since": utc(event.since), "message": event.text,
            "text": f"{session} – {title(event)}: {event.text}"}


def as_mail(event: Event, session: str, destinations: Destinations) -> EmailMessage:
    """The e-mail. Line ends are taken out of the subject: a series may be named anything."""
    message = EmailMessage()
    message["Subject"] = " ".join(f"[tomostream] {session}: {title(event)}".split())
    message["From"], message["To"] = destinations.sender, ", ".join(destinations.email)
    ended = "" if event.raised else f"\nIt had begun at {utc(event.since)}."
    message.set_content(f"{event.text}\n\nSession {session}, {utc(event.time)}.{ended}\n")
    return message


def utc(time: float) -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
