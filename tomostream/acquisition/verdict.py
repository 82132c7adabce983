# SPDX-License-Identifier: GPL-3.0-or-later
"""From a series about which everything is known to the decision about it, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tomostream.acquisition.events import Compose, GiveUp, Keep, LeftOut, Policy, Why
from tomostream.acquisition.facts import FRAME_SET, Known, MdocFacts, Origin, Tilt
from tomostream.acquisition.frames import different_angles, targets_share_a_name
from tomostream.acquisition.fromnames import NAMES_ONLY
from tomostream.acquisition.matching import CHANGED_NAMES, WORDS, Step
from tomostream.acquisition.naming import movie_key
from tomostream.acquisition.series import SERIES_KINDS, Exposure, Series, in_acquisition_order
from tomostream.files.logs import counted, some

#: Steps by which movies are found with certainty, which is only reported, and those of which people are warned.
SURE_STEPS = (Step.FOLDER, Step.EXTENSION)
UNSURE_STEPS = (Step.TIME, *CHANGED_NAMES)
#: Names in a sentence before "and N more".
MAX_NAMES = 4


@dataclass(frozen=True)
class Obstacle:
    """Why a series cannot be composed. `category` tells whether this was reported before; `failed` as in `GiveUp`."""

    category: str
    reason: str
    failed: bool = True


def names(exposures: Sequence[Exposure]) -> str:
    """Return the names of some tilts, for a sentence."""
    return some([each.key or f"the tilt at {each.tilt.angle:.1f} degrees" for each in exposures], MAX_NAMES)


def aligned(series: Series) -> list[Exposure]:
    """Return the exposures that can be composed, by angle, then time."""
    usable = [each for each in in_acquisition_order(list(series.exposures.values())) if each.state == "aligned"]
    return sorted(usable, key=lambda each: each.tilt.angle)


def obstacle(series: Series, policy: Policy, why_missing: str, others: Iterable[Series]) -> Obstacle | None:
    """Return why this series cannot be composed now; None if it can. `others` of the session may know what it does not."""
    listed, usable = len(series.exposures), len(aligned(series))
    overwritten = next((each for each in series.trouble.values() if each.kind == "overwritten"), None)
    if overwritten is not None and listed < policy.min_tilts:
        return Obstacle("overwritten", overwritten.reason)
    if listed == 0:
        return _no_tilts(series)
    taken = [each for each in series.exposures.values() if each.state == "taken"]
    if len(taken) == listed:
        owner = taken[0].owner
        return Obstacle("taken", taken[0].reason if owner is None else
                        f"it is a copy: what it lists belongs to the series {called(owner, series)}", False)
    if listed == 1 and series.only_frames:
        return Obstacle("frame", "it describes one movie, and no other frame mdoc belongs to the same series", False)
    different = different_angles([each.tilt.angle for each in series.exposures.values()])
    if listed > 1 and (different < 2 or (series.only_frames and different < listed / 4)):
        at = counted(different, "tilt angle")
        return Obstacle("angles", f"its {listed} images are at {at}: single particles, not a tilt series", False)
    if series.only_frames and targets_share_a_name(different, listed):
        return Obstacle("targets", f"its {listed} exposures are at {different} tilt angles, each exposed again and again: "
                                   "several targets share this name, and neither names, positions nor navigator items tell "
                                   "them apart; give each target a name of its own")
    if listed < policy.min_tilts:
        return Obstacle("few", f"it has {counted(listed, 'tilt')}, and {policy.min_tilts} are required")
    if tilt_axis(series, policy).value is None:
        return _no_axis(series, policy, others)
    percent = 100.0 * usable / listed
    if usable < policy.min_tilts or percent < policy.min_percent:
        wanted = (f"{policy.min_tilts} are required" if usable < policy.min_tilts
                  else f"{policy.min_percent:g} % are required")
        return Obstacle("few", f"{usable} of its {counted(listed, 'tilt')} can be used, and {wanted}: "
                               f"{_why_left_out(series, why_missing)}")
    return None


def of_earlier_session(series: Series) -> Obstacle:
    """Return why a series acquired before this session, whose movies are gone, is ignored."""
    last = max(each.tilt.time for each in series.exposures.values() if each.tilt.time is not None)
    return Obstacle("old", f"it is from an earlier session: its last tilt was at {last:%Y-%m-%d %H:%M}, before this session "
                           "began, and none of its movies is here", False)


def _no_axis(series: Series, policy: Policy, others: Iterable[Series]) -> Obstacle:
    """Name the axis of another series, probably valid for this one too: of one that was composed, if there is one."""
    like = [each for each in others if each is not series and each.exposures and not each.given_up]
    axes = ((each.name, tilt_axis(each, policy).value) for each in sorted(like, key=lambda each: not each.version))
    name, axis = next(((name, axis) for name, axis in axes if axis is not None), ("", None))
    known = "" if axis is None else f" ({name} has {axis:g} degrees)"
    value = "DEGREES" if axis is None else f"{axis:g}"
    return Obstacle("axis", f"its tilt axis is unknown ({tilt_axis(series, policy).source}): give the tilt axis in the "
                            f"form{known} and continue the protocol, or tomostream resume {policy.project} --again "
                            f"--from compose --set compose.manualTiltAxisAngle={value}")


def _no_tilts(series: Series) -> Obstacle:
    files = list(series.trouble.values())
    bad = [each for each in files if each.kind in ("unreadable", *SERIES_KINDS)]
    if files and not bad:
        return Obstacle(f"kind {files[-1].kind}", files[-1].reason or f"it is not a tilt series ({files[-1].kind})", False)
    if bad:
        return Obstacle("unreadable", bad[-1].reason or "its mdoc cannot be read")
    return Obstacle("empty", "its mdoc lists no tilt")


def _why_left_out(series: Series, why_missing: str) -> str:
    counts: dict[str, int] = {}
    for each in series.exposures.values():
        if each.state != "aligned":
            reason = left_out_reason(each, why_missing)
            counts[reason] = counts.get(reason, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])[:MAX_NAMES]
    reasons = [f"{reason.rstrip('.')} ({counted(number, 'tilt')})" for reason, number in ordered]
    return "; ".join([*reasons, *unsure(series)])


def unsure(series: Series) -> list[str]:
    """Say which unassigned movies may belong to tilts that have none, if it is unclear which; nothing if there are none."""
    if not series.unsure or not series.missing:
        return []
    return [f"{counted(len(series.unsure), 'movie')} in no tilt series may belong to it, but it is not known which "
            f"({some(series.unsure, MAX_NAMES)}): name them as SubFramePath does in the mdoc, or give each series its "
            "own folder"]


def apart(series: Series) -> list[str]:
    """Say which movies are in a folder other than the rest of the series, if it is unclear whether they belong to it."""
    if not series.apart:
        return []
    lie = "movie is" if len(series.apart) == 1 else "movies are"
    return [f"{len(series.apart)} {lie} in a different folder from the others of the series, and neither folders nor times tell "
            f"whether they belong to it ({some(series.apart, MAX_NAMES)}): if not, take these tilts out"]


def how_matched(series: Series, steps: Iterable[Step]) -> list[str]:
    """Say how many of its movies were found by these steps, rather than by their exact names."""
    found = Counter(each.step for each in series.exposures.values() if each.bound)
    return [f"{counted(found[step], 'movie')} found in another way: {WORDS[step]}"
            for step in steps if found[step] and WORDS[step]]


#: State of an exposure -> why the series is composed without it.
WHY = {"excluded": Why.TAKEN_OUT, "failed": Why.MOVIE_FAILED, "missing": Why.MISSING, "taken": Why.OTHER_SERIES}


def called(other: Series, series: Series) -> str:
    """Return how to name another series next to this one: with its folder if both have one name."""
    return other.name if other.name != series.name else f"{other.name} in {other.folder}"


def left_out_reason(exposure: Exposure, why_missing: str) -> str:
    """Return why a tilt is left out, as a sentence."""
    if exposure.state == "missing":
        if not exposure.key:
            return "The mdoc does not name its movie, and no movie's name matches it uniquely."
        what = "Its micrograph is not there" if exposure.movie_seen else "Its movie never arrived"
        refused = f" ({exposure.refused})" if exposure.refused else ""
        return f"{what}: {why_missing or 'the series was decided without it'}{refused}."
    return exposure.reason or "Its movie could not be aligned."


def files_of(series: Series) -> list[MdocFacts]:
    """Return what the files of a series say, the newest reading last."""
    return [file.facts for file in series.files.values()]


def tilt_axis(series: Series, policy: Policy) -> Known[float]:
    """Return the tilt axis in degrees: the user's, else that of the newest file that has one."""
    if policy.tilt_axis is not None:
        return Known(policy.tilt_axis, "given by the user")
    return _newest([facts.tilt_axis for facts in files_of(series)])


def _newest(values: Sequence[Known[float]]) -> Known[float]:
    known = [each for each in values if each.value is not None]
    if known:
        return known[-1]
    return values[-1] if values else Known(None, "no mdoc could be read")


def compose(series: Series, policy: Policy, why_missing: str) -> Compose:
    """Return the decision to compose this series from what is aligned, as its next version."""
    tilts = numbered(series)
    usable = aligned(series)
    left = [LeftOut(tilts[each.ident], left_out_reason(each, why_missing), WHY.get(each.state, Why.UNKNOWN))
            for each in sorted(series.exposures.values(), key=lambda each: each.tilt.angle) if each.state != "aligned"]
    files = files_of(series)
    warnings = dict.fromkeys([*(text for facts in files for text in facts.warnings), *series.warnings])
    for old, new in series.replaced.values():
        warnings[f"{old.key} was exposed again: {new.key} is used in its place."] = None
    warnings.update(dict.fromkeys(f"{text}." for text in [*how_matched(series, UNSURE_STEPS), *unsure(series), *apart(series)]))
    for facts in series.trouble.values():
        warnings[f"{facts.path} could not be used: {facts.reason or facts.kind}"] = None
    return Compose(
        series_id=series.series_id, series_name=series.name, tilts=tuple(tilts[each.ident] for each in usable),
        left_out=tuple(left), tilt_axis=tilt_axis(series, policy),
        pixel_size=_newest([facts.pixel_size for facts in files]), voltage=_newest([facts.voltage for facts in files]),
        version=series.version + 1, reason=_compose_reason(series, usable),
        evidence=(*series.evidence, *series.notes, *how_matched(series, SURE_STEPS)),
        mdocs=mdocs(series), warnings=tuple(warnings), micrograph_versions=tuple(each.version for each in usable))


def _compose_reason(series: Series, usable: Sequence[Exposure]) -> str:
    listed = len(series.exposures)
    all_there = (f"all {listed} micrographs are there" if len(usable) == listed
                 else f"{listed - len(usable)} of {counted(listed, 'tilt')} are left out")
    text = "; ".join(filter(None, (*series.evidence, all_there, repeated([each.tilt.angle for each in usable])))) + "."
    text = text[:1].upper() + text[1:]
    if series.why_again:
        text = f"Composed again because {'; '.join(dict.fromkeys(series.why_again))}. {text}"
    return text


def repeated(angles: Sequence[float]) -> str:
    """Say which of the tilt angles (degrees) in use were exposed more than once; "" if none was."""
    again = [angle for angle, times in Counter(round(angle, 1) + 0.0 for angle in angles).items() if times > 1]
    if not again:
        return ""
    named = ", ".join(f"{angle:g}" for angle in sorted(again)[:MAX_NAMES]) + (" ..." if len(again) > MAX_NAMES else "")
    were = "was" if len(again) == 1 else "were"
    return f"{counted(len(again), 'tilt angle')} {were} exposed more than once ({named} degrees), and every exposure is used"


def give_up(series: Series, why: Obstacle) -> GiveUp:
    """Return the decision not to compose this series."""
    reason = why.reason.rstrip(".") + "."
    return GiveUp(series.series_id, series.name, reason[:1].upper() + reason[1:], why.failed, tuple(series.evidence),
                  mdocs(series))


def give_up_again(series: Series, why: Obstacle) -> GiveUp:
    """Return the decision not to compose a composed series again, because of a second acquisition or movies of another."""
    if not series.started_over:
        return give_up(series, Obstacle(why.category, f"Version {series.version} holds movies that are not its own, and without "
                                                      f"them {why.reason}: do not use it"))
    return give_up(series, Obstacle(why.category, f"It was acquired again under the same name, and the second acquisition "
                                                  f"cannot be used: {why.reason}. Version {series.version} stays"))


def not_composed(series: Series) -> tuple[str, ...]:
    """Return the movies of a series that have a micrograph but are not in the composed version, by their keys."""
    return tuple(sorted(each.key for each in aligned(series) if series.composed.get(each.ident, -1) < each.version))


def keep(series: Series, late: tuple[str, ...], readers: tuple[str, ...], project: str) -> Keep:
    """Return the decision that a series stays as it was composed although some of its tilts arrived late."""
    named = ", ".join(late[:MAX_NAMES]) + (" ..." if len(late) > MAX_NAMES else "")
    why = f" ({', '.join(readers[:MAX_NAMES])} would mix two versions of it)" if readers else ""
    return Keep(series.series_id, late, f"{named} arrived after version {series.version} was composed, which stays as it is{why}"
                f"; to compose it again: tomostream resume {project} --set 'compose.lateTilts=compose again'")


def mdocs(series: Series) -> tuple[str, ...]:
    """Return the paths of the mdoc files of a series."""
    return tuple(dict.fromkeys(path.partition(FRAME_SET)[0] for path in [*series.files, *series.trouble]
                               if not path.endswith(NAMES_ONLY)))


def movie_of(exposure: Exposure) -> str | None:
    """Return the name of an exposure's movie: as in the mdoc, or that in the project if the two differ."""
    name = exposure.tilt.movie
    return exposure.key if exposure.bound and movie_key(name or "") != exposure.key else name


def numbered(series: Series) -> dict[tuple[str, object], Tilt]:
    """Return the tilts by ident, numbered in acquisition order over all files of the series.

    A prior dose that was summed up over one file is summed up again if another file, or a repeated
    exposure, adds to it: the specimen received it all the same.
    """
    everything = in_acquisition_order([*series.exposures.values(), *(old for old, _ in series.replaced.values())])
    orders = {each.ident: place for place, each in
              enumerate((each for each in everything if each.ident in series.exposures), start=1)}
    tilts: dict[tuple[str, object], Tilt] = {}
    total: float | None = 0.0
    for each in everything:
        if each.ident in series.exposures:
            tilt = replace(each.tilt, order=orders[each.ident], movie=movie_of(each))
            if each.tilt.prior_dose.origin is Origin.SUMMED:
                prior = Known(total, "running sum", Origin.SUMMED) if total is not None else Known(
                    None, "the dose of an earlier tilt is unknown")
                tilt = replace(tilt, prior_dose=prior)
            tilts[each.ident] = tilt
        dose = each.tilt.dose.value
        total = None if total is None or dose is None else total + dose
    return tilts
