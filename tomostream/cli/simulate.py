# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream simulate OUT`: an acquisition written over time, as a microscope does, with known truth."""

from __future__ import annotations

import argparse
import sys

HELP = "write an acquisition over time, as a microscope does, with known truth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    from tomostream.simulator.faults import KINDS

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write OUT/frames/* and OUT/mdocs/*.mdoc over time, first the movie of an exposure, then its section in the mdoc.\n"
        "OUT/truth.json (before the first movie) holds the tilt axis, the shift of every tilt, the drift of every frame and "
        "the doses;\nOUT/acquisition.csv what was written when.")  # fmt: skip
    parser.epilog = "faults (S is the series, T the exposure in the order of acquisition, both from 1):\n" + "".join(
        f"  {kind.text}\n" for kind in KINDS.values())  # fmt: skip
    parser.add_argument("out", metavar="OUT", help="folder to write; made if it does not exist")
    _add_scheme(parser)
    _add_specimen(parser)
    _add_writing(parser)
    replay = parser.add_argument_group("a real tilt series")
    replay.add_argument("--replay", metavar="STACK", help="make movies of the images of a real, unaligned tilt series (MRC)")


def _add_scheme(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the series")
    group.add_argument("--series", type=int, default=1, metavar="N", help="tilt series (default: 1)")
    group.add_argument(
        "--tilts", metavar="N|CSV", help="tilts a series (default: 41); with --replay the table of the tilts, a CSV file "
        "with the columns section, tilt_angle_deg, prior_dose_e_per_A2, acquisition_order")  # fmt: skip
    group.add_argument("--frames", type=int, default=8, metavar="N", help="frames a movie (default: 8)")
    group.add_argument("--tilt-step", type=float, metavar="DEG", help="degrees from tilt to tilt (default: 3)")
    group.add_argument("--max-tilt", type=float, metavar="DEG", help="highest tilt in degrees, instead of --tilt-step")
    group.add_argument("--scheme", default="dose-symmetric", choices=("dose-symmetric", "bidirectional", "unidirectional"),
                       help="order of the tilts (default: dose-symmetric)")  # fmt: skip
    group.add_argument("--interleave", action="store_true", help="all series in turns, tilt by tilt, as PACEtomo does; "
                       "else one series after the other")  # fmt: skip
    group.add_argument("--tilt-axis", type=float, metavar="DEG", help="tilt axis in IMOD's convention, degrees from the y "
                       "axis; with --replay what the mdoc shall say (default: 84.7; -5 with --replay)")  # fmt: skip
    group.add_argument("--axis-error", type=float, default=0.0, metavar="DEG", help="the mdoc's axis minus the true one")


def _add_specimen(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the images")
    group.add_argument("--size", type=int, nargs="+", default=[512], metavar="N",
                       help="pixels of a side, or NX NY (default: 512)")  # fmt: skip
    group.add_argument("--pixel-size", type=float, metavar="A", help="pixel size in A (default: 6; with --replay that of "
                       "the stack)")  # fmt: skip
    group.add_argument("--dose", type=float, metavar="E", help="dose of a tilt in e/A2 (default: 3; with --replay that of "
                       "the table)")  # fmt: skip
    group.add_argument("--defocus", type=float, default=3.0, metavar="UM", help="underfocus in um, 0 for no CTF (default: 3)")
    group.add_argument("--voltage", type=float, default=300.0, metavar="KV", help="kV (default: 300)")
    group.add_argument("--thickness", type=float, default=1300.0, metavar="A", help="of the ice in A (default: 1300)")
    group.add_argument("--pre-tilt", type=float, default=0.0, metavar="DEG", help="tilt of the slab itself (default: 0)")
    group.add_argument("--max-shift", type=float, metavar="PX", help="worst tracking error in px (default: 1/40 of the size)")
    group.add_argument("--drift", type=float, default=3.0, metavar="PX", help="path during an exposure in px (default: 3)")
    group.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")


def _add_writing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the writing")
    group.add_argument("--interval", type=float, metavar="S", help="seconds from exposure to exposure, 0 for as fast as "
                       "possible (default: 0)")  # fmt: skip
    group.add_argument("--start-delay", type=float, default=0.0, metavar="S", help="seconds before the first exposure")
    group.add_argument("--format", default="tif", choices=("tif", "mrc"), help="of the movies (default: tif)")
    group.add_argument("--write", default="atomic", choices=("atomic", "slow"), help="movies appear whole, or grow in place "
                       "(then mdoc sections do, too) (default: atomic)")  # fmt: skip
    group.add_argument("--rewrite", action="store_true", help="write the whole mdoc anew at every exposure, as some scripts do")
    group.add_argument("--half1", action="store_true", help="with --scheme bidirectional: at the turn the mdoc is renamed to "
                       "-half1 and a new one begins, its sections reversed, as SerialEM does")  # fmt: skip
    group.add_argument("--fault", action="append", default=[], metavar="KIND[:S[:T]]", help="something that goes wrong, "
                       "see below; can be given several times")  # fmt: skip
    group.add_argument("--quiet", action="store_true", help="do not name every movie")


def main(args: argparse.Namespace) -> int:
    """Write the acquisition; return the exit status."""
    from tomostream.simulator import Writer

    try:
        scene = _scene(args)
        Writer(scene, args.out, tell=_quiet if args.quiet else _tell).run()
    except ValueError as error:
        print(f"tomostream simulate: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tomostream simulate: {error.filename or args.out}: {error.strerror}.", file=sys.stderr)
        return 2
    print(f"{len(scene.exposures)} exposures of {len(scene.ids)} series are in {args.out}; the truth is in truth.json.")
    return 0


def _tell(message: str) -> None:
    print(message, flush=True)


def _quiet(_message: str) -> None:
    return


def _scene(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    from tomostream.simulator import ReplayScene, SimulatedScene

    plan = _plan(args)
    if args.replay is None:
        plan.check()
        return SimulatedScene(plan)
    if args.tilts is None:
        raise ValueError("--replay needs the table of the tilts: --tilts CSV.")
    scene = ReplayScene(plan, args.replay, args.tilts, args.dose, args.pixel_size)
    scene.plan.check()
    return scene


def _plan(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    from tomostream.simulator import Faults, Plan, parse_fault

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
        interval=args.interval if args.interval is not None else 0.0,
        scheme=args.scheme, interleave=args.interleave, format=args.format, seed=args.seed,
        dose=args.dose if args.dose is not None else 3.0, tilt_step=step,
        tilt_axis=args.tilt_axis if args.tilt_axis is not None else -5.0 if args.replay else 84.7,
        axis_error=args.axis_error, start_delay=args.start_delay, write=args.write, rewrite=args.rewrite,
        half1=args.half1, voltage=args.voltage, defocus=args.defocus if args.defocus != 0 else None,
        thickness=args.thickness, pre_tilt=args.pre_tilt,
        max_shift=args.max_shift if args.max_shift is not None else min(nx, ny) / 40, drift=args.drift,
        faults=Faults(tuple(parse_fault(text) for text in args.fault)))  # fmt: skip


def _tilts(args: argparse.Namespace) -> int:
    """Tilts a series; with --max-tilt and --tilt-step alone what fills the range."""
    if args.replay is not None:
        return 1
    if args.tilts is not None:
        try:
            return int(args.tilts)
        except ValueError:
            raise ValueError(f"--tilts {args.tilts}: without --replay this is the number of tilts.") from None
    if args.max_tilt is not None:
        return 2 * round(args.max_tilt / (args.tilt_step if args.tilt_step is not None else 3.0)) + 1
    return 41
