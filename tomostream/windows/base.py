# SPDX-License-Identifier: GPL-3.0-or-later
"""What the windows have in common: pictures, questions, running a program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tkinter as tk
from collections.abc import Callable, Sequence
from tkinter import messagebox, ttk
from typing import Any

from numpy.typing import NDArray
from PIL import Image, ImageTk

from tomostream.files.grey import grey_range, to_bytes
from tomostream.files.logs import last_line

#: Milliseconds between two looks at a running program.
LOOK_MS = 200
PAD = 8


class Window(tk.Toplevel):
    """A window with a title and a margin, closed by Escape. It never blocks other windows."""

    def __init__(self, parent: tk.Misc | None, title: str) -> None:
        super().__init__(parent)
        self.title(title)
        self.pictures: list[ImageTk.PhotoImage] = []
        self.main = ttk.Frame(self, padding=PAD)
        self.main.pack(fill="both", expand=True)
        self.bind("<Escape>", lambda _: self.destroy())

    def picture(self, image: Image.Image) -> ImageTk.PhotoImage:
        """Return a picture for Tk, and keep a reference to it: Tk drops pictures without one."""
        photo = ImageTk.PhotoImage(image, master=self)
        self.pictures.append(photo)
        return photo

    def report(self, text: str) -> None:
        messagebox.showinfo(self.title(), text, parent=self)

    def ask(self, text: str) -> bool:
        return bool(messagebox.askyesno(self.title(), text, parent=self))


class Progress(Window):
    """Runs a program, showing its last line and a Cancel button. `done(folder)` is called when it ended well.

    The folder is the program's own, and is removed when `done` has returned.
    """

    def __init__(self, parent: tk.Misc, title: str, command: Callable[[str], Sequence[str]], done: Callable[[str], None],
                 failed: Callable[[str], None] | None = None) -> None:
        super().__init__(parent, title)
        self._done, self._failed = done, failed or self._complain
        beside = os.path.abspath("Tmp")     # that of the project: volumes may be too large for the machine's
        self.folder = tempfile.mkdtemp(prefix="tomostream-", dir=beside if os.path.isdir(beside) else None)
        self._line = ttk.Label(self.main, text="starting", width=70)
        self._line.pack(anchor="w")
        bar = ttk.Progressbar(self.main, mode="indeterminate", length=480)
        bar.pack(fill="x", pady=PAD)
        bar.start(60)
        ttk.Button(self.main, text="Cancel", command=self.destroy).pack(anchor="e")
        self.bind("<Destroy>", self._destroyed)
        self._log = os.path.join(self.folder, "log")
        words = list(command(self.folder))
        nice = shutil.which("nice")
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen([nice, "-n", "10", *words] if nice else words, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True)
        self.after(LOOK_MS, self._look)

    def _look(self) -> None:
        status = self.process.poll()
        last = last_line(self._log)
        if status is None:
            self._line.configure(text=last[:100])
            self.after(LOOK_MS, self._look)
            return
        self.withdraw()
        try:
            if status == 0:
                self._done(self.folder)
            else:
                self._failed(last or f"the program ended with status {status}")
        finally:
            self.destroy()

    def _complain(self, text: str) -> None:
        messagebox.showerror(self.title(), text, parent=self.master)

    def _destroyed(self, event: tk.Event) -> None:
        """End the program and its children: it was cancelled, or its window was closed."""
        if event.widget is not self:        # a part of the window
            return
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGTERM)
                self.process.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def our_command(*words: str) -> list[str]:
    """Return the `tomostream` command with these arguments, run by this Python."""
    return [sys.executable, "-c", "import sys; from tomostream.cli import main; sys.exit(main())", *words]


def grey(image: NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Return a picture of an array whose row 0 is at the bottom; darkest and brightest half per cent are cut off.

    Parameters
    ----------
    size : (width, height) of the picture in px.
    """
    return Image.fromarray(to_bytes(image, grey_range(image))).resize(size, Image.Resampling.BILINEAR)
