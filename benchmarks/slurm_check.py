# SPDX-License-Identifier: GPL-3.0-or-later
"""A session through a real SLURM on this one machine: every program run is a job; jobs that die are retried.

    make test-slurm         (as root on Debian: installs slurm-wlm and munge, then runs this)

Starts munge and SLURM in a folder of its own, simulates an acquisition and runs it with `tomostream run --queue`. One MotionCor
job is cancelled, the program of another is killed, that of a third hangs until the time limit of the template (1 minute) ends
the job, and again when it is tried once more. A second session sends the commands of MotionCor3 and AreTomo3 to the queue, where
stand-ins answer. Printed: what became of each movie and series, and how long after its file was there an item was registered,
which is what looking at the queue costs. Then sessions are stopped and killed, and the controller is gone for a while (see
`slurm_outages.py`). Takes some 10 minutes, of which 3 are the time limits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import slurm_outages

SLURM_CONF = """
ClusterName=tomostream
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2
KillWait=3
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=tomo Nodes={host} Default=YES MaxTime=10 State=UP
"""

HOSTS_CONF = """[localhost]
PARALLEL_COMMAND = mpirun -np %_(JOB_NODES)d %_(COMMAND)s
NAME = SLURM
MANDATORY = False
SUBMIT_COMMAND = sbatch %_(JOB_SCRIPT)s
SUBMIT_TEMPLATE = #!/bin/bash
    #SBATCH -J %_(JOB_NAME)s
    #SBATCH -p %_(JOB_QUEUE)s
    #SBATCH -o %_(JOB_LOGS)s.out
    #SBATCH -e %_(JOB_LOGS)s.err
    #SBATCH -n 1
    #SBATCH -t 1
    %_(JOB_COMMAND)s
CANCEL_COMMAND = scancel %_(JOB_ID)s
CHECK_COMMAND = squeue -h -j %_(JOB_ID)s
QUEUES = { "tomo": {} }
"""


CLI = [sys.executable, "-m", "tomostream.cli"]


def sh(*command: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(command, text=True, capture_output=True, check=False, **kwargs)


class Slurm:
    """SLURM with one node, this machine, until closed."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        host = os.uname().nodename.split(".")[0]
        for name in ("state", "spool", "munge"):
            os.makedirs(os.path.join(folder, name))
        config = os.path.join(folder, "slurm.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write(SLURM_CONF.format(host=host, folder=folder, cpus=os.cpu_count()))
        os.environ["SLURM_CONF"] = config
        self.munge = self._munge()
        self.controller = self._start("slurmctld", "-D")
        self.node = self._start("slurmd", "-D", "-N", host)
        self._wait_until(lambda: "idle" in sh("sinfo", "-h", "-o", "%t").stdout, "SLURM did not come up")

    @staticmethod
    def _start(*command: str) -> subprocess.Popen:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop_controller(self) -> None:
        """End slurmctld; jobs that run go on."""
        self.controller.send_signal(signal.SIGTERM)
        self.controller.wait(40)

    def start_controller(self) -> None:
        """Start it again, and wait until it answers."""
        self.controller = self._start("slurmctld", "-D")
        self._wait_until(lambda: sh("squeue", "-h").returncode == 0, "slurmctld did not come up again")

    def _munge(self) -> subprocess.Popen:
        os.makedirs("/run/munge", exist_ok=True)
        key = os.path.join(self.folder, "munge", "munge.key")
        with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(os.urandom(1024))
        command = ["munged", "--foreground", "--force", f"--key-file={key}", "--socket=/run/munge/munge.socket.2",
                   f"--pid-file={self.folder}/munge/pid", f"--log-file={self.folder}/munge/log",
                   f"--seed-file={self.folder}/munge/seed"]
        process = self._start(*command)
        self._wait_until(lambda: sh("munge", "-n").returncode == 0, "munge did not come up")
        return process

    @staticmethod
    def _wait_until(question, failure: str, seconds: float = 40) -> None:
        pause, end = threading.Event(), time.monotonic() + seconds
        while not question():
            if time.monotonic() > end:
                raise SystemExit(failure)
            pause.wait(0.3)

    def close(self) -> None:
        for process in (self.node, self.controller, self.munge):
            process.send_signal(signal.SIGTERM)
            process.wait(40)


class Saboteur(threading.Thread):
    """Does three things to the MotionCor jobs of the session, as they come: cancels the first, kills the program of the second,
    and stops that of the third whenever it runs, so that it runs out of time, twice."""

    def __init__(self, folder: str) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.stop = threading.Event()
        self.deeds: list[str] = []
        self.hanging = ""
        self._touched: set[str] = set()
        self._stopped: set[int] = set()

    def run(self) -> None:
        while not self.stop.wait(0.05):         # a program may run for a fifth of a second only
            for pid, movie in self._programs():
                if movie == self.hanging and pid not in self._stopped:
                    self._hang(pid, movie)
                elif movie not in self._touched and len(self._touched) < 3:
                    self._touched.add(movie)
                    self._do(len(self._touched), pid, movie)

    def _do(self, number: int, pid: int, movie: str) -> None:
        if number == 1:
            job = self._environment(pid).get("SLURM_JOB_ID", "")
            if sh("scancel", job).returncode == 0:
                self.deeds.append(f"the job of {movie} was cancelled")
        elif number == 2:
            os.kill(pid, signal.SIGKILL)
            self.deeds.append(f"the program of {movie} was killed with signal 9")
        else:
            self.hanging = movie
            self._hang(pid, movie)

    def _hang(self, pid: int, movie: str) -> None:
        self._stopped.add(pid)
        os.kill(pid, signal.SIGSTOP)
        self.deeds.append(f"the program of {movie} was made to hang")

    def _programs(self) -> list[tuple[int, str]]:
        """The MotionCor programs of this session that run: (process id, movie)."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                    words = file.read().split("\0")
                place = os.readlink(f"/proc/{pid}/cwd")
            except OSError:
                continue
            movie = next((os.path.basename(word) for word in words if word.endswith(".tif")), "")
            if movie and "-OutMrc" in words and place.startswith(self.folder):
                found.append((int(pid), movie))
        return found

    @staticmethod
    def _environment(pid: int) -> dict[str, str]:
        try:
            with open(f"/proc/{pid}/environ", encoding="utf-8", errors="replace") as file:
                return dict(word.partition("=")[::2] for word in file.read().split("\0"))
        except OSError:
            return {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tilts", type=int, default=11)
    parser.add_argument("--outages", action="store_true", help="only what is done to sessions and to the controller")
    options = parser.parse_args()
    if not shutil.which("slurmctld") or not shutil.which("munged"):
        print("This needs Debian's slurm-wlm and munge (make test-slurm installs them).", file=sys.stderr)
        return 2
    folder = tempfile.mkdtemp(prefix="tomostream-slurm-")
    slurm = Slurm(folder)
    saboteur = Saboteur(folder)
    try:
        acquire(folder, options.tilts)
        good = [] if options.outages else [session(folder, options.tilts, saboteur), with_aretomo3(folder, options.tilts)]
        good += slurm_outages.play(slurm, slurm_outages.hosts_in(folder))
        print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
        return 0 if all(good) else 1
    finally:
        saboteur.stop.set()
        slurm.close()
        shutil.rmtree(folder, ignore_errors=True)


def acquire(folder: str, tilts: int) -> None:
    """Scipion's file of queues, and a series to go through them."""
    config = os.path.join(folder, "scipion", "config")
    os.makedirs(config)
    with open(os.path.join(config, "hosts.conf"), "w", encoding="utf-8") as file:
        file.write(HOSTS_CONF)
    subprocess.run([*CLI, "simulate", os.path.join(folder, "acquisition"), "--quiet", "--series", "1", "--tilts", str(tilts),
                    "--frames", "4", "--size", "256", "--pixel-size", "16", "--tilt-step", "6", "--interval", "0"], check=True)


def run(folder: str, name: str, tilts: int, *words: str, **environment: str) -> int:
    """A session through the queue; its exit status. Its status is in `<name>.json`."""
    acquisition = os.path.join(folder, "acquisition")
    return subprocess.run([
        *CLI, "run", os.path.join(folder, name), "--movies", os.path.join(acquisition, "frames"), "--mdocs",
        os.path.join(acquisition, "mdocs"), "--queue", "tomo", "--timeout", "15", "--json", os.path.join(folder, f"{name}.json"),
        "--set", f"compose.expectedTilts={tilts}", "--set", "aretomo.alignZ=75", "--set", "aretomo.binFactor=2", *words],
        env={**os.environ, "SCIPION_HOME": os.path.join(folder, "scipion"), **environment}, check=False).returncode


def session(folder: str, tilts: int, saboteur: Saboteur) -> bool:
    """With our own engine, disturbed; whether all came out as it should."""
    saboteur.start()
    code = run(folder, "project", tilts, "--engine", "cpu", "--set", "aretomo.tomoThickness=100")
    saboteur.stop.set()
    return report(os.path.join(folder, "project.json"), os.path.join(folder, "project"), saboteur, code, tilts)


def with_aretomo3(folder: str, tilts: int) -> bool:
    """With MotionCor3 and AreTomo3, whose stand-ins tell which jobs ran; whether all came out as it should."""
    from tomostream.tests import standins

    log = os.path.join(folder, "standins.jsonl")
    code = run(folder, "aretomo3", tilts, "--engine", "gpu", "--set", "aretomo.engine=3", "--set", "aretomo.tomoThickness=240",
               STANDIN_LOG=log, STANDIN_SECONDS="0.2", **standins.install(os.path.join(folder, "standins")))
    with open(log, encoding="utf-8") as file:
        ended = [entry["program"] for entry in map(json.loads, file) if entry["event"] == "end"]
    with open(os.path.join(folder, "aretomo3.json"), encoding="utf-8") as file:
        counts = json.load(file)["counts"]
    jobs = jobs_of(os.path.join(folder, "aretomo3"))
    print(f"With AreTomo3: {ended.count('MotionCor3')} runs of MotionCor3 and {ended.count('AreTomo3')} of AreTomo3 in {jobs} "
          f"jobs; counts: {json.dumps(counts)}; exit status of the session: {code}")
    return (code, counts["movies"]["aligned"], ended.count("MotionCor3"), ended.count("AreTomo3")) == (0, tilts, tilts, 1) \
        and jobs >= tilts + 1


def jobs_of(project: str) -> int:
    """How many jobs a session has submitted."""
    return sum(name.endswith(".job") for _, _, names in os.walk(os.path.join(project, "Runs")) for name in names)


def report(status_file: str, project: str, saboteur: Saboteur, code: int, tilts: int) -> bool:
    """Print what became of the disturbed session; whether that is what it should."""
    from tomostream.journal import entries, ledger
    from tomostream.journal.status import ARETOMO, MOTIONCOR, ProjectStatus

    with open(status_file, encoding="utf-8") as file:
        status = json.load(file)
    following = ProjectStatus(project)
    following.update()
    found = [entry for name in (MOTIONCOR, ARETOMO) for entry in ledger.read(ledger.path_in(following.folders[name]))]
    retried, failed = ([entry for entry in found if isinstance(entry, kind)] for kind in (entries.Retried, entries.Failed))
    print("\nWhat was done to the jobs:", *saboteur.deeds or ["nothing"], sep="\n  ")
    for title, told in (("What was retried:", retried), ("What failed:", failed)):
        print(title, *[f"{entry.item}: {entry.reason}" for entry in told] or ["nothing"], sep="\n  ")
    print("Counts:", json.dumps(status["counts"]))
    jobs = jobs_of(project)
    waits = sorted(waiting_times(project, found))
    print(f"From an item's file to its registration: median {waits[len(waits) // 2]:.1f} s, at most {waits[-1]:.1f} s")
    print(f"Jobs submitted: {jobs}; exit status of the session: {code}")
    hung = [entry.item for entry in failed]
    limited = any("TIME LIMIT" in entry.reason for entry in failed)
    return (code == 1 and limited and status["counts"]["movies"]["aligned"] == tilts - 1 and hung == [saboteur.hanging]
            and len(retried) >= 3 and jobs >= tilts + 4 and waits[-1] <= 5.0)


def waiting_times(project: str, found: list) -> list[float]:
    """Seconds from the time at which a program wrote its file to the line that says that the item is registered."""
    from tomostream.journal.entries import Aligned, Reconstructed

    waits = []
    for entry in found:
        path = entry.file if isinstance(entry, Aligned) else entry.tomogram if isinstance(entry, Reconstructed) else ""
        if path:
            waits.append(entry.time - os.path.getmtime(os.path.join(project, path)))
    return waits


if __name__ == "__main__":
    sys.exit(main())
