# SPDX-License-Identifier: GPL-3.0-or-later
"""A session through a real SLURM on this one machine: every program run is a job; jobs that die are tried again.

    make test-slurm         (as root on Debian: installs slurm-wlm and munge, then runs this)

Starts munge and SLURM in a folder of its own, simulates an acquisition, runs it with `tomostream run --queue`, cancels one
MotionCor job and kills another's program while they run, and prints what became of each movie and series.
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
    #SBATCH -t 5
    %_(JOB_COMMAND)s
CANCEL_COMMAND = scancel %_(JOB_ID)s
CHECK_COMMAND = squeue -h -j %_(JOB_ID)s
QUEUES = { "tomo": {} }
"""


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
        self.processes = [self._munge()]
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self._wait_until(lambda: "idle" in sh("sinfo", "-h", "-o", "%t").stdout, "SLURM did not come up")

    def _munge(self) -> subprocess.Popen:
        os.makedirs("/run/munge", exist_ok=True)
        key = os.path.join(self.folder, "munge", "munge.key")
        with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(os.urandom(1024))
        command = ["munged", "--foreground", "--force", f"--key-file={key}", "--socket=/run/munge/munge.socket.2",
                   f"--pid-file={self.folder}/munge/pid", f"--log-file={self.folder}/munge/log",
                   f"--seed-file={self.folder}/munge/seed"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(20)


class Saboteur(threading.Thread):
    """Cancels the first MotionCor job that is seen running, and kills the program of the second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.deeds: list[str] = []

    def run(self) -> None:
        touched: set[str] = set()
        while not self.stop.wait(0.2) and len(self.deeds) < 2:
            for line in sh("squeue", "-h", "-t", "R", "-o", "%i %j").stdout.splitlines():
                job = line.split()[0]
                if job in touched:
                    continue
                touched.add(job)
                if not self.deeds:
                    if sh("scancel", job).returncode == 0:
                        self.deeds.append(f"job {job} was cancelled")
                elif sh("pkill", "-9", "-f", "tomostream-motioncor").returncode == 0:
                    self.deeds.append("the programs that ran were killed with signal 9")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tilts", type=int, default=11)
    options = parser.parse_args()
    if not shutil.which("slurmctld") or not shutil.which("munged"):
        print("This needs Debian's slurm-wlm and munge (make test-slurm installs them).", file=sys.stderr)
        return 2
    folder = tempfile.mkdtemp(prefix="tomostream-slurm-")
    slurm = Slurm(folder)
    saboteur = Saboteur()
    try:
        return session(folder, options.tilts, saboteur)
    finally:
        saboteur.stop.set()
        slurm.close()
        shutil.rmtree(folder, ignore_errors=True)


def session(folder: str, tilts: int, saboteur: Saboteur) -> int:
    home = os.path.join(folder, "scipion")
    os.makedirs(os.path.join(home, "config"))
    with open(os.path.join(home, "config", "hosts.conf"), "w", encoding="utf-8") as file:
        file.write(HOSTS_CONF)
    environment = dict(os.environ, SCIPION_HOME=home)
    command = [sys.executable, "-m", "tomostream.cli"]
    acquisition = os.path.join(folder, "acquisition")
    subprocess.run([*command, "simulate", acquisition, "--quiet", "--series", "1", "--tilts", str(tilts), "--frames", "4",
                    "--size", "512", "--pixel-size", "8", "--tilt-step", "6", "--interval", "0"], check=True)
    saboteur.start()
    status_file = os.path.join(folder, "status.json")
    result = subprocess.run([*command, "run", os.path.join(folder, "project"), "--movies", os.path.join(acquisition, "frames"),
                             "--mdocs", os.path.join(acquisition, "mdocs"), "--engine", "cpu", "--queue", "tomo", "--timeout",
                             "15", "--json", status_file, "--set", f"compose.expectedTilts={tilts}", "--set",
                             "aretomo.tomoThickness=200", "--set", "aretomo.alignZ=150", "--set", "aretomo.binFactor=2"],
                            env=environment, check=False)
    return report(status_file, os.path.join(folder, "project"), saboteur, result.returncode, tilts)


def report(status_file: str, project: str, saboteur: Saboteur, code: int, tilts: int) -> int:
    from tomostream import ledger
    from tomostream.status import ARETOMO, MOTIONCOR, ProjectStatus

    with open(status_file, encoding="utf-8") as file:
        status = json.load(file)
    following = ProjectStatus(project)
    following.update()
    retried = [f"{entry.item}: {entry.reason}" for name in (MOTIONCOR, ARETOMO)
               for entry in ledger.read(ledger.path_in(following.folders[name])) if entry.event == ledger.RETRIED]
    print("\nWhat was done to the jobs:", *saboteur.deeds or ["nothing"], sep="\n  ")
    print("What was tried again:", *retried or ["nothing"], sep="\n  ")
    print("Counts:", json.dumps(status["counts"]))
    jobs = sum(name.endswith(".job") for root, _, names in os.walk(os.path.join(project, "Runs")) for name in names)
    print(f"Jobs submitted: {jobs}; exit status of the session: {code}")
    good = code == 0 and status["counts"]["movies"]["aligned"] == tilts and len(saboteur.deeds) == 2 and len(retried) >= 1
    print("1 passed, 0 failed" if good else "0 passed, 1 failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
