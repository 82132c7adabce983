# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens in a session, and what is decided. The state machine (`session.py`) turns the first into the second.

Times are seconds since the epoch by the clock of the machine that runs tomostream, given by the caller: the machine has
no clock. Movies are named by their name in the project without the extension (`movie_key`): that of the file, made unique by
the import. Its micrograph has the same name. Whose movie it is, the path of its file tells (`MovieSeen`).
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
    """An mdoc file was removed or renamed away. What it said stays known."""

    path: str
    time: float


@dataclass(frozen=True)
class MovieSeen:
    """A movie was imported (it is in the producer's input), its micrograph is still to come.

    `path` of its file, and when that was last `written`, in seconds of any clock.
    """

    movie: str
    time: float
    path: str = ""
    written: float | None = None


@dataclass(frozen=True)
class MovieFailed:
    """A movie could not be imported or aligned; `reason` as it stands in the producer's ledger, `path` of its file if told."""

    movie: str
    reason: str
    time: float
    path: str = ""


@dataclass(frozen=True)
class MicrographReady:
    """The aligned micrograph of a movie is registered. Given again with a higher `version` when it was replaced."""

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
    """No more micrographs will ever come: the producer ended well."""

    time: float


@dataclass(frozen=True)
class Stop:
    """The user asked to stop: decide everything with what is there, now."""

    time: float


@dataclass(frozen=True)
class Restored:
    """After a restart: this series is registered already, made of these movies, as this version. Given before all else.

    A series (or mdoc) that was given up is restored with no movies, with `failed` as in its `GiveUp`. `mdocs` and
    `micrograph_versions` (one for each movie) are those of the `Compose`; without them a series is recognised by its
    movies and its name, and a micrograph that was replaced while nothing ran is not noticed.
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
    """The user's whole choice of tilts to leave out of a series: movie key -> why (may be ""). An empty one puts all back."""

    series_id: str
    movies: Mapping[str, str]
    time: float


@dataclass(frozen=True)
class OtherReaders:
    """Protocols of other plugins that work on the composed series now, by their labels; an empty tuple where there is none."""

    labels: tuple[str, ...]
    time: float


@dataclass(frozen=True)
class Tick:
    """Nothing happened; time went on."""

    time: float


Event = (MdocRead | MdocGone | MovieSeen | MovieFailed | MicrographReady | ProducerState | InputClosed | Stop | Restored
         | Excluded | OtherReaders | Tick)


@dataclass(frozen=True)
class LeftOut:
    """A tilt that the series is composed without, and why: in a sentence and in a word."""

    tilt: Tilt
    reason: str
    why: Why = Why.UNKNOWN


@dataclass(frozen=True)
class Compose:
    """Compose this series now from these tilts (sorted by angle, then time). `version` > 1 replaces the one before.

    `micrograph_versions` holds the version of the micrograph to take for each of `tilts`.
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
    """This series (or this mdoc, when it is not a series) will not be composed, and why. `failed` False: nothing is wrong,
    it is only no tilt series (a montage, a map). If it was composed before, it was acquired again, and the second
    acquisition is given up: what is registered stays."""

    series_id: str
    series_name: str
    reason: str
    failed: bool = True
    evidence: tuple[str, ...] = ()
    mdocs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keep:
    """A composed series stays as it is although these `movies` of it came late, or anew; why, and what to do, in a sentence."""

    series_id: str
    movies: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class EndSession:
    """Everything is decided and nothing more is to be expected; the protocol may close its outputs."""

    reason: str


Decision = Compose | GiveUp | Keep | EndSession


class Late(str, Enum):
    """What becomes of a composed series when a tilt of it comes late or a micrograph is replaced. What a person chose, and
    movies that turn out to be of another series, always compose it again."""

    UNLESS_READ = "compose again, unless other plugins read it"
    AGAIN = "compose again"
    NEVER = "leave the series as it is"


@dataclass(frozen=True)
class Policy:
    """What the user asked for. Times in seconds.

    `project`: the session's project as a command line names it, for advice. `expected_tilts` None: learned. `tilt_axis` None:
    from the mdoc; 0.0 is a value. `prefix` is put in front of the names of the series.
    `time_for_next_tilt` is the upper bound of a series' stillness; `time_for_next_series` without anything new ends the
    session, but not while the producer is known to run. `late`: what is done about late tilts of a composed series.
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
    """Why a movie is in no series, as a sentence. `expected`: nothing is wrong, another exposure took its place."""

    reason: str
    expected: bool = False


#: Where a series stands; see `SeriesState`.
Phase = Literal["acquiring", "aligning", "waiting", "composed", "failed", "ignored"]


@dataclass(frozen=True)
class SeriesState:
    """Where a series stands, for people: `state` is acquiring, aligning, waiting, composed, failed or ignored.

    Acquiring: tilts are still to come. Aligning: micrographs are. Waiting: for something that needs attention (an mdoc
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
