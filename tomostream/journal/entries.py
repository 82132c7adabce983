# SPDX-License-Identifier: GPL-3.0-or-later
"""The entries of a ledger: a frozen type for each kind of event, a line of JSON for each entry.

The field `event` of a line names its type; fields with their default value are not written. A later version may add fields and
events, so unknown fields are ignored. A movie ends as `Imported` and `Aligned`, or `Failed`; a series as `Composed` and
`Reconstructed`, or `Failed`. Entries whose item is "" are about the protocol itself. Sentences (`reason`) are for people: no
decision depends on them.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec

from tomostream.acquisition.events import Phase, Why
from tomostream.programs.quality import Trust

#: The version of the format that `Header` names.
FORMAT = 1
#: Times in seconds since the epoch are before this (the year 5138).
LATEST = 1e11
#: Placeholders in a command line common to many movies: the movie's file, and the name of its output without extension.
MOVIE, OUTPUT = "{movie}", "{output}"

Time = Annotated[float, msgspec.Meta(ge=0, lt=LATEST)]


class Entry(msgspec.Struct, frozen=True, tag_field="event", omit_defaults=True):
    """The fields of all entries: the item (a movie, a series, "" for the protocol), a sentence, seconds since the epoch."""

    item: str = ""
    reason: str = ""
    #: Negative until the entry is written, which sets it.
    time: Time = -1.0

    @property
    def kind(self) -> str:
        """The name of the event in the file."""
        return str(self.__struct_config__.tag)


class Topic(str, Enum):
    """What keeps a protocol from going on."""

    OPENING = "opening"
    TURN = "turn"
    READING = "reading"
    QUEUE = "queue"
    OUTPUT = "output"
    LEDGER = "ledger"
    DATABASES = "databases"
    DISK = "disk"
    INPUT = "input"
    PRODUCER = "producer"
    SERIES = "series"
    MDOCS = "mdocs"
    FOLDER = "folder"
    REACH = "reach"
    OPTICS = "optics"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> Topic:
        """Map topics added by a later version to OTHER."""
        return cls.OTHER


class LeftOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tilt left out of a composed series: its movie ("" unknown), angle in degrees, the reason as a word and a sentence."""

    movie: str = ""
    angle: float | None = None
    reason: str = ""
    why: Why = Why.UNKNOWN


class Excluded(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tilt left out by the alignment: angle in degrees, and why."""

    angle: float
    reason: str = ""


class Header(Entry, frozen=True, tag="header"):
    """The first line of a ledger: the version of its format, and of the package that began it."""

    format: int = FORMAT
    tomostream: str = ""


# ---------------------------------------------------------------------------------------------------- of a movie
class Imported(Entry, frozen=True, tag="imported"):
    """A movie was imported from `file`, of `size` bytes, last written at `mtime`; `bytes` were copied."""

    version: int = 1
    file: str = ""
    size: int | None = None
    mtime: float | None = None
    bytes: int | None = None


class Aligned(Entry, frozen=True, tag="aligned"):
    """The frames of the file `movie` were aligned: the micrograph `file`, the length of the frames' path in px of the movie,
    whose pixel size is `pixel_size_A`, and the optics."""

    version: int = 1
    file: str = ""
    movie: str = ""
    drift_px: float | None = None
    pixel_size_A: float | None = None
    voltage_kV: float | None = None
    cs_mm: float | None = None
    amplitude_contrast: float | None = None
    bytes: int | None = None


class Replaced(Entry, frozen=True, tag="replaced"):
    """A movie was imported or aligned again: this version replaces the one before."""

    version: int = 1
    file: str = ""
    size: int | None = None
    mtime: float | None = None


# ---------------------------------------------------------------------------------------------------- of a series
class Series(Entry, frozen=True, tag="series"):
    """The state of a series, and its numbers of tilts."""

    name: str = ""
    state: Phase = "acquiring"
    seen: int = 0
    aligned: int = 0
    failed: int = 0
    expected: int | None = None
    version: int = 0


class Preview(Entry, frozen=True, tag="preview"):
    """A preview of an incomplete series can be made from these tilts (micrograph, angle in degrees)."""

    tilts: tuple[tuple[str, float], ...] = ()
    expected: int = 0
    tilt_axis: float | None = None
    pixel_size_A: float | None = None


class Composed(Entry, frozen=True, tag="composed"):
    """A series was composed of `movies`, in the order of the sections of its stack. Tilt axis in degrees."""

    version: int = 1
    name: str = ""
    tilts: int = 0
    movies: tuple[str, ...] = ()
    tilt_axis: float | None = None
    tilt_axis_source: str = ""
    warnings: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    because: tuple[str, ...] = ()
    bytes: int | None = None


class Kept(Entry, frozen=True, tag="kept"):
    """A composed series stays as it is although more of its tilts arrived late."""

    movies: tuple[str, ...] = ()


class Unassigned(Entry, frozen=True, tag="unassigned"):
    """The movies that no series lists, all of them each time, with the reasons; there may be more (`count`) than are named."""

    count: int | None = None
    movies: dict[str, str] = {}


class NotASeries(Entry, frozen=True, tag="not-a-series"):
    """Nothing is wrong: this mdoc is not a tilt series (a map, a montage)."""

    name: str = ""
    mdocs: tuple[str, ...] = ()
    because: tuple[str, ...] = ()


class Reconstructed(Entry, frozen=True, tag="reconstructed"):
    """A series was aligned and reconstructed. Angles in degrees; folder and tomogram relative to the project; None is unknown.

    `z_first`: the sections of the tomogram are slices in z (AreTomo2's -FlipVol 1), else in y. `defocus_um`: the believed
    defocus, underfocus positive; `defocus_doubted`: the images (from 1) whose defocus is not believed; `defocus_note`: why not.
    `ctf_corrected`: the program corrected the tomogram and its halves for the CTF.
    """

    version: int = 1
    tilts_used: int | None = None
    excluded: tuple[Excluded, ...] = ()
    tilt_axis: float | None = None
    folder: str = ""
    seconds: float | None = None
    commands: tuple[str, ...] = ()
    tomogram: str | None = None
    z_first: bool | None = None
    tilt_offset: float | None = None
    thickness_A: float | None = None
    resolution_xy_A: float | None = None
    resolution_z_A: float | None = None
    quality: float | None = None
    quality_note: str = ""
    trust: Trust = Trust.UNKNOWN
    local_note: str = ""
    defocus_um: float | None = None
    defocus_note: str = ""
    defocus_doubted: tuple[int, ...] = ()
    ctf_corrected: bool = False
    gold_beads: int | None = None
    gold_residual_px: float | None = None
    bytes: int | None = None


# ---------------------------------------------------------------------------------------------------- of both, or of the run
class Started(Entry, frozen=True, tag="started"):
    """Work on a series began; `bytes`: the space that its result will take on disk."""

    version: int = 1
    tilts: int | None = None
    bytes: int | None = None


class Retried(Entry, frozen=True, tag="retried"):
    """The program failed once and is run again."""

    version: int = 1


class Failed(Entry, frozen=True, tag="failed"):
    """An item failed for good. For a series that was never composed, also its `name`, and the evidence for giving it up."""

    version: int | None = None
    file: str = ""
    name: str = ""
    mdocs: tuple[str, ...] = ()
    because: tuple[str, ...] = ()


class Waiting(Entry, frozen=True, tag="waiting"):
    """A movie, or the protocol, waits for what `reason` says; for the protocol, `topic` says what kind of thing that is."""

    topic: Topic = Topic.OTHER


class Session(Entry, frozen=True, tag="session"):
    """News of the protocol itself. When it starts: the `versions` of the packages used, and the name of the folder of the run
    whose output it reads (`input_run`). `over`: the topic of a wait that has ended."""

    versions: dict[str, str] = {}
    input_run: str = ""
    over: Topic | None = None


class Command(Entry, frozen=True, tag="command"):
    """The command line (with `MOVIE` and `OUTPUT`) for all movies from here on, and the name and version of its program."""

    command: str = ""
    program: str = ""


class Space(Entry, frozen=True, tag="space"):
    """The disk space that the session needs; `short`: there is less than that."""

    short: bool = False


AnyEntry = (Header | Imported | Aligned | Replaced | Series | Preview | Composed | NotASeries | Reconstructed | Started | Retried
            | Failed | Waiting | Session | Command | Space | Unassigned | Kept)
#: An item that ended well, in the ledger of its protocol.
Done = Imported | Aligned | Composed | Reconstructed
