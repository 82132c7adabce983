# SPDX-License-Identifier: GPL-3.0-or-later
"""A Scipion project from the command line: what Scipion needs, the four protocols, starting and continuing them.

Works with no Scipion variable set: what Scipion needs is then made in a folder of the project's own. Variables that are set
(SCIPION_HOME, MOTIONCOR_HOME, ARETOMO_HOME, ...) are honoured.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tomostream.cli.leaving import Leaving
from tomostream.files import locks
from tomostream.files.logs import last_error
from tomostream.journal import runs, sessions
from tomostream.journal.layout import starting_file
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus
from tomostream.streaming.values import convert

if TYPE_CHECKING:
    from pyworkflow.project import Project
    from pyworkflow.protocol import Protocol

#: Seconds for a protocol process to come up and open its output. A busy machine imports Scipion in half a minute.
START_SECONDS = 180.0
POINTERS = {MOTIONCOR: ("inputMovies", IMPORT, "outputMovies"), COMPOSE: ("inputMicrographs", MOTIONCOR, "micrographs"),
            ARETOMO: ("inputSetOfTiltSeries", COMPOSE, "tiltSeries")}
ORDER = (IMPORT, MOTIONCOR, COMPOSE, ARETOMO)


#: Characters in a path that Scipion's own command lines and settings do not survive.
UNFIT = frozenset('"$`\\\n')


class UserError(Exception):
    """Something the user can fix, in one sentence."""


def scipion_environment(home: str) -> None:
    """Set what Scipion needs and nobody has set, for this process and its children, and make the files that it needs. Call before
    pyworkflow is imported.

    Parameters
    ----------
    home : folder for Scipion's own files, made if nothing else is configured.
    """
    set_variables(home)
    make_home()


def set_variables(home: str) -> None:
    """Set the variables that Scipion needs and nobody has set; nothing is written.

    Parameters
    ----------
    home : folder for Scipion's own files.
    """
    environment = os.environ
    bin_folder = os.path.dirname(sys.executable)
    if environment.get("PATH", "").split(os.pathsep)[0] != bin_folder:
        environment["PATH"] = os.pathsep.join([bin_folder, environment.get("PATH", "")])
    environment.setdefault("SCIPION_DOMAIN", "pwem")
    environment.setdefault("SCIPION_NOTIFY", "False")
    environment.setdefault("MPLBACKEND", "Agg")
    if "SCIPION_HOME" not in environment:
        environment["SCIPION_HOME"] = home
    home = environment["SCIPION_HOME"]
    environment.setdefault("SCIPION_USER_DATA", os.path.join(home, "ScipionUserData"))


def make_home() -> None:
    """Make the files of Scipion's own that it needs and that are not there.

    Raises
    ------
    UserError : Scipion is not installed.
    OSError : they cannot be written.
    """
    environment = os.environ
    home = environment["SCIPION_HOME"]
    hosts = os.path.join(home, "config", "hosts.conf")
    if "SCIPION_HOSTS" not in environment and not os.path.exists(hosts):
        os.makedirs(os.path.dirname(hosts), exist_ok=True)
        scipion = importlib.util.find_spec("scipion")
        if scipion is None or scipion.origin is None:
            raise UserError("Scipion is not installed in this Python: pip install scipion-em-tomostream brings it.")
        shutil.copyfile(os.path.join(os.path.dirname(scipion.origin), "templates", "hosts.template"), hosts)
    configuration = os.path.join(home, "config", "scipion.conf")
    if not os.path.exists(configuration):
        os.makedirs(os.path.dirname(configuration), exist_ok=True)
        with open(configuration, "w", encoding="utf-8") as file:
            file.write("[PYWORKFLOW]\nSCIPION_NOTIFY = False\nCONDA_ACTIVATION_CMD = true\n[PLUGINS]\nEM_ROOT = software/em\n")
    os.makedirs(os.path.join(environment["SCIPION_USER_DATA"], "projects"), exist_ok=True)


def project_path(project: str) -> str:
    """Return the folder of a project, given as a name (in Scipion's projects folder) or as a path.

    Call after `scipion_environment`: where the projects are depends on it.
    """
    if os.sep in project or project in (".", "..") or os.path.isdir(os.path.join(project, "Runs")):
        return os.path.abspath(project)
    return os.path.join(os.environ["SCIPION_USER_DATA"], "projects", project)


def default_home(project: str) -> str:
    """Return where Scipion's own files go when nothing is configured: beside a project that is a path, else the user's data."""
    if os.sep in project:
        return os.path.join(os.path.dirname(os.path.abspath(project)), ".scipion")
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "tomostream", "scipion")


def quiet_logs() -> None:
    """pyworkflow logs to the terminal by default; here the table is what people want to see."""
    import logging

    logging.getLogger().handlers.clear()
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger().setLevel(logging.ERROR)


@dataclass
class Chain:
    """A project with the four protocols, in order."""

    path: str
    project: Project
    protocols: dict[str, Protocol]

    def folder(self, name: str) -> str:
        return os.path.join(self.path, self.protocols[name].getWorkingDir())

    def state(self, name: str) -> str:
        """running, finished, stopped, failed, dead or unknown."""
        return runs.producer_state(self.folder(name), self.protocols[name].getObjId())

    def ended(self) -> bool:
        """Tell whether none of the four goes on."""
        return all(self.state(name) in runs.ENDED for name in ORDER)


def create(project: str, settings: dict[str, dict[str, object]]) -> Chain:
    """Make a project with the four protocols, saved, chained and with these settings (protocol -> parameter -> value).

    Raises
    ------
    UserError : a parameter that does not exist, a value that does not fit, a project or files that are there already. No
        project is left behind then.
    """
    path = project_path(project)
    refuse_place(path, project)
    from pyworkflow.config import Config
    from pyworkflow.project import Manager

    Config.getDomain().getProtocols()
    import tomostream.protocols as ours

    os.makedirs(os.path.dirname(path), exist_ok=True)
    scipion_project = Manager().createProject(os.path.basename(path), location=os.path.dirname(path))
    os.chdir(path)
    try:
        return Chain(path, scipion_project, make_protocols(scipion_project, ours, settings))
    except UserError:
        remove(path)
        raise


def refuse_place(path: str, project: str) -> None:
    """Refuse a place where Scipion cannot work, or where something lies: Scipion empties folders of a new project, and a
    project that is refused is removed, so nobody's files may be in it.

    Raises
    ------
    UserError : with what to do.
    """
    unfit = sorted(set(path) & UNFIT)
    if unfit:
        raise UserError(f"Scipion cannot work in the folder {path}: its name contains {' '.join(unfit)}. Choose another one.")
    name = os.path.basename(path)
    fit = re.sub(r"[^\w-]", "-", name)     # as Scipion's Project.cleanProjectName does, and would put the project there
    if fit != name:
        raise UserError(f"Scipion cannot name a project '{name}': only letters, digits, - and _. Call it '{fit}'.")
    if os.path.isdir(os.path.join(path, "Runs")):
        raise UserError(f"There is a project in {path} already. Choose another name, or bring it back with: "
                        f"tomostream resume {project}")
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UserError(f"{path} already exists and is not an empty folder. Give the project a folder of its own, e.g. "
                        f"{os.path.join(path if os.path.isdir(path) else os.path.dirname(path), 'project')}.")


def remove(path: str) -> None:
    """Remove a project that `create` has made and in which nothing ran."""
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
    """Return what `--set PROTOCOL.PARAMETER=VALUE` says: protocol -> parameter -> value.

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
    """Set parameters of a protocol; a name that is none is refused, with the ones that come near."""
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
    """Send every program run of motioncor and aretomo to a queue of hosts.conf, as a job of its own."""
    for name in (MOTIONCOR, ARETOMO):
        protocol = chain.protocols[name]
        protocol._useQueue.set(True)
        protocol.setQueueParams([queue, {"QUEUE_FOR_JOBS": "Y"}])
        chain.project.saveProtocol(protocol)


def validate(chain: Chain) -> None:
    """Refuse what the protocols refuse, before anything is started. The inputs come later, so they are not judged here.

    A project that is refused is removed again: nothing ran in it.

    Raises
    ------
    UserError : with the protocols' own words.
    """
    problems = []
    for name in ORDER:
        problems += [f"{name}: {problem}" for problem in chain.protocols[name].form_problems()]
    if problems:
        remove(chain.path)
        raise UserError(" ".join(problems))


def warnings(chain: Chain) -> list[str]:
    """Return what the forms warn of, in sentences."""
    return [f"{name}: {text}" for name in ORDER for text in chain.protocols[name]._warnings()]


@contextmanager
def starting(path: str, say: Callable[[str], None], leaving: Leaving) -> Iterator[None]:
    """While this holds no other command starts or continues protocols of this project.

    Raises
    ------
    UserError : another command does so, and does not come to an end.
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
        sessions.remember(path)
        yield


def start(chain: Chain, say: Callable[[str], None], leaving: Leaving) -> None:
    """Start the four, each when the output that it reads is open (empty as it may be).

    Raises
    ------
    UserError : a protocol did not come up; says where its log is.
    Interrupted : Ctrl-C; those that were started go on.
    """
    with starting(chain.path, say, leaving):
        for name in ORDER:
            leaving.pause(0.0)
            launch(chain, chain.protocols[name])
            say(f"{name} is starting")
            if name != ARETOMO:
                wait_for_output(chain, name, leaving)


def launch(chain: Chain, protocol: Protocol) -> None:
    """Start or continue one protocol, in a session of its own: Ctrl-C, a closed terminal or pipe here do not reach it."""
    with detached_children():
        chain.project.launchProtocol(protocol, wait=False)


@contextmanager
def detached_children() -> Iterator[None]:
    """While this holds, processes that pyworkflow starts get a session of their own and nothing of this terminal."""
    # the package has a function of this name, which hides the module from `from ... import`
    module: Any = importlib.import_module("pyworkflow.protocol.launch")
    original: type[subprocess.Popen[bytes]] = module.Popen

    def detached(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        streams = {stream: subprocess.DEVNULL for stream in ("stdin", "stdout", "stderr") if options.get(stream) is None}
        return original(*arguments, **{**options, **streams, "start_new_session": True})

    module.Popen = detached
    try:
        yield
    finally:
        module.Popen = original


def wait_for_output(chain: Chain, name: str, leaving: Leaving) -> None:
    """Wait until a protocol has opened the output that the next one reads, seen by the project or not (`streaming/inputs.py`).

    Raises
    ------
    UserError : it did not come up; says where its log is.
    Interrupted : Ctrl-C.
    """
    protocol = chain.protocols[name]
    output = {source: output for _, source, output in POINTERS.values()}[name]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        state = chain.state(name)
        chain.project._updateProtocol(protocol)
        if os.path.exists(os.path.join(chain.folder(name), protocol.output_files[output])):
            return
        if state in runs.BROKEN_OFF:
            break
        leaving.pause(0.3)
    logs = os.path.join(chain.folder(name), "logs")
    raise UserError(f"The protocol {name} did not come up: {last_error(logs) or 'see its log'} "
                    f"(log: {os.path.join(logs, 'run.stdout')})")


def interrupted(chain: Chain) -> str:
    """Return what runs after Ctrl-C fell into the start, in a sentence, and what to do."""
    states = {name: chain.state(name) for name in ORDER if name in chain.protocols}
    running = [name for name, state in states.items() if state == runs.RUNNING]
    rest = [name for name in states if name not in running]
    quoted = shlex.quote(chain.path)
    return ("Interrupted while the protocols were being started: "
            + (f"{joined(running)} {'goes' if len(running) == 1 else 'go'} on" if running else "none of them runs")
            + (f", {joined(rest)} {'does' if len(rest) == 1 else 'do'} not run. Start the rest with: tomostream resume {quoted}"
               if running and rest else "." if running else f". Start them with: tomostream resume {quoted}"))


def joined(names: Sequence[str]) -> str:
    """Return names as people write them: a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def existing(project: str) -> str:
    """Return the folder of a project that is there.

    Raises
    ------
    UserError : there is none.
    """
    path = project_path(project)
    if not os.path.isdir(os.path.join(path, "Runs")):
        raise UserError(f"There is no Scipion project in {path}.")
    return path


def load(project: str) -> Chain:
    """Open a project that is there.

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
