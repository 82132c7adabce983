# SPDX-License-Identifier: GPL-3.0-or-later
"""What else `slurm_check.py` does to sessions whose programs are jobs of a real SLURM: stops, kills, a controller that is gone.

Stand-ins for MotionCor3 and AreTomo2 answer, slowly at first, so that jobs are in the queue when it happens. In the end every
movie and the series must be there, each made once to its end, and nobody else's job be touched.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol

from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, MOTIONCOR
from tomostream.tests.support import ORDER, Session, end, wait_for

TILTS = 4
SETTINGS = {"compose.expectedTilts": TILTS, "aretomo.tomoThickness": 40, "aretomo.alignZ": 20, "motioncor.numberOfThreads": 4}
#: Seconds that a program takes while something is done to its job, and afterwards.
SLOW, FAST = "200,200", "0.2,0.2"


class Controller(Protocol):
    """What is needed of SLURM."""

    def stop_controller(self) -> None:
        """End slurmctld; jobs that run go on."""

    def start_controller(self) -> None:
        """Start it again, and wait until it answers."""


def jobs() -> dict[str, str]:
    """The jobs in the queue: number -> state."""
    said = subprocess.run(["squeue", "-h", "-o", "%i %T"], text=True, capture_output=True, check=True).stdout
    return dict(line.split() for line in said.splitlines())


def begin(session: Session, seconds: str = SLOW) -> subprocess.Popen:
    """Start a session and its acquisition; its first jobs are in the queue then."""
    session.use_standins(seconds)
    run = session.run("--queue", "tomo", "--timeout", "300", "--quiet", "--no-report", engine="gpu", settings=SETTINGS)
    session.simulate("--series", "1", "--tilts", str(TILTS), "--frames", "2", "--size", "48")
    wait_for(lambda: len(session.standin_runs()) >= 1 and len(jobs()) >= 3, 240, "jobs")
    return run


def go_on(session: Session, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Resume a session with fast programs, and stop it when its tomogram is there."""
    session.environment["STANDIN_SECONDS"] = FAST
    session.call("resume", session.project, "--again", "--no-follow", "--quiet")
    meanwhile()
    wait_for(lambda: len(session.rows(ARETOMO)) == 1, 240, "tomogram")
    session.call("stop", session.project)
    wait_for(lambda: not session.pids(), 120, "end of the session")


def whole(session: Session) -> list[str]:
    """What is not as it should be at the end."""
    ends = Counter(entry["item"] for entry in session.standin_runs("end"))
    failed = [f"{entry.item}: {entry.reason}" for name in ORDER
              for kind in (entries.Failed, entries.Retried) for entry in session.events(name, kind)]
    checks = {f"{len(session.rows(MOTIONCOR))} movies": len(session.rows(MOTIONCOR)) == TILTS,
              f"{len(session.rows(ARETOMO))} tomograms": len(session.rows(ARETOMO)) == 1,
              f"programs ran to their ends {dict(ends)}": set(ends.values()) == {1} and len(ends) == TILTS + 1,
              f"failed or retried: {failed}": not failed, f"jobs left: {jobs()}": not jobs()}
    return [words for words, good in checks.items() if not good]


def leave(before: Collection[str], seconds: float = 60.0) -> None:
    """Wait until none of these jobs is in the queue."""
    wait_for(lambda: not set(before) & set(jobs()), seconds, "end of the jobs")


def stopped_at_once(_slurm: Controller, session: Session) -> list[str]:
    """`tomostream stop --now` cancels the jobs of the session and nobody else's; `resume` does the rest."""
    other = subprocess.run(["sbatch", "--parsable", "-p", "tomo", "-t", "10", "-o", "/dev/null", "--wrap", "sleep 600"],
                           text=True, capture_output=True, check=True).stdout.strip()
    try:
        run = begin(session)
        ours = set(jobs()) - {other}
        session.call("stop", session.project, "--now")
        leave(ours)
        wrong = [] if jobs() == {other: "RUNNING"} else [f"somebody else's job {other} is gone: {jobs()}"]
        if f"{len(ours)} jobs in the queue cancelled" not in session.said("stop"):
            wrong.append(f"stop said: {session.said('stop')}")
        run.wait(timeout=120)
    finally:
        subprocess.run(["scancel", other], check=True)
    leave([other])
    go_on(session)
    return wrong + whole(session)


def killed(_slurm: Controller, session: Session) -> list[str]:
    """A protocol is killed; when it is resumed its old jobs are cancelled, and each movie is made once."""
    begin(session)
    ours = set(jobs())
    for pid in session.pids(MOTIONCOR):
        end(pid)
    wrong = [] if set(jobs()) >= ours else ["jobs ended with their protocol"]
    go_on(session)
    return wrong + whole(session)


def killed_while_the_controller_is_gone(slurm: Controller, session: Session) -> list[str]:
    """The same while nothing can be cancelled nor submitted: it is done when the controller is back."""
    begin(session)
    ours = set(jobs())
    slurm.stop_controller()
    for pid in session.pids():
        end(pid)
    said: list[str] = []

    def come_back() -> None:
        said.extend(wait_for(lambda: [entry.reason for entry in session.events(MOTIONCOR, entries.Session)
                                      if "left over from the previous run: cancelled" in entry.reason], 120, "old jobs"))
        wait_for(lambda: said_of_queue(session), 120, "word of the queue that takes no jobs")
        slurm.start_controller()
        leave(ours, 120)

    go_on(session, come_back)
    return whole(session) + ([] if f"{len(ours)} jobs not" in said[0] else [f"the ledger says: {said[0]}"])


def controller_gone(slurm: Controller, session: Session) -> list[str]:
    """The controller is gone for half a minute while jobs run: this is reported, they count as running, and nothing is lost."""
    run = begin(session, "15,1")
    slurm.stop_controller()
    said = wait_for(lambda: said_of_queue(session), 120, "word of the queue that does not answer")
    wait_for(lambda: len(session.standin_runs("end")) >= 1, 120, "end of a job")
    slurm.start_controller()
    wait_for(lambda: len(session.rows(ARETOMO)) == 1, 240, "tomogram")
    session.call("stop", session.project)
    status = run.wait(timeout=240)
    return [*([] if status == 0 else [f"exit status {status}"]), *whole(session),
            *([] if "does not answer" in said[0] or "takes no jobs" in said[0] else [f"the ledger says: {said[0]}"])]


def said_of_queue(session: Session) -> list[str]:
    """What the alignment of movies says of a queue that does not answer or takes no jobs."""
    return [entry.reason for entry in session.events(MOTIONCOR, entries.Waiting) if entry.topic is entries.Topic.QUEUE]


CASES: tuple[Callable[[Controller, Session], list[str]], ...] = (
    stopped_at_once, killed, killed_while_the_controller_is_gone, controller_gone)


def play(slurm: Controller, hosts: str) -> list[bool]:
    """Play all cases with a file of queues that gives jobs more time than `hosts`; whether each came out as it should."""
    with open(hosts, encoding="utf-8") as file:
        text = file.read().replace("#SBATCH -t 1\n", "#SBATCH -t 9\n")
    hosts = f"{hosts}.long"
    with open(hosts, "w", encoding="utf-8") as file:
        file.write(text)
    good = []
    for case in CASES:
        with Session(SCIPION_HOSTS=hosts) as session:
            try:
                wrong = case(slurm, session)
            except AssertionError as error:
                wrong = [f"{error} {session.last_words()}"]
        for job in jobs():
            subprocess.run(["scancel", job], check=False)
        print(f"{case.__name__.replace('_', ' ')}: {'; '.join(wrong) or 'as it should be'}", flush=True)
        good.append(not wrong)
    return good


def hosts_in(folder: str) -> str:
    """Scipion's file of queues below a home."""
    return os.path.join(folder, "scipion", "config", "hosts.conf")
