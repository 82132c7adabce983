# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for SLURM: `sbatch`, `squeue` and `scancel` of one machine, which fail, hang and lie on command.

A job runs at once. The file `mode` says how they behave:

    absent      there is no such command
    down        the controller cannot be contacted
    hangs       nothing is answered until the mode changes
    silent      success, and not a word
    forgets     no job is known (squeue), as by a controller that has just come up
"""

from __future__ import annotations

import os
import stat

MODES = ("absent", "down", "hangs", "silent", "forgets")
_COMMON = """#!/bin/sh
state={state}
mode=$(cat $state/mode 2>/dev/null)
while [ "$mode" = hangs ]; do sleep 0.1; mode=$(cat $state/mode 2>/dev/null); done
[ "$mode" = absent ] && {{ echo "$(basename $0): command not found" >&2; exit 127; }}
[ "$mode" = down ] && {{ echo "error: Unable to contact slurm controller (connect failure)" >&2; exit 1; }}
[ "$mode" = silent ] && exit 0
"""
_SBATCH = _COMMON + """
number=1000
while ! mkdir $state/jobs/$number 2>/dev/null; do number=$((number + 1)); done
of() {{ sed -n "s/^ *#SBATCH -$1 //p" "$2"; }}
setsid sh "$1" >"$(of o "$1")" 2>"$(of e "$1")" </dev/null &
echo $! > $state/jobs/$number/pid
echo "Submitted batch job $number"
"""
_SQUEUE = _COMMON + """
for jobs in "$@"; do :; done
known=0
[ "$mode" = forgets ] || for job in $(echo "$jobs" | tr , ' '); do
    pid=$(cat $state/jobs/$job/pid 2>/dev/null)
    if [ -n "$pid" ] && [ -d /proc/$pid ] && ! grep -q '^State:.Z' /proc/$pid/status 2>/dev/null; then
        known=$((known + 1)); echo "  $job  tomo  job  user  R  0:10  1 node1"
    fi
done
case "$jobs" in *,*) exit 0 ;; esac
[ $known -gt 0 ] && exit 0
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
"""
_SCANCEL = _COMMON + """
kill -9 "-$(cat $state/jobs/$1/pid)"
"""
_HOSTS = """[localhost]
PARALLEL_COMMAND = mpirun -np %_(JOB_NODES)d %_(COMMAND)s
NAME = SLURM
MANDATORY = False
SUBMIT_COMMAND = {bin}/sbatch %_(JOB_SCRIPT)s
SUBMIT_TEMPLATE = #!/bin/bash
    #SBATCH -o %_(JOB_LOGS)s.out
    #SBATCH -e %_(JOB_LOGS)s.err
    %_(JOB_COMMAND)s
CANCEL_COMMAND = {bin}/scancel %_(JOB_ID)s
CHECK_COMMAND = {bin}/squeue -h -j %_(JOB_ID)s
QUEUES = {{ "tomo": {{}} }}
"""


class Scheduler:
    """The stand-in, in a folder of its own.

    Parameters
    ----------
    folder : made if it is not there. Its name must need no quotes.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        os.makedirs(os.path.join(folder, "jobs"), exist_ok=True)
        for name, text in (("sbatch", _SBATCH), ("squeue", _SQUEUE), ("scancel", _SCANCEL)):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.format(state=folder))
            os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        with open(os.path.join(folder, "hosts.conf"), "w", encoding="utf-8") as file:
            file.write(_HOSTS.format(bin=folder))

    @property
    def environment(self) -> dict[str, str]:
        """What a session needs to use it, with `--queue tomo`."""
        return {"SCIPION_HOSTS": os.path.join(self._folder, "hosts.conf")}

    def behave(self, mode: str = "") -> None:
        """Behave like this from now on; "" well."""
        path = os.path.join(self._folder, "mode")
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            file.write(mode)
        os.replace(f"{path}.part", path)
