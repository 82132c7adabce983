# SPDX-License-Identifier: GPL-3.0-or-later
"""The sign of the tilt angles of an instrument: one series reconstructed both ways, with pictures and the evidence for either.

The geometry. A point (X, Y, Z), Y along the tilt axis, is seen at x' = X cos t + Z sin t. Angles -t with Z' = -Z explain the same
images equally well: the alignment cannot tell, the tomogram is mirrored, and every helix in it changes its hand. (A tilt axis
that is 180 degrees off does the same: it inverts X, Y and Z.)

The evidence. At tilt t a point of the specimen plane at x' lies -x' tan t higher along the beam, and the defocus is larger where
the specimen is further from the electron source. So if it grows towards +x' at positive tilts (`defocus_hand` 1), +z of the
tomogram points to the source, as in a tomogram of the correct hand if the images are as seen from the source. Mirroring of the
image anywhere between camera and disk reverses this: it is a hint, and only a structure of known hand is proof.
"""

from __future__ import annotations

import html
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tomostream.acquisition.instrument import instrument_name
from tomostream.choices.instruments import AS_GIVEN, NEGATED
from tomostream.choices.thickness import structure
from tomostream.engine import quick
from tomostream.engine.ctf.series import estimate
from tomostream.engine.ctf.spectra import Optics, usable_range
from tomostream.engine.recon import solution as solutions
from tomostream.engine.recon.stack import open_stack
from tomostream.files.errors import EngineError
from tomostream.files.grey import grey_range, to_bytes
from tomostream.files.mrc_header import read_header
from tomostream.files.writing import whole, write_text
from tomostream.journal import entries
from tomostream.journal.composed import ComposedSeries
from tomostream.journal.status import ProjectStatus
from tomostream.programs.aln import AlnError, AlnFile, AlnRow, AngleRow, format_aln
from tomostream.programs.quality import Quality, parse_quality

FOLDER, RESULT, PICTURE, PAGE = "handedness", "check.json", "both.png", "index.html"
LOOK_FOR = (
    "A structure of known hand decides: the two strands of actin wind around each other to the right, TMV is a right-handed "
    "helix, the 3-start helix of a microtubule is left-handed. Best of all, an average of ribosomes (or of anything with a "
    "known map) from one of the tomograms fits that map in one hand only.",
    "If you know what faces the electron source (the support film, the sputtered layer, a fiducial layer): in the tomogram of "
    "the correct hand z points towards the source, if the images are as seen from the source.",
    "The defocus: if it could be measured across the tilt axis, it tells which way z points (see the evidence).",
    "Do not judge by sharpness or by the alignment: they are the same both ways.",
)
#: Thickness over which slices are averaged, A.
SLAB_A = 120.0
#: Width of a picture in px, and the room for a line of text.
WIDTH, LINE = 440, 22
Say = Callable[[str], None]
Grey = NDArray[np.float32]


@dataclass(frozen=True)
class Check:
    """The result. `hand`: 1, -1 or 0 as `Quality.defocus_hand`, for the angles as given in the mdoc; None without a CTF.

    `advice` is as-given, negated or "" if there is no evidence. Files are names in `folder`.
    """

    series: str
    instrument: str
    hand: int | None
    advice: str
    evidence: str
    folder: str
    picture: str = PICTURE
    page: str = PAGE


def folder_of(project: str, series_id: str) -> str:
    """Return where the check of a series is kept."""
    return os.path.join(project, FOLDER, series_id)


def read_check(project: str, series_id: str) -> Check | None:
    """Return the check made of a series, or None."""
    try:
        with open(os.path.join(folder_of(project, series_id), RESULT), encoding="utf-8") as file:
            return Check(**{**json.load(file), "folder": folder_of(project, series_id)})
    except (OSError, ValueError, TypeError):
        return None


def check(project: str, series: ComposedSeries, say: Say) -> Check:
    """Reconstruct a series with the angles as given and negated, and write pictures and a page of both into the project.

    Raises
    ------
    quick.NotDone : it cannot be aligned, or nothing can be written; says why.
    """
    folder = folder_of(project, series.series_id)
    work = os.path.join(folder, ".work")
    shutil.rmtree(work, ignore_errors=True)
    try:
        os.makedirs(work)
        source = source_of(project, series)
        given = quick.reconstruct(source, work, say)
        quick.reconstruct(source, work, say, keep=given, negated=True)
        say("the defocus across the tilt axis")
        hand, words = defocus_hand(project, series, source, given, work)
        say("pictures")
        other = os.path.join(work, f"{quick.NAME}_negated.mrc")
        both = sheet(series.series_id, views(quick.read_volume(given.filtered), given.pixel_size_A),
                     views(quick.read_volume(quick.filtered_of(other)), given.pixel_size_A))
        advice, evidence = judge(hand, words)
        found = Check(series.series_id, instrument_of(series), hand, advice, evidence, folder)
        _write(found, both)
    except BrokenPipeError:         # of whoever reads the progress
        raise
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise quick.NotDone(f"The check of {series.series_id} cannot be written in {folder}: {why}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


def source_of(project: str, series: ComposedSeries) -> quick.Source:
    """Return the series with the angles as given in the mdoc, whatever sign it was composed with."""
    sign = -1.0 if series.negated else 1.0
    rows = tuple(AngleRow(sign * tilt.angle, tilt.order) for tilt in series.used)
    try:
        pixel_size = read_header(series.stack)[0].pixel_size_A
    except (OSError, ValueError) as error:
        raise quick.NotDone(f"The images of {series.series_id} cannot be read: {error}") from error
    if not pixel_size > 0:
        raise quick.NotDone(f"{os.path.basename(series.stack)} does not give its pixel size.")
    made = _reconstruction(project, series)
    aln = os.path.join(project, made.folder, f"{series.series_id}.aln") if made is not None and not series.negated else ""
    return quick.Source(series.series_id, series.stack, pixel_size, rows, tuple(range(len(rows))), series.tilt_axis,
                        aln if os.path.exists(aln) else None)


def _reconstruction(project: str, series: ComposedSeries) -> entries.Reconstructed | None:
    """Return the ledger entry on the reconstruction of this version, or None."""
    status = ProjectStatus(project)
    status.update()
    found = status.series.get(series.series_id)
    made = found.result if found is not None else None
    return made if made is not None and made.version == series.version else None


def instrument_of(series: ComposedSeries) -> str:
    """Return the name of the instrument in the mdoc files of a series; "" if unknown."""
    return next((name for path in series.mdocs if (name := instrument_name(path))), "")


# ---------------------------------------------------------------------------------------------------- evidence
def defocus_hand(project: str, series: ComposedSeries, source: quick.Source, made: quick.Quick,
                 work: str) -> tuple[int | None, str]:
    """Return how the defocus changes across the tilt axis with the angles as given, and the engine's words about it.

    From the CTF of the reconstruction where the CPU engine made it, else measured in the raw images.
    """
    registered = _reconstruction(project, series)
    path = os.path.join(project, registered.folder, f"{series.series_id}_quality.json") if registered is not None else ""
    if os.path.exists(path):
        try:
            with open(path, encoding="utf-8") as file:
                quality = parse_quality(file.read())
        except (OSError, AlnError):
            quality = Quality()
        if quality.defocus_hand is not None:
            return quality.defocus_hand * (-1 if series.negated else 1), quality.ctf_note
    return _measured_hand(source, made, work, series.voltage or 300.0)


def _measured_hand(source: quick.Source, made: quick.Quick, work: str, voltage: float) -> tuple[int | None, str]:
    if not usable_range(source.pixel_size_A):
        return None, f"at {source.pixel_size_A:.3g} A/px the images hold no Thon rings"
    path = os.path.join(work, "raw.aln")
    rows = tuple(AlnRow(row.section, row.rot_deg, row.tx * made.binning, row.ty * made.binning, row.tilt_deg)
                 for row in made.aln.rows)
    with open(path, "w", encoding="utf-8") as file:
        file.write(format_aln(AlnFile(rows, made.aln.dark)))
    try:
        stack = open_stack(source.stack)
        used = solutions.of_aln(path, stack).used
        found = estimate(stack, used, Optics(voltage), (0.0, 0.0), source.pixel_size_A, 2, lambda *_: None)
    except EngineError as error:
        return None, str(error)
    return (None if found.series is None else found.series.hand), found.note


def judge(hand: int | None, words: str) -> tuple[str, str]:
    """(advice, evidence in sentences) from how the defocus changes with the angles as given."""
    if hand not in (1, -1):
        why = words or "no CTF was fitted"
        if hand == 0:
            why = "the CTF was fitted, but how the defocus changes across the tilt axis could not be seen"
        return "", f"The data do not tell: {why}. A structure of known hand, or what lies on which side, must decide."
    advice = AS_GIVEN if hand == 1 else NEGATED
    way = "grows" if hand == 1 else "falls"
    side = "to the electron source" if hand == 1 else "away from the electron source"
    return advice, (f"The defocus {way} towards +x across the tilt axis at positive tilts. So with the angles as given, +z of "
                    f"the tomogram points {side}: where the images are as seen from the source (not mirrored), the angles are "
                    f"right {'as given' if hand == 1 else 'negated'}. A camera or a gain reference that mirrors the images "
                    "reverses this.")


# ---------------------------------------------------------------------------------------------------- pictures
def views(volume: Grey, pixel_size_A: float) -> list[tuple[str, Grey]]:
    """(title, image with row 0 at the bottom): the side view, and slices across z from the top down."""
    depth, height, _ = volume.shape
    half = max(1, round(SLAB_A / pixel_size_A / 2))
    middle, filled = height // 2, float(np.clip((structure(volume) > 0.5).mean(), 0.1, 1.0))
    shown = round(min(0.5, 0.75 * filled) * depth)
    side = volume[depth // 2 - shown:depth // 2 + shown, middle - half:middle + half]
    found = [("side view: x to the right, z upward", side.mean(axis=1, dtype=np.float32))]
    for share, words in ((0.25, "above the middle (z > 0)"), (0.0, "in the middle"), (-0.25, "below the middle (z < 0)")):
        place = round(depth / 2 + share * depth * filled)
        found.append((words, volume[max(0, place - half):place + half].mean(axis=0, dtype=np.float32)))
    return found


def sheet(series_id: str, given: list[tuple[str, Grey]], negated: list[tuple[str, Grey]]) -> Image.Image:
    """Return both reconstructions side by side, slice by slice."""
    font = ImageFont.load_default(size=14)
    columns = []
    for title, images in (("Tilt angles as given", given), ("Tilt angles negated", negated)):
        parts = [(f"{series_id}: {title}", None), *((words, picture(image)) for words, image in images)]
        height = sum(LINE + (0 if image is None else image.height + 6) for _, image in parts)
        column = Image.new("L", (WIDTH, height), 255)
        top = 0
        for words, image in parts:
            ImageDraw.Draw(column).text((4, top + 2), words, fill=0, font=font)
            top += LINE
            if image is not None:
                column.paste(image, (0, top))
                top += image.height + 6
        columns.append(column)
    both = Image.new("L", (2 * WIDTH + 12, columns[0].height), 255)
    both.paste(columns[0], (0, 0))
    both.paste(columns[1], (WIDTH + 12, 0))
    return both


def picture(image: Grey) -> Image.Image:
    """Return a grey picture with y (or z) upward, density dark."""
    rim = max(1, min(image.shape) // 16)
    grey = to_bytes(image, grey_range(image[rim:-rim, rim:-rim]))
    height = max(1, round(grey.shape[0] * WIDTH / grey.shape[1]))
    return Image.fromarray(grey).resize((WIDTH, height), Image.Resampling.LANCZOS)


def _write(found: Check, both: Image.Image) -> None:
    """Picture, page and result, each complete or not at all."""
    target = os.path.join(found.folder, PICTURE)
    with whole(target) as part:
        both.save(part, "PNG", optimize=True)
    for name, text in ((PAGE, _page(found)), (RESULT, json.dumps(asdict(found), indent=1))):
        write_text(os.path.join(found.folder, name), text)


def _page(found: Check) -> str:
    title = html.escape(f"Sign of the tilt angles: {found.series}")
    items = "".join(f"<li>{html.escape(text)}</li>" for text in LOOK_FOR)
    return (f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>{title}</title>"
            "<style>body{font:16px/1.45 sans-serif;max-width:60em;margin:1em auto;padding:0 1em}img{max-width:100%}</style>"
            f"<h1>{title}</h1><p>{html.escape(found.evidence)}</p><h2>What to look for</h2><ul>{items}</ul>"
            f'<img src="{PICTURE}" alt="both reconstructions, slice by slice"></html>')
