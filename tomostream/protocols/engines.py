# SPDX-License-Identifier: GPL-3.0-or-later
"""Which program is run: the GPU program of an upstream plugin, or our own on the CPU, with the same command line."""

from __future__ import annotations

import glob
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyworkflow.protocol import GPU_LIST, params
from pyworkflow.utils import getListFromRangeString

from tomostream.constants import ARETOMO3_HOME, ARETOMO_ENGINES, ENGINE_ARETOMO3, ENGINE_AUTO, ENGINE_CPU, ENGINE_GPU, ENGINES
from tomostream.protocols import forms
from tomostream.streaming.cores import cores


@dataclass(frozen=True)
class Program:
    """A program to run: command, environment (None: ours), whether it needs a GPU, and why it was chosen."""

    command: str
    environment: Mapping[str, str] | None
    gpu: bool
    reason: str


def add_engine_param(form: Any, gpu_program: str, aretomo3: bool = False) -> None:
    """Add the engine field to a form; `aretomo3`: whether AreTomo3 is one of the choices."""
    text = ("\nGPU (AreTomo3): AreTomo3, in the folder given by the variable ARETOMO3_HOME or on the path. It is never chosen "
            "automatically, because its tomograms are corrected for the CTF and have at least 100 slices.")
    form.addParam("engine", params.EnumParam, choices=list(ARETOMO_ENGINES if aretomo3 else ENGINES), default=ENGINE_AUTO,
                  display=params.EnumParam.DISPLAY_HLIST, label="Engine",
                  help=f"Which program does the work.\nautomatic: {gpu_program} if it is installed and this machine has a "
                       f"GPU, else the CPU engine.\nGPU: {gpu_program} as configured for its Scipion plugin.\nCPU: "
                       "tomostream's own program, with the same command line and the same output files."
                       + (text if aretomo3 else ""))


class GpusBelowEngine:
    """A protocol whose form asks for the GPUs below the engine, and only where the engine uses one. Scipion's own field, in the
    header of the form, would always be shown."""

    def allowsGpu(self) -> bool:
        return False

    def getGpuList(self) -> list[int]:
        given: list[int] = getListFromRangeString(getattr(self, GPU_LIST).get() or "0")
        return given


def gpu_condition(plugin: Any) -> str:
    """Return the condition for fields that only a GPU program reads: one is chosen, or available to *automatic*."""
    automatic = (ENGINE_AUTO,) if os.path.exists(plugin.getProgram()) else ()
    return f"engine in {(*automatic, ENGINE_GPU, ENGINE_ARETOMO3)}"


def put_gpus_below_engine(form: Any, section: Any, plugin: Any) -> None:
    """Show the field of the GPUs right below the engine."""
    gpus = form.getParam(GPU_LIST)
    gpus.expertLevel.set(params.LEVEL_NORMAL)
    forms.set_labels(form, {GPU_LIST: "GPU IDs"})
    forms.set_helps(form, {GPU_LIST: "Numbers of the GPUs as nvidia-smi counts them, e.g. 0 or 0 1. Each program runs on one of "
                                     "them. With a queue: as seen by the job."})
    forms.show_if(form, GPU_LIST, gpu_condition(plugin))
    forms.move(form, [GPU_LIST], section)
    forms.put_after(section, GPU_LIST, "engine")


def gpu_present() -> bool:
    """Tell whether the NVIDIA driver shows a GPU."""
    return bool(glob.glob("/proc/driver/nvidia/gpus/*") or glob.glob("/dev/nvidia[0-9]*"))


def choose(choice: int, plugin: Any, cpu_command: str) -> Program:
    """Return the program for an engine choice.

    Parameters
    ----------
    choice : ENGINE_AUTO, ENGINE_GPU, ENGINE_CPU or ENGINE_ARETOMO3.
    plugin : the upstream plugin class of the GPU program (`getProgram`, `getEnviron`).
    cpu_command : name of our own console script.
    """
    if choice == ENGINE_CPU:
        return cpu(cpu_command)
    if choice == ENGINE_ARETOMO3:
        return Program(shlex.quote(aretomo3() or "AreTomo3"), plugin.getEnviron(), True, "AreTomo3 was chosen")
    program = plugin.getProgram()
    if choice == ENGINE_GPU:
        return Program(shlex.quote(program), plugin.getEnviron(), True, f"{os.path.basename(program)} was chosen")
    name = os.path.basename(program)
    if not os.path.exists(program):
        return cpu(cpu_command, f"{name} is not installed ({program}), so the CPU engine does the work")
    if not gpu_present():
        return cpu(cpu_command, f"this machine shows no GPU for {name}, so the CPU engine does the work")
    return Program(shlex.quote(program), plugin.getEnviron(), True, f"{name} is installed and there is a GPU")


def problem(choice: int, plugin: Any, variable: str) -> list[str]:
    """For `_validate`: a GPU program that was chosen but is not installed."""
    if choice == ENGINE_ARETOMO3 and aretomo3() is None:
        return [f"Engine GPU (AreTomo3) was chosen, but AreTomo3 is neither in {ARETOMO3_HOME} ({_aretomo3_home() or 'not set'}) "
                f"nor on the path. Set {ARETOMO3_HOME} in Scipion's configuration to the folder of the program, or choose "
                "another engine."]
    if choice != ENGINE_GPU:
        return []
    program = plugin.getProgram()
    if os.path.exists(program):
        return []
    return [f"Engine GPU was chosen, but {program} does not exist. Set {variable} in Scipion's configuration to the folder "
            "of the program, or choose the engine automatic or CPU."]


def _aretomo3_home() -> str:
    from tomostream.plugin import Plugin

    return os.environ.get(ARETOMO3_HOME) or Plugin.getVar(ARETOMO3_HOME) or ""


def aretomo3() -> str | None:
    """Return the path of AreTomo3: below the folder that is set, else on the path; None where there is none."""
    home = _aretomo3_home()
    places = [os.path.join(home, "AreTomo3"), os.path.join(home, "bin", "AreTomo3")] if home else []
    return next(filter(os.path.isfile, places), None) if home else shutil.which("AreTomo3")


def cpu(command: str, reason: str = "the CPU engine was chosen") -> Program:
    """Return our own program."""
    beside = os.path.join(os.path.dirname(sys.executable), command)
    found = beside if os.path.exists(beside) else shutil.which(command)
    return Program(shlex.quote(found) if found else command, None, False, reason)


def threads_per_program(workers: int) -> int:
    """CPU threads for each of `workers` programs that run at the same time."""
    return max(1, cores() // max(1, workers))
