# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's own files and variables: defaults for those that it needs and nobody has set, and where its projects are.

A command that is refused removes the files that it has made.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping

from tomostream.cli.errors import UserError
from tomostream.files import configuration
from tomostream.files.configuration import HOME
from tomostream.files.writing import write_text
from tomostream.report.notify import VARIABLES


def scipion_environment(home: str) -> None:
    """Set the variables that Scipion needs and nobody has set, for this process and its children, and make the files that it
    needs. Call before pyworkflow is imported.

    Parameters
    ----------
    home : folder for Scipion's own files, if nothing else is configured.

    Raises
    ------
    UserError : see `configure` and `make_home`.
    OSError : the files cannot be written.
    """
    configure(home)
    make_home()


def configure(home: str) -> None:
    """As `set_variables`, for a command that refuses an invalid configuration.

    Raises
    ------
    UserError : a file of it is invalid; says which line.
    """
    for problem in set_variables(home):
        raise UserError(problem)


def set_variables(home: str) -> list[str]:
    """Set the variables of Scipion's configuration, as its own launcher does, and those that it needs and nobody has set. What is
    set in the environment stays. Nothing is written.

    Parameters
    ----------
    home : folder for Scipion's own files.

    Returns
    -------
    What is wrong with the configuration, a sentence each.
    """
    environment = os.environ
    configured, problems = _configured({**environment, HOME: environment.get(HOME, home)})
    for name, value in configured.items():
        environment.setdefault(name, value)
    bin_folder = os.path.dirname(sys.executable)
    if environment.get("PATH", "").split(os.pathsep)[0] != bin_folder:
        environment["PATH"] = os.pathsep.join([bin_folder, environment.get("PATH", "")])
    environment.setdefault("SCIPION_DOMAIN", "pwem")
    environment.setdefault("SCIPION_NOTIFY", "False")
    environment.setdefault("MPLBACKEND", "Agg")
    home = environment["SCIPION_HOME"] = os.path.abspath(environment.get("SCIPION_HOME", home))
    data = environment.get("SCIPION_USER_DATA", os.path.join(home, "ScipionUserData"))
    environment["SCIPION_USER_DATA"] = os.path.abspath(os.path.expanduser(data))
    return problems


def _configured(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables of Scipion's configuration, read as its launcher reads them, and what is wrong with its files. Those
    of our alarms are read where they are needed: a password may contain what Scipion takes for a comment."""
    found: dict[str, str] = {}
    problems = []
    for path in configuration.files(environment):
        try:
            found |= configuration.variables(path)
        except configuration.Unreadable as error:
            problems.append(str(error))
    given = {name: os.path.expandvars(value.split("#")[0]).strip() for name, value in found.items()}
    return {name: value for name, value in given.items() if value and name not in {HOME, *VARIABLES}}, problems


def make_home() -> None:
    """Make those of Scipion's own files that it needs and that do not exist.

    Raises
    ------
    UserError : Scipion is not installed, or the file of queues named by a variable does not exist.
    OSError : they cannot be written.
    """
    environment = os.environ
    hosts, configuration = _configuration()
    named = environment.get("SCIPION_HOSTS", hosts)
    if named != hosts and not os.path.isfile(named):
        raise UserError(f"There is no file {named}, which SCIPION_HOSTS names: correct the variable, or unset it.")
    if "SCIPION_HOSTS" not in environment and not os.path.exists(hosts):
        os.makedirs(os.path.dirname(hosts), exist_ok=True)
        scipion = importlib.util.find_spec("scipion")
        if scipion is None or scipion.origin is None:
            raise UserError("Scipion is not installed in this Python: pip install scipion-em-tomostream brings it.")
        with open(os.path.join(os.path.dirname(scipion.origin), "templates", "hosts.template"), encoding="utf-8") as template:
            write_text(hosts, template.read())      # whole or not at all: Scipion would read the beginning of one
    if not os.path.exists(configuration):
        os.makedirs(os.path.dirname(configuration), exist_ok=True)
        write_text(configuration,
                   "[PYWORKFLOW]\nSCIPION_NOTIFY = False\nCONDA_ACTIVATION_CMD = true\n[PLUGINS]\nEM_ROOT = software/em\n")
    os.makedirs(_projects(), exist_ok=True)


def _configuration() -> tuple[str, str]:
    """Return the files hosts.conf and scipion.conf."""
    config = os.path.join(os.environ["SCIPION_HOME"], "config")
    return os.path.join(config, "hosts.conf"), os.path.join(config, "scipion.conf")


def _projects() -> str:
    """Return Scipion's folder of projects."""
    return os.path.join(os.environ["SCIPION_USER_DATA"], "projects")


@contextlib.contextmanager
def made_for(path: str) -> Iterator[None]:
    """Make Scipion's files for a project in `path`. If the block raises, those that did not exist before are removed, with the
    folders above the project, but nothing that others have put there.

    Raises
    ------
    UserError, OSError : see `make_home`.
    """
    files = [name for name in _configuration() if not os.path.exists(name)]
    link = os.path.join(_projects(), os.path.basename(path))
    linked = os.path.lexists(link)
    bindings = os.path.join(os.environ["SCIPION_HOME"], "software", "bindings")         # Scipion makes it when it is imported
    above = [bindings, *map(os.path.dirname, (*files, link, path))]
    folders = dict.fromkeys(folder for place in above for folder in _absent_above(place))
    try:
        make_home()
        yield
        make_home()         # another command, refused meanwhile, may have removed them
    except BaseException:
        if not linked and os.path.islink(link) and not os.path.exists(link):
            os.remove(link)
        _take_back(files, list(folders))
        raise


def _take_back(files: list[str], folders: list[str]) -> None:
    """Remove files and folders that were made for Scipion, unless another project made meanwhile needs them."""
    if os.path.isdir(_projects()) and os.listdir(_projects()):
        return
    for name in filter(os.path.exists, files):
        os.remove(name)
    for folder in sorted(folders, key=len, reverse=True):
        with contextlib.suppress(OSError):      # it is not empty, or was never made
            os.rmdir(folder)


def _absent_above(path: str) -> list[str]:
    """Return the folders that would have to be made for a path, including the path itself."""
    found, path = [], os.path.abspath(path)
    while not os.path.lexists(path):
        found.append(path)
        path = os.path.dirname(path)
    return found


def project_path(project: str) -> str:
    """Return the folder of a project, given as a name (in Scipion's projects folder) or as a path.

    Call after `scipion_environment`, which sets the projects folder.
    """
    if os.sep in project or project in (".", "..") or os.path.isdir(os.path.join(project, "Runs")):
        return os.path.abspath(project)
    return os.path.join(os.environ["SCIPION_USER_DATA"], "projects", project)


def default_home(project: str) -> str:
    """Return where Scipion's own files go if nothing is configured: beside a project given as a path, else the user's data."""
    if os.sep in project:
        return os.path.join(os.path.dirname(os.path.abspath(project)), ".scipion")
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "tomostream", "scipion")


def quiet_logs() -> None:
    """Keep pyworkflow's log off the terminal, where people want to see the table."""
    import logging

    logging.getLogger().handlers.clear()
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger().setLevel(logging.ERROR)
