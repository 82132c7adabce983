# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream simulate OUT`: an acquisition written over time, as a microscope does, with known truth."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tomostream.cli import refuse
from tomostream.cli.places import cannot_write
from tomostream.simulator.layout import LAYOUTS, NAMES
from tomostream.simulator.plan import FORMATS, WRITES, Plan
from tomostream.simulator.schemes import SCHEMES

if TYPE_CHECKING:
    from tomostream.simulator import Scene

    _Group = argparse._ArgumentGroup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    from tomostream.simulator.faults import KINDS

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write OUT/frames/* and OUT/mdocs/*.mdoc over time: the movie of an exposure, then its section in the mdoc.\n"
        "OUT/truth.json (before the first movie) holds the tilt axis, the shift of every tilt, the drift of every\n"
        "frame and the doses (movies by their path where the layout is not the standard one),\n"
        "OUT/acquisition.csv what was written when, OUT/specimen.json the plan and the specimen.")
    listed = "".join(f"  {name:18} {text}\n" for title, table in (("layouts:", LAYOUTS), ("names:", NAMES))
                     for name, text in ((title, ""), *table.items()))
    parser.epilog = listed + "\nfaults (S is the series, T the exposure in the order of acquisition, both from 1):\n" + "".join(
        f"  {kind.text}\n" for kind in KINDS.values())
    parser.add_argument("out", metavar="OUT", help="folder to write; made if it does not exist")
    _add_series(parser.add_argument_group("the series"))
    _add_images(parser.add_argument_group("the images"))
    _add_writing(parser.add_argument_group("the writing"))


def _add_series(group: _Group) -> None:
    add = group.add_argument
    add("--series", type=int, default=1, metavar="N", help="tilt series (default: 1)")
    add("--tilts", metavar="N|CSV",
        help="tilts per series (default: 41); with --replay the table of the tilts, a CSV file with the columns section "
             "(from 0), tilt_angle_deg, prior_dose_e_per_A2, acquisition_order")
    add("--replay", metavar="STACK",
        help="make the movies from the images of a real tilt series: an MRC stack, motion-corrected, not aligned")
    add("--frames", type=int, default=8, metavar="N", help="frames per movie (default: 8)")
    add("--tilt-step", type=float, metavar="DEG", help="degrees from tilt to tilt (default: 3)")
    add("--max-tilt", type=float, metavar="DEG", help="highest tilt in degrees, instead of --tilt-step")
    add("--scheme", default=SCHEMES[0], choices=SCHEMES, help=f"order of the tilts (default: {SCHEMES[0]})")
    add("--interleave", action="store_true",
        help="acquire all series in turns, tilt by tilt, as PACEtomo does (default: one series after the other)")
    add("--tilt-axis", type=float, metavar="DEG",
        help="tilt axis in IMOD's convention, degrees from the y axis (default: 84.7); with --replay the value for the "
             "mdoc (default: -5)")
    add("--axis-error", type=float, default=0.0, metavar="DEG", help="axis in the mdoc minus the true one (default: 0)")


def _add_images(group: _Group) -> None:
    add = group.add_argument
    add("--size", type=int, nargs="+", default=[512], metavar="N", help="pixels of a side, or NX NY (default: 512)")
    add("--pixel-size", type=float, metavar="A", help="pixel size in A (default: 6; with --replay that of the stack)")
    add("--dose", type=float, metavar="E", help="dose of a tilt in e/A2 (default: 3; with --replay that of the table)")
    add("--defocus", type=float, default=4.0, metavar="UM", help="underfocus in µm, 0 for no CTF (default: 4)")
    add("--voltage", type=float, default=300.0, metavar="KV", help="kV (default: 300)")
    add("--thickness", type=float, default=1300.0, metavar="A", help="thickness of the ice in A (default: 1300)")
    add("--pre-tilt", type=float, default=0.0, metavar="DEG", help="tilt of the slab itself (default: 0)")
    add("--gold", type=int, default=0, metavar="N", help="gold beads in the field of every series (default: 0)")
    add("--gold-diameter", type=float, default=10.0, metavar="NM", help="diameter of the gold beads in nm (default: 10)")
    add("--max-shift", type=float, metavar="PX", help="worst tracking error in px (default: 1/40 of the smaller side)")
    add("--drift", type=float, default=3.0, metavar="PX", help="length of the drift during an exposure in px (default: 3)")
    add("--seed", type=int, default=0, help="seed of everything random (default: 0)")


def _add_writing(group: _Group) -> None:
    add = group.add_argument
    add("--interval", type=float, default=0.0, metavar="S",
        help="seconds from exposure to exposure, 0 for as fast as possible (default: 0)")
    add("--start-delay", type=float, default=0.0, metavar="S", help="seconds before the first exposure (default: 0)")
    add("--format", default=FORMATS[0], choices=FORMATS, help=f"of the movies (default: {FORMATS[0]})")
    add("--write", default=WRITES[0], choices=WRITES,
        help="movies appear whole (atomic), grow in place (slow), or grow by whole frames, each time a valid, shorter "
             f"movie (frames); except with atomic, the mdocs are seen half-written too (default: {WRITES[0]})")
    add("--layout", default="standard", choices=LAYOUTS, help="folders and names of the files, see below (default: standard)")
    add("--names", default="exact", choices=NAMES, help="what a transfer made of the movies' names, see below (default: exact)")
    add("--rewrite", action="store_true", help="rewrite the whole mdoc at every exposure, as some scripts do")
    add("--half1", action="store_true",
        help="with --scheme bidirectional: at the turn the mdoc is renamed to -half1 and a new one begins, its "
             "sections reversed, as SerialEM does")
    add("--fault", action="append", default=[], metavar="KIND[:S[:T]]",
        help="something that goes wrong, see below; may be repeated")
    add("--quiet", action="store_true", help="do not print every movie")


def main(args: argparse.Namespace) -> int:
    """Write the acquisition; return the exit status."""
    from tomostream.simulator import Writer

    try:
        scene = _scene(args)
        Writer(scene, args.out, report=_quiet if args.quiet else _report).run()
    except ValueError as error:
        return refuse("simulate", error)
    except OSError as error:
        if args.replay is not None and error.filename in (args.replay, args.tilts):
            return refuse("simulate", f"{error.filename} cannot be read: {error.strerror}")
        return refuse("simulate", cannot_write(args.out, error))
    print(f"{len(scene.exposures)} exposures of {len(scene.ids)} series are in {args.out}; the truth is in truth.json.")
    return 0


def _report(message: str) -> None:
    print(message, flush=True)


def _quiet(_message: str) -> None:
    return


def _scene(args: argparse.Namespace) -> Scene:
    """Return the scene to acquire, simulated or replayed. Raises ValueError with a sentence."""
    from tomostream.simulator import ReplayScene, SimulatedScene

    plan = _plan(args)
    if args.replay is None:
        return SimulatedScene(plan)
    if args.tilts is None:
        raise ValueError("--replay needs the table of the tilts: --tilts CSV.")
    if args.gold:
        raise ValueError(f"--gold {args.gold}: --replay cannot add gold to the images; leave --gold out.")
    if args.series != 1:
        raise ValueError(f"--series {args.series}: --replay makes the one series of the stack; leave --series out.")
    return ReplayScene(plan, args.replay, args.tilts, args.dose, args.pixel_size)


def _plan(args: argparse.Namespace) -> Plan:
    """Return the plan that the options describe. Raises ValueError with a sentence."""
    from tomostream.simulator import Faults, parse_fault

    if len(args.size) > 2:
        raise ValueError(f"--size takes one number or two (NX NY), not {len(args.size)}.")
    nx, ny = args.size[0], args.size[-1]
    tilts = _tilts(args)
    step = args.tilt_step if args.tilt_step is not None else 3.0
    if args.max_tilt is not None and tilts > 1:
        step = args.max_tilt / (tilts // 2)
    return Plan(
        series=args.series, tilts=tilts, frames=args.frames, size=(nx, ny),
        pixel_size=args.pixel_size if args.pixel_size is not None else 6.0,
        interval=args.interval,
        scheme=args.scheme, interleave=args.interleave, format=args.format, seed=args.seed,
        dose=args.dose if args.dose is not None else 3.0, tilt_step=step,
        tilt_axis=args.tilt_axis if args.tilt_axis is not None else -5.0 if args.replay else 84.7,
        axis_error=args.axis_error, start_delay=args.start_delay, write=args.write, rewrite=args.rewrite,
        half1=args.half1, layout=args.layout, names=args.names,
        voltage=args.voltage, defocus=args.defocus if args.defocus != 0 else None,
        thickness=args.thickness, pre_tilt=args.pre_tilt, gold=args.gold, gold_diameter=10 * args.gold_diameter,
        max_shift=args.max_shift if args.max_shift is not None else min(nx, ny) / 40, drift=args.drift,
        faults=Faults(tuple(parse_fault(text) for text in args.fault)))  # fmt: skip


def _tilts(args: argparse.Namespace) -> int:
    """Return the number of tilts of a series: as given, else what fills the range of --max-tilt."""
    if args.replay is not None:
        return 1
    if args.tilts is not None:
        try:
            return int(args.tilts)
        except ValueError:
            raise ValueError(f"--tilts {args.tilts}: without --replay this is the number of tilts.") from None
    if args.max_tilt is not None:
        step: float = args.tilt_step if args.tilt_step is not None else 3.0
        return 2 * round(float(args.max_tilt) / step) + 1
    return 41
