# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks whether a session could run here, each returning a finding. `tomostream check` runs all, `run` the quick ones."""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from tomostream.cli.places import cannot_write, nearest, unstorable
from tomostream.files import configuration
from tomostream.files.patterns import files_of, near, what_is_there
from tomostream.journal.space import disk_of, human
from tomostream.report.notify import EMAIL, WEBHOOK, Destinations, test_message

DISTRIBUTION = "scipion-em-tomostream"
#: Bytes; with less a night is not worth starting.
MIN_FREE = 50 * 10 ** 9
#: Seconds by which a file server or a microscope may be ahead or behind.
MAX_CLOCK_SECONDS = 5.0


class Verdict(str, Enum):
    """What a finding means: all is well, something to know, or a session would fail."""

    OK = "ok"
    NOTE = "note"
    WRONG = "WRONG"


@dataclass(frozen=True)
class Finding:
    """The result of one check, in a line."""

    verdict: Verdict
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict.value:6s}{self.name:13s}{self.text}"


def ok(name: str, text: str) -> Finding:
    return Finding(Verdict.OK, name, text)


def note(name: str, text: str) -> Finding:
    return Finding(Verdict.NOTE, name, text)


def wrong(name: str, text: str) -> Finding:
    return Finding(Verdict.WRONG, name, text)


# ---------------------------------------------------------------------------------------------------- this Python
def interpreter() -> Finding:
    """Check the version of Python."""
    words = f"Python {platform.python_version()}, {sys.executable}"
    try:
        wanted = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return note("interpreter", f"{words}; {DISTRIBUTION} is not installed in it, only on its path")
    from packaging.specifiers import SpecifierSet

    fits = platform.python_version() in SpecifierSet(wanted)
    return ok("interpreter", words) if fits else wrong("interpreter", f"{words}, but Python {wanted} is needed")


def packages() -> Finding:
    """Check that the required packages are installed, in suitable versions."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or ()]
    except importlib.metadata.PackageNotFoundError:
        return note("packages", f"not known: {DISTRIBUTION} is not installed")
    needed = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    troubles = []
    for each in needed:
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            troubles.append(f"{each.name} is missing")
            continue
        if not each.specifier.contains(version, prereleases=True):
            troubles.append(f"{each.name} is {version}, but {each.specifier} is needed")
    if troubles:
        return wrong("packages", f"{'; '.join(troubles)}: pip install --upgrade {DISTRIBUTION}")
    return ok("packages", f"all {len(needed)} are installed")


# ---------------------------------------------------------------------------------------------------- programs
def programs(engine: int) -> list[Finding]:
    """Check which programs would align movies and series, and that they are there. Call when Scipion can be imported.

    Parameters
    ----------
    engine : of `constants.ENGINES`.
    """
    import aretomo
    import motioncorr
    from aretomo.constants import ARETOMO_HOME
    from motioncorr.constants import MOTIONCOR_HOME

    from tomostream.protocols import aretomo_form, engines, motioncor_form

    found = []
    for name, plugin, variable, command in (("movies", motioncorr.Plugin, MOTIONCOR_HOME, motioncor_form.CPU_COMMAND),
                                            ("series", aretomo.Plugin, ARETOMO_HOME, aretomo_form.CPU_COMMAND)):
        problems = engines.problem(engine, plugin, variable)
        chosen = engines.choose(engine, plugin, command)
        path = shlex.split(chosen.command)[0]
        if problems:
            found.append(wrong("programs", f"{name}: {problems[0]}"))
        elif shutil.which(path) is None:
            found.append(wrong("programs", f"{name}: {path} is missing or cannot be run: reinstall tomostream"))
        else:
            found.append(ok("programs", f"{name}: {path} ({chosen.reason})"))
    return found


def gpus() -> Finding:
    """List the GPUs of this machine."""
    from tomostream.protocols.engines import gpu_present

    models = []
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        with open(path, encoding="utf-8", errors="replace") as file:
            models += [line.partition(":")[2].strip() for line in file if line.startswith("Model")]
    models = models or _listed_by_driver()
    if models:
        return ok("GPUs", ", ".join(f"{number} x {model}" for model, number in Counter(models).items()))
    return note("GPUs", "there is one" if gpu_present() else "none: the CPU engine does the work")


def _listed_by_driver() -> list[str]:
    """Return the models listed by nvidia-smi; none if it fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        said = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True,
                              timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in said.stdout.splitlines() if line.strip()] if said.returncode == 0 else []


# ---------------------------------------------------------------------------------------------------- folders
def folder_of(name: str, pattern: str, endings: Sequence[str]) -> Finding:
    """Check that the folder of a pattern exists and can be read, and what matches.

    Parameters
    ----------
    name : "movies" or "mdoc files".
    pattern : a glob of files.
    endings : of such files, in lower case.
    """
    if why := unstorable(pattern):
        return wrong(name, why)
    above = os.path.dirname(pattern)
    if not glob.has_magic(above):
        if not os.path.isdir(above):
            return wrong(name, f"the folder {above} does not exist{near(above)}")
        if not os.access(above, os.R_OK | os.X_OK):
            return wrong(name, f"you have no permission to read {above}")
    found = [path for path in files_of(pattern) if path.lower().endswith(tuple(endings))]
    if found:
        return ok(name, f"{len(found)} match {pattern}, the first being {os.path.basename(found[0])}")
    instead = what_is_there(pattern, endings)
    return wrong(name, instead) if instead else note(name, f"none match {pattern} yet; the session would wait for them")


def series(mdocs: Sequence[str], movies: Sequence[str], again: str) -> list[Finding]:
    """Check that the mdoc files can be used and every movie has its series: a short form of `tomostream mdoc`.

    Parameters
    ----------
    movies : may be empty, then only the mdoc files are described.
    again : the command that gives the long form.
    """
    from tomostream.acquisition import doctor, overview

    if not mdocs:
        return []
    if not movies:
        facts = doctor.examine(mdocs)
        bad = {each.path: each.reason for each in facts if each.kind in doctor.UNUSABLE}
        return [*_unusable(bad), ok("series", doctor.as_lines(facts).splitlines()[0].rstrip("."))]
    found = overview.survey(mdocs, movies, time.time())
    words = overview.as_text(found).splitlines()[0].rstrip(".")
    result = ok("series", f"{words}; every movie has its series") if found.fine else note(
        "series", f"{words}; not every movie has its series, nor every series its movies. See: {again}")
    return [*_unusable(found.unusable), result]


def _unusable(mdocs: Mapping[str, str]) -> list[Finding]:
    """Return a finding about mdoc files that cannot be used, naming the first and why."""
    if not mdocs:
        return []
    path, reason = next(iter(mdocs.items()))
    more = f", and {len(mdocs) - 1} more," if len(mdocs) > 1 else ""
    return [wrong("mdoc files", f"{os.path.basename(path)}{more} cannot be used ({reason.rstrip('.')}); see: tomostream mdoc "
                                f"{shlex.quote(path)}")]


def _written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def place(project: str) -> Finding:
    """Check that a project can be made here, and how much room its disk has."""
    folder = nearest(project)
    if not os.path.isdir(folder):
        return wrong("project", f"{folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        return wrong("project", f"you have no permission to write in {folder}")
    disk = disk_of(folder)
    if disk is None:
        return note("disk", f"the free space on the disk of {folder} cannot be determined")
    words = f"{human(disk[0])} of {human(disk[1])} free for {project}"
    return ok("disk", words) if disk[0] >= MIN_FREE else wrong("disk", f"only {words}; a night needs {human(MIN_FREE)} or more")


# ---------------------------------------------------------------------------------------------------- the queue
@dataclass(frozen=True)
class Queues:
    """The queues of this machine, from Scipion's hosts.conf."""

    file: str
    names: tuple[str, ...]
    submit: str
    others: tuple[str, ...]


class NoQueue(Exception):
    """A queue cannot be used; says why."""


def read_queues() -> Queues:
    """Read the queues as Scipion would, from its configuration or the template for it.

    Raises
    ------
    NoQueue : the file cannot be read.
    """
    home = os.environ.get("SCIPION_HOME", "")
    file = os.environ.get("SCIPION_HOSTS") or os.path.join(home, "config", "hosts.conf")
    scipion = importlib.util.find_spec("scipion")
    if not os.path.exists(file) and scipion is not None and scipion.origin is not None:
        file = os.path.join(os.path.dirname(scipion.origin), "templates", "hosts.template")
    try:
        parser = configuration.read(file, (";",))
        if not parser.sections():
            raise NoQueue(f"there is no queue: {file} cannot be read or is empty")
        host = "localhost" if parser.has_section("localhost") else parser.sections()[0]
        names = tuple(configuration.table(file, parser, host, "QUEUES"))
        configuration.table(file, parser, host, "QUEUES_DEFAULT")
    except configuration.Unreadable as error:
        raise NoQueue(str(error)) from error
    submit, *others = (parser.get(host, name, fallback="") for name in ("SUBMIT_COMMAND", "CHECK_COMMAND", "CANCEL_COMMAND"))
    return Queues(file, names if parser.get(host, "NAME", fallback="") else (), submit, tuple(others))


def configured(problems: Sequence[str]) -> list[Finding]:
    """Check that Scipion's files of variables and queues are valid.

    Parameters
    ----------
    problems : of the variables; see `home.set_variables`.
    """
    found = [wrong("Scipion", problem) for problem in problems]
    try:
        file = read_queues().file
    except NoQueue as error:
        return [*found, wrong("Scipion", str(error))]
    return found or [ok("Scipion", f"{' and '.join([*filter(os.path.exists, configuration.files(os.environ)), file])} "
                                         "can be read")]


def queue(name: str) -> Finding:
    """Check that a queue is configured, and its commands are installed."""
    try:
        absent = absent_of(name)
    except NoQueue as error:
        return wrong("queue", str(error))
    if absent:
        return wrong("queue", f"'{name}' takes no jobs here: {absent}")
    return ok("queue", f"'{name}' is configured, and its commands are installed")


def absent_of(name: str) -> str:
    """Say which commands of a queue are not installed on this machine; "" if all are.

    Raises
    ------
    NoQueue : there is no such queue.
    """
    known = read_queues()
    if name not in known.names:
        raise NoQueue(f"{known.file} has no queue of this name; it has: {', '.join(known.names) or 'none'}")
    absent = list(_absent([known.submit, *known.others]))
    return f"{' and '.join(absent)} cannot be found (see {known.file}); items will wait" if absent else ""


def _absent(commands: Iterable[str]) -> Iterable[str]:
    for command in commands:
        try:
            first = shlex.split(command.replace("%_(", "%("))[:1]
        except ValueError:
            first = [command]
        if not first:
            yield "an empty command of the queue"
        elif shutil.which(first[0]) is None:
            yield first[0]


# ---------------------------------------------------------------------------------------------------- people and clocks
def messages(send: bool = True) -> list[Finding]:
    """Check that alarms can be sent, with a test message to every configured destination."""
    try:
        destinations = Destinations.configured()
    except ValueError as error:
        return [wrong("alarms", str(error))]
    if not destinations:
        return [note("alarms", f"no recipient: neither {EMAIL} nor {WEBHOOK} is set")]
    if not send:
        return [note("alarms", "no test message was sent")]
    return [wrong("alarms", problem) if problem else ok("alarms", f"{way} accepted a test message")
            for way, problem in test_message(destinations, f"check on {platform.node()}")]


def clock(project: str) -> Finding:
    """Check the clock of a project's disk against that of this machine, with a temporary file."""
    folder = nearest(project)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            before = time.time()
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
            ahead = os.fstat(file.fileno()).st_mtime - before
    except OSError as error:
        return wrong("clock", cannot_write(folder, error))
    if abs(ahead) <= MAX_CLOCK_SECONDS:
        return ok("clock", f"the clock of the disk of {folder} agrees with this machine's")
    return wrong("clock", f"the clock of the disk of {folder} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this "
                          "machine's: synchronise both with a time server")


def microscope_clock(files: Iterable[str], now: float) -> list[Finding]:
    """Check for files written in the future, because the clock of the microscope's computer is ahead."""
    newest = max(map(_written, files), default=0.0)
    if newest - now <= MAX_CLOCK_SECONDS:
        return []
    return [note("clock", f"the newest file was written {newest - now:.0f} s in the future: the clock of the microscope's "
                          "computer is ahead, and times on the page will be off")]
