# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of a protocol: what happened to every movie and every series, and why, as lines of JSON.

`extra/ledger.jsonl` is only ever appended to, by one process; any number of processes read it, each continuing where it stopped.
It informs and does not decide: what is done is read from the output sets. The types of the entries are in `entries`.
"""

from __future__ import annotations

import io
import os
import time as clock
from collections.abc import Iterable, Iterator

import msgspec

from tomostream import __version__
from tomostream.journal.entries import FORMAT, AnyEntry, Entry, Header

NAME = "ledger.jsonl"
#: Bytes that distinguish a ledger that was made again from the previous one: its first line holds the time at which it was made.
_HEAD_BYTES = 128


class LedgerError(Exception):
    """A line is not an entry; says which field is wrong, and how."""


def path_in(protocol_folder: str) -> str:
    """Return the path of the ledger of a run, given its folder."""
    return os.path.join(protocol_folder, "extra", NAME)


class Ledger:
    """The writing end. A full disk never stops the protocol: lines are kept in memory until they can be written."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pending: list[bytes] = []
        self.trouble = ""
        self._end_last_line()

    def _end_last_line(self) -> None:
        """End the last line, of which a killed process may have written half, so that the next one is whole."""
        try:
            with open(self.path, "rb+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                    return
        except FileNotFoundError:
            pass
        except OSError as error:
            self.trouble = str(error)
            return
        self._pending.append(encode(Header(time=float(round(clock.time())), format=FORMAT, tomostream=__version__)))

    def write(self, entry: Entry) -> Entry:
        """Append an entry, stamped with the time if it has none. When this returns it is written, or kept for the next try."""
        entry = msgspec.structs.replace(entry, time=clock.time() if entry.time < 0 else entry.time,
                                        reason=" ".join(entry.reason.split()))
        self._pending.append(encode(entry))
        self.flush()
        return entry

    def flush(self) -> bool:
        """Write what is pending; return False if that fails (`trouble` says why)."""
        if not self._pending:
            return True
        try:
            with open(self.path, "ab", buffering=0) as file:        # a buffer would be written again on closing
                size, data = file.tell(), b"".join(self._pending)
                try:
                    while data:
                        data = data[file.write(data):]
                except OSError:
                    file.truncate(size)     # part of it may have been written before the disk was full
                    raise
        except OSError as error:
            self.trouble = str(error)
            return False
        self._pending.clear()
        self.trouble = ""
        return True


class LedgerReader:
    """The reading end: `new()` returns the entries written since the last call. A half-written last line is left for later.

    Lines that are not entries are skipped: `wrong` counts them, `trouble` says what is wrong with the last one. `restarted`: the
    file was created again since the last call, so the entries are those of another run.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.wrong = 0
        self.trouble = ""
        self.restarted = False
        self._offset = 0
        self._head = b""

    def new(self, limit: int = -1) -> list[AnyEntry]:
        """Return new entries, oldest first, from the next `limit` bytes (-1: all); none if the file does not exist yet or
        cannot be read now."""
        return list(self.each(limit))

    def each(self, limit: int = -1) -> Iterator[AnyEntry]:
        """Yield what `new` returns, without holding all of it: the ledger of a long session is large."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                head = os.pread(file.fileno(), _HEAD_BYTES, 0).partition(b"\n")[0]
                size = os.fstat(file.fileno()).st_size
                self.restarted = self._offset > 0 and (head != self._head or size < self._offset)
                if self.restarted:
                    self._offset = 0
                self._head = head
                end = size if limit < 0 else min(size, self._offset + limit)
                if end > self._offset:
                    file.seek(self._offset)
                    yield from self._entries(io.BufferedReader(file), end)
        except OSError:
            return

    def _entries(self, lines: Iterable[bytes], end: int) -> Iterator[AnyEntry]:
        """Yield the entries of the lines that end before a place in the file."""
        for line in lines:
            if not line.endswith(b"\n") or self._offset + len(line) > end:
                return
            self._offset += len(line)
            try:
                entry = parse(line)
            except LedgerError as error:
                self.wrong += 1
                self.trouble = f"{self.path}: {error}"
                continue
            if not isinstance(entry, Header):
                yield entry


_encoder = msgspec.json.Encoder(enc_hook=lambda value: value.item() if hasattr(value, "item") else str(value))
_decoder: msgspec.json.Decoder[AnyEntry] = msgspec.json.Decoder(AnyEntry)


def encode(entry: Entry) -> bytes:
    """Return one line. Numbers that are not finite become null; bytes of a file name that are not text are spelt out."""
    try:
        return _encoder.encode(entry) + b"\n"
    except UnicodeEncodeError:
        return _encoder.encode(_spelt_out(msgspec.to_builtins(entry))) + b"\n"


def _spelt_out(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_spelt_out(key): _spelt_out(each) for key, each in value.items()}
    return [_spelt_out(each) for each in value] if isinstance(value, (list, tuple)) else value


def parse(line: bytes | str) -> AnyEntry:
    """Return the entry of one line.

    Raises
    ------
    LedgerError : it is not an entry; names the field.
    """
    try:
        entry = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LedgerError(f"a line is not an entry: {error}") from error
    if entry.time < 0:
        raise LedgerError("a line is not an entry: it has no time - at `$.time`")
    return entry


def read(path: str, limit: int = -1) -> list[AnyEntry]:
    """Return the entries within the first `limit` bytes of a ledger (-1: all); invalid lines are skipped."""
    return LedgerReader(path).new(limit)


def each(path: str) -> Iterator[AnyEntry]:
    """Yield the entries of a ledger, as `read` returns them."""
    return LedgerReader(path).each()
