# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling in Scipion's objects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from pwem.objects import CTFModel, Transform
from pyworkflow.object import Boolean, Float, Integer, String
from tomo.objects import CTFTomo, SetOfCTFTomoSeries, TiltImage, TiltSeries, TomoAcquisition, Tomogram

from tomostream.acquisition.schemes import step_of
from tomostream.handoff.conventions import relion_hand
from tomostream.journal.composed import SeriesRecord
from tomostream.programs.aln import AlnRow, xf_of_row
from tomostream.programs.ctf import CtfRow
from tomostream.programs.quality import Quality, Trust

#: Attribute of a micrograph with its sums of odd and of even frames, in this order; upstream's motioncor uses the same name.
EVEN_ODD_ATTRIBUTE = "_mcEvenOddMics"
#: Scipion asks for a magnification; it only scales the "scanned pixel size", which nothing here uses.
NOMINAL_MAGNIFICATION = 50000


@dataclass(frozen=True)
class Original:
    """A series and its images as they were in the input when work on it began: its row may be replaced meanwhile."""

    series: TiltSeries
    images: list[TiltImage]


def series_template() -> TiltSeries:
    """Return the first row of a set of tilt series, which defines the columns."""
    series = TiltSeries(tsId="template")
    series.setAcquisition(TomoAcquisition(magnification=NOMINAL_MAGNIFICATION, voltage=300.0))
    return series


def aligned_template() -> TiltSeries:
    """Return the first row of a set of aligned tilt series, which defines the columns."""
    series = series_template()
    add_verdict(series, Verdict())
    return series


@dataclass(frozen=True)
class Verdict:
    """How far an alignment can be trusted, as attributes that other protocols can select by. None is unknown.

    `hand` is RELION's (1 or -1), `sigma_A` the typical standard deviation of a tilt's shift in A.
    """

    trust: Trust = Trust.UNKNOWN
    note: str = ""
    hand: int | None = None
    sigma_A: float | None = None

    @classmethod
    def of(cls, quality: Quality | None, pixel_size: float) -> Verdict:
        """Return the verdict in a program's quality file; `pixel_size` is that of the tilt series in A."""
        if quality is None:
            return cls()
        sigmas = [tilt.sigma_px for tilt in quality.tilts if tilt.used and tilt.sigma_px is not None]
        return cls(quality.trust, quality.quality_note, relion_hand(quality.defocus_hand),
                   median(sigmas) * pixel_size if sigmas else None)


def add_verdict(item: TiltSeries | Tomogram, verdict: Verdict) -> None:
    """Give a tilt series or tomogram the attributes of its verdict; all items of a set must have them."""
    item._tomostreamTrusted = Boolean(None if verdict.trust is Trust.UNKNOWN else verdict.trust is Trust.TRUSTED)
    item._tomostreamNote = String(verdict.note)
    item._relionHand = Integer(verdict.hand)
    item._alignmentSigma = Float(verdict.sigma_A)


def sigmas_of(quality: Quality | None, sections: Sequence[int], pixel_size: float) -> dict[int, float]:
    """Return the standard deviation of the shift in A, image index -> value, for the tilts that have one.

    `sections` : image index of every section that the program was given.
    """
    tilts = quality.tilts if quality is not None else ()
    return {sections[tilt.section]: tilt.sigma_px * pixel_size for tilt in tilts
            if tilt.sigma_px is not None and tilt.section < len(sections)}


def tilt_offset(images: Iterable[TiltImage], rows: Mapping[int, AlnRow]) -> float:
    """Return by how much the alignment changed the tilt angles, in degrees; it applies to tilts left out as well."""
    moved = [rows[image.getIndex()].tilt_deg - image.getTiltAngle() for image in images if image.getIndex() in rows]
    return median(moved) if moved else 0.0


def tomogram_template(halves: bool) -> Tomogram:
    """Return the first row of a set of tomograms, which defines the columns."""
    tomogram = Tomogram(tsId="template")
    tomogram.setOrigin(Transform())
    tomogram.setAcquisition(TomoAcquisition(magnification=NOMINAL_MAGNIFICATION, voltage=300.0))
    tomogram.setHalfMaps(["", ""] if halves else [])
    add_verdict(tomogram, Verdict())
    return tomogram


def filtered_template() -> Tomogram:
    """Return the first row of a set of filtered tomograms, which defines the columns."""
    tomogram = tomogram_template(False)
    mark_filtered(tomogram)
    return tomogram


def mark_filtered(tomogram: Tomogram) -> None:
    """Mark a tomogram as one for viewing: filtered, and corrected for the CTF as far as that is known."""
    tomogram.setCtfCorrected(True)
    tomogram._tomostreamFiltered = Boolean(True)


def describe_filtered(items: Any) -> None:
    """Mark a set of tomograms as being for viewing, not for averaging."""
    items.setCtfCorrected(True)
    items.setObjComment("Filtered and corrected for the CTF, for viewing and picking. For averaging take the other tomograms.")


def series_acquisition(record: SeriesRecord, micrographs: Any) -> TomoAcquisition:
    """Return the acquisition of a series: axis, range and step in degrees, doses in e/A2; unknown values stay empty."""
    angles = [tilt.angle for tilt in record.tilts]
    acquisition = TomoAcquisition()
    acquisition.setVoltage(micrographs.getVoltage() if record.voltage is None else record.voltage)
    acquisition.setMagnification(micrographs.getMagnification() or NOMINAL_MAGNIFICATION)
    acquisition.setSphericalAberration(micrographs.getSphericalAberration())
    acquisition.setAmplitudeContrast(micrographs.getAmplitudeContrast())
    acquisition.setTiltAxisAngle(record.tilt_axis)
    acquisition.setAngleMin(min(angles))
    acquisition.setAngleMax(max(angles))
    acquisition.setStep(round(step_of(sorted(angles)) or 0.0, 2))       # the usual one, whatever tilts are missing
    doses = [tilt.dose for tilt in record.tilts]
    priors = [tilt.prior_dose for tilt in record.tilts]
    known = [dose for dose in doses if dose is not None]
    before = [prior for prior in priors if prior is not None]
    all_doses, all_priors = len(known) == len(doses), len(before) == len(priors)
    acquisition.setDosePerFrame(sum(known) / len(known) if all_doses else None)
    acquisition.setDoseInitial(min(before) if all_priors else None)
    acquisition.setAccumDose(max(map(sum, zip(before, known, strict=True))) if all_doses and all_priors else None)
    return acquisition


def prior_doses(initial: Sequence[float | None], accumulated: Sequence[float | None],
                orders: Sequence[int | None]) -> list[float | None]:
    """Return the dose before each tilt, computed from the accumulated doses where the given ones contradict these.

    scipion-em-tomo 3.12.4 composes a wrong dose before a tilt: the larger of the tilt's own dose and of what the earlier tilts
    would have at the dose of a frame (protocol_compose_TS.py, line 450). The accumulated dose is right.

    Parameters
    ----------
    initial, accumulated : before and after each tilt, e/A2; None is unknown.
    orders : place of each tilt in the acquisition.
    """
    pairs = list(zip(initial, accumulated, strict=True))
    if all(before is None or after is None or before < after for before, after in pairs):
        return list(initial)
    known = {order: after for order, after in zip(orders, accumulated, strict=True) if order is not None and after is not None}
    if len(known) < len(pairs):
        return list(initial)
    in_order = sorted(known)
    before_tilt = dict(zip(in_order, [0.0, *(known[order] for order in in_order[:-1])], strict=True))
    return [None if order is None else before_tilt[order] for order in orders]


def aligned_acquisition(original: Original, rows: Mapping[int, AlnRow]) -> TomoAcquisition:
    """Return the acquisition of a series with the tilt axis and offset of its alignment; `rows`: by image index."""
    acquisition = original.series.getAcquisition().clone()
    if rows:
        offset = tilt_offset(original.images, rows)
        angles = [image.getTiltAngle() + offset for image in original.images]
        acquisition.setTiltAxisAngle(next(iter(rows.values())).rot_deg)
        acquisition.setAngleMin(min(angles))
        acquisition.setAngleMax(max(angles))
    return acquisition


def aligned_series(original: Original, rows: Mapping[int, AlnRow],
                   sigmas: Mapping[int, float]) -> list[TiltImage]:
    """Return the images of a series with their alignment and the common tilt offset; `rows` and `sigmas`: by image index."""
    offset = tilt_offset(original.images, rows)
    images = []
    for image in original.images:
        aligned = aligned_image(image, rows.get(image.getIndex()), offset)
        aligned._alignmentSigma = Float(sigmas.get(image.getIndex()))
        images.append(aligned)
    return images


def aligned_image(original: TiltImage, row: AlnRow | None, offset: float) -> TiltImage:
    """Return the raw image with its alignment as a transform. One that could not be aligned (None) is disabled, and gets the
    common tilt `offset` in degrees."""
    image = original.clone()
    image.copyInfo(original, copyTM=False)
    transform = Transform()
    if row is None:
        image.setEnabled(False)
        transform.setMatrix(np.identity(3))
        image.setTiltAngle(original.getTiltAngle() + offset)
    else:
        a11, a12, a21, a22, dx, dy = xf_of_row(row.rot_deg, row.tx, row.ty)
        transform.setMatrix(np.array([[a11, a12, dx], [a21, a22, dy], [0.0, 0.0, 1.0]]))
        image.setTiltAngle(row.tilt_deg)
        acquisition = original.getAcquisition().clone()
        acquisition.setTiltAxisAngle(row.rot_deg)
        image.setAcquisition(acquisition)
    image.setTransform(transform)
    return image


def copied_images(images: Iterable[TiltImage]) -> list[TiltImage]:
    """Return the images as they are, as rows of another set."""
    copies = []
    for image in images:
        copy = image.clone()
        copy.copyInfo(image)
        copies.append(copy)
    return copies


def tomogram(series_id: str, path: str, size: tuple[int, int, int], pixel_size: float, acquisition: TomoAcquisition,
             halves: list[str], verdict: Verdict) -> Tomogram:
    """Return a tomogram with its origin in the middle; `halves`: odd and even, or none."""
    made = Tomogram(tsId=series_id)
    made.setLocation(path)
    made.setSamplingRate(pixel_size)
    origin = Transform()
    origin.setShifts(*(-0.5 * length * pixel_size for length in size))
    made.setOrigin(origin)
    made.setAcquisition(acquisition)
    made.setHalfMaps(halves)
    add_verdict(made, verdict)
    return made


def ctf_of_tilt(row: CtfRow | None, spectrum: str | None) -> CTFTomo:
    """Return the CTF of one tilt; where there is none it is disabled and has Scipion's wrong-defocus mark."""
    model = CTFModel()
    if row is None or row.defocus_max_A <= 0 or not math.isfinite(row.defocus_max_A):
        model.setWrongDefocus()
        ctf = CTFTomo.ctfModelToCtfTomo(model)
        ctf.setEnabled(False)
        return ctf
    model.setStandardDefocus(row.defocus_max_A, row.defocus_min_A, row.azimuth_deg)
    model.setFitQuality(row.score)
    if row.resolution_A is not None:
        model.setResolution(row.resolution_A)
    model.setPsdFile(spectrum or "")
    return CTFTomo.ctfModelToCtfTomo(model)


def point_at(ctfs: SetOfCTFTomoSeries, series: Any) -> None:
    """Have a set of CTFs point at its tilt series. Upstream's setter also copies the id of the pointer: in a set that is stored
    already, two objects would then share an id, and the protocol could not be stored any more.

    Parameters
    ----------
    series : pointer to the tilt series.
    """
    ctfs.getSetOfTiltSeries(pointer=True).copy(series, copyId=False)
