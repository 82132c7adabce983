# SPDX-License-Identifier: GPL-3.0-or-later
"""From the stack as it came to working images: screened, Fourier-cropped, clipped, with B-spline coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from tomostream.engine.align.geometry import Floats
from tomostream.engine.fourier import low_frequencies, low_rows
from tomostream.engine.output import statistics
from tomostream.engine.threads import parallel
from tomostream.files.mrc import MAX_VALUE, UNUSABLE_VALUES, Sections

CLIP_SIGMA = 4.5  # in 10^5 pixels of noise one is farther out
OPAQUE = 0.2  # of the brightest parts of an image: what is darker lets hardly an electron through, as a grid bar does
BLOTS_A = (480.0, 240.0, 120.0, 60.0)  # sides of the patches whose brightness is limited
BLUR_A = 200.0  # over which brightness is averaged to see what is opaque
DUPLICATE_CORRELATION = 0.98  # of two images with their own noise it is far below, even at equal angle


@dataclass(frozen=True)
class WorkStack:
    """Working images of a stack.

    Attributes
    ----------
    coefficients : ndarray of float32, shape (n, rows, columns)
        Cubic B-spline coefficients of the cleaned images.
    pixel_A : float
        Size of a working pixel.
    scale : float
        Pixels of the input stack per working pixel.
    """

    coefficients: NDArray[np.float32]
    pixel_A: float
    scale: float

    @property
    def image_shape(self) -> tuple[int, int]:
        """(rows, columns) of one image."""
        return self.coefficients.shape[1], self.coefficients.shape[2]


def fourier_crop(image: Floats, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return an image reduced by cropping its Fourier transform; mean value and centre (index n/2) are kept.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
    shape : (int, int)
        No larger than that of the image.

    Returns
    -------
    ndarray of float32, shape `shape`
    """
    return fourier_crops(image, [shape])[0]


def fourier_crops(image: Floats, shapes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
    """Return an image reduced to several shapes as by `fourier_crop`, by one transform of the image.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
    shapes : sequence of (int, int)
        Each no larger than the one before.

    Returns
    -------
    list of ndarray of float32
        One a shape.
    """
    out: list[NDArray[np.float32]] = []
    spectrum: NDArray[np.complex64] | None = None
    for shape in shapes:
        if shape == image.shape:
            out.append(image.astype(np.float32))
            continue
        spectrum = low_frequencies(image, shape) if spectrum is None else low_rows(spectrum, shape)
        scale = (shape[0] * shape[1]) / (image.shape[0] * image.shape[1])
        out.append(scipy.fft.irfft2(spectrum, s=shape) * np.float32(scale))
    return out


def reduced_shape(shape: tuple[int, int], pixel_A: float, target_A: float) -> tuple[tuple[int, int], float]:
    """Return the even shape at about a pixel size, and the exact factor by which the first side shrinks.

    Images that are already coarser keep their shape.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    pixel_A : float
        Of the images as they are.
    target_A : float
        About the pixel size wanted.

    Examples
    --------
    >>> reduced_shape((4092, 5760), 1.5, 12.0)
    ((512, 720), 7.9921875)
    """
    if pixel_A >= target_A * 0.9:
        return shape, 1.0
    factor = pixel_A / target_A
    rows = max(2, 2 * round(shape[0] * factor / 2))
    columns = max(2, 2 * round(shape[1] * rows / shape[0] / 2))
    return (rows, columns), shape[0] / rows


def clear_of_bars(image: NDArray[np.float32], pixel_A: float) -> NDArray[np.float32] | None:
    """Return how much each pixel is clear of opaque parts, as a grid bar, from 0 to 1 with a soft edge; None where all are.

    Where the mean is not well above 0 (images that were normalised) nothing is known, and nothing is taken for opaque.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        Brightness as the camera recorded it.
    pixel_A : float
        Size of a pixel: brightness is averaged over `BLUR_A`, which is also the width of the soft edge.
    """
    if not image.mean() > 0.2 * image.std():
        return None
    width = max(2.0, BLUR_A / pixel_A)
    local = ndimage.uniform_filter(image, round(width), mode="nearest")
    opaque = local < OPAQUE * np.percentile(local, 90.0)
    if not opaque.any():
        return None
    distance = ndimage.distance_transform_edt(~opaque) / width
    out: NDArray[np.float32] = (0.5 - 0.5 * np.cos(np.pi * np.clip(distance - 1.0, 0.0, 1.0))).astype(np.float32)
    return out


def blots(image: NDArray[np.float32], pixel_A: float) -> NDArray[np.float32]:
    """Return what must be taken from an image so that no patch of it is much darker or brighter than patches usually are.

    Ice that lies on the specimen is hundreds of times stronger than the specimen at low frequencies, but in the noise of
    single pixels it does not stand out: so averages over patches, from large to small, are limited as pixels are.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        With single pixels clipped already.
    pixel_A : float
        Size of a pixel.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
    """
    excess = np.zeros_like(image)
    for side_A in BLOTS_A:
        side = round(side_A / pixel_A)
        if not 1 < side < min(image.shape) // 4:
            continue
        local = ndimage.uniform_filter(image - excess, side, mode="nearest")
        local = ndimage.uniform_filter(local, side, mode="nearest")
        some = local[:: max(1, side // 4), :: max(1, side // 4)]
        middle, spread = densest(some)
        excess += local - np.clip(local, middle - CLIP_SIGMA * spread, middle + CLIP_SIGMA * spread)
    return excess


def densest(values: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """Return middle and standard deviation of most values, judged by the shortest interval that holds a third of them.

    Unlike median and median deviation they stay right where half of the values come from something else.

    Parameters
    ----------
    values : ndarray of float32

    Returns
    -------
    middle, deviation : float32
        The deviation as if the values were normally distributed.
    """
    ordered = np.sort(values, axis=None)
    reach = max(1, len(ordered) // 3)
    widths = ordered[reach:] - ordered[:-reach]
    first = int(np.argmin(ndimage.uniform_filter1d(widths, max(1, reach // 8))))
    # a third of a normal distribution lies within 0.43 standard deviations
    return np.float32(0.5 * (ordered[first] + ordered[first + reach])), np.float32(widths[first] / 0.861)


def clean(image: Floats, pixel_A: float) -> NDArray[np.float32]:
    """Return the image with zero mean and unit variance, broad gradients removed and outliers (gold, hot pixels) clipped.

    What is opaque is made empty: the edge of a grid bar, which does not move as the specimen does, is stronger than all else.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        A reduced image; values that are not numbers become 0.
    pixel_A : float
        Size of a pixel.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
    """
    out = np.nan_to_num(image.astype(np.float32), copy=True)
    clear = clear_of_bars(out, pixel_A)
    seen = out if clear is None or not (clear == 1.0).any() else out[clear == 1.0]
    middle = np.float32(np.median(seen))
    spread = np.float32(1.4826 * np.median(np.abs(seen - middle)))
    if not spread > 0:
        spread = np.float32(out.std()) or np.float32(1.0)
    np.clip(out, middle - CLIP_SIGMA * spread, middle + CLIP_SIGMA * spread, out=out)
    out -= blots(out, pixel_A)
    side = max(8, min(out.shape) // 4)
    if clear is None:
        out -= ndimage.uniform_filter(out, side, mode="nearest")
    else:
        weight = ndimage.uniform_filter(clear, side, mode="nearest")
        broad = ndimage.uniform_filter(out * clear, side, mode="nearest") / np.maximum(weight, 1e-3)
        out = (out - broad) * clear
    deviation = np.float32(out.std())
    return out / (deviation if deviation > 0 else np.float32(1.0))


@dataclass(frozen=True)
class Level:
    """Mean and standard deviation of a section, and why it cannot be used by itself, in words; "" where it can."""

    mean: float
    deviation: float
    reason: str


def level_of(image: NDArray[np.float32]) -> Level:
    """Return the level of one image; one that is blank, or holds values that are not finite or too large, cannot be used.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        As it was read.
    """
    with np.errstate(all="ignore"):
        low, high, mean, deviation = statistics(image)
    reason = ""
    if not (np.isfinite(mean) and max(high, -low) < MAX_VALUE):
        if not np.isfinite(image).any():
            return Level(float("nan"), float("nan"), "blank: no finite value")
        reason = UNUSABLE_VALUES
        _, _, mean, deviation = statistics(_bounded(image))
    if not deviation > 1e-6 * max(abs(mean), 1e-30):
        reason = "blank: all pixels are equal"
    return Level(mean, deviation, reason)


def _bounded(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an image that is left out, with values whose squares do not overflow."""
    return np.clip(np.nan_to_num(image, posinf=0.0, neginf=0.0), -MAX_VALUE, MAX_VALUE)


def work_stack(stack: Sections, pixel_A: float, target_A: float, threads: int) -> WorkStack:
    """Return working images of a stack at about one pixel size.

    Parameters
    ----------
    stack, pixel_A, threads
        As for `work_stacks`.
    target_A : float
        About the pixel size wanted.
    """
    return work_stacks(stack, pixel_A, (target_A,), threads)[0][0]


def work_stacks(
    stack: Sections, pixel_A: float, targets_A: Sequence[float], threads: int
) -> tuple[list[WorkStack], list[Level]]:
    """Make working images at several pixel sizes; every section is read once.

    Parameters
    ----------
    stack : sections, shape (n, rows, columns)
        Raw images.
    pixel_A : float
        Their pixel size.
    targets_A : sequence of float
        About the pixel sizes wanted, growing.
    threads : int
        Sections read at a time.

    Returns
    -------
    list of WorkStack
        One a pixel size: spline coefficients of reduced, cleaned images.
    list of Level
        Of every section: mean, deviation, why it cannot be used.
    """
    sizes = [reduced_shape((stack.shape[1], stack.shape[2]), pixel_A, target_A) for target_A in targets_A]

    def one(section: int) -> tuple[list[NDArray[np.float32]], Level]:
        image = np.asarray(stack[section], dtype=np.float32)
        level = level_of(image)
        reduced = fourier_crops(_bounded(image) if level.reason else image, [shape for shape, _ in sizes])
        cleaned = [clean(each, pixel_A * scale) for each, (_, scale) in zip(reduced, sizes, strict=True)]
        return [ndimage.spline_filter(each, order=3, output=np.float32, mode="mirror") for each in cleaned], level

    made = parallel(one, range(len(stack)), threads)
    images = [WorkStack(np.stack([own[i] for own, _ in made]), pixel_A * scale, scale) for i, (_, scale) in enumerate(sizes)]
    return images, [level for _, level in made]


def reasons_of(levels: Sequence[Level], tilts_deg: Floats, dark_tol: float) -> list[str]:
    """Return why each section cannot be used, "" where it can: blank or dark.

    Duplicates are found by their pictures (`duplicates`).

    Parameters
    ----------
    levels : sequence of Level
        Of every section.
    tilts_deg : ndarray, shape (n,)
        Nominal tilt angles.
    dark_tol : float
        Images darker than this share of what their angle predicts are dark; outside of 0 to 1 none is.

    Notes
    -----
    Transmission through a slab of thickness T is exp(-T / (L cos t)): the logarithm of the brightness is linear in 1 / cos t.
    """
    reasons = [level.reason for level in levels]
    means, deviations = (np.array(values) for values in zip(*((level.mean, level.deviation) for level in levels), strict=True))
    _mark_dark(reasons, means, deviations, tilts_deg, dark_tol)
    return reasons


def _mark_dark(reasons: list[str], means: Floats, deviations: Floats, tilts_deg: Floats, dark_tol: float) -> None:
    """Mark images that are darker than `dark_tol` times what the others predict, where values are counts.

    The line is one of least absolute deviations, so that a few dark images do not bend it. Where the mean is not well above 0 (a
    stack that was normalised) nothing is known.
    """
    good = np.array([reason == "" for reason in reasons])
    if not 0 < dark_tol < 1:
        return
    if np.count_nonzero(good) < 3 or not np.all(means[good] > 0.2 * np.median(deviations[good])):
        return
    path = 1.0 / np.maximum(np.cos(np.radians(tilts_deg)), 0.1)
    expected = np.exp(_robust_line(path[good], np.log(means[good]), path))
    for section in np.flatnonzero(good):
        if means[section] < dark_tol * expected[section]:
            share = 100.0 * means[section] / expected[section]
            reasons[section] = f"dark: {share:.0f} % of the brightness expected at this angle"


def _robust_line(x: Floats, y: Floats, at: Floats) -> Floats:
    """Return least absolute deviations line through (x, y), falling or level, evaluated at `at`."""
    slope, level = 0.0, float(np.median(y))
    for _ in range(30):
        weight = 1.0 / np.maximum(np.abs(y - level - slope * x), 0.01)
        centre_x = np.average(x, weights=weight)
        centre_y = np.average(y, weights=weight)
        spread = np.average((x - centre_x) ** 2, weights=weight)
        slope = np.average((x - centre_x) * (y - centre_y), weights=weight) / spread if spread > 1e-9 else 0.0
        slope = min(0.0, float(slope))
        level = float(centre_y - slope * centre_x)
    return level + slope * at


def duplicates(images: WorkStack, usable: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return pairs of sections whose pixels are the same picture, noise included.

    Parameters
    ----------
    images : WorkStack
        The working images.
    usable : ndarray of bool, shape (n,)
        Which sections are compared.
    """
    flat = images.coefficients.reshape(len(images.coefficients), -1)
    flat = flat[:, :: max(1, flat.shape[1] // 20000)]
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1)
    flat = flat / np.where(norm > 0, norm, 1.0)[:, None]
    alike = np.argwhere(np.triu(flat @ flat.T, 1) > DUPLICATE_CORRELATION)
    return [(int(a), int(b)) for a, b in alike if usable[a] and usable[b]]
