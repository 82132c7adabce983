# SPDX-License-Identifier: GPL-3.0-or-later
"""New and changed files in folders, at a cost that depends on what is new and not on all that is there.

inotify reports changes that this kernel sees. On a network disk another machine writes and this kernel is not notified, so the
folder is listed at intervals. Which of the two is used depends on the type of the file system.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from watchdog.events import (
    DirModifiedEvent,
    FileClosedNoWriteEvent,
    FileOpenedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
    FileSystemMovedEvent,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from tomostream.files.disks import device_of
from tomostream.files.patterns import above_wildcards, folders_of, matches

#: File systems on which another machine may write without this kernel hearing of it.
NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs lustre gpfs beegfs fhgfs ceph glusterfs afs 9p pvfs2 orangefs wekafs panfs ncpfs fuse virtiofs "
    "vboxsf prl_fs gfs2 ocfs2 cvfs dvs".split())
#: Names that Scipion's sets give away when something was committed: the journal goes, or the -wal grows.
JOURNAL, WAL = "-journal", "-wal"
#: Kinds of events that are not asked for. Reading a file makes them, and the protocols of a session read each other's files all
#: the time: they would be the most frequent.
_PASSED_OVER = (FileOpenedEvent, FileClosedNoWriteEvent, DirModifiedEvent)
_HEARD = [kind for base in (FileSystemEvent, FileSystemMovedEvent) for kind in base.__subclasses__() if kind not in _PASSED_OVER]
#: For how many files it is remembered that they were closed or moved into place.
MAX_CLOSED = 10_000


def file_system_of(path: str, mounts: str = "/proc/self/mounts") -> str:
    """Return the type of the file system that holds `path` ("ext4", "nfs4", "fuse.sshfs"); "" if unknown."""
    path = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open(mounts, encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split()
                if len(fields) < 3:
                    continue
                point = fields[1].replace("\\040", " ").rstrip("/")
                if (path == point or path.startswith(point + "/")) and len(point) >= len(best):
                    best, kind = point, fields[2]
    except OSError:
        return ""
    return kind


def hears_changes(path: str) -> bool:
    """Tell whether inotify reports every change below `path`, because it is on a local disk."""
    kind = file_system_of(path)
    return bool(kind) and kind not in NETWORK_FILE_SYSTEMS and not kind.startswith("fuse.")


class Watcher(FileSystemEventHandler):
    """Wakes the executor when something in the watched folders changes, and collects the paths that changed."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._watched: dict[str, bool] = {}
        self._watches: dict[str, ObservedWatch] = {}
        self._only: dict[str, frozenset[str] | None] = {}
        self._changed: set[str] = set()
        self._closed: dict[str, str] = {}

    def add(self, folder: str, recursive: bool = False, only: frozenset[str] | None = None) -> bool:
        """Watch a folder; return False when changes in it are not reported (network disk, no such folder, no inotify watches
        left).

        With `only`, just databases and files of these names wake the executor; without it, what changes is collected for `take`.
        """
        folder = os.path.realpath(folder)
        if only is None or folder not in self._only:
            self._only[folder] = only
        if folder in self._watched:
            return self._watched[folder] and self.hears
        if not os.path.isdir(folder):
            return False
        self._watched[folder] = hears_changes(folder) and self._schedule(folder, recursive)
        return self._watched[folder]

    def _schedule(self, folder: str, recursive: bool) -> bool:
        try:
            if self._observer is None:
                # without full events a file that is moved in looks like one just made
                self._observer = Observer(generate_full_events=True)  # type: ignore[call-arg]
                self._observer.daemon = True
                logging.getLogger("watchdog").setLevel(logging.ERROR)       # it warns of events that come while it stops
                self._observer.start()
            self._watches[folder] = self._observer.schedule(self, folder, recursive=recursive, event_filter=_HEARD)
        except OSError:         # the kernel's inotify limit is reached: polling remains
            return False
        return True

    def forget(self, folder: str) -> None:
        """Watch a folder no longer: it is gone, or another one has its name. The next `add` watches that one, and nobody misses
        the thread of the old one."""
        self._watched.pop(folder, None)
        watched = self._watches.pop(folder, None)
        if watched is not None and self._observer is not None:
            with contextlib.suppress(KeyError):         # it was being stopped
                self._observer.unschedule(watched)

    @property
    def hears(self) -> bool:
        """Whether the threads that report changes are alive; if not, folders must be listed instead."""
        if self._observer is None:
            return True
        return self._observer.is_alive() and all(emitter.is_alive() for emitter in self._observer.emitters)

    def take(self) -> set[str]:
        """Return the real paths of data files that changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Take in an event, in watchdog's thread. An error would end that thread, and no more changes would be reported."""
        try:
            self._hear(event)
        except Exception as error:      # whatever it was, the folder is listed, and the next event is taken in
            logging.getLogger(__name__).error("A change in a folder was not understood (%s): %s", event, error, exc_info=error)
            self._wake()

    def _hear(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.dest_path or event.src_path)
        if path in self._watched and event.event_type == "deleted":
            self.forget(path)
        if is_database(path):
            deleted = event.event_type == "deleted" and path.endswith(JOURNAL)
            if deleted or (event.event_type == "modified" and path.endswith(WAL)):
                self._wake()
            return
        only = self._only.get(os.path.dirname(path))
        if only is None:
            self._collect(path, event)
        elif os.path.basename(path) not in only:
            return
        self._wake()

    def _collect(self, path: str, event: FileSystemEvent) -> None:
        self._changed.add(path)
        if len(self._closed) >= MAX_CLOSED:         # files that nobody asks about are not movies
            self._closed.pop(next(iter(self._closed)))
        if event.event_type == "closed" or (event.event_type == "moved" and event.dest_path):
            self._closed[path] = event.event_type
        elif event.event_type in ("modified", "deleted"):
            self._closed.pop(path, None)
        if event.event_type == "moved" and event.src_path:
            self._changed.add(os.fsdecode(event.src_path))

    def how_written(self, path: str) -> str:
        """Return, once, "closed" or "moved" if the file was closed by its writer, or moved into place, while we watched; else
        ""."""
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        return self._closed.pop(real, "")

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()


def is_database(path: str) -> bool:
    """Tell whether this is one of SQLite's files, of which only commits matter, not every write."""
    return ".sqlite" in path or path.endswith((".db", ".db" + JOURNAL, ".db" + WAL))


@dataclass(frozen=True)
class Seen:
    """What `stat` says about a file: enough to notice that it changed, or that it may be read now."""

    size: int
    mtime: float
    mode: int = 0
    device: int = field(default=0, compare=False)
    inode: int = field(default=0, compare=False)


@dataclass
class _Folder:
    """A folder as it was when last listed: names of the pattern, its mtime at the last two listings (ns), and its disk."""

    names: set[str] = field(default_factory=set)
    mtimes: tuple[int, int] = (-1, -2)
    device: int = -1


class FolderWatch:
    """Reports files that match a pattern when they are new or changed.

    `pattern` is a glob that may name subfolders (`*/frames/*.tif`, `**`). The cost of a look depends on what is new:

    - where the watcher hears changes, only what it heard of is looked at; everything once in `full_every` seconds, in case
      an event was lost (the kernel's queue is finite), and within `poll` seconds after another folder took the name of one:
      a disk was mounted over it or removed, it was renamed and created again, a link was redirected;
    - elsewhere, every `poll` seconds, a folder is listed if its own time has changed, and only names that are new, files
      that changed lately and `SLICE` of the others, in turns, are looked at.

    A file whose disk is not mounted any more is out of reach, and not gone.

    Parameters
    ----------
    pattern : glob.
    watcher : wakes whoever calls `changes`.
    poll, full_every : seconds.
    """

    #: For how many seconds after its last change a file is looked at in every poll.
    LATELY = 300.0
    #: How many of the files that have been quiet for longer are looked at in one poll.
    SLICE = 500

    def __init__(self, pattern: str, watcher: Watcher, poll: float = 5.0, full_every: float = 600.0) -> None:
        self.pattern, self.watcher, self.poll, self.full_every = pattern, watcher, poll, full_every
        self.heard = False
        self.deeper = 0             # levels of subfolders that count as folders of the pattern
        self.trouble = ""
        self._base = os.path.basename(pattern)
        self._above = os.path.dirname(pattern)
        if self._base == "**":
            self._base, self._above = "*", pattern
        self._folders: dict[str, _Folder] = {}
        self._real: dict[str, str] = {}
        self._seen: dict[str, Seen] = {}
        self._lately: dict[str, float] = {}
        self._quiet: list[str] = []
        self._gone: list[str] = []
        self._later: set[str] = set()
        self._next_look = self._next_full = self._next_check = 0.0
        self._places: dict[str, tuple[int, int]] = {}

    def root(self) -> str:
        """Return the folder above the first wildcard."""
        head = above_wildcards(self._above)
        return head if os.path.isdir(head) else os.path.dirname(head) or "."

    def changes(self, now: float | None = None) -> list[tuple[str, Seen]]:
        """Return (path, its facts) of new and changed files, oldest first; `trouble` says why a folder cannot be read.

        `now` is the monotonic clock, in seconds.
        """
        now = time.monotonic() if now is None else now
        if self.heard and (not self.watcher.hears or self._is_replaced(now)):
            self.heard = False
            self.look_at_all()
        paths = self._heard_of()
        if paths is None or now >= self._next_look:
            later, self._later = self._later, set()
            paths = (paths or set()) | later | self._look_around(now)
        found = [(path, seen) for path in paths if (seen := self._look(path, now)) is not None]
        if self._later or self.trouble:
            self._next_look = min(self._next_look, now + self.poll)
        return sorted(found, key=lambda item: (item[1].mtime, item[0]))

    def look_at_all(self) -> None:
        """At the next call, list and look at everything: an event may have been lost."""
        self._next_look = self._next_full = 0.0

    def gone(self) -> list[str]:
        """Return, once, the files that are gone (removed or renamed)."""
        gone, self._gone = self._gone, []
        return gone

    def seconds_to_next_look(self, now: float | None = None) -> float:
        now = time.monotonic() if now is None else now
        return max(0.0, (min(self._next_look, self._next_check) if self.heard else self._next_look) - now)

    # ------------------------------------------------------------------ what to look at
    def _heard_of(self) -> set[str] | None:
        """Return our paths of the files that the watcher reported; None when there is a folder not known yet."""
        paths, unknown = set[str](), False
        for path in self.watcher.take():
            folder = self._real.get(os.path.dirname(path))
            if path in self._real:
                unknown = True
            elif folder is None:
                unknown = unknown or os.path.isdir(path) or self._wild()
            elif self._matches(os.path.basename(path)):
                paths.add(os.path.join(folder, os.path.basename(path)))
                self._folders[folder].names.add(os.path.basename(path))
        if not unknown:
            return paths
        self._later |= paths            # the listing that follows does not find them new: look at them with it
        return None

    def _look_around(self, now: float) -> set[str]:
        """List the folders as far as needed; return the files to look at."""
        everything = now >= self._next_full
        self.trouble = ""
        paths: set[str] = set()
        known = len(self._folders)
        folders = self._list_folders()
        self.heard = bool(folders) and self._watch(folders)
        for folder in folders:
            paths |= self._list(folder, everything or self.heard)
        if everything or self.heard:
            paths |= self._seen.keys()
        else:
            paths |= self._some_known(now)
        if everything:
            self._next_full = now + self.full_every
        # A new folder may have got files before it was watched; one that cannot be read now may be so later.
        calm = self.heard and len(self._folders) == known and not self.trouble
        self._next_look = self._next_full if calm else now + self.poll
        return paths

    def _wild(self) -> bool:
        """Tell whether wildcards choose the folders."""
        return self.deeper > 0 or above_wildcards(self._above) != self._above

    def _list_folders(self) -> list[str]:
        root = self.root()
        if not os.path.isdir(root):
            self.trouble = f"the folder {self._above} does not exist"
            return []
        folders = [self._above or "."]
        if self._wild():
            folders = folders_of(self._above, self.deeper)
        elif not os.path.isdir(self._above or "."):
            self.trouble = f"the folder {self._above} does not exist"
            self.watcher.add(root)
            return []
        return folders

    def _is_replaced(self, now: float) -> bool:
        """Tell whether another folder than the one that is watched has its name by now. The kernel tells nothing of that."""
        if now < self._next_check:
            return False
        self._next_check = now + self.poll
        return any(_place(folder) not in (known, None) for folder, known in self._places.items())

    def _watch(self, folders: list[str]) -> bool:
        """Watch all folders; return False when changes in one of them are not reported."""
        root = self.root()
        before, self._places = self._places, {}
        for folder in dict.fromkeys([root, *folders]):
            place = _place(folder)
            if place is not None:
                self._places[folder] = place
        if any(before.get(folder, place) != place for folder, place in self._places.items()):
            for folder in self._places:
                self.watcher.forget(os.path.realpath(folder))
        heard = self.watcher.add(root, recursive=self._wild())
        real_root = os.path.realpath(root)
        for folder in folders:
            real = os.path.realpath(folder)
            self._real[real] = folder
            below = os.path.normpath(os.path.join(real_root, os.path.relpath(folder, root)))
            if real != below:           # behind a link, where a recursive watch does not go
                heard = self.watcher.add(real) and heard
        return heard

    def _list(self, folder: str, always: bool) -> set[str]:
        """Return the names that are new in a folder, or gone. It is not read if its time was the same in the last two
        listings."""
        state = self._folders.setdefault(folder, _Folder())
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)      # opening asks a file server again, stat may not
            try:
                status = os.fstat(descriptor)
                mtime = status.st_mtime_ns
                if not always and state.mtimes == (mtime, mtime):
                    return set()
                names = {name for name in os.listdir(descriptor) if self._matches(name)}
            finally:
                os.close(descriptor)
        except OSError as error:
            self.trouble = f"the folder {folder} cannot be read: {(error.strerror or str(error)).lower()}"
            return set()
        if state.names and not names and status.st_dev != state.device:
            self.trouble = f"the folder {folder} is empty, and on another disk than before: is its own mounted?"
            return set()
        new, missing = names - state.names, state.names - names
        state.names, state.mtimes, state.device = names, (state.mtimes[1], mtime), status.st_dev
        return {os.path.join(folder, name) for name in new | missing}

    def _matches(self, name: str) -> bool:
        return matches(name, self._base)

    def _some_known(self, now: float) -> set[str]:
        """Return what changed recently, and a slice of the rest."""
        self._lately = {path: at for path, at in self._lately.items() if now - at < self.LATELY}
        if not self._quiet:
            self._quiet = list(self._seen)
        some, self._quiet = self._quiet[:self.SLICE], self._quiet[self.SLICE:]
        return {*self._lately, *some}

    def _look(self, path: str, now: float) -> Seen | None:
        """Return the facts of a file if it is new or changed, else None."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            if path in self._seen and self._is_unmounted(path):
                self.trouble = self.trouble or f"{path} is out of reach: its disk is not mounted"
                return None
            if self._seen.pop(path, None) is not None:
                self._gone.append(path)
            self._lately.pop(path, None)
            return None
        except OSError as error:        # a folder that cannot be entered now: its files are not gone
            self._later.add(path)
            self.trouble = f"{path} cannot be looked at now: {(error.strerror or str(error)).lower()}"
            return None
        seen = Seen(status.st_size, status.st_mtime, stat.S_IMODE(status.st_mode), status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode) or self._seen.get(path) == seen:
            return None
        self._seen[path] = seen
        if not self.heard:
            self._lately[path] = now
        return seen

    def _is_unmounted(self, path: str) -> bool:
        """Tell whether what is left of the path of a file is on another disk than its folder was."""
        folder = os.path.dirname(path)
        return folder in self._folders and device_of(folder) not in (self._folders[folder].device, None)


def _place(folder: str) -> tuple[int, int] | None:
    """Return what distinguishes a folder from another one of its name; None if it cannot be looked at now."""
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return (-1, -1)
    except OSError:
        return None
    return status.st_dev, status.st_ino
