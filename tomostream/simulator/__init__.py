# SPDX-License-Identifier: GPL-3.0-or-later
"""An acquisition written over time, with known truth. Pure.

    from tomostream.simulator import Plan, simulate
    simulate(Plan(series=2, tilts=15, frames=4, size=(384, 384)), "out")
"""

from __future__ import annotations

from pathlib import Path

from tomostream.simulator.clock import Clock, RealClock, VirtualClock
from tomostream.simulator.faults import Fault, Faults, parse_fault
from tomostream.simulator.plan import Plan
from tomostream.simulator.replay import ReplayScene
from tomostream.simulator.scene import Scene, SimulatedScene
from tomostream.simulator.writer import Writer

__all__ = ["Clock", "Fault", "Faults", "Plan", "RealClock", "ReplayScene", "Scene", "SimulatedScene", "VirtualClock",
           "Writer", "parse_fault", "simulate"]  # fmt: skip


def simulate(plan: Plan, out: str | Path, *, clock: Clock | None = None) -> Scene:
    """Write the acquisition `plan` into the folder `out` over time; return its scene.

    With a `VirtualClock` all is written at once, in the order of time. Raise ValueError if the plan cannot be acquired
    With a `VirtualClock` everything is written immediately, in order of time. Raises ValueError if the plan cannot be acquired
    """
    scene = SimulatedScene(plan)
    Writer(scene, out, clock=clock).run()
    return scene
