# SPDX-License-Identifier: GPL-3.0-or-later
"""A Scipion project from the command line: making it, its four protocols, starting and continuing them."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tomostream.cli.errors import UserError
from tomostream.cli.home import project_path
from tomostream.cli.leaving import Leaving
from tomostream.cli.places import unstorable
from tomostream.cli.status import existing
from tomostream.files import locks
from tomostream.files.databases import select
from tomostream.files.logs import last_error
from tomostream.journal import runs, sessions, stopping
from tomostream.journal.layout import starting_file
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus
from tomostream.streaming.values import convert

if TYPE_CHECKING:
    from pyworkflow.project import Project
    from pyworkflow.protocol import Protocol

#: Seconds for a protocol to start and open its output. On a busy machine importing Scipion takes half a minute.
START_SECONDS = 180.0
POINTERS = {MOTIONCOR: ("inputMovies", IMPORT, "outputMovies"), COMPOSE: ("inputMicrographs", MOTIONCOR, "micrographs"),
            ARETOMO: ("inputSetOfTiltSeries", COMPOSE, "tiltSeries")}
ORDER = (IMPORT, MOTIONCOR, COMPOSE, ARETOMO)


#: Characters that Scipion's command lines and settings cannot handle in a path.
UNFIT = frozenset('"$`\\\n')


@dataclass
class Chain:
    """A project with the four protocols, in order."""

    path: str
    project: Project
    protocols: dict[str, Protocol]

    def folder(self, name: str) -> str:
        return os.path.join(self.path, self.protocols[name].getWorkingDir())

    def state(self, name: str) -> str:
        return runs.producer_state(self.folder(name), self.protocols[name].getObjId())

    def ended(self) -> bool:
        """Tell whether all four protocols have ended."""
        return all(self.state(name) in runs.ENDED for name in ORDER)


def create(project: str, settings: dict[str, dict[str, object]]) -> Chain:
    """Make a project with the four protocols, saved, chained and with these settings (protocol -> parameter -> value).

    Raises
    ------
    UserError : a parameter does not exist, a value is invalid, or the place is taken. Then no project is left behind.
    """
    path = project_path(project)
    refuse_place(path, project)
    from pyworkflow.config import Config
    from pyworkflow.project import Manager

    Config.getDomain().getProtocols()
    import tomostream.protocols as ours

    os.makedirs(os.path.dirname(path), exist_ok=True)
    before = os.getcwd()
    try:
        scipion_project = Manager().createProject(os.path.basename(path), location=os.path.dirname(path))
        os.chdir(path)
        return Chain(path, scipion_project, make_protocols(scipion_project, ours, settings))
    except BaseException:       # Scipion exits if it cannot read its configuration
        remove(path)
        os.chdir(before)
        raise


def refuse_place(path: str, project: str) -> None:
    """Refuse a place where Scipion cannot work, or that is not empty: Scipion empties the folder of a new project, and a project
    that is refused is removed, so nobody's files may be in it.

    Raises
    ------
    UserError : with what to do.
    """
    if why := unstorable(path):
        raise UserError(why)
    unfit = sorted(set(path) & UNFIT)
    if unfit:
        raise UserError(f"Scipion cannot work in the folder {path}: its name contains {' '.join(unfit)}. Choose another one.")
    name = os.path.basename(path)
    fit = re.sub(r"[^\w-]", "-", name)     # as Scipion's Project.cleanProjectName does, and would put the project there
    if fit != name:
        raise UserError(f"Scipion cannot name a project '{name}': only letters, digits, - and _. Call it '{fit}'.")
    if sessions.is_project(path):
        raise UserError(f"There is already a project in {path}. Choose another name, or bring it back with: "
                        f"tomostream resume {project}")
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UserError(f"{path} already exists and is not an empty folder. Give the project a folder of its own, e.g. "
                        f"{os.path.join(path if os.path.isdir(path) else os.path.dirname(path), 'project')}.")


def remove(path: str) -> None:
    """Remove a project made by `create` in which nothing has run."""
    os.chdir(os.path.dirname(path))
    shutil.rmtree(path, ignore_errors=True)


def make_protocols(scipion_project: Project, ours: ModuleType, settings: dict[str, dict[str, object]]) -> dict[str, Protocol]:
    """Return the four protocols in a new project, saved, chained and with their settings."""
    protocols: dict[str, Protocol] = {}
    for name in ORDER:
        protocol = scipion_project.newProtocol(getattr(ours, CLASSES[name]))
        protocol.setObjLabel(f"tomostream - {protocol._label}")
        apply(protocol, name, settings.get(name, {}))
        if name in POINTERS:
            field, source, output = POINTERS[name]
            pointer = getattr(protocol, field)
            pointer.set(protocols[source])
            pointer.setExtended(output)
        scipion_project.saveProtocol(protocol)
        protocols[name] = protocol
    return protocols


def settings_of(texts: Sequence[str]) -> dict[str, dict[str, object]]:
    """Parse `--set PROTOCOL.PARAMETER=VALUE` into protocol -> parameter -> value.

    Raises
    ------
    UserError : a text of another form.
    """
    settings: dict[str, dict[str, object]] = {}
    for text in texts:
        name, dot, rest = text.partition(".")
        key, equals, value = rest.partition("=")
        if not dot or not equals or name not in ORDER:
            raise UserError(f"--set {text}: write PROTOCOL.PARAMETER=VALUE, with import, motioncor, compose or aretomo as the "
                            "protocol, e.g. --set aretomo.tomoThickness=1500.")
        settings.setdefault(name, {})[key] = value
    return settings


def apply(protocol: Protocol, name: str, values: dict[str, object]) -> None:
    """Set parameters of a protocol. Raises UserError for an unknown name, with similar ones, and for an invalid value."""
    import difflib

    for key, value in values.items():
        if protocol.getParam(key) is None:
            near = difflib.get_close_matches(key, list(protocol._definition._paramsDict), n=3)
            raise UserError(f"The protocol {name} has no parameter '{key}'."
                            + (f" Did you mean {', '.join(near)}?" if near else "")
                            + f" All of them: tomostream parameters {name}.")
        attribute = getattr(protocol, key)
        try:
            attribute.set(convert(protocol.getParam(key), value))
        except (ValueError, TypeError) as error:
            raise UserError(f"{name}.{key} cannot be '{value}': {error}") from error


def use_queue(chain: Chain, queue: str) -> None:
    """Run every program of motioncor and aretomo as a job of a queue in hosts.conf."""
    for name in (MOTIONCOR, ARETOMO):
        protocol = chain.protocols[name]
        protocol._useQueue.set(True)
        protocol.setQueueParams([queue, {"QUEUE_FOR_JOBS": "Y"}])
        chain.project.saveProtocol(protocol)


def validate(chain: Chain) -> None:
    """Refuse, before anything is started, what the forms refuse. The inputs are not checked, because they come later.

    Raises
    ------
    UserError : with the protocols' own messages.
    """
    problems = []
    for name in ORDER:
        problems += [f"{name}: {problem}" for problem in chain.protocols[name].form_problems()]
    if problems:
        raise UserError(" ".join(problems))


def warnings(chain: Chain, names: Sequence[str] = ORDER) -> list[str]:
    """Return the warnings of the forms of these protocols."""
    return [f"{name}: {text}" for name in names for text in chain.protocols[name]._warnings()]


@contextmanager
def starting(path: str, say: Callable[[str], None], leaving: Leaving) -> Iterator[None]:
    """Keep other commands from starting or continuing protocols of this project.

    Raises
    ------
    UserError : another command is doing so and does not finish.
    Interrupted : Ctrl-C while waiting for it.
    """
    file, deadline = starting_file(path), time.monotonic() + 4 * START_SECONDS
    try:
        lock = locks.hold(file, 0.0)
        if lock is None:
            say("Another command is starting protocols of this project; waiting for it.")
        while lock is None and time.monotonic() < deadline:
            leaving.pause(0.2)
            lock = locks.hold(file, 0.0)
    except OSError as error:
        raise UserError(f"The project {path} cannot be written: {error.strerror}.") from error
    if lock is None:
        raise UserError(f"Another command (process {locks.holder(file)}) has been starting "
                        f"protocols of {path} for {4 * START_SECONDS:.0f} s. End it and try again.")
    with lock:
        stopping.forget(path)
        sessions.remember(path)
        yield


def start(chain: Chain, say: Callable[[str], None], leaving: Leaving) -> list[str]:
    """Start the four protocols, each as soon as its input is open (though it may be empty). Returns those that were not started,
    because meanwhile somebody asked the first of them to stop.

    Raises
    ------
    UserError : a protocol did not start; says where its log is.
    Interrupted : Ctrl-C; those already started go on.
    """
    with starting(chain.path, say, leaving):
        for place, name in enumerate(ORDER):
            leaving.pause(0.0)
            if not launch(chain, name):
                return list(ORDER[place:])
            say(f"{name} is starting")
            if name != ARETOMO and not wait_for_output(chain, name, leaving):
                return list(ORDER[place + 1:])
    return []


def launch(chain: Chain, name: str) -> bool:
    """Start or continue one protocol, in a process session of its own, out of reach of Ctrl-C or a closed terminal here. Returns
    whether it was started: not if somebody has asked it to stop. A request made during the start is honoured too."""
    if stopping.is_asked(chain.path, name):
        return False
    with detached_children(lambda: check_database(chain, name)):
        chain.project.launchProtocol(chain.protocols[name], wait=False)
    if stopping.is_asked(chain.path, name):
        runs.ask_to_stop(chain.folder(name), "tomostream stop")
    return True


def check_database(chain: Chain, name: str) -> None:
    """See to it that a protocol whose process is about to start will find itself in its own database."""
    databases = [os.path.join(chain.path, each.getDbPath()) for each in (chain.project, chain.protocols[name])]
    copy_again_if_torn(databases[0], databases[1], chain.protocols[name].getObjId())


def copy_again_if_torn(project_db: str, run_db: str, protocol_id: int) -> bool:
    """Replace the copy of the project's database that a run was given, if it lacks the run; tell whether it did.

    pyworkflow copies the file, and while another process writes to it, the copy may be of two states: the run then ends at once
    with "Invalid protocol id".
    """
    if has_protocol(run_db, protocol_id):
        return False
    part = f"{run_db}.part"
    with closing(sqlite3.connect(project_db)) as source, closing(sqlite3.connect(part)) as target:
        source.backup(target)
    os.replace(part, run_db)
    return True


def has_protocol(database: str, protocol_id: int) -> bool:
    """Tell whether a database of Scipion can be read and holds a protocol."""
    try:
        return bool(select(database, "SELECT 1 FROM Objects WHERE id=?", (protocol_id,)))
    except sqlite3.Error:
        return False


def stopped_while_starting(chain: Chain, names: Sequence[str]) -> str:
    """Say which protocols were not started because they were asked to stop."""
    return (f"The session was asked to stop meanwhile: {joined(names)} {'was' if len(names) == 1 else 'were'} not "
            f"started. To continue: tomostream resume {shlex.quote(chain.path)}")


@contextmanager
def detached_children(before: Callable[[], None]) -> Iterator[None]:
    """Give processes that pyworkflow starts a session of their own, detached from this terminal, and call `before` each."""
    # the package has a function of the same name, which hides the module from `from ... import`
    module: Any = importlib.import_module("pyworkflow.protocol.launch")
    original: type[subprocess.Popen[bytes]] = module.Popen

    def detached(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        before()
        streams = {stream: subprocess.DEVNULL for stream in ("stdin", "stdout", "stderr") if options.get(stream) is None}
        return original(*arguments, **{**options, **streams, "start_new_session": True})

    module.Popen = detached
    try:
        yield
    finally:
        module.Popen = original


def wait_for_output(chain: Chain, name: str, leaving: Leaving) -> bool:
    """Wait until a protocol has opened the output that the next one reads, whether the project knows it yet or not (see
    `streaming/inputs.py`); return False if it was asked to stop before that.

    Raises
    ------
    UserError : it did not start; says where its log is.
    Interrupted : Ctrl-C.
    """
    protocol = chain.protocols[name]
    output = {source: output for _, source, output in POINTERS.values()}[name]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        state = chain.state(name)
        chain.project._updateProtocol(protocol)
        if os.path.exists(os.path.join(chain.folder(name), protocol.output_files[output])):
            return True
        if state in runs.CUT_SHORT and stopping.is_asked(chain.path, name):
            return False
        if state in runs.CUT_SHORT:
            break
        leaving.pause(0.3)
    logs = os.path.join(chain.folder(name), "logs")
    raise UserError(f"The protocol {name} did not start: {last_error(logs) or 'see its log'} "
                    f"(log: {os.path.join(logs, 'run.stdout')})")


def interrupted(chain: Chain) -> str:
    """Say what is running after Ctrl-C during the start, and what to do."""
    states = {name: chain.state(name) for name in ORDER if name in chain.protocols}
    running = [name for name, state in states.items() if state == runs.RUNNING]
    rest = [name for name in states if name not in running]
    quoted = shlex.quote(chain.path)
    return ("Interrupted while the protocols were being started: "
            + (f"{joined(running)} {'goes' if len(running) == 1 else 'go'} on" if running else "none of them runs")
            + (f", {joined(rest)} {'does' if len(rest) == 1 else 'do'} not run. Start the rest with: tomostream resume {quoted}"
               if running and rest else "." if running else f". Start them with: tomostream resume {quoted}"))


def joined(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def load(project: str) -> Chain:
    """Open an existing project.

    Raises
    ------
    UserError : there is none, or it has no tomostream protocols.
    """
    path = existing(project)
    from pyworkflow.config import Config
    from pyworkflow.project import Manager

    Config.getDomain().getProtocols()
    scipion_project = Manager().loadProject(path)
    os.chdir(path)
    names = {value: key for key, value in CLASSES.items()}
    status = ProjectStatus(path)
    status.find()
    protocols = {}
    for run in scipion_project.getRuns():
        name = names.get(run.getClassName())
        if name and os.path.basename(status.folders.get(name, run.getWorkingDir())) == os.path.basename(run.getWorkingDir()):
            protocols[name] = run
    if not protocols:
        raise UserError(f"The project {path} has no tomostream protocols.")
    return Chain(path, scipion_project, protocols)
