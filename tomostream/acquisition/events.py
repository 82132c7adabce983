# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens in a session, and what is decided. The state machine (`session.py`) turns the former into the latter.

Times are seconds since the epoch by the clock of the machine that runs tomostream, given by the caller: the state machine has
no clock. Movies are named by their name in the project without extension (`movie_key`): that of the file, made unique by
the import. Its micrograph has the same name. Which tilt a movie belongs to follows from the path of its file (`MovieSeen`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from tomostream.acquisition.facts import Known, MdocFacts, Tilt


@dataclass(frozen=True)
class MdocRead:
    """An mdoc file is new or has changed; `facts.kind == "unreadable"` carries why it cannot be read."""

    facts: MdocFacts
    time: float


@dataclass(frozen=True)
class MdocGone:
    """An mdoc file was removed or renamed. What it said is kept."""

    path: str
    time: float


@dataclass(frozen=True)
class MovieSeen:
    """A movie was imported (it is in the producer's input); its micrograph is still to come.

    `path` is that of its file, `written` when it was last written, in seconds of any clock.
    """

    movie: str
    time: float
    path: str = ""
    written: float | None = None


@dataclass(frozen=True)
class MovieFailed:
    """A movie could not be imported or aligned; `reason` as in the producer's ledger, `path` of its file if known."""

    movie: str
    reason: str
    time: float
    path: str = ""


@dataclass(frozen=True)
class MicrographReady:
    """The aligned micrograph of a movie is registered. Sent again with a higher `version` if it is replaced."""

    movie: str
    time: float
    version: int = 1


@dataclass(frozen=True)
class ProducerState:
    """`alive` False: the run that makes the micrographs died or was stopped, so nothing comes until it is continued.

    `running` True: its process is known to run, so the session stays open however long nothing new comes.
    """

    alive: bool
    reason: str
    time: float
    running: bool = False


@dataclass(frozen=True)
class InputClosed:
    """No more micrographs will ever come: the producer finished."""

    time: float


@dataclass(frozen=True)
class Stop:
    """The user asked to stop: decide everything now, with what is there."""

    time: float


@dataclass(frozen=True)
class Restored:
    """After a restart: this series is already registered, made from these movies, as this version. Precedes all other events.

    A series (or mdoc) that was given up is restored without movies, with `failed` as in its `GiveUp`. `mdocs` and
    `micrograph_versions` (one for each movie) are those of the `Compose`; without them a series is recognised by its
    movies and its name, and a micrograph replaced while nothing was running goes unnoticed.
    """

    series_id: str
    series_name: str
    movies: tuple[str, ...]
    version: int
    time: float
    failed: bool = False
    reason: str = ""
    mdocs: tuple[str, ...] = ()
    micrograph_versions: tuple[int, ...] = ()


class Why(str, Enum):
    """Why a series is composed without a tilt."""

    TAKEN_OUT = "taken-out"
    MOVIE_FAILED = "movie-failed"
    MISSING = "missing"
    OTHER_SERIES = "other-series"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Excluded:
    """All the tilts that the user wants left out of a series: movie key -> why (may be ""). An empty mapping puts all back."""

    series_id: str
    movies: Mapping[str, str]
    time: float


@dataclass(frozen=True)
class OtherReaders:
    """Protocols of other plugins that are working on the composed series, by their labels; empty if there are none."""

    labels: tuple[str, ...]
    time: float


@dataclass(frozen=True)
class Tick:
    """Nothing happened; time has passed."""

    time: float


Event = (MdocRead | MdocGone | MovieSeen | MovieFailed | MicrographReady | ProducerState | InputClosed | Stop | Restored
         | Excluded | OtherReaders | Tick)


@dataclass(frozen=True)
class LeftOut:
    """A tilt that the series is composed without, and why: as a sentence and as a word."""

    tilt: Tilt
    reason: str
    why: Why = Why.UNKNOWN


@dataclass(frozen=True)
class Compose:
    """Compose this series now from these tilts (sorted by angle, then time). `version` > 1 replaces the one before.

    `micrograph_versions` holds the version of the micrograph for each of `tilts`.
    """

    series_id: str
    series_name: str
    tilts: tuple[Tilt, ...]
    left_out: tuple[LeftOut, ...]
    tilt_axis: Known[float]
    pixel_size: Known[float]
    voltage: Known[float]
    version: int
    reason: str
    evidence: tuple[str, ...] = ()
    mdocs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    micrograph_versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class GiveUp:
    """This series (or this mdoc, if it is not a series) will not be composed, and why. `failed` False: nothing is wrong,
    it is just not a tilt series (a montage, a map). If it was composed before, it was acquired again, and the second
    acquisition is given up: what is registered stays."""

    series_id: str
    series_name: str
    reason: str
    failed: bool = True
    evidence: tuple[str, ...] = ()
    mdocs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keep:
    """A composed series stays as it is although these `movies` of it arrived late or were replaced; why, and what to do."""

    series_id: str
    movies: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class EndSession:
    """Everything is decided and nothing more is expected; the protocol may close its outputs."""

    reason: str


Decision = Compose | GiveUp | Keep | EndSession


class Late(str, Enum):
    """What happens to a composed series when a tilt of it arrives late or a micrograph is replaced. Changes made by people, and
    movies that turn out to belong to another series, always compose it again."""

    UNLESS_READ = "compose again, unless other plugins read it"
    AGAIN = "compose again"
    NEVER = "leave the series as it is"


@dataclass(frozen=True)
class Policy:
    """What the user asked for. Times in seconds.

    `project`: how a command line names the session's project, for advice. `expected_tilts` None: learned. `tilt_axis` None:
    from the mdoc; 0.0 is a value. `prefix` is prepended to the names of the series.
    `time_for_next_tilt` is the longest that a series may be still; after `time_for_next_series` without anything new the
    session ends, but not while the producer is known to run. `late`: what is done about late tilts of a composed series.
    """

    time_for_next_tilt: float = 180.0
    time_for_next_series: float = 1800.0
    expected_tilts: int | None = None
    min_tilts: int = 3
    min_percent: float = 0.0
    tilt_axis: float | None = None
    excluded_words: tuple[str, ...] = ()
    prefix: str = ""
    project: str = "PROJECT"
    late: Late = Late.UNLESS_READ
    rules_off: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Unassigned:
    """Why a movie is in no series, as a sentence. `expected`: nothing is wrong, because another exposure took its place."""

    reason: str
    expected: bool = False


#: Where a series stands; see `SeriesState`.
Phase = Literal["acquiring", "aligning", "waiting", "composed", "failed", "ignored"]


@dataclass(frozen=True)
class SeriesState:
    """Where a series stands, for people: `state` is acquiring, aligning, waiting, composed, failed or ignored.

    Acquiring: more tilts are to come. Aligning: micrographs are. Waiting: for something that needs attention (an mdoc
    that cannot be read yet, a producer that is not running). Ignored: it is not a tilt series. `reason` is a sentence.
    """

    series_id: str
    series_name: str
    state: Phase
    reason: str
    tilts_seen: int
    tilts_aligned: int
    tilts_failed: int
    tilts_expected: int | None
    version: int
    deadline: float | None = None
