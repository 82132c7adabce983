# SPDX-License-Identifier: GPL-3.0-or-later
"""Do the tests notice? Deliberate changes to the code, each in a copy of the tree, and the share that a test notices.

    python benchmarks/mutations.py [--only WORD] [--jobs N] [--slow] [--check]

A change replaces a text that is in a file once. The tests that should notice it are those of its room, as `make quick` takes
them; `--slow` adds those that it leaves out, but for those that start Scipion processes. A change whose text is no longer there
is stale: `--check` names these and changes nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: Seconds after which a run of tests counts as stuck, and times as long as all of them take unchanged: a change that makes them
#: hang is noticed, and tests that are slow on a busy machine do not hang.
TIME_OUT, PATIENCE = 300.0, 2.0
#: pytest's exit status where all tests were deselected: they are slow, and notice nothing.
NO_TESTS = 5


@dataclass(frozen=True)
class Mutation:
    """A deliberate change: in a file below the package, `before` becomes `after`; these test modules should notice."""

    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    @property
    def path(self) -> str:
        return os.path.join("tomostream", self.file)

    def name(self) -> str:
        return f"{self.file}: {_short(self.before)} -> {_short(self.after)}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def of(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutation]:
    """Changes to one file, with the tests of its room (names without `test_`, separated by blanks)."""
    return [Mutation(file, before, after, tuple(f"test_{name}.py" for name in tests.split())) for before, after in changes]


MUTATIONS = [
    # ------------------------------------------------------------------ files
    *of("files/writing.py", "outages ledger",
        ("        with contextlib.suppress(OSError):\n            os.remove(part)\n", ""),
        ("        if error.errno not in _CANNOT:\n            raise", "        pass"),
        ("    for folder in {os.path.dirname(path) or \".\" for path in paths}:\n        _sync(folder)\n", "")),
    *of("files/locks.py", "outages streaming",
        ("os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC", "os.O_NONBLOCK | os.O_CLOEXEC"),
        ("    if not stat.S_ISREG(os.fstat(descriptor).st_mode):", "    if False:"),
        ("    while not lock.take():\n        if time.monotonic() >= end:", "    while not lock.take():\n        if True:")),
    *of("files/logs.py", "logs",
        ("or \"cannot\" in line.lower()] or lines", "] or lines")),

    *of("files/grey.py", "report thickness viewers",
        ("(np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)[::-1]", "(np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)"),
        ("    values = image[np.isfinite(image)]", "    values = image")),
    *of("files/tiff.py", "movie_formats movies",
        ("    return bool(subfile_type & _REDUCED)", "    return False"),
        ("    return max(1, int(found[1])) if found else 1", "    return 1")),
    *of("files/patterns.py", "patterns",
        ("fnmatch.fnmatchcase(name.lower(), pattern.lower())", "fnmatch.fnmatchcase(name, pattern)"),
        ("    return not hidden and", "    return")),
    *of("files/mrc.py", "mrc",
        ("            return np.bitwise_xor(raw, np.uint8(128))\n", "            return raw\n")),
    *of("files/mrc_header.py", "mrc",
        ("sensible.append((columns * rows * sections, order != stamped, order))",
         "sensible.append((0, order != stamped, order))")),
    *of("files/databases.py", "sets streaming",
        ("words[3] == \"READ\" and", "")),
    *of("files/configuration.py", "check",
        ("            elif here == section and line", "            elif line")),
    # ------------------------------------------------------------------ journal
    *of("journal/ledger.py", "ledger",
        ("            if not line.endswith(b\"\\n\") or self._offset + len(line) > end:", "            if False:"),
        ("                    file.truncate(size)     # part", "                    pass     # part"),
        ("                if self.restarted:\n                    self._offset = 0",
         "                if False:\n                    pass"),
        ("                        file.write(b\"\\n\")\n", "                        pass\n"),
        ("    if entry.time < 0:", "    if False:")),
    *of("journal/status.py", "journal ledger report project status pending",
        ("movie.written = min(entry.mtime, entry.time)", "movie.written = max(entry.mtime, entry.time)"),
        ("if version is not None and version < series.version:", "if False:"),
        ("series.composed_first = series.composed_first or entry.time", "series.composed_first = entry.time")),
    *of("journal/composed.py", "journal exclude protocol_compose handedness",
        ("    sign = -1.0 if negated else 1.0", "    sign = 1.0"),
        ("    if negated:\n        tilts.sort(key=lambda tilt: (tilt.angle, tilt.order or 0))\n", ""),
        ("movie_key(left.movie)         # the mdoc", "left.movie         # the mdoc")),
    *of("journal/space.py", "journal space",
        ("self.free < factor * self.needed", "self.free < self.needed"),
        ("return 3600.0 * (len(times) - 1) / (times", "return 3600.0 * len(times) / (times"),
        ("        if os.path.islink(path) or not os.path.exists(path):", "        if not os.path.exists(path):")),
    *of("journal/runs.py", "streaming status stop",
        ("    return STOPPED if os.path.exists(stop_file(folder)) else DEAD", "    return DEAD"),
        ("        if abs(time.time() - os.path.getmtime(database)) < patience:", "        if False:")),
    *of("journal/layout.py", "journal ledger naming",
        ("series_id if version == 1 else f\"{series_id}-v{version}\"", "f\"{series_id}-v{version}\"")),
    *of("journal/until.py", "until",
        ("    elif at is not None and at <= now:", "    elif False:"),
        ("        times += [first, max(first, second)]", "        times += [first]")),
    *of("journal/stopping.py", "stop",
        ("sorted({*names, *_asked(project)})", "sorted(names)")),
    *of("journal/sessions.py", "status watch project",
        ("and os.path.isdir(above) and not is_empty(above)", "and os.path.isdir(above)")),
    *of("journal/readers.py", "readers",
        ("    if not name or \"tomogram\" in name.lower():", "    if not name:")),
    # ------------------------------------------------------------------ acquisition
    *of("acquisition/evidence.py", "session",
        ("2 * twice > len(going_on)", "2 * twice >= len(going_on)"),
        ("FORGETTING = 0.95", "FORGETTING = 0.0"),
        ("        return self.schemes.expected(series.angles())", "        return None")),
    *of("acquisition/schemes.py", "session",
        ("if len(each.seen) >= 2 and not each.wrong]", "if len(each.seen) >= 1 and not each.wrong]"),
        ("        return None if longer else found", "        return found")),
    *of("acquisition/rhythm.py", "session",
        ("FACTOR = 1.4", "FACTOR = 1.0")),
    *of("acquisition/doses.py", "mdoc",
        ("    if any(dose < 0 for dose in doses) or", "    if")),
    *of("acquisition/agenda.py", "session",
        ("when < math.inf and (series.wake is None or when < series.wake)", "when < math.inf and series.wake is None")),
    *of("acquisition/verdict.py", "session",
        ("if each.tilt.prior_dose.origin is Origin.SUMMED:", "if False:")),
    *of("acquisition/mdoc.py", "mdoc",
        ("tilt.prior_dose.origin is Origin.SUMMED else tilt for", "False else tilt for")),
    *of("acquisition/arrival.py", "arrival protocol_import",
        ("min(self.time_out, 5.0)):", "min(self.time_out, 0.0)):")),
    *of("acquisition/preview.py", "preview session",
        ("SHARE, MIN_TILTS = 0.6, 8", "SHARE, MIN_TILTS = 0.6, 3")),
    *of("acquisition/finding.py", "matching session frame_sets",
        ("matching.FOR_SINGLE_TILTS if exact else matching.SEARCHED, len(got))",
         "matching.FOR_SINGLE_TILTS, len(got))"),
        (">= mine and not (copy and its == mine)):", "> mine and not (copy and its == mine)):"),
        ("nearness(series, folder) > nearness(other, folder)}", "nearness(series, folder) < nearness(other, folder)}")),
    *of("acquisition/candidates.py", "matching session frame_sets",
        ("if any(fits[folder] >= best for folder in homes):", "if False:"),
        ("ordered = sorted(folders, key", "ordered = sorted(folders, reverse=True, key")),
    *of("acquisition/unassigned.py", "session matching frame_sets status",
        ("< max(min_tilts, 2):\n        return left", "< 0:\n        return left"),
        ("is used in its place.\", expected=True)", "is used in its place.\")")),
    *of("acquisition/deciding.py", "session",
        ("        if not self.forcing:\n", "        if True:\n"),
        ("        return bumped and len(versions) > 1 and", "        return False and"),
        ("OLD, OLD_AND_LATE = 3600.0,", "OLD, OLD_AND_LATE = -1e9,")),
    *of("acquisition/ordering.py", "mdoc",
        ("    if len(ordered) < 3 or any(", "    if True or any("),
        ("abs(fields.angle - exposure.angle) <= 1.0", "abs(fields.angle - exposure.angle) <= 100.0")),
    *of("acquisition/matching.py", "matching frame_sets session",
        ("        if step in (Step.PREFIX, Step.PLACE) and len(movies) + before < 2:", "        if False:"),
        ("        return chosen           # folders disagree", "        pass           # folders disagree"),
        ("    if fields.angle is not None and abs(fields.angle - wanted.angle) > MAX_ANGLE_DIFFERENCE:", "    if False:"),
        ("        return before if before.endswith((\"_\", \"-\", \".\")) else None", "        return before"),
        ("        best = [place for place in best if not strays(wanted, found[place])] or best", "        pass")),
    *of("acquisition/tilt_states.py", "session exclude",
        ("        if series.composed.get(exposure.ident) == 0:", "        if False:"),
        ("        self._movies_reported = movie.seen = True", "        movie.seen = True")),
    # ------------------------------------------------------------------ programs
    *of("programs/defects.py", "defects motioncor_engine",
        ("y = rows - 1 - bottom if turned_over else top", "y = top"),
        ("    if operation & 8:", "    if operation & 4:"),
        ("block = {0: 1, 1: 2}.get(", "block = {0: 1, 1: 1}.get("),
        ("(0 < low < bottom)", "(0 <= low < bottom)"),
        ("        if x >= columns or y >= rows or x + width <= 0 or", "        if x + width <= 0 or")),
    *of("programs/aln.py", "programs_aretomo aretomo_engine",
        ("    if len(set(rows)) != len(rows):", "    if False:"),
        ("    good = values[6] if len(values) > 6 else 1.0", "    good = 1.0")),
    *of("programs/quality.py", "programs_aretomo formats",
        ("if value is not None and math.isfinite(value) else None", "if value is not None else None")),
    *of("programs/ctf.py", "programs_aretomo ctf viewers report",
        ("_NOT_MEASURED_A = 10.0", "_NOT_MEASURED_A = -1.0")),
    *of("programs/defocus.py", "defocus",
        ("    alone = frozenset(place for place, value in fitted.items() if abs(value - middle) > limit)",
         "    alone = frozenset(place for place, value in fitted.items() if abs(value - middle) > 100 * limit)")),
    *of("programs/aretomo3.py", "aretomo3",
        ("    if length <= _MAX_PATH:", "    if True:")),
    # ------------------------------------------------------------------ engine
    *of("engine/gold/judge.py", "gold",
        ("MIN_FIT, MAX_UNEVEN = 0.85, 0.25", "MIN_FIT, MAX_UNEVEN = 0.0, 0.25"),
        ("max(MIN_BEADS, MIN_ALIKE * len(every))", "MIN_BEADS"),
        ("    if len(found) < MIN_BEADS:\n        return out\n", "    return out\n")),
    *of("engine/gold/erase.py", "gold",
        ("        total += sign * (patch", "        total += (patch"),
        ("            clear &= np.hypot(", "            np.hypot(")),
    *of("engine/gold/candidates.py", "gold",
        ("score[correlation < MIN_CORRELATION] = 0", "score[correlation < -1] = 0")),
    *of("engine/recon/spectrum.py", "wiener",
        ("        coherence[np.abs(coherence) < _MIN_COHERENCE] = 0.0\n", ""),
        ("    turned = (np.exp(2j * np.pi * heights", "    turned = (np.exp(-2j * np.pi * heights")),
    *of("engine/recon/wiener.py", "wiener",
        ("    outside = np.abs(z[:, None] - heights[None]) -", "    outside = np.abs(z[:, None]) -")),
    *of("engine/recon/taming.py", "wiener",
        ("    excess = patches - np.clip(patches,", "    excess = patches * 0 * np.clip(patches,")),
    *of("engine/recon/contrast.py", "recon wiener ctf",
        ("hand * math.tan(angle), -hand / math.cos(angle)))", "hand * math.tan(angle), hand / math.cos(angle)))"),
        ("math.radians(row.azimuth_deg) - turn", "math.radians(row.azimuth_deg) + turn")),
    *of("engine/recon/resolution.py", "recon",
        ("measured & (slope >= STEEP)", "(slope >= STEEP)")),
    *of("engine/recon/aligned.py", "recon engine_local",
        ("        for _ in range(_SHARPENED):", "        for _ in range(0):")),
    *of("engine/fourier.py", "align recon",
        ("waves[first : first + len(band)] =", "waves[: len(band)] =")),
    *of("engine/align/offset.py", "align",
        ("    if SIGNIFICANT * sigma_deg <= abs(found_deg):", "    if True:"),
        ("    return -flat if NOTICEABLE_DEG", "    return flat if NOTICEABLE_DEG")),
    *of("engine/align/quality.py", "align",
        ("np.maximum(noise, 0.5 * smooth)", "noise"),
        ("free = np.eye(len(information)) - gauge(", "free = np.eye(len(information)) - 0 * gauge("),
        ("    if used < MIN_USED * total:", "    if used < 0.0:")),
    *of("engine/align/robust.py", "align",
        ("        if match.height < CERTAIN:", "        if False:"),
        ("heights < FAINT * np.median(heights)", "heights < 0 * np.median(heights)"),
        ("distance_A > TOLERANCE_A and match.height > match.height_here + CLEARLY_HIGHER:", "distance_A > TOLERANCE_A:")),
    *of("engine/align/answer.py", "align",
        (" / np.cos(np.radians(pose.tilts_deg[reference]))", " * np.cos(np.radians(pose.tilts_deg[reference]))"),
        ("match.move[0] * cosine, match.move[1]", "match.move[0], match.move[1]")),
    *of("engine/align/heights.py", "align",
        ("        weight = 1.0 / (1.0 + (left / (OUTLYING * usual)) ** 2)", "        weight = np.ones(len(found)) * usual")),
    *of("engine/ctf/series.py", "ctf",
        ("trials[best] + vertex(*gains[best - 1 : best + 2]) * (trials", "trials[best] + 0.0 * (trials")),
    *of("engine/frames/plan.py", "motioncor_engine",
        ("    raw[-1] -= min(excess, 0)\n", ""),
        ("divmod(available + left, entry.group)", "divmod(available, entry.group)")),
    *of("engine/frames/badpixels.py", "motioncor_engine",
        ("    for _ in range(2):\n        around", "    for _ in range(1):\n        around"),
        ("(blocks.at(*band) == 0) & lit", "(blocks.at(*band) < 0) & lit")),
    *of("engine/frames/references.py", "motioncor_engine",
        ("    bad &= gain < MAX_VALUE\n", ""),
        ("self.dark[which] * np.float32(frames)", "self.dark[which]"),
        ("    return (*_combined(quarters, flip, *best), fits[best] < 0,", "    return (*best, fits[best] < 0,")),
    *of("engine/frames/adding.py", "motioncor_engine",
        ("part[:, ::-1] if mirrored else part", "part")),
    *of("engine/frames/eer.py", "motioncor_engine",
        ("position_bits * (event | int(always_position))", "position_bits * event")),
    *of("engine/dose.py", "recon motioncor_engine aretomo_engine",
        ("[0.45, 0.8, 1.0]", "[1.0, 1.0, 1.0]")),
    *of("engine/limits.py", "engine_commandline",
        ("math.ceil(min(quotas))", "int(min(quotas))"),
        (" + _cached(folder)", "")),
    *of("engine/quick.py", "thickness handedness",
        ("tx=row.tx / binning, ty=row.ty / binning)", "tx=row.tx, ty=row.ty)")),
    *of("engine/recon/imod.py", "aretomo_engine",
        ("views = [s + 1 for s in kept] if job.kind == RELION else", "views = list(kept) if job.kind == RELION else")),
    *of("engine/steps.py", "aretomo_engine",
        ("tilt.placement.tx - 0.5, tilt.placement.ty - 0.5", "tilt.placement.tx, tilt.placement.ty"),
        ("    volumes = 1 + len(HALVES) * arguments.given(HALVES[0]) + arguments.integer(\"-Wiener\")\n", "    volumes = 1\n"),
        ("        elif abs(tilt.tilt_deg) > MAX_TILT_DEG:", "        elif False:")),
    *of("engine/recon/solution.py", "recon aretomo_engine engine_local",
        ("        aln = scaled(aln, scale or 1.0)\n", ""),
        ("        if shift.good >= 0.9:", "        if True:"),
        ("cosine / math.cos(math.radians(reference.tilt_deg + measured))", "cosine"),
        ("LocalShifts(found.x + 0.5 - place.tx, found.y + 0.5 - place.ty,", "LocalShifts(found.x + 0.5, found.y + 0.5,")),
    *of("engine/recon/stack.py", "recon",
        ("    far = image[rows, columns] > median + above", "    far = rows >= 0 * median"),
        ("    if len(rows) > _MAX_SPIKES * image.size:", "    if False:")),
    *of("engine/align/projection.py", "align",
        ("near = (np.abs(dy) <= radius) & (np.abs(dx) <= radius)", "near = np.abs(dy) + np.abs(dx) >= 0"),
        ("    for second_try in (False, True):", "    for second_try in (False,):")),
    *of("engine/align/series.py", "align",
        ("later = first if orders is not None and orders[first] > orders[second] else second", "later = second")),
    *of("engine/align/coarse.py", "align",
        ("or len(self.bench.members) - len(misfits) < 3:", "or len(self.bench.members) - len(misfits) < 0:")),
    *of("engine/align/preprocess.py", "align",
        ("        slope = min(0.0, float(slope))", "        slope = float(slope)")),
    *of("engine/align/wedge.py", "align",
        ("real = max(0.0, 1.0 - (CHANCE * sigma / slope) ** 2) if slope", "real = 1.0 if slope")),
    *of("engine/align/local.py", "engine_local",
        ("    if gain < MIN_GAIN * len(members):", "    if gain < 0:")),
    *of("engine/ctf/spectra.py", "ctf",
        ("level <= 0 or float(t.mean()) > 0.5 * level]", "True]")),
    *of("engine/frames/align.py", "motioncor_engine",
        ("        return middle + (position - middle + period / 2) % period - period / 2", "        return position"),
        ("    near = np.clip(index, middles[good][0] - number / 2, middles[good][-1] + number / 2)", "    near = index * 1.0"),
        ("(spreads > 0) & ((means > 0.1 * usual) if usual > 0 else True)", "spreads > 0")),
    *of("engine/frames/pipeline.py", "motioncor_engine",
        ("low <= fraction.dose_after <= high and high - low > 1.0]", "low <= fraction.dose_after <= high]"),
        ("    if hot > 0.01 * bad.size:", "    if hot > bad.size:")),
    *of("engine/frames/sums.py", "motioncor_engine",
        ("min(n, round(m * binning)) for n, m in", "n or m for n, m in")),
    *of("engine/numba_cache.py", "engine_output",
        ("    return theirs or open_to_all", "    return theirs")),
    *of("engine/errors.py", "engine_commandline",
        ("if signal.getsignal(signum) is not signal.SIG_IGN:", "if True:")),
    # ------------------------------------------------------------------ choices
    *of("choices/exclusions.py", "exclude",
        ("    if len(left) < 3:", "    if len(left) < 2:"),
        ("        with locks.writing(path):       # somebody else may ", "        if True:       # somebody else may "),
        ("            if movies.keys() != self._known.get(series, {}).keys():",
         "            if movies != self._known.get(series, {}):")),
    *of("choices/instruments.py", "instruments",
        ("    return \" \".join(name.split()).casefold()", "    return name"),
        ("if key_of(known) != key_of(name)}", "}")),
    *of("choices/thickness.py", "thickness",
        ("    if thickness_A is not None and thickness_A > 0:", "    if False:")),
    *of("choices/pending.py", "pending",
        ("for movie in taken_out if movie not in wanted))", "for movie in taken_out))")),
    *of("choices/handedness.py", "handedness",
        ("made.version == series.version else None", "made.version > 0 else None"),
        ("quality.defocus_hand * (-1 if series.negated else 1)", "quality.defocus_hand")),
    # ------------------------------------------------------------------ report
    *of("report/alarms.py", "alarms",
        ("        if streak.quiet >= needed:", "        if streak.quiet > needed:"),
        ("            if when is not None and alarm.since <= when:", "            if when is not None:"),
        ("            elif kind not in before:\n                self._quiet", "            else:\n                self._quiet")),
    *of("report/judging.py", "alarms",
        ("abs((facts.tilt_axis_deg - center + 90.0) % 180.0 - 90.0)", "abs(facts.tilt_axis_deg - center)"),
        ("if facts.tilts_used >= limits.tilts_used_min * wanted:", "if facts.tilts_used > limits.tilts_used_min * wanted:"),
        ("math.exp(point[1] - base - slope * point[0])", "math.exp(point[1] - base)")),
    *of("report/alarms.py", "alarms",
        ("                if kind not in before:\n                    self._hit(",
         "                if True:\n                    self._hit("),
        (" or (alarm.acknowledged is not None and item not in alarm.items):", ":"),
        ("waits <= limits.release * limits.behind_minutes", "waits <= limits.behind_minutes"),
        ("            if old is not None:\n                memory", "            if False:\n                memory"),
        ("min(facts.seconds_since_result or 0.0, 0.0 if self._work_since is None else time - self._work_since)",
         "facts.seconds_since_result or 0.0")),
    *of("report/notify.py", "alarms",
        ("            server.starttls(context=context)\n", ""),
        ("        except ssl.SSLCertVerificationError as error:", "        except ZeroDivisionError as error:")),
    *of("report/alarms.py", "alarms report",
        ("len(self._memory.drifts) >= 20", "len(self._memory.drifts) >= 2")),
    *of("report/announce.py", "alarms report",
        ("if key not in self._before and alarm.acknowledged is None)", "if alarm.acknowledged is None)"),
        ("if seen.get(alarm.key, -1.0) >= alarm.since else", "if alarm.key in seen else")),
    *of("report/attention.py", "status alarms",
        ("(\"dead\", \"running\", \"starting\", \"stopped\")", "(\"running\", \"dead\", \"starting\", \"stopped\")"),
        ("if alarm.acknowledged is None and alarm.kind not in _OF_THEIR_OWN]", "if alarm.kind not in _OF_THEIR_OWN]")),
    *of("report/marks.py", "marks server",
        ("known[series_id].time > mark.time:", "False:")),
    *of("report/previews.py", "preview",
        ("        self._painting, preview = None, None", "        preview = None")),
    # ------------------------------------------------------------------ streaming
    *of("streaming/work.py", "work",
        ("            if later is not None:\n                self.hand_out([later])", "            pass"),
        ("isinstance(attempt.error, ProgramFailed) and attempt.tries == 1", "isinstance(attempt.error, ProgramFailed)"),
        ("                self._superseded[task.key] = task", "                pass"),
        ("                    running.outdated = True\n", ""),
        ("min(2 * before or DISK_SECONDS, longest)", "min(2 * before or DISK_SECONDS, 9e9)")),
    *of("streaming/executor.py", "queue streaming",
        ("if attempt is None or not attempt.begun or", "if True or"),
        ("not attempt.begun or attempt.outdated", "attempt.outdated"),
        ("or attempt.outdated or error.unclear:", "or error.unclear:"),
        (" or error.unclear:", ":"),
        ("if self.protocol.stop_event.wait(pause):", "if self.protocol.stop_event.wait(pause) and False:"),
        ("                pause = next_pause(pause, MAX_POSTPONED_SECONDS)", "                pause = 5.0"),
        ("                self.jobs.refusal = str(error)\n", ""),
        ("                self.jobs.refusal = \"\"\n", "")),
    *of("streaming/queue.py", "queue",
        ("        raise NotTaken(str(error), unclear=True) from error", "        raise NotTaken(str(error)) from error"),
        ("unclear=status == 0 or", "unclear="),
        ("        if job in self._known_over:\n            return state\n", "        return state\n"),
        ("self._clock() - since >= SILENT_SECONDS", "self._clock() - since >= 0")),
    *of("streaming/workplace.py", "streaming protocol_motioncor protocol_aretomo work",
        ("    return line.replace(\"%\", \"%%\").replace(", "    return line.replace("),
        ("str(os.getpid()), str(next(_NUMBERS)), name)", "str(os.getpid()), name)"),
        ("        except (Postponed, Stopped):\n            raise\n", "")),
    *of("streaming/submitted.py", "queue",
        ("            self._jobs.remove(job)\n", ""),
        ("    if cancelled.left:\n        _note(", "    if False:\n        _note(")),
    *of("streaming/troubles.py", "streaming work",
        ("            if not before:\n", "            if True:\n"),
        ("        elif before:\n", "        elif False:\n")),
    *of("streaming/form.py", "streaming forms workflows",
        ("        if threads is not None and threads < 2:", "        if threads is not None and threads < 1:"),
        ("        if param is None:\n            return value\n", "")),
    *of("streaming/gpus.py", "streaming",
        ("for gpu in sorted(set(gpus))]", "for gpu in gpus]"),
        ("            if stop.wait(LOOK_SECONDS):\n", "            stop.wait(LOOK_SECONDS)\n            if False:\n")),
    *of("streaming/rows.py", "streaming sets",
        ("            if count != len(self._known) + len(found):", "            if False:"),
        ("        connection.execute(\"BEGIN\")         # one", "        # one")),
    *of("streaming/sets.py", "streaming sets",
        ("        if old is not None or version > 1:", "        if old is not None:"),
        ("            self._roll_back(undo)\n            raise NotCommitted", "            raise NotCommitted")),
    *of("streaming/obstacles.py", "outages streaming",
        ("        cause = cause.__cause__", "        cause = None"),
        ("os.O_RDONLY | os.O_NONBLOCK)) ", "os.O_RDONLY)) ")),
    *of("streaming/watch.py", "streaming",
        ("        if path in self._watched and event.event_type == \"deleted\":", "        if False:")),
    *of("streaming/bookkeeping.py", "streaming protocol_motioncor queue",
        ("        if now - self._gui_at < GUI_SECONDS and not self._complete:", "        if now - self._gui_at < GUI_SECONDS:"),
        ("            if ended is not None and ended in self._jobs:", "            if False:"),
        ("setObjId(index + self._log_of_steps().before)", "setObjId(index)"),
        ("        if step.isFailed() and step.attempt.error is None:", "        if False:")),
    # ------------------------------------------------------------------ hand-off
    *of("handoff/relion.py", "handoff",
        ("None if tilt.target_defocus is None else -tilt.target_defocus", "tilt.target_defocus"),
        ("ctf.phase_rad, 0.0, None)", "ctf.phase_rad, ctf.score, None)"),
        ("    return (a, b, c) if series.volume.upright else (a, c, b)", "    return (a, b, c)")),
    *of("handoff/warp.py", "handoff",
        ("> 2 * SAME_ANGLE for", "> -1.0 for"),
        ("key=lambda tilt: -tilt.nominal_deg)      # by", "key=lambda tilt: tilt.nominal_deg)      # by")),
    *of("handoff/collect.py", "handoff",
        ("made.ctf.get(section) if pose and not doubted else None)", "made.ctf.get(section))"),
        ("flags.get(\"-OutBin\") or flags.get(\"-AtBin\") or", "flags.get(\"-OutBin\") or")),
    *of("handoff/imod.py", "handoff",
        ("    return (y, x) if abs(math.sin", "    return (x, y) if abs(math.sin"),
        ("column(pose.tilt_deg for pose in placed)", "column(tilt.nominal_deg for tilt in used)")),
    *of("handoff/conventions.py", "handoff",
        ("    return -defocus_hand if", "    return defocus_hand if")),
    # ------------------------------------------------------------------ command line
    *of("cli/newcomers.py", "watch",
        ("again=min(2 * start.again, MAX_RETRY_SECONDS))", "again=start.again)"),
        ("note.stage in (Stage.IGNORED, Stage.STARTED):", "note.stage in (Stage.IGNORED,):"),
        ("        if plain != session or self._is_anothers(plain):", "        if self._is_anothers(plain):"),
        ("        if self._is_ignored():\n            return []\n", ""),
        ("(self.notes.first or self._is_mounted_now())", "self.notes.first")),
    *of("cli/watch.py", "watch",
        ("return 1 if any(note.stage is Stage.REFUSED", "return 0 if any(note.stage is Stage.REFUSED")),
    # ------------------------------------------------------------------ protocols
    *of("programs/words.py", "protocol_aretomo",
        ("    return \"0.01\" if tilt_axis == 0 else f\"{tilt_axis:g}\"", "    return f\"{tilt_axis:g}\"")),
    *of("protocols/aretomo_run.py", "protocol_aretomo programs_aretomo aretomo3",
        ("SIZE_TOLERANCE = 2", "SIZE_TOLERANCE = 2000")),
    *of("protocols/aretomo_series.py", "protocol_aretomo aretomo3",
        ("key=lambda tilt: tilt.angle))", "key=lambda tilt: tilt.index))")),
    *of("engine/output.py", "engine_output",
        ("in reversed(list(self._temporary.items())):", "in list(self._temporary.items()):")),
    *of("cli/resume.py", "stop project status",
        ("(state == runs.FINISHED and (again or wanted))", "(state == runs.FINISHED and again)")),
    *of("protocols/programs.py", "protocol_compose protocol_aretomo",
        ("if all(other.get(key) == version for other in others)}", "}")),
    *of("protocols/stacks.py", "protocol_compose",
        ("        if image.shape != (height, width):", "        if False:")),
    *of("protocols/objects.py", "protocol_compose protocol_aretomo",
        ("    if row is None or row.defocus_max_A <= 0 or not math.isfinite(row.defocus_max_A):", "    if row is None:")),
    *of("protocols/alarms.py", "forms",
        ("        if value == 0:", "        if value is False:")),
    *of("viewers/results.py", "viewers",
        ("            found.pop(entry.item, None)\n", ""),
        ("if row.defocus_max_A > 0]", "]")),
    *of("viewers/plots.py", "viewers",
        ("[(tilt.defocus_min + tilt.defocus_max) / 2 for tilt in tilts]", "[tilt.defocus_max for tilt in tilts]"),
        ("    worst = max(range(len(values)),", "    worst = min(range(len(values)),")),
    # ------------------------------------------------------------------ windows, wizards, simulator
    *of("windows/tilts.py", "windows",
        ("            if self.marks.pop(movie, None) is None:", "            if True:"),
        ("self.marks[movie] = BACK if tilt.state == \"excluded\" else OUT", "self.marks[movie] = OUT")),
    *of("windows/thickness.py", "windows",
        ("        middle = (self.lines[TOP] + self.lines[BOTTOM]) / 2\n", "        middle = 0.0\n")),
    *of("wizards/readings.py", "wizards",
        ("        if others[-1] - others[0] > SAME_AXIS:", "        if False:"),
        ("    tilts = max(number for number", "    tilts = min(number for number"),
        ("                dose = tilt.dose.value / frames\n", "                dose = tilt.dose.value\n")),
    *of("wizards/wizard.py", "wizards",
        ("tuple(image.getIndex() - 1 for image in images)", "tuple(image.getIndex() for image in images)"),
        ("max(found, key=lambda each: len(each[1])", "max(found, key=lambda each: -len(each[1])")),
    *of("simulator/plan.py", "simulator",
        ("            wasted[series] += truth.dose if replaced else 0.0\n", "            pass\n")),
    *of("simulator/timeline.py", "simulator",
        ("    total = 0.5 if fault(\"truncated\") else 1.0", "    total = 1.0"),
        ("finished + (late.seconds or 0.0 if late else 0.0)", "finished")),
    *of("simulator/faults.py", "simulator",
        ("not 1 <= fault.tilt <= tilts:", "not 1 <= fault.tilt:")),
    *of("simulator/ahead.py", "simulator",
        ("sum(map(len, self._made.values())) >= LIMIT:", "False:")),
    # ------------------------------------------------------------------ more of five rooms
    *of("report/server.py", "server",
        ("        return origin is None or urlsplit", "        return True or urlsplit"),
        ("            return urlsplit(f\"//{self.headers.get('Host', '')}\").hostname in LOCAL_NAMES", "            return True"),
        ("part.startswith(\".\") or \"\\\\\" in part", "\"\\\\\" in part"),
        ("root, path = os.path.realpath(folder), os.path.realpath(", "root, path = os.path.realpath(folder), os.path.abspath("),
        (" or int(length) > MAX_BODY:", ":")),
    *of("report/actions.py", "server",
        ("min(request.time, time.time())", "request.time"),
        ("        if not running and not starting:", "        if not running:")),
    *of("report/facts.py", "report formats alarms",
        (" and abs(tilt.angle_deg) <= 45]", "]"),
        ("min((tilt for tilt in self.tilts if tilt.used), key", "min((tilt for tilt in self.tilts), key"),
        ("(row.defocus_max_A - row.defocus_min_A) / 1e4", "(row.defocus_max_A - row.defocus_min_A) / 2e4"),
        ("tilts[section].reason or \"excluded", "\"excluded"),
        ("        return max(totals) if totals", "        return min(totals) if totals"),
        (" or row.defocus_max_A <= 0:", ":")),
    *of("report/latest.py", "latest",
        ("    if evidence.expected() is None and belief", "    if belief"),
        ("now - self._at >= EVERY\n", "True\n"),
        ("logs - smooth[radius]", "logs - 0 * smooth[radius]"),
        ("if np.isfinite(each).all() and each.std() > 0]", "]")),
    *of("cli/table.py", "status project",
        ("    return lines[:max(0, height)]", "    return lines"),
        ("2 if unicodedata.east_asian_width(sign) in \"WF\" else 1", "1"),
        ("found += group[max(0, len(group) - room):]", "found += group[:room]"),
        ("key=lambda each: len(each[1]))", "key=lambda each: -len(each[1]))"),
        ("if protocols.get(name, \"running\") in (\"running\", \"starting\")]", "]"),
        ("\"\\x1b[H\" if size != self._size else self._back()", "self._back()"),
        ("failed[-FAILED_SHOWN:]", "failed[:FAILED_SHOWN]")),
    *of("cli/stop.py", "stop",
        (" if not is_writer(child)]", "]"),
        ("rsplit(\")\", 1)[-1].split()[1]", "split(\")\", 1)[-1].split()[1]")),
    *of("cli/facility.py", "watch",
        ("glob.escape(session) if whole else session)", "session)"),
        ("        if os.path.isabs(pattern) and SESSION not in pattern:", "        if False:")),
    *of("cli/project.py", "project check stop",
        ("    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):",
         "    if os.path.lexists(path) and not os.path.isdir(path):"),
        ("    if stopping.is_asked(chain.path, name):\n        runs.ask_to_stop", "    if False:\n        runs.ask_to_stop"),
        ("        stopping.forget(path)\n", "")),
    *of("cli/readiness.py", "check places",
        ("    if abs(ahead) <= MAX_CLOCK_SECONDS:", "    if ahead <= MAX_CLOCK_SECONDS:"),
        ("        elif shutil.which(first[0]) is None:", "        elif False:")),
    *of("cli/run.py", "check project",
        ("            project.remove(chain.path)\n            os.chdir(before)\n", "            os.chdir(before)\n")),
    *of("acquisition/copies.py", "copies",
        (" or described_name(image_file, movies) == original:", " or True:"),
        ("    return not facts.copy and described_name(", "    return described_name("),
        ("    while (shorter := _BACKUP.sub", "    if (shorter := _BACKUP.sub")),
    *of("acquisition/times.py", "mdoc",
        ("else 2000 + int(year)", "else 1900 + int(year)"),
        ("(sum(date is None for date in dates), _span(dates))", "sum(date is None for date in dates)"),
        (" or known[back[0]].hour not in NIGHT:", ":"),
        ("    if not 0 < steps[back[0]] + _PUT_BACK <= longest:", "    if not 0 < steps[back[0]] + _PUT_BACK:"),
        ("max(_LONGER * median(before) if len(before) > 2 else 0.0, _LONGEST_FIRST)", "_LONGEST_FIRST")),
    *of("acquisition/loose.py", "loose",
        ("                if not alike:\n                    del", "                if False:\n                    del"),
        ("        self._not_indexed.clear()\n", "")),
    *of("acquisition/tiltaxis.py", "mdoc",
        ("Known(_signed(rotation - 90.0), \"field", "Known(_signed(rotation + 90.0), \"field"),
        ("    if dialect == \"unknown\":", "    if False:"),
        ("    difference = (one - other) % 180.0", "    difference = abs(one - other)"),
        ("    axis = abs(_signed(-title - 90.0))", "    axis = _signed(-title - 90.0)"),
        ("    if given and max(given) - min(given) > 1.0:", "    if False:")),
    *of("acquisition/pixels.py", "mdoc",
        ("1.0, 2.0, 3.0, 4.0)", "1.0, 2.0, 4.0)"),
        ("_SAME_PIXEL_SIZE = 0.1", "_SAME_PIXEL_SIZE = 0.01"),
        ("< 0.04 * nearest", "< 4 * nearest")),
    *of("acquisition/doubts.py", "homes frame_sets session matching",
        ("        if fits and min(fits) > matching.same_end(want.folder, movie.folder):", "        if False:"),
        ("        return len(folders) > 1 or (bool(homes) and movie.folder not in homes)", "        return len(folders) > 1"),
        ("2 * folders[movie.folder] < len(left)", "2 * folders[movie.folder] <= len(left)"),
        ("        exposure.refused = \"\"\n        if exposure.name:", "        if exposure.name:"),
        ("self._homes.is_later(series.last_acquired, movie.found, DAY)", "False")),
    *of("acquisition/homes.py", "homes frame_sets session",
        (" or self._is_common(folder):", ":"),
        ("(folder in homes and near == best)", "folder in homes"),
        ("found.written - lag.middle - time > by", "found.written - time > by"),
        ("return len(list(islice(sure, 2))) == 2", "return len(list(islice(sure, 2))) >= 1")),
    *of("acquisition/naming.py", "naming",
        ("    if len(last) > 2 and last[1] == \":\"", "    if False and last[1] == \":\""),
        ("if low.endswith(end) and len(low) > len(end)), None)", "if low.endswith(end)), None)")),
    *of("acquisition/fromnames.py", "matching frame_sets",
        (" if None not in angles else []", ""),
        ("        left.remove(near)\n", ""),
        ("abs(near - tilt.angle) > ANGLE_TOLERANCE:", "abs(near - tilt.angle) > 100:"),
        ("if place not in self._angle_files and (path", "if (path")),
    *of("streaming/steps.py", "outages streaming",
        ("        os.replace(path, f\"{path}.damaged\")\n", ""),
        ("WHERE {column}='running'\")", "WHERE {column}='none'\")")),
    *of("streaming/tickets.py", "cores streaming",
        ("(has[each.session], used.get(each.session, 0), each.drawn)", "(used.get(each.session, 0), each.drawn)"),
        ("    return first if fits or (one_each and not has[first.session]) else None", "    return first if fits else None"),
        ("    return max(used.get(session, 0), min(others) if others else max(used.values(), default=0))",
         "    return used.get(session, 0)"),
        ("if not place.began or self._is_alive(place)]", "]"),
        ("        for other in idle[MAX_REMEMBERED:]:", "        for other in idle[:0]:")),
    *of("streaming/loop.py", "streaming",
        ("self.for_gpu if loop._use_gpus and step.needsGPU() else self.ready", "self.for_gpu if loop._use_gpus else self.ready"),
        ("            self.go = self.finished(step) and self.go", "            self.go = self.finished(step)"),
        ("            loop.slots.give(step)\n", "")),
    *of("streaming/cores.py", "cores",
        ("min(wanted, total)", "wanted"),
        ("total, one_each=True)", "total)")),
    *of("protocols/references.py", "protocol_motioncor half_read",
        ("            read_image(path, flag)      # the program", "            pass      # the program"),
        (" and len(stack) == 1:", ":"),
        ("max(super_resolution(gain, frames), super_resolution(gain[::-1], frames))", "super_resolution(gain, frames)"),
        ("            image[bad] = 0\n", ""),
        ("        average = flag == \"-Gain\"", "        average = True")),
    *of("protocols/disk.py", "space",
        ("        if not self._protocol.removeAligned.get():", "        if False:"),
        ("(tilt.micrograph, *halves)", "(tilt.micrograph,)"),
        ("        if known != self._reported:", "        if True:"),
        ("forecast.shortage(self._limits, self._short)", "forecast.shortage(self._limits, False)")),
    *of("protocols/signs.py", "handedness forms protocol_compose",
        ("    if kept is None or kept.negated == (protocol.angleSign.get() == NEGATED):", "    if True:"),
        ("    if kept is not None:\n        return kept\n", ""),
        ("Sign(choice == NEGATED, f", "Sign(choice != NEGATED, f"),
        ("if protocol.getRunMode() == MODE_RESUME else None", "if True else None")),
    *of("protocols/engines.py", "engines",
        ("max(1, cores() // max(1, workers))", "max(1, cores())"),
        ("    if not gpu_present():", "    if False:"),
        ("beside if os.path.exists(beside) else shutil.which(command)", "shutil.which(command)"),
        ("    if not os.path.exists(program):\n        return cpu(", "    if False:\n        return cpu(")),
    *of("protocols/defoci.py", "defocus",
        ("for other, value in self._values.items() if other != name)", "for other, value in self._values.items())"),
        ("        self._values.pop(name, None)\n", ""),
        ("if belief is None or belief.doubt is Doubt.NONE else replace(verdict, hand=None)", "")),
    *of("protocols/handing.py", "handing",
        ("if (name, version) not in there)", "if True)"),
        ("            self._waiting -= 1\n", ""),
        ("        if os.path.realpath(self._status.folders.get(ARETOMO, \"\")) != os.path.realpath(self._run):",
         "        if False:")),
    *of("protocols/programs.py", "protocol_compose protocol_aretomo protocol_motioncor",
        ("return rows, closed and state == FINISHED", "return rows, closed"),
        ("    if protocol.stop_event.is_set():\n        return rows, True\n", "")),
    *of("protocols/protocol_motioncor.py", "protocol_motioncor",
        ("< PIXEL_TOLERANCE", "< 0"),
        ("max(0, frames - last)", "max(0, last)"),
        ("/ (1 if divides else self._eer_pixels())", "/ self._eer_pixels()")),
    *of("protocols/aretomo3_run.py", "aretomo3",
        ("% 360 - 180) > TURNED", "% 360 - 180) > 0"),
        ("        return -1 if self._is_turned() or self.source.tilt_axis is None else 1", "        return 1"),
        ("all(row.defocus_max_A >= self.source.pixel_size for row in result.ctf)", "True")),
]


def stale(mutations: Sequence[Mutation]) -> list[Mutation]:
    """Those whose text is not in its file exactly once."""
    found = []
    for mutation in mutations:
        with open(os.path.join(ROOT, mutation.path), encoding="utf-8") as file:
            if file.read().count(mutation.before) != 1:
                found.append(mutation)
    return found


def copy_tree(folder: str) -> None:
    """The package and the settings of its tests."""
    shutil.copytree(os.path.join(ROOT, "tomostream"), os.path.join(folder, "tomostream"),
                    ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.rst", "CONTRIBUTING.rst", "CHANGES.rst", "Makefile", "docs"):
        source = os.path.join(ROOT, name)
        (shutil.copytree if os.path.isdir(source) else shutil.copy)(source, os.path.join(folder, name))


def failing(folder: str, tests: Sequence[str], slow: bool, known: Sequence[str] = (), limit: float | None = None) -> list[str]:
    """The first test that fails in a copy of the tree, but for those that are known to; without a `limit` of time, all such."""
    first = limit is not None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:warnings", *(["-x"] if first else []),
               "-m", "not chain" if slow else "not chain and not slow", *(f"--deselect={name}" for name in known),
               *(os.path.join("tomostream", "tests", name) for name in tests)]
    environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=limit)
    except subprocess.TimeoutExpired:
        return ["the tests hang"]
    named = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return named or ([] if done.returncode in (0, NO_TESTS) else ["the tests cannot be run"])


def noticed(mutation: Mutation, slow: bool, known: Sequence[str], limit: float = TIME_OUT) -> list[str]:
    """The first test that notices a change; none where none does."""
    with tempfile.TemporaryDirectory(prefix="tomostream-mutation-") as folder:
        copy_tree(folder)
        path = os.path.join(folder, mutation.path)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(mutation.before, mutation.after))
        return failing(folder, mutation.tests, slow, known, limit)


def fail_unchanged(mutations: Sequence[Mutation], slow: bool) -> list[str]:
    """The tests that fail without any change: they say nothing of one."""
    with tempfile.TemporaryDirectory(prefix="tomostream-mutation-") as folder:
        copy_tree(folder)
        return failing(folder, sorted({name for mutation in mutations for name in mutation.tests}), slow)


def main() -> int:
    """Run; 0 where every change is noticed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", default="", metavar="WORD", help="only changes whose file or text holds this word")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time (1)")
    parser.add_argument("--slow", action="store_true", help="with the slow tests, which make quick leaves out")
    parser.add_argument("--check", action="store_true", help="only name the changes that are stale")
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.name()]
    old = stale(chosen)
    for mutation in old:
        print(f"STALE     {mutation.name()}")
    if options.check:
        return 1 if old else 0
    chosen = [mutation for mutation in chosen if mutation not in old]
    began = time.monotonic()
    known = fail_unchanged(chosen, options.slow)
    for name in known:
        print(f"FAILS     without any change, and is left out: {name}", flush=True)
    seen, limit = 0, max(TIME_OUT, PATIENCE * (time.monotonic() - began))
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda each: noticed(each, options.slow, known, limit), chosen)
        for mutation, found in zip(chosen, results, strict=True):
            seen += bool(found)
            print(f"{'noticed' if found else 'SURVIVED':9s} {mutation.name()}", *found, sep="\n          ", flush=True)
    print(f"{seen} of {len(chosen)} changes noticed ({100 * seen / max(1, len(chosen)):.0f} %), {len(old)} stale, "
          f"in {(time.monotonic() - began) / 60:.0f} minutes")
    return 0 if seen == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
