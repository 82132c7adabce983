# SPDX-License-Identifier: GPL-3.0-or-later
"""A session for tests and benchmarks: a folder with an acquisition, a project beside it, and real protocol processes.

Everything goes through the command line, in processes of their own, with an environment of their own. What came out is
read as anybody would: the ledgers, and the SQLite files without Scipion.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tomostream.journal import entries, ledger
from tomostream.journal.runs import run_state
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR
from tomostream.tests import standins

NOBODY = 65534
#: What somebody else must be able to do: Python starts, what Scipion needs is there, and it starts Python again.
STARTS = "import subprocess, sys, tkinter, tomostream; subprocess.run([sys.executable, '-c', 'import tkinter'], check=True)"
LAUNCH = "import sys; from tomostream.cli import main; sys.exit(main())"
ORDER = (IMPORT, MOTIONCOR, COMPOSE, ARETOMO)
#: Protocol -> the file of its main output, and the attribute that names an item.
OUTPUTS = {IMPORT: ("movies.sqlite", "_micName"), MOTIONCOR: ("micrographs.sqlite", "_micName"),
           COMPOSE: ("tiltseries.sqlite", "_tsId"), ARETOMO: ("tomograms.sqlite", "_tsId")}
Kind = TypeVar("Kind", bound=entries.Entry)


def clean_environment(folder: str, **extra: str) -> dict[str, str]:
    """An environment in which nothing of Scipion is set but what lies in `folder`."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("SCIPION", "MOTIONCOR", "ARETOMO", "PYWORKFLOW", "STANDIN"))}
    environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environment.get("PATH", "")])
    environment.update(SCIPION_HOME=os.path.join(folder, "scipion"), OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", **extra)
    return environment


def wait_for(condition: Callable[[], object], seconds: float, what: str, every: float = 0.2) -> object:
    """Wait until something is true; fail with words when it does not come."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        pause.wait(every)
    raise AssertionError(f"After {seconds:.0f} s there is still no {what}.")


class Session:
    """An acquisition and a project in a folder of its own. Use as a context: what still runs is ended at the end."""

    def __init__(self, folder: str | None = None, project: str | None = None,
                 someone: Someone | None = None, **environment: str) -> None:
        """`someone`: who runs everything but the acquisition."""
        self._temporary = None if folder else tempfile.mkdtemp(prefix="tomostream-")
        self.folder = os.path.realpath(folder or self._temporary)
        self.acquisition = os.path.join(self.folder, "acq")
        self.frames, self.mdocs = (os.path.join(self.acquisition, name) for name in ("frames", "mdocs"))
        self.project = project or os.path.join(self.folder, "proj")
        self.json = os.path.join(self.folder, "out.json")
        self.standin_log = os.path.join(self.folder, "standins.jsonl")
        temporary = os.path.join(self.folder, "tmp")        # locks of GPUs are there: sessions do not wait for each other
        os.makedirs(temporary, exist_ok=True)
        self.environment = clean_environment(self.folder, **{"STANDIN_LOG": self.standin_log, "TMPDIR": temporary, **environment})
        self.writer: subprocess.Popen | None = None
        self._children: list[subprocess.Popen] = []
        self._prefix = someone.prefix if someone else ()
        if someone and someone.uid:
            self.environment.update(HOME=self.folder, XDG_DATA_HOME=os.path.join(self.folder, "data"),
                                    TOMOSTREAM_INSTRUMENTS=os.path.join(self.folder, "instruments.json"))
            for path in (self.folder, temporary):
                os.chown(path, someone.uid, someone.uid)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for pid in self.pids():
            end(pid)
        if self._temporary and not os.environ.get("TOMOSTREAM_KEEP"):
            shutil.rmtree(self._temporary, ignore_errors=True)

    # ------------------------------------------------------------------ doing
    def use_standins(self, seconds: str = "0.1", **environment: str) -> None:
        """Stand-ins for the two GPU programs; `--engine gpu` takes them."""
        self.environment.update(standins.install(os.path.join(self.folder, "standins")))
        self.environment.update(STANDIN_SECONDS=seconds, **environment)

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start a `tomostream` command; its words go to a file named after it."""
        with open(os.path.join(self.folder, f"{arguments[0]}.log"), "ab") as log:
            prefix = () if arguments[0] == "simulate" else self._prefix
            environment = dict(self.environment)
            if arguments[0] == "simulate":
                environment.pop("LD_PRELOAD", None)         # the microscope has a clock of its own
            child = subprocess.Popen([*prefix, sys.executable, "-c", LAUNCH, *arguments], cwd=self.folder, stdout=log,
                                     stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        self._children.append(child)
        return child

    def call(self, *arguments: str, seconds: float = 240.0) -> int:
        """Run a `tomostream` command to its end; return its exit status."""
        return self.start(*arguments).wait(timeout=seconds)

    def said(self, command: str) -> str:
        with open(os.path.join(self.folder, f"{command}.log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def simulate(self, *arguments: str) -> subprocess.Popen:
        self.writer = self.start("simulate", self.acquisition, "--quiet", *arguments)
        return self.writer

    @property
    def acquired(self) -> bool:
        """Whether the acquisition is over."""
        return self.writer is not None and self.writer.poll() is not None

    def run(self, *arguments: str, engine: str = "cpu", settings: Mapping[str, object] | None = None) -> subprocess.Popen:
        """Start `tomostream run`; `settings` are protocol.parameter -> value."""
        chosen = [f"--set={name}={value}" for name, value in (settings or {}).items()]
        return self.start("run", self.project, "--movies", self.frames, "--mdocs", self.mdocs, "--engine", engine,
                          "--json", self.json, *chosen, *arguments)

    # ------------------------------------------------------------------ looking
    def folder_of(self, name: str) -> str | None:
        """Folder of the newest run of a protocol; None before it exists."""
        runs = os.path.join(self.project, "Runs")
        if not os.path.isdir(runs):
            return None
        found = sorted(entry for entry in os.listdir(runs) if entry.endswith(CLASSES[name]))
        return os.path.join(runs, found[-1]) if found else None

    def state(self, name: str) -> str:
        folder = self.folder_of(name)
        return run_state(folder) if folder else "unknown"

    def pids(self, name: str | None = None) -> list[int]:
        """The protocol processes of this project, of one protocol or all."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = os.fsdecode(file.read()).split("\0")
            except OSError:
                continue
            if len(words) > 4 and words[1].endswith(("pw_protocol_run.py", "pw_schedule_run.py")) and words[2] == self.project:
                folder = self.folder_of(name) if name else ""
                if name is None or (folder and int(words[4]) == int(os.path.basename(folder).split("_")[0])):
                    found.append(int(pid))
        return found

    def ledger(self, name: str) -> list[entries.AnyEntry]:
        folder = self.folder_of(name)
        return ledger.read(ledger.path_in(folder)) if folder else []

    def events(self, name: str, kind: type[Kind]) -> list[Kind]:
        return [entry for entry in self.ledger(name) if isinstance(entry, kind)]

    def rows(self, name: str, file_name: str | None = None) -> list[dict]:
        """The rows of an output set as dictionaries, by the names of the attributes."""
        folder = self.folder_of(name)
        return read_rows(os.path.join(folder, file_name or OUTPUTS[name][0])) if folder else []

    def tilts(self, name: str, series_id: str, file_name: str = "tiltseries.sqlite") -> list[dict]:
        return read_rows(os.path.join(self.folder_of(name), file_name), f"{series_id}_")

    def keys(self, name: str) -> list[str]:
        return [row[OUTPUTS[name][1]] for row in self.rows(name)]

    def stream_closed(self, name: str) -> bool:
        return read_property(os.path.join(self.folder_of(name), OUTPUTS[name][0]), "_streamState") == "2"

    def log_of(self, name: str) -> str:
        text = ""
        for file_name in ("run.stdout", "run.stderr"):
            path = os.path.join(self.folder_of(name), "logs", file_name)
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    text += file.read()
        return text

    def last_words(self) -> str:
        """The last line of each protocol's log, for a failure."""
        lines = {name: [line for line in self.log_of(name).splitlines() if line.strip()] for name in ORDER
                 if self.folder_of(name)}
        return " / ".join(f"{name}: {each[-1][-200:]}" for name, each in lines.items() if each)

    def outcome(self) -> dict:
        with open(self.json, encoding="utf-8") as file:
            return json.load(file)

    def truth(self) -> dict:
        with open(os.path.join(self.acquisition, "truth.json"), encoding="utf-8") as file:
            return json.load(file)

    def standin_runs(self, event: str = "start") -> list[dict]:
        if not os.path.exists(self.standin_log):
            return []
        with open(self.standin_log, encoding="utf-8") as file:
            return [entry for entry in map(json.loads, file) if entry["event"] == event]


@dataclass(frozen=True)
class Someone:
    """Who feels permissions: the words before a command that runs as them, and their uid (0: root without its privilege)."""

    prefix: tuple[str, ...]
    uid: int = 0


def someone_else() -> Someone | None:
    """Another user where this Python starts as one; else root without the capabilities that let it pass permissions; None
    where neither can be had."""
    for someone in (Someone(("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"), NOBODY),
                    Someone(("setpriv", "--bounding-set=-dac_override,-dac_read_search"))):
        if os.geteuid() == 0 and shutil.which("setpriv") and not subprocess.run(
                [*someone.prefix, sys.executable, "-c", STARTS], cwd="/", capture_output=True, check=False).returncode:
            return someone
    return None


def end(pid: int) -> None:
    """SIGKILL; it may have ended already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    connection.row_factory = sqlite3.Row
    return connection


def read_rows(path: str, prefix: str = "") -> list[dict]:
    """Rows of a Scipion set (or of the set `prefix` inside it): id, enabled and the attributes by name."""
    if not os.path.exists(path):
        return []
    connection = connect(path)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if f"{prefix}Objects" not in tables:
            return []
        names = {row["column_name"]: row["label_property"] for row in connection.execute(f"SELECT * FROM {prefix}Classes")}
        return [{names.get(key, key): row[key] for key in row.keys() if key != "creation"}
                for row in connection.execute(f"SELECT * FROM {prefix}Objects ORDER BY id")]
    finally:
        connection.close()


def read_property(path: str, key: str) -> str | None:
    connection = connect(path)
    try:
        row = connection.execute("SELECT value FROM Properties WHERE key=?", (key,)).fetchone()
        return None if row is None else row[0]
    finally:
        connection.close()
