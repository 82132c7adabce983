# SPDX-License-Identifier: GPL-3.0-or-later
"""Alarms by e-mail (SMTP) and by webhook (JSON over HTTP), from a thread of their own.

A mail server that is dead, slow or refuses never disturbs anything: sending has a time-out, nobody waits for it, what does not
fit into the queue is dropped, and `trouble` says what went wrong. Mail is sent over TLS with a verified certificate wherever the
server offers TLS, and a password never over an unencrypted connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import smtplib
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import EmailMessage
from http.client import HTTPException

from tomostream.files import configuration
from tomostream.report.alarms import KINDS, Event

#: Seconds that a server may take, messages that may wait, and how often sending one is attempted.
TIME_OUT, MAX_WAITING, MAX_ATTEMPTS = 10.0, 100, 2
#: The port that speaks TLS from the first byte.
TLS_PORT = 465
#: The version of the format of webhook messages.
FORMAT = 1
#: Names of this machine, whose own mail server may have a self-signed certificate: nobody is in between.
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
#: Scipion's variables, see `Destinations.from_environment`.
EMAIL, SENDER, SERVER, WEBHOOK = ("TOMOSTREAM_ALARM_EMAIL", "TOMOSTREAM_ALARM_SENDER", "TOMOSTREAM_SMTP_SERVER",
                                  "TOMOSTREAM_WEBHOOK")
#: In a project: where its alarms go.
KEPT = ".alarms.json"
USER, PASSWORD = "TOMOSTREAM_SMTP_USER", "TOMOSTREAM_SMTP_PASSWORD"
VARIABLES = {
    EMAIL: "E-mail addresses that receive the alarms of a running session, separated by commas. Empty: nobody.",
    SENDER: "Sender of these e-mails (tomostream@localhost).",
    SERVER: "Mail server for them, HOST or HOST:PORT (localhost:25; port 465 uses TLS from the start).",
    USER: "User name at the mail server, if it needs one.",
    PASSWORD: "Password at the mail server, if it needs one. It is sent over verified TLS only.",
    WEBHOOK: "Address (http or https) that receives every alarm as JSON, e.g. of a chat service. Empty: none."}


@dataclass(frozen=True)
class Destinations:
    """Where alarms go. `server` is HOST or HOST:PORT (25; 465 uses TLS from the start, others if it is offered)."""

    email: tuple[str, ...] = ()
    sender: str = "tomostream@localhost"
    server: str = "localhost"
    user: str = ""
    password: str = ""
    webhook: str = ""

    @classmethod
    def configured(cls, project: str = "") -> Destinations:
        """Return them from the environment, else from the variables with which the project was started (see `keep`), else from
        scipion.conf.

        Raises
        ------
        ValueError : as `from_environment`.
        """
        return cls.from_environment({**scipion_variables(os.environ), **(kept(project) if project else {}), **os.environ})

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Destinations:
        """Return them from a set of variables. Addresses are separated by commas or blanks.

        Raises
        ------
        ValueError : a webhook that is not an http address, a port that is not a number, an address without @.
        """
        email = tuple(environment.get(EMAIL, "").replace(",", " ").split())
        for address in email:
            if "@" not in address:
                raise ValueError(f"{EMAIL}: '{address}' is not an e-mail address")
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


def keep(project: str, environment: Mapping[str, str]) -> None:
    """Store in a project where its alarms go according to the environment, because whoever continues it may have another one. The
    password is not stored. Only the owner may read the file, because the address of a webhook is a secret.

    Raises
    ------
    OSError : it cannot be written.
    """
    given = {name: environment[name] for name in VARIABLES if name != PASSWORD and environment.get(name)}
    if given:
        path = os.path.join(project, KEPT)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(given, file, indent=1)


def kept(project: str) -> dict[str, str]:
    """Return what `keep` has stored; empty if there is nothing."""
    try:
        with open(os.path.join(project, KEPT), encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return {}
    return {name: str(data[name]) for name in VARIABLES if name in data} if isinstance(data, dict) else {}


def kept_trouble(project: str) -> str:
    """Return why what `keep` has stored cannot be read; "" if it can, or nothing was stored."""
    path = os.path.join(project, KEPT)
    try:
        with open(path, encoding="utf-8") as file:
            if isinstance(json.load(file), dict):
                return ""
    except FileNotFoundError:
        return ""
    except (OSError, ValueError):
        pass
    return f"{path}, which says where the alarms of this session go, is invalid: remove it, and set {EMAIL} or {WEBHOOK}"


def scipion_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return our variables from Scipion's configuration: `config/scipion.conf` of its home, overridden by the user's own.

    A process started by Scipion has them in its environment; one started from a terminal does not.
    """
    found: dict[str, str] = {}
    for path in configuration.files(environment):
        with contextlib.suppress(configuration.Unreadable):         # `tomostream check` and `run` say so
            found |= {name: value for name, value in configuration.variables(path).items() if name in VARIABLES}
    return found


@dataclass(frozen=True)
class Message:
    """What people get by mail (`subject`, `text`) and a chat service by webhook (`body`, JSON)."""

    subject: str
    text: str
    body: Mapping[str, object]


class Notifier:
    """Sends messages in the background. `trouble` holds what went wrong with the last one, or ""."""

    def __init__(self, destinations: Destinations, session: str, time_out: float = TIME_OUT) -> None:
        self.destinations = destinations
        self.session = session
        self.time_out = time_out
        self.trouble = ""
        self.sent = 0
        self._queue: queue.Queue[Message | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()

    def send(self, event: Event) -> None:
        """Queue an event; returns at once."""
        self.post(message_of(event, self.session))

    def post(self, message: Message) -> None:
        """Queue a message; returns at once."""
        if not self.destinations:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tomostream-alarms", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self.trouble = f"more than {MAX_WAITING} messages are waiting to be sent; '{message.subject}' is not sent"

    def close(self, wait: float = TIME_OUT) -> None:
        """End the thread when the queue is empty, or after `wait` seconds: what is left then is lost."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
            self._thread.join(wait)
        self._given_up.set()

    def _work(self) -> None:
        while (message := self._queue.get()) is not None and not self._given_up.is_set():
            try:
                problems = [problem for _, problem in deliver(message, self.destinations, self.time_out)]
            except Exception as error:  # noqa: BLE001 - whatever it was, the next alarm is sent
                problems = [f"the alarm '{one_line(message.subject)}' was not sent: an unexpected error "
                            f"({type(error).__name__}: {one_line(str(error))})"]
            self.sent += problems.count("")
            self.trouble = "; ".join(filter(None, problems))


# ------------------------------------------------------------------------------------------------ two ways
def deliver(message: Message, destinations: Destinations, time_out: float = TIME_OUT) -> list[tuple[str, str]]:
    """Send a message to every destination now. Returns each destination with what went wrong, or ""."""
    tried: list[tuple[str, str]] = []
    if destinations.email:
        tried.append(_attempt(lambda: _mail(message, destinations, time_out), f"the mail server {destinations.server}", message))
    if destinations.webhook:
        host = urllib.parse.urlparse(destinations.webhook).hostname
        tried.append(_attempt(lambda: _post(message, destinations, time_out), f"the webhook at {host}", message))
    return tried


def test_message(destinations: Destinations, session: str = "test", time_out: float = TIME_OUT) -> list[tuple[str, str]]:
    """Send a test to every destination and wait for the answers: for a check before a night.

    Returns
    -------
    Each destination ("the mail server mail.lab.org:587", "the webhook at chat.lab.org") with what went wrong, or "".
    """
    text = "This is a test of the alarms of tomostream; nothing is wrong."
    name = one_line(session)
    body = {"format": FORMAT, "session": name, "kind": "test", "state": "test", "message": text, "text": f"{name} – {text}"}
    return deliver(Message(f"[tomostream] {session}: test", text, body), destinations, time_out)


def _attempt(send: Callable[[], None], where: str, message: Message) -> tuple[str, str]:
    problem = ""
    for _ in range(MAX_ATTEMPTS):
        try:
            send()
        except OpenLineError as error:
            return where, f"{where}: {error}"
        except ssl.SSLCertVerificationError as error:
            return where, f"{where} has a certificate that cannot be trusted ({error.verify_message}); nothing was sent"
        except (OSError, smtplib.SMTPException, urllib.error.URLError, HTTPException, ValueError) as error:
            problem = f"{where} did not accept the alarm '{one_line(message.subject)}': {one_line(str(error))}"
        else:
            return where, ""
    return where, problem


class OpenLineError(Exception):
    """A password would be sent over an unencrypted connection."""


def _mail(message: Message, destinations: Destinations, time_out: float) -> None:
    host, colon, port = destinations.server.rpartition(":")
    host, number = (host, int(port)) if colon else (destinations.server, 25)
    context = tls_context(host, bool(destinations.user))
    with (smtplib.SMTP_SSL(host, number, timeout=time_out, context=context) if number == TLS_PORT
          else smtplib.SMTP(host, number, timeout=time_out)) as server:
        server.ehlo()
        private = number == TLS_PORT
        if not private and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            private = True
        if destinations.user:
            if not private:
                raise OpenLineError("it offers no TLS, and the password is not sent unencrypted; use its submission port "
                                    f"(HOST:587 or HOST:{TLS_PORT} in {SERVER})")
            server.login(destinations.user, destinations.password)
        server.send_message(as_mail(message, destinations))


def tls_context(host: str, password: bool) -> ssl.SSLContext:
    """Return a context that verifies certificate and name of a server. Only this machine's own, used without a password, may have
    a self-signed certificate."""
    context = ssl.create_default_context()
    if host in LOOPBACK and not password:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _post(message: Message, destinations: Destinations, time_out: float) -> None:
    request = urllib.request.Request(
        destinations.webhook, json.dumps(message.body, allow_nan=False).encode(),
        {"Content-Type": "application/json", "User-Agent": "tomostream"})
    with urllib.request.urlopen(request, timeout=time_out, context=ssl.create_default_context()) as answer:
        answer.read(1000)


# ------------------------------------------------------------------------------------------------ words
def one_line(text: str) -> str:
    """Return text without line breaks and other control characters, which the name of a series may contain."""
    readable = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(sign if sign.isprintable() else " " for sign in readable).split())


def message_of(event: Event, session: str) -> Message:
    """Return the message for an alarm."""
    ended = "" if event.raised else f"\nIt began at {utc(event.since)}."
    return Message(f"[tomostream] {session}: {title(event)}",
                   f"{one_line(event.text)}\n\nSession {one_line(session)}, {utc(event.time)}.{ended}\n", as_json(event, session))


def title(event: Event) -> str:
    """Return what is the matter, in one line."""
    return KINDS.get(event.kind, event.kind) + ("" if event.raised else f": {event.change.value}")


def as_json(event: Event, session: str) -> dict[str, object]:
    """Return the JSON for a webhook. Chat services show only `text`."""
    name, text = one_line(session), one_line(event.text)
    return {"format": FORMAT, "session": name, "kind": event.kind, "state": event.change.value, "of": one_line(event.of),
            "time": utc(event.time), "since": utc(event.since), "message": text, "text": f"{name} – {title(event)}: {text}"}


def as_mail(message: Message, destinations: Destinations) -> EmailMessage:
    """Return the e-mail; line breaks in names cannot inject headers."""
    mail = EmailMessage()
    mail["Subject"] = one_line(message.subject)
    mail["From"], mail["To"] = one_line(destinations.sender), ", ".join(destinations.email)
    mail.set_content(message.text.encode("utf-8", "replace").decode("utf-8"))
    return mail


def utc(time: float) -> str:
    """Return ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
