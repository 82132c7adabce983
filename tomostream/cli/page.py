# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream page`: show where the page of a session is; serve it with its buttons; write the summary to hand over."""

from __future__ import annotations

import argparse
import os
import secrets
import socket

from tomostream.cli import refuse
from tomostream.cli.places import cannot_write
from tomostream.journal.layout import REPORT
from tomostream.report import handover
from tomostream.report.actions import Session
from tomostream.report.server import PageServer, is_local

PORT = 8737


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("--serve", action="store_true",
                        help="serve the page, with buttons to mark series, acknowledge alarms, exclude tilts and stop")
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"port of --serve (default {PORT}; 0: any free one)")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS",
                        help="address of --serve (default 127.0.0.1: this machine only; 0.0.0.0: anybody with the address)")
    parser.add_argument("--token", metavar="WORD",
                        help="secret that changes require, at least 16 characters (default: a new one each time)")
    parser.add_argument("--summary", metavar="FILE",
                        help="write the summary to hand over: FILE.html, or FILE.pdf if Chromium is installed")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import existing

    path = existing(options.project)
    out = os.path.join(path, REPORT)
    index = os.path.join(out, "index.html")
    if not os.path.exists(index):
        return refuse("page", f"the project {path} has no page yet: tomostream report {options.project} writes it")
    try:
        if options.summary:
            print(handover.save(out, options.summary))
        if options.serve:
            return serve(Session(path, out), options)
        if not options.summary:
            print(index)
    except (handover.NoSummary, ValueError) as error:
        return refuse("page", error)
    except OSError as error:
        return refuse("page", cannot_write(options.summary, error) if options.summary and not options.serve else error)
    return 0


def serve(session: Session, options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    try:
        server = PageServer(session, options.token or secrets.token_urlsafe(24), options.bind, options.port)
    except (OSError, OverflowError) as error:
        return refuse("page", f"{options.bind}:{options.port} cannot be used ({error}): choose another --port or --bind")
    with server:
        name = socket.gethostname() if options.bind in ("0.0.0.0", "::") else options.bind
        print(f"{server.address('localhost' if is_local(options.bind) else name)}\nAnybody with this address can change the "
              "session. Ctrl-C ends the serving, not the session.", flush=True)
        server.serve_forever(poll_interval=0.5)
    return 0
