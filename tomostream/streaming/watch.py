# SPDX-License-Identifier: GPL-3.0-or-later
"""What is new: files in folders, rows in a set, the state of the run that makes a set. Each costs what is new, not all.

Changes are told by inotify where the kernel sees them. On a network disk another machine writes, and this kernel hears
nothing: there the folder is listed at an interval. Which of the two is decided by the file system's type.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

#: File systems on which another machine may write without this kernel hearing of it.
NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs lustre gpfs beegfs fhgfs ceph glusterfs afs 9p pvfs2 orangefs wekafs panfs ncpfs".split())
#: Names that Scipion's sets give away when something was committed: the journal goes, or the -wal grows.
JOURNAL, WAL = "-journal", "-wal"


def file_system_of(path: str, mounts: str = "/proc/self/mounts") -> str:
    """Type of the file system that holds `path` ("ext4", "nfs4", "fuse.sshfs"); "" when it cannot be told."""
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
    """True when inotify tells of every change below `path`: a local disk."""
    kind = file_system_of(path)
    return bool(kind) and kind not in NETWORK_FILE_SYSTEMS and not kind.startswith("fuse.")


class Watcher(FileSystemEventHandler):
    """Wakes the executor when something in the watched folders changes, and collects the paths that changed."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._observer = None
        self._watched: dict[str, bool] = {}
        self._changed: set[str] = set()
        self._closed: set[str] = set()
        self.ignored: set[str] = set()

    def add(self, folder: str, recursive: bool = False) -> bool:
        """Watch a folder; False when changes in it are not heard (network disk, no such folder, no inotify left)."""
        folder = os.path.realpath(folder)
        if folder in self._watched:
            return self._watched[folder]
        if not os.path.isdir(folder):
            return False
        self._watched[folder] = hears_changes(folder) and self._schedule(folder, recursive)
        return self._watched[folder]

    def _schedule(self, folder: str, recursive: bool) -> bool:
        try:
            if self._observer is None:
                self._observer = Observer()
                self._observer.daemon = True
                self._observer.start()
            self._observer.schedule(self, folder, recursive=recursive)
        except OSError:         # the kernel's inotify limit is reached: polling remains
            return False
        return True

    def take(self) -> set[str]:
        """The real paths of data files that changed since it was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def on_any_event(self, event) -> None:
        path = os.fsdecode(event.dest_path or event.src_path)
        if ".sqlite" in path or path.endswith((".db", ".db" + JOURNAL)):
            deleted = event.event_type == "deleted" and path.endswith(JOURNAL)
            if deleted or (event.event_type == "modified" and path.endswith(WAL)):
                self._wake()
            return
        if event.event_type in ("opened", "closed_no_write") or path in self.ignored:
            return
        self._changed.add(path)
        if event.event_type in ("closed", "moved"):
            self._closed.add(path)
        elif event.event_type == "modified":
            self._closed.discard(path)
        if event.event_type == "moved":
            self._changed.add(os.fsdecode(event.src_path))
        self._wake()

    def was_closed(self, path: str) -> bool:
        """True once when the file was closed by its writer, or moved into place, before our eyes."""
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if real in self._closed:
            self._closed.discard(real)
            return True
        return False

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()


@dataclass(frozen=True)
class Seen:
    """What a listing told of a file: enough to notice that it changed."""

    size: int
    mtime: float


@dataclass
class FolderWatch:
    """Files of some patterns in a folder, told when they are new or changed.

    `pattern` is a glob that may name subfolders (`*/frames/*.tif`, `**`). Where the watcher hears changes, only what
    changed is looked at, and the whole folder once in `full_every` seconds, in case an event was lost (the kernel's
    queue is finite). Elsewhere the whole folder is listed every `poll` seconds.
    """

    pattern: str
    watcher: Watcher
    poll: float = 5.0
    full_every: float = 60.0
    _seen: dict[str, Seen] = field(default_factory=dict)
    _gone: list[str] = field(default_factory=list)
    _next_full: float = 0.0
    _heard: bool = False
    trouble: str = ""

    def root(self) -> str:
        """The folder above the first wildcard."""
        head = self.pattern
        while glob.has_magic(head):
            head = os.path.dirname(head)
        return head if os.path.isdir(head) else os.path.dirname(head) or "."

    def _recursive(self) -> bool:
        return glob.has_magic(os.path.dirname(self.pattern))

    def changes(self, now: float | None = None) -> list[tuple[str, Seen]]:
        """(path, what is seen of it) for new and changed files, oldest first; `trouble` says why a folder is not read."""
        now = time.monotonic() if now is None else now
        if now >= self._next_full:
            paths = {self._own_name(path) for path in self._list()}
            paths |= self._seen.keys()
            self._next_full = now + (self.full_every if self._heard else self.poll)
            self.watcher.take()
        else:
            paths = {self._own_name(path) for path in self.watcher.take() if self._matches(path)}
        found = [(path, seen) for path in paths if (seen := self._look(path)) is not None]
        return sorted(found, key=lambda item: (item[1].mtime, item[0]))

    def gone(self) -> list[str]:
        """Files that were seen and are no more (removed or renamed), told once."""
        gone, self._gone = self._gone, []
        return gone

    def seconds_to_next_look(self, now: float | None = None) -> float:
        now = time.monotonic() if now is None else now
        return max(0.0, self._next_full - now)

    def _list(self) -> list[str]:
        root = self.root()
        if not os.path.isdir(root):
            self.trouble, self._heard = f"the folder {root} does not exist", False
            return []
        if not os.access(root, os.R_OK | os.X_OK):
            self.trouble = f"the folder {root} cannot be read: permission denied"
            return []
        self.trouble = ""
        self._heard = self.watcher.add(root, recursive=self._recursive())
        return glob.glob(self.pattern, recursive=True)

    def _matches(self, path: str) -> bool:
        """Events come with real paths, the pattern may hold links: compare below the root."""
        root = os.path.realpath(self.root())
        if not path.startswith(root + os.sep):
            return False
        below = path[len(root) + 1:]
        wanted = os.path.relpath(self.pattern, self.root())
        if "**" in wanted:
            return fnmatch.fnmatch(below, wanted.replace("**/", "*"))
        return below.count(os.sep) == wanted.count(os.sep) and fnmatch.fnmatch(below, wanted)

    def _look(self, path: str) -> Seen | None:
        """What is new of a file; None when nothing is."""
        try:
            status = os.stat(path)
        except OSError:
            if self._seen.pop(path, None) is not None:
                self._gone.append(path)
            return None
        seen = Seen(status.st_size, status.st_mtime)
        if stat.S_ISDIR(status.st_mode) or self._seen.get(path) == seen:
            return None
        self._seen[path] = seen
        return seen

    def _own_name(self, path: str) -> str:
        """The path as the user's pattern names it, links and all."""
        root = os.path.realpath(self.root())
        if path.startswith(root + os.sep):
            return os.path.join(self.root(), path[len(root) + 1:])
        return path


class RowReader:
    """Rows of a Scipion set, each once, in the order in which they were committed, and those that were replaced.

    Right for a set whose ids grow with every commit (`Set.append` gives the next id). Upstream's producers that copy the
    ids of their input may add a lower id later: when the count does not fit, all ids are compared.
    Errors of SQLite (locked, unreadable) are told as `trouble` and nothing is lost: the rows come the next time.
    """

    def __init__(self, items, replacements: str) -> None:
        self.items = items
        self._last_id = 0
        self._known: set[int] = set()
        self._replacements_table = replacements
        self._ids_grow = True
        self._versions: dict[int, int] = {}
        self._last_replacement = 0
        self.trouble = ""

    def read(self) -> tuple[list, list[tuple[int, int]], bool]:
        """(new rows, [(id, version)] of rows replaced since the last call, closed). Rows are clones, free of the set.

        The state is read before the rows: closed means that these are the last ones.
        """
        try:
            result = self._read()
        except (sqlite3.Error, OSError) as error:
            self.trouble = f"{self.items.getFileName()} cannot be read now ({error})"
            self.items.close()
            return [], [], False
        self.trouble = ""
        return result

    def _read(self):
        mapper = self.items._getMapper()
        if mapper._objTemplate is None:     # opened when the file had no tables yet
            self.items.close()
            mapper = self.items._getMapper()
            if mapper._objTemplate is None:
                return [], [], False
        connection = mapper.db.connection
        connection.execute("BEGIN")         # one snapshot: a row and its version belong together
        try:
            return self._read_snapshot(mapper, connection)
        finally:
            connection.rollback()

    def _read_snapshot(self, mapper, connection):
        closed = mapper.getProperty("_streamState") == str(self.items.STREAM_CLOSED)
        replaced = self._replaced(connection)
        rows = [item.clone() for item in self.items.iterItems(where=f"id>{self._last_id}")]
        if rows:
            self._known.update(row.getObjId() for row in rows)
            self._last_id = max(self._known)
        if not self._ids_grow and connection.execute("SELECT count(*) FROM Objects").fetchone()[0] != len(self._known):
            rows += self._late()
        return rows, replaced, closed

    def _late(self) -> list:
        late = [row.clone() for row in self.items.iterItems() if row.getObjId() not in self._known]
        self._known.update(row.getObjId() for row in late)
        return late

    def _replaced(self, connection) -> list[tuple[int, int]]:
        try:
            rows = connection.execute(
                f"SELECT seq, item_id, version FROM {self._replacements_table} WHERE seq>? ORDER BY seq",
                (self._last_replacement,)).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):       # an upstream set: nothing is replaced, ids may come late
                self._ids_grow = False
                return []
            raise
        if rows:
            self._last_replacement = rows[-1][0]
            self._versions.update((row[1], row[2]) for row in rows)
        return [(row[1], row[2]) for row in rows]

    def version_of(self, item_id: int) -> int:
        """Version of a row: 1, or that of its last replacement."""
        return self._versions.get(item_id, 1)

    def item(self, item_id: int):
        """One row by its id, as a clone."""
        return self.items[item_id].clone()


#: What `producer_state` gives.
RUNNING, FINISHED, STOPPED, DEAD, UNKNOWN = "running", "finished", "stopped", "dead", "unknown"


def producer_state(folder: str, protocol_id: int) -> str:
    """Whether the run that makes a set goes on, ended well, was stopped or failed, or died without a word.

    Read from the run's own `logs/run.db`: the project's database follows only when somebody refreshes it. A run that
    says it is running and whose process is gone (same machine, not in a queue) is dead.
    """
    database = os.path.join(folder, "logs", "run.db")
    names = {name: f"{protocol_id}.{name}" for name in ("status", "_pid", "hostFullName", "_jobId")}
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=1)
        try:
            rows = dict(connection.execute(
                f"SELECT name, value FROM Objects WHERE name IN ({','.join('?' * len(names))})", tuple(names.values())))
        finally:
            connection.close()
    except sqlite3.Error:
        return UNKNOWN
    status = rows.get(names["status"])
    if status == "finished":
        return FINISHED
    if status in ("failed", "aborted"):
        return STOPPED
    if status is None:
        return UNKNOWN
    return DEAD if _process_gone(rows.get(names["_pid"]), rows.get(names["hostFullName"])) else RUNNING


def _process_gone(pid: str | None, host: str | None) -> bool:
    if not pid or not pid.isdigit() or int(pid) == 0 or (host and host != os.uname().nodename.split(".")[0]
                                                         and host != _full_host_name()):
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[-1].split()[0] == "Z"
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _full_host_name() -> str:
    import socket

    return socket.getfqdn()
