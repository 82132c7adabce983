# SPDX-License-Identifier: GPL-3.0-or-later
"""What an mdoc file says, in all the dialects: SerialEM, PACEtomo, Tomo5.

Every value says where it came from; unknown values stay unknown, with the
reason.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

from tomostream.acquisition.copies import own_name
from tomostream.acquisition.doses import MAX_DOSE, exposure_dose, frame_doses_are_on_another_scale
from tomostream.acquisition.facts import Kind, Known, MdocFacts, Origin, Tilt
from tomostream.acquisition.grammar import Grammar, Section, parse, parse_at_rest
from tomostream.acquisition.naming import basename, folder_of, movie_key, parse_movie_name, series_name, undated
from tomostream.acquisition.ordering import Described, in_order, prior_doses, without_repeats
from tomostream.acquisition.tiltaxis import TITLE_TOMO5_AXIS, tilt_axis
from tomostream.acquisition.times import parse_dates, with_clock_put_back

#: No mdoc is larger: a section takes 1 kB. A movie given by mistake is not read into memory.
MAX_MDOC_BYTES = 64 * 2**20

#: Tilts are at different angles when they differ by more than the stage's noise, degrees.
SAME_ANGLE = 0.1

#: s; a stage that stops at each tilt to expose takes longer from tilt to tilt.
MIN_BETWEEN_TILTS = 4.0

_DOSES = ("ExposureDose", "FrameDosesAndNumber", "PriorRecordDose")
_MAX_PATH_LENGTH = 4096

#: um; a target beyond this is in another unit.
_MAX_DEFOCUS_UM = 50.0

#: Larger numbers are not what they should be: A, kV, times.
_MAX_VALUES = {"PixelSpacing": 1e6, "Voltage": 5000.0, "Magnification": 1e8}

_IDENTITY = ("TiltAngle", "SubFramePath", "DateTime", "TimeStamp")
_TITLE_SCHEME = re.compile(r"\b(bidir|dosym)\s*=\s*([-+.0-9]+)", re.ASCII)
_TITLE_DATE = re.compile(r"[0-9]{1,4}-[A-Za-z]{3}-[0-9]{1,4}\s+[0-9:]{7,8}", re.ASCII)
_PACETOMO_KEYS = ("EucentricOffset", "SpecimenShift", "PixelShiftFromCenter")


def read_mdoc(path: str | os.PathLike[str], data: bytes | None = None, at_rest: bool = False) -> MdocFacts:
    """Read an mdoc file as far as it is written.

    Parameters
    ----------
    path : of the file, after which the series is named.
    data : its bytes, if they were read already.
    at_rest : it is no longer being written, so that a last section without its end counts if it can be whole.

    Returns
    -------
    MdocFacts. Never raises: what cannot be read is of kind "unreadable", with the reason.
    """
    name = os.fsdecode(path)
    if data is None:
        content = _read_bytes(name)
        if isinstance(content, str):
            return MdocFacts(path=name, kind="unreadable", reason=content, series_name=series_name(name))
        data = content
    if not data.strip():
        return MdocFacts(path=name, kind="unreadable", reason="The file is empty.", series_name=series_name(name))
    grammar = parse(data)
    return _facts(name, grammar, parse_at_rest(data, grammar), at_rest)


def _read_bytes(path: str) -> bytes | str:
    """Return the bytes of the file, or why they cannot be read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return "It is not a file."
        if status.st_size > MAX_MDOC_BYTES:
            return f"It is {status.st_size} bytes long, too long for an mdoc."
        with open(path, "rb") as stream:
            return stream.read(MAX_MDOC_BYTES + 1)
    except FileNotFoundError:
        return "The file does not exist."
    except PermissionError:
        return "There is no permission to read the file."
    except (OSError, ValueError) as error:
        return f"The file cannot be read: {error}."


def _facts(path: str, grammar: Grammar, ended: Grammar, at_rest: bool) -> MdocFacts:
    """Tell what kind of file it is, then read what belongs to that kind. `ended`: as read if nothing more is written."""
    if at_rest or _is_whole_frame(ended):
        grammar = ended
    dialect = _dialect(grammar)
    described, described_if_ended = (each.of_kind("ZValue") or each.of_kind("FrameSet") for each in (grammar, ended))
    warnings: list[str] = []
    counts = _would_count if at_rest else _counts
    exposures = _exposures([section for section in described if counts(section, described)], grammar, dialect, warnings)
    if_ended = _exposures([section for section in described_if_ended if _would_count(section, described_if_ended)],
                          ended, dialect, [])
    kind, reason = _kind(grammar, if_ended)
    sources = (*grammar.of_kind("ZValue"), *grammar.of_kind("FrameSet"))
    holds_tilts = kind in ("tilt-series", "frame", "image")
    name, copy = own_name(path, grammar.header.text("ImageFile"), [one.movie for one in if_ended if one.movie is not None])
    facts = MdocFacts(
        path=path, kind=kind, reason=reason, dialect=dialect, series_name=name, copy=copy,
        tilts=_tilts(exposures, warnings) if holds_tilts else (),
        tilts_if_ended=_tilts(if_ended, []) if holds_tilts else (),
        tilt_axis=tilt_axis(grammar, sources, dialect, warnings),
        pixel_size=_positive(grammar, sources, "PixelSpacing", warnings),
        movie_pixel_size=_movie_pixel(grammar, sources, dialect, kind),
        voltage=_positive(grammar, sources, "Voltage", warnings),
        magnification=_positive(grammar, sources, "Magnification", warnings),
        frame_sets=kind == "tilt-series" and not grammar.of_kind("ZValue"),
        last_section_open=bool(described) and not counts(described[-1], described), evidence=_evidence(grammar))
    if kind == "frame":
        facts = _name_frame(facts)
    kept = [*grammar.warnings, *([] if kind in ("unreadable", "montage") else warnings), *_what_is_missing(facts)]
    if facts.last_section_open and kind == "tilt-series":
        kept.append(f"The last section ({_label(described[-1])}) is not finished: it does not count yet.")
    return replace(facts, warnings=tuple(dict.fromkeys(kept)))


def _is_whole_frame(ended: Grammar) -> bool:
    """Tell whether this is a frame mdoc that has its time, with or without a line end: nothing after it is used."""
    described = [section for section in ended.sections if section.kind in ("ZValue", "FrameSet")]
    return [section.kind for section in described] == ["FrameSet"] and described[0].text("DateTime") is not None


def _what_is_missing(facts: MdocFacts) -> list[str]:
    """Name the values of a tilt series, or of a frame, that somebody else must provide."""
    if facts.kind not in ("tilt-series", "frame") or not facts.tilts:
        return []
    missing = []
    nameless = sum(tilt.movie is None for tilt in facts.tilts)
    if nameless > 0:
        missing.append(f"{nameless} of {len(facts.tilts)} tilts do not name their movie (SubFramePath is empty or absent)"
                       ": it is looked for by series name, order and angle.")
    doses = [tilt.dose for tilt in facts.tilts if tilt.dose.value is None]
    if doses:
        missing.append(f"The dose of {len(doses)} of {len(facts.tilts)} tilts is unknown: {doses[0].source}.")
    if any(tilt.dose.origin is Origin.FRAME_DOSES for tilt in facts.tilts):
        missing.append("ExposureDose is unknown: the dose is the sum of FrameDosesAndNumber, which can be on another scale.")
    if facts.voltage.value is None:
        missing.append(f"The voltage is unknown: {facts.voltage.source}.")
    return missing


def _label(section: Section) -> str:
    return f"{section.kind} = {section.name}"


def _counts(section: Section, described: Sequence[Section]) -> bool:
    """Tell whether the section is finished. A frame mdoc has one section, and nothing after it marks its end.

    SerialEM writes DateTime after every value that is used here.
    """
    alone = section.kind == "FrameSet" and len(described) == 1
    return section.finished or (alone and section.text("DateTime") is not None)


def _would_count(section: Section, described: Sequence[Section]) -> bool:
    """Tell whether the section says which movie belongs to which tilt, if nothing more is written."""
    if _counts(section, described):
        return True
    before = described[-2].values.keys() if len(described) > 1 else {"DateTime"}
    return "TiltAngle" in section.values and before & {*_IDENTITY, *_DOSES} <= section.values.keys()


def _dialect(grammar: Grammar) -> str:
    """Tell who wrote the file, from what it says about itself."""
    titles = " ".join(grammar.titles)
    if "Tomography" in titles or TITLE_TOMO5_AXIS.search(titles):
        return "Tomo5"
    if any(key in section.values for section in grammar.sections for key in _PACETOMO_KEYS):
        return "PACEtomo"
    if "SerialEM" in titles or "SerialEM" in (grammar.header.text("Version") or ""):
        return "SerialEM"
    return "unknown"


def _kind(grammar: Grammar, exposures: Sequence[Described]) -> tuple[Kind, str]:
    """Return the kind of the file, and why it is not a tilt series ("" when it is)."""
    montage = grammar.header.number("Montage")
    flagged = montage is not None and montage != 0
    if _overwritten(exposures):
        movie = exposures[0].movie
        return "overwritten", (f"Its {len(exposures)} tilts name one file ({movie}): each exposure overwrote the frames of "
                               "the one before. Include a number, the tilt angle or the time in the names of the frames.")
    if grammar.of_kind("MontSection") or (flagged and not _movies_at_angles(exposures)):
        return "montage", "It is a montage, not a tilt series."
    if not exposures:
        return "unreadable", _why_nothing(grammar)
    images = grammar.of_kind("ZValue")
    movies = [(exposure.folder, exposure.movie) for exposure in exposures if exposure.movie is not None]
    one_movie = len(movies) > 1 and len(set(movies)) == 1
    if images and (one_movie or (not movies and grammar.of_kind("FrameSet"))):
        return "fast-tilt", (f"Its {len(images)} images share one movie (fast tilting): tomostream needs one movie per "
                             "tilt. Split the movie into tilts first.")
    angles = [exposure.angle for exposure in exposures if exposure.angle is not None]
    if not angles:
        return "image", "None of its sections has a tilt angle."
    if not images and len(exposures) == 1:
        return "frame", "It describes one movie; the frame mdocs of one series together make a tilt series."
    if len(images) == 1 and not movies and not _may_name_no_movie(grammar, exposures):
        return "image", "It describes one image without a movie (a target or a map), not a tilt series."
    if len(exposures) > 1 and max(angles) - min(angles) <= SAME_ANGLE:
        return "image", f"Its {len(exposures)} images are all at one tilt angle."
    return "tilt-series", ""


def _overwritten(exposures: Sequence[Described]) -> bool:
    """Tell whether tilts exposed one after another were all written into one file. A movie of fast tilting is one exposure."""
    movies = {None if exposure.movie is None else (exposure.folder, exposure.movie) for exposure in exposures}
    times = [exposure.time for exposure in exposures if exposure.time is not None]
    if len(exposures) < 2 or len(movies) != 1 or None in movies or len(times) < len(exposures):
        return False
    angles = {exposure.angle for exposure in exposures}
    return len(angles) > 1 and (max(times) - min(times)).total_seconds() >= MIN_BETWEEN_TILTS * (len(times) - 1)


def _movies_at_angles(exposures: Sequence[Described]) -> bool:
    """Tell whether these are tilts whatever else the file says: each has its own movie, at another angle."""
    movies = {None if exposure.movie is None else (exposure.folder, exposure.movie) for exposure in exposures}
    angles = sorted(exposure.angle for exposure in exposures if exposure.angle is not None)
    return (len(exposures) > 1 and None not in movies and len(movies) == len(angles) == len(exposures)
            and all(after - before > SAME_ANGLE for before, after in pairwise(angles)))


def _may_name_no_movie(grammar: Grammar, exposures: Sequence[Described]) -> bool:
    """Tell whether this is the start of a series that leaves SubFramePath empty, as Tomo5 does."""
    return exposures[0].section.values.get("SubFramePath") == ("",) or _dialect(grammar) == "Tomo5"


def _why_nothing(grammar: Grammar) -> str:
    if any(section.kind in ("ZValue", "FrameSet") for section in grammar.sections):
        return "Its first section is not finished yet: the file ends in the middle of it."
    if not grammar.header.values and not grammar.titles:
        return "It is not an mdoc file: it has no section that describes an image."
    return "No section describes an image yet."


def _exposures(sections: Sequence[Section], grammar: Grammar, dialect: str, warnings: list[str]) -> list[Described]:
    """Read every section on its own. Sections that contradict themselves are left out, with a warning."""
    kept = []
    for section in sections:
        key = section.contradicts_itself(_IDENTITY)
        if key is not None:
            warnings.append(f"Section {section.kind} = {section.name} gives {key} twice with different values: it is left out.")
        else:
            kept.append(section)
    texts = [section.text("DateTime") for section in kept]
    title_dates = _TITLE_DATE.findall(" ".join(grammar.titles))
    times = parse_dates([*texts, *title_dates], dialect == "Tomo5")[:len(texts)]
    if any(time is None and text for time, text in zip(times, texts, strict=True)):
        text = next(text for time, text in zip(times, texts, strict=True) if time is None and text)
        warnings.append(f"DateTime = '{text}' is not a date in a known format; the time of that tilt is unknown.")
    moved = with_clock_put_back(times)
    if moved != times and _grow([section.number("PriorRecordDose") for section in kept]):
        warnings.append("DateTime goes back by an hour at night: the clock was put back to winter time.")
        times = moved
    exposures = [_exposure(section, index, times[index]) for index, section in enumerate(kept)]
    if not frame_doses_are_on_another_scale(kept):
        return exposures
    unknown: Known[float] = Known(None, "ExposureDose is unknown, and FrameDosesAndNumber is on another scale in this file")
    return [replace(exposure, dose=unknown) if exposure.dose.origin is Origin.FRAME_DOSES else exposure
            for exposure in exposures]


def _grow(values: Sequence[float | None]) -> bool:
    """Tell whether the values may be increasing: each that is known is larger than the one before."""
    return all(a < b for a, b in pairwise([value for value in values if value is not None]))


def _exposure(section: Section, index: int, time: datetime | None) -> Described:
    path = section.text("SubFramePath") or ""
    movie = basename(path) if len(path) <= _MAX_PATH_LENGTH else ""
    angle = section.number("TiltAngle")
    return Described(section=section, index=index, movie=movie or None, time=time, stamp=section.number("TimeStamp"),
                     angle=angle if angle is not None and abs(angle) <= 90 else None,
                     prior=section.number("PriorRecordDose", 100 * MAX_DOSE), dose=exposure_dose(section),
                     folder=folder_of(path) if movie else "")


def _target_defocus(section: Section) -> float | None:
    """TargetDefocus in um, underfocus positive (the file's is negative); None if it is 0, which means not set."""
    target = section.number("TargetDefocus", _MAX_DEFOCUS_UM)
    return None if target is None or target == 0 else -target


def _tilts(exposures: Sequence[Described], warnings: list[str]) -> tuple[Tilt, ...]:
    """Put the exposures in order of acquisition and give each the dose that the specimen had received before it."""
    ordered = in_order(exposures, warnings)
    priors = prior_doses(ordered, warnings)
    pairs = without_repeats([pair for pair in zip(ordered, priors, strict=True)], warnings)
    tilts = [Tilt(movie=exposure.movie, angle=exposure.angle, order=0, time=exposure.time, dose=exposure.dose,
                  prior_dose=prior, section=_label(exposure.section), target_defocus=_target_defocus(exposure.section),
                  movie_folder=exposure.folder)
             for exposure, prior in pairs if exposure.angle is not None]
    missing = [_label(exposure.section) for exposure in exposures if exposure.angle is None]
    if missing:
        warnings.append(f"{len(missing)} section(s) have no TiltAngle that is a number from -90 to 90, and are left out"
                        f": {', '.join(missing[:5])}.")
    return tuple(replace(tilt, order=order) for order, tilt in enumerate(tilts, start=1))


def _positive(grammar: Grammar, sections: Sequence[Section], key: str, warnings: list[str]) -> Known[float]:
    """Return a positive number from the sections, else from the header."""
    limit = _MAX_VALUES[key]
    given = [value for section in sections if (value := section.number(key, limit)) is not None and value > 0]
    if given:
        if max(given) - min(given) > 1e-3 * max(given):
            warnings.append(f"{key} varies from {min(given):g} to {max(given):g}: the first was taken.")
        return Known(given[0], f"field {key}")
    value = grammar.header.number(key, limit)
    if value is not None and value > 0:
        return Known(value, f"header {key}")
    text = grammar.header.text(key) or next((text for section in sections if (text := section.text(key))), None)
    return Known(None, f"{key} is not in the file" if text is None else f"{key} = {text[:20]} in the file")


def _movie_pixel(grammar: Grammar, sections: Sequence[Section], dialect: str, kind: str) -> Known[float]:
    """Return the pixel size of the movie, A. PixelSpacing is that of the image, at its binning."""
    if kind in ("montage", "image", "unreadable"):
        return Known(None, "the file describes no movie of a tilt series")
    spacing = _positive(grammar, sections, "PixelSpacing", [])
    binning = next((value for section in sections if (value := section.number("Binning", 64)) is not None), None)
    if spacing.value is None:
        return spacing
    if binning is None or binning < 0.1:
        return Known(None, "Binning is not in the file")
    if binning < 1:
        return Known(spacing.value, f"{spacing.source}, Binning {binning:g}: super-resolution")
    if dialect == "Tomo5" and binning != 1:
        return Known(None, f"Tomo5 counts Binning = {binning:g} from the super-resolution pixel on some cameras")
    return Known(spacing.value / binning, f"{spacing.source} / Binning {binning:g}")


def _evidence(grammar: Grammar) -> dict[str, str]:
    """Return what else may help to decide about the series, as it is in the file."""
    titles = " ".join(grammar.titles)
    found = {match[1]: match[2] for match in _TITLE_SCHEME.finditer(titles)}
    kept = {key: text for key in ("ImageFile", "ImageSize") if (text := grammar.header.text(key))}
    first = next((section for section in grammar.sections if section.finished or section.text("DateTime") is not None), None)
    if first is not None:
        kept.update({key: text for key in ("Binning", "ImageShift", "NavigatorLabel", "StagePosition", "UncroppedSize")
                     if (text := first.text(key))})
    return {**kept, **found, "sections": str(len(grammar.sections))}


def _name_frame(facts: MdocFacts) -> MdocFacts:
    """Say to which series a frame mdoc belongs, and its place there, from the name of its movie or else its own."""
    unknown: Known[float] = Known(None, "PriorRecordDose is not in the file")
    facts = replace(facts, tilts=_without_sums(facts.tilts, unknown),
                    tilts_if_ended=_without_sums(facts.tilts_if_ended, unknown))
    name = (facts.tilts[0].movie if facts.tilts else None) or facts.series_name
    fields = parse_movie_name(name)
    if fields.order is None and fields.angle is None:
        return facts
    tilts = facts.tilts if fields.order is None else tuple(replace(tilt, order=fields.order) for tilt in facts.tilts)
    return replace(facts, frame_series=undated(fields.series), tilts=tilts, series_name=movie_key(name))


def _without_sums(tilts: Sequence[Tilt], unknown: Known[float]) -> tuple[Tilt, ...]:
    """Undo running sums: one exposure alone does not know what came before it."""
    return tuple(replace(tilt, prior_dose=unknown) if tilt.prior_dose.origin is Origin.SUMMED else tilt for tilt in tilts)
